package file

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// What is nearly right is answered with what is right.
func TestMistakesOfHabitAreToldWhatToWrite(t *testing.T) {
	const document = `apiVersion: ipsecagent/v1
kind: Policy
name: x
filterLists:
  a:
    - {from: me, to: 10.0.0.0/255.255.255.0}
    - {from: me, to: 10.0.0.0/255.0.255.0}
filterActions:
  r: {negotiate: {methods: [aes256-gcm, esp-aes256_sha256]}}
rules:
  - {name: a, filterList: a, filterAction: r, authentication: [{psk: secret}, {certificate: "CN=A"}]}
`
	_, err := Parse("x.yaml", []byte(document))
	words := fmt.Sprint(err)
	for _, want := range []string{
		`"10.0.0.0/255.255.255.0" is not a prefix such as 10.0.0.0/8 or 2001:db8::/32; write 10.0.0.0/24`,
		`"10.0.0.0/255.0.255.0" is not a prefix such as 10.0.0.0/8 or 2001:db8::/32` + "\n",
		`unknown suite "aes256-gcm"; did you mean esp-aes256gcm?`,
		`unknown suite "esp-aes256_sha256"; did you mean esp-aes256-sha256?`,
		`not "secret" (fields: acceptPrincipals, key)`,
		`not "CN=A" (fields: acceptPrincipals, ca, `,
	} {
		if !strings.Contains(words, want) {
			t.Errorf("it does not say %s:\n%s", want, words)
		}
	}
}

func TestEveryMistakeIsReportedWithItsPlace(t *testing.T) {
	_, err := Parse("bad.yaml", []byte(`apiVersion: ipsecagent/v1
kind: Policy
nam: x
filterLists:
  a:
    - {from: me, to: 10.0.0.5/8, protocol: tpc}
    - {from: me, to: any, sourcePort: 80}
    - {from: me, from: any}
  empty: []
filterActions:
  r: {negotiate: {methods: [esp-gcm, ah-sha1], clearDelay: 3x}}
rules:
  - {name: a, filterList: b, filterAction: r}
  - {name: b, filterList: a, filterAction: r, authentication: [kerberos, foo], connections: wan}
defaultResponse: yes
tests:
  - {flow: "tcp me", expect: maybe}
`))
	want := []string{
		`1:1: the policy needs a name`,
		`3:1: unknown field "nam"`,
		`6:22: "10.0.0.5/8" has bits behind the prefix; write 10.0.0.0/8 for the network or 10.0.0.5 for the host`,
		`6:44: unknown protocol "tpc"`,
		`7:39: filter list "a", filter 2: ports need protocol tcp`,
		`8:7: "to" is missing`,
		`8:18: "from" is given twice, first in line 8`,
		`9:3: filter list "empty" is empty`,
		`11:29: unknown suite "esp-gcm"`,
		`11:60: "3x" is not a duration`,
		`13:27: rule "a" names filter list "b", which is not defined (defined: a, empty)`,
		`14:74: unknown authentication method "foo"`,
		`14:93: unknown connection type "wan"`,
		`15:18: a mapping (field: value) is expected, not "yes"`,
		`17:12: flow "tcp me" is not`,
		`17:30: "maybe" is not permit`,
	}
	got := Errors(err)
	if len(got) != len(want) {
		t.Errorf("%d errors, want %d", len(got), len(want))
	}
	for i, e := range got {
		if i < len(want) && !strings.HasPrefix(e.Error(), "bad.yaml:"+want[i]) {
			t.Errorf("%d. is\n%v\nwant\nbad.yaml:%s", i+1, e, want[i])
		}
	}
	excerpt := `bad.yaml:6:44: unknown protocol "tpc" (any, tcp, udp, sctp, dccp, icmp, icmpv6 or 1-255)
        - {from: me, to: 10.0.0.5/8, protocol: tpc}
                                               ^`
	if err == nil || !strings.Contains(err.Error(), excerpt) {
		t.Errorf("no such excerpt in\n%v\nwant\n%s", err, excerpt)
	}
}

func TestParseRefuses(t *testing.T) {
	const action = "filterActions:\n  x: "
	const filter = "filterLists:\n  x:\n  - "
	const rule = "rules:\n- "
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, tc := range []struct{ name, document, want string }{
		{"nothing", "", "1:1: the document is empty"},
		{"blanks", " \n\n", "1:1: the document is empty"},
		{"a comment", "# nothing\n", "1:1: no documents"},
		{"no mapping", "- a\n", "1:1: a mapping (field: value) is expected, not a list"},
		{"a word", "policy\n", `1:1: a mapping (field: value) is expected, not "policy"`},
		{"null", "~\n", "1:1: a mapping (field: value) is expected, not nothing"},
		{"no header", "name: x\n", "1:1: the header is missing: apiVersion: ipsecagent/v1"},
		{"no kind", "apiVersion: ipsecagent/v1\nname: x\n", "1:1: the header is missing: kind: Policy"},
		{"another version", "apiVersion: ipsecagent/v2\nkind: Policy\n", `1:13: apiVersion "ipsecagent/v2" is not ipsecagent/v1`},
		{"another kind", "apiVersion: ipsecagent/v1\nkind: Pod\n", `2:7: kind "Pod" is not Policy`},
		{"two documents", header + "---\n" + header, "expected single document"},
		{"not closed", "a: \"x\n", "2:1: while scanning a quoted scalar: found unexpected end of stream (it began at line 1)"},
		{"a tab", "\ta: 1\n", "1:1: while scanning for the next token"},
		{"not UTF-8", "a: \xff\n", "1:1: invalid leading UTF-8 octet"},
		{"an alias", header + "description: &a x\nguid: *a\n", "4:14: an anchor (&a) is not part of the policy language"},
		{"an alias to nothing", "b: *y\n", "1:4: unknown anchor"},
		{"a tag", header + "description: !!binary x\n", "4:14: a tag (!!binary) is not part of the policy language"},
		{"a merge", header + "<<: {a: 1}\n", `4:1: unknown field "<<"`},
		{"depth", header + "rules: " + deep + "\n", "nested deeper than 16 levels"},
		{"great depth", strings.Repeat("[", 100_000), "nested deeper than 16 levels"},
		{"lists", "- [" + strings.Repeat("[],", 300_000) + "]", "more than 250000 lists and mappings"},
		{"values", "[" + strings.Repeat("a,", 700_000) + "]", "1:1: the document has more than 700000 values"},
		{"repeated field", header + "name: y\n", `4:1: "name" is given twice, first in line 3`},
		{"a list as key", header + "? [a]\n: b\n", "4:3: a field name is expected, not a list"},
		{"no value", header + "description:\n", "4:13: a value is expected, not nothing"},
		{"a list for a value", header + "description: [a]\n", "4:14: a value is expected, not a list"},
		{"a word for a list", header + "rules: none\n", `4:8: a list is expected, not "none"`},
		{"a word for a mapping", header + "filterLists: none\n", `a mapping (field: value) is expected, not "none"`},
		{"size", header + "# " + strings.Repeat("x", maxSize), "1:1: the document is larger than 4194304 bytes"},

		{"polling without unit", header + "pollingInterval: 10\n", `4:18: "10" is not a duration`},
		{"sessions", header + "keyExchange: {sessions: -1}\n", `"-1" is not a number`},
		{"main mode", header + "keyExchange: {methods: [aes-sha1]}\n", "is not CIPHER-HASH-GROUP"},
		{"a bool", header + "keyExchange: {masterKeyPFS: yes}\n", `"yes" is neither true nor false`},

		{"no sides", header + filter + "{protocol: tcp}\n", `"from" is missing`},
		{"a set that is none", header + filter + "{from: dns-server, to: me}\n", `"dns-server" is not an IP address; any, me`},
		{"a name for an address", header + filter + "{from: me, to: db.example}\n", "{name: host.example} is expected"},
		{"no DNS name", header + filter + "{from: me, to: {name: db..example}}\n", "is not a DNS name"},
		{"a bad range", header + filter + "{from: me, to: 10.0.0.9-10.0.0.1}\n", "is not a range of one family"},
		{"a mixed range", header + filter + "{from: me, to: 10.0.0.9-2001::1}\n", "is not a range of one family"},
		{"half a range", header + filter + "{from: me, to: 10.0.0.9-}\n", `"" is not an IP address`},
		{"a bad prefix", header + filter + "{from: me, to: 10.0.0.0/33}\n", "is not a prefix"},
		{"a mapped prefix", header + filter + "{from: me, to: \"::ffff:10.0.0.0/104\"}\n", "is not a prefix"},
		{"a mapped address", header + filter + "{from: me, to: \"::ffff:10.0.0.1\"}\n", "write 10.0.0.1"},
		{"a zone", header + filter + "{from: me, to: \"fe80::1%eth0\"}\n", "has a zone"},
		{"port 0", header + filter + "{from: me, to: any, protocol: tcp, sourcePort: 0}\n", "is not a port"},
		{"port 65536", header + filter + "{from: me, to: any, protocol: tcp, sourcePort: 65536}\n", "is not a port"},
		{"ports", header + filter + "{from: me, to: any, protocol: tcp, sourcePort: 1-2-3}\n", "is not a port"},
		{"ICMP type", header + filter + "{from: me, to: any, protocol: icmp, icmpType: 256}\n", "is not an ICMP number"},
		{"protocol 0", header + filter + "{from: me, to: any, protocol: 0}\n", "unknown protocol"},
		{"list of what", header + "filterLists: {x: y}\n", "a mapping (field: value) is expected"},

		{"action", header + action + "allow\n", `"allow" is neither permit nor block`},
		{"action of nothing", header + action + "{description: x}\n", "says neither"},
		{"action of null", header + action + "\n", "a value is expected, not nothing"},
		{"action as a list", header + action + "[permit]\n", "a mapping (field: value) is expected, not a list"},
		{"permit and negotiate", header + action + "{action: permit, negotiate: {methods: [esp-aes256gcm]}}\n", "is permit and has settings of a negotiation"},
		{"PFS group", header + action + "{negotiate: {methods: [esp-aes256gcm], sessionKeyPFS: dh1}}\n", "unknown Diffie-Hellman group"},
		{"size without unit", header + action + "{negotiate: {methods: [{esp: aes256gcm, bytes: 100}]}}\n", "is not a size"},
		{"ah for esp", header + action + "{negotiate: {methods: [{esp: ah-sha1}]}}\n", `unknown suite "esp-ah-sha1"`},
		{"no protocol", header + action + "{negotiate: {methods: [{lifetime: 1h}]}}\n", "is not one ESP or AH suite"},

		{"certificate", header + rule + "{authentication: [certificate]}\n", "names its authority"},
		{"two methods in one", header + rule + "{authentication: [{psk: {key: a}, kerberos: {}}]}\n", "exactly one of"},
		{"tunnel", header + rule + "{tunnel: gw.example}\n", "is not an IP address"},
		{"connections", header + rule + "{connections: wlan}\n", "unknown connection type"},
		{"a rule as a word", header + rule + "open\n", `a mapping (field: value) is expected, not "open"`},
		{"unknown field of a key", header + rule + "{authentication: [{psk: {secret: a}}]}\n", `unknown field "secret" (known: acceptPrincipals, key)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Parse("t.yaml", []byte(tc.document))
			if err == nil {
				t.Fatalf("read as %+v", p)
			}
			if p != nil {
				t.Error("an error and a policy")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v\nwant %q", err, tc.want)
			}
			if len(Errors(err)) == 0 {
				t.Errorf("%T has no place", err)
			}
		})
	}
}

func TestManyMistakesEndInACount(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(header)
	for i := range 250 {
		fmt.Fprintf(&b, "x%d: 1\n", i)
	}
	_, err := Parse("t.yaml", b.Bytes())
	if got := len(Errors(err)); got != maxErrors {
		t.Errorf("%d errors, want %d", got, maxErrors)
	}
	if err == nil || !strings.HasSuffix(err.Error(), "t.yaml: and 150 more") {
		t.Errorf("no count of the rest in\n%v", err)
	}
}

func TestOneMistakeIsOneError(t *testing.T) {
	for _, document := range []string{
		header + "filterActions: {r: {negotiate: {methods: none}}}\n",
		header + "filterActions: {r: {negotiate: {methods: [esp-x]}}}\n",
		header + "filterLists: {a: [{from: me, to: 10.0.0.5/8, protocol: tcp}]}\n",
		header + "tests: [{flow: [], expect: none}]\n",
		header + "defaultResponse: {active: true, authentication: psk}\n",
	} {
		_, err := Parse("t.yaml", []byte(document))
		if got := Errors(err); len(got) != 1 {
			t.Errorf("%d errors in\n%s\n%v", len(got), document, err)
		}
	}
}

func TestExcerptOfALongLine(t *testing.T) {
	long := header + "x" + strings.Repeat("é", 300) + ": 1\n"
	_, err := Parse("t.yaml", []byte(long))
	got := Errors(err)
	if len(got) != 1 {
		t.Fatal(err)
	}
	want := "    x" + strings.Repeat("é", 99) + "…\n    ^"
	if got[0].Excerpt != want {
		t.Errorf("got\n%s\nwant\n%s", got[0].Excerpt, want)
	}
	src := newSource("t", []byte(strings.Repeat("ab", 100)))
	if got, want := src.excerpt(1, 101), "    …"+strings.Repeat("ab", 50)+"…\n    "+strings.Repeat(" ", 61)+"^"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExcerptCannotMoveTheCursor(t *testing.T) {
	src := newSource("t", []byte("a\x1b[2Jb\tc\r\nnext"))
	if got, want := src.excerpt(1, 2), "    a?[2Jb c\n     ^"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, place := range [][2]int{{0, 1}, {3, 1}, {1, 0}} {
		if got := src.excerpt(place[0], place[1]); got != "" {
			t.Errorf("excerpt at %v: %q", place, got)
		}
	}
}

func TestErrorsOfAnotherKind(t *testing.T) {
	if got := Errors(errors.New("x")); got != nil {
		t.Errorf("%v", got)
	}
	if got := Errors(nil); got != nil {
		t.Errorf("%v", got)
	}
}
