package file

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const header = "apiVersion: ipsecagent/v1\nkind: Policy\nname: test\n"

// allFields has every field and every form that this version enforces.
const allFields = header + `
guid: "{72385230-70FA-11D1-864C-14A300000000}"
description: all fields
pollingInterval: 1d12h
keyExchange:
  methods: [aes256-sha256-ecp256, 3des-sha1-modp1024]
  lifetime: 90m
  sessions: 0
  masterKeyPFS: false
filterLists:
  short:
    - {from: me, to: any}
  long:
    guid: list
    description: a list
    filters:
      - {guid: filter, description: a filter, from: 10.0.0.1, to: 10.0.0.0/8, protocol: udp, sourcePort: 1, destinationPort: 2-3, mirrored: false}
      - {from: 10.0.0.1-10.0.0.9, to: me, protocol: 47, mirrored: true}
      - {from: "2001:db8::1", to: "2001:db8::/32", protocol: icmpv6, icmpType: 1, icmpCode: 0-4}
      - {from: any, to: any, protocol: tcp, sourcePort: any, destinationPort: any}
      - {from: any, to: any, protocol: icmp, icmpType: any}
filterActions:
  open: permit
  closed: {guid: action, description: an action, action: block}
  secured:
    negotiate:
      methods:
        - esp-aes256gcm
        - {esp: aes128-sha256, lifetime: 1h, bytes: 1GiB}
        - {esp: esp-3des-sha1}
      acceptUnsecured: true
      allowClear: true
      clearDelay: 500ms
      sessionKeyPFS: ecp384
  fresh:
    negotiate: {methods: [esp-aes256gcm], sessionKeyPFS: true}
  reused:
    negotiate: {methods: [esp-aes256gcm], sessionKeyPFS: false}
rules:
  - name: first
    guid: rule
    description: a rule
    disabled: true
    filterList: short
    filterAction: secured
    authentication:
      - psk
      - psk: {key: lab, acceptPrincipals: ["psk:10.0.0.1"]}
    connections: all
defaultResponse:
  active: true
  methods: [esp-aes128gcm]
  authentication: [{psk: {key: lab}}]
tests:
  - {flow: "tcp me -> 10.0.0.1", expect: none}
`

func TestEveryFieldIsRead(t *testing.T) {
	p, err := Parse("all.yaml", []byte(allFields))
	if err != nil {
		t.Fatal(err)
	}
	addrs := func(e sadb.Addrs) policy.Endpoint { return policy.Endpoint{Kind: policy.Addresses, Addrs: e} }
	ip := netip.MustParseAddr
	me := policy.Endpoint{Kind: policy.Me}
	gcm := func(bits int) sadb.Suite { return sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: bits} }
	method := func(s sadb.Suite) policy.SecurityMethod { return policy.SecurityMethod{Suites: []sadb.Suite{s}} }
	want := &policy.Policy{
		GUID: "{72385230-70FA-11D1-864C-14A300000000}", Name: "test", Description: "all fields",
		PollingInterval: 36 * time.Hour,
		KeyExchange: policy.KeyExchange{
			Methods: []sadb.ISAKMPSuite{
				{Encryption: sadb.AESCBC, KeyBits: 256, Hash: sadb.SHA256, Group: sadb.ECP256},
				{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP1024},
			},
			Lifetime: 90 * time.Minute,
		},
		FilterLists: []policy.FilterList{
			{Name: "short", Filters: []policy.Filter{{From: me, Mirrored: true}}},
			{Name: "long", GUID: "list", Description: "a list", Filters: []policy.Filter{
				{GUID: "filter", Description: "a filter", From: addrs(sadb.Addr(ip("10.0.0.1"))), To: addrs(sadb.Prefix(netip.MustParsePrefix("10.0.0.0/8"))),
					Protocol: sadb.UDP, FromPorts: sadb.Port(1), ToPorts: sadb.Ports{From: 2, To: 3}},
				{From: addrs(sadb.Range(ip("10.0.0.1"), ip("10.0.0.9"))), To: me, Protocol: 47, Mirrored: true},
				{From: addrs(sadb.Addr(ip("2001:db8::1"))), To: addrs(sadb.Prefix(netip.MustParsePrefix("2001:db8::/32"))),
					Protocol: sadb.ICMPv6, ICMPType: sadb.Octets{From: 1, To: 1, Set: true}, ICMPCode: sadb.Octets{From: 0, To: 4, Set: true}, Mirrored: true},
				{Protocol: sadb.TCP, Mirrored: true},
				{Protocol: sadb.ICMP, Mirrored: true},
			}},
		},
		FilterActions: []policy.FilterAction{
			{Name: "open", Kind: sadb.Permit},
			{Name: "closed", GUID: "action", Description: "an action", Kind: sadb.Block},
			{Name: "secured", Kind: sadb.Negotiate, AcceptUnsecured: true, AllowClear: true, ClearDelay: 500 * time.Millisecond,
				SessionKeyPFS: true, PFSGroup: sadb.ECP384,
				Methods: []policy.SecurityMethod{
					method(gcm(256)),
					{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESCBC, KeyBits: 128, Integrity: sadb.HMACSHA256}}, Lifetime: time.Hour, Bytes: 1 << 30},
					method(sadb.Suite{Proto: sadb.ESP, Encryption: sadb.TripleDES, Integrity: sadb.HMACSHA1}),
				}},
			{Name: "fresh", Kind: sadb.Negotiate, Methods: []policy.SecurityMethod{method(gcm(256))}, SessionKeyPFS: true},
			{Name: "reused", Kind: sadb.Negotiate, Methods: []policy.SecurityMethod{method(gcm(256))}},
		},
		Rules: []policy.Rule{{Name: "first", GUID: "rule", Description: "a rule", Disabled: true, FilterList: "short", FilterAction: "secured",
			Authentication: []policy.AuthMethod{
				{Kind: policy.PresharedKey},
				{Kind: policy.PresharedKey, Key: "lab", AcceptPrincipals: []string{"psk:10.0.0.1"}},
			}}},
		DefaultResponse: policy.DefaultResponse{Active: true, Methods: []policy.SecurityMethod{method(gcm(128))},
			Authentication: []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "lab"}}},
		Tests: []policy.Test{{Flow: "tcp me -> 10.0.0.1", Expect: "none"}},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got\n%+v\nwant\n%+v", p, want)
	}
	roundTrip(t, p)
}

// decode reads without validating, for what the model can say and this version
// does not enforce.
func decode(t *testing.T, data []byte) *policy.Policy {
	t.Helper()
	src := newSource("test.yaml", data)
	root, err := src.nodes()
	if err != nil {
		t.Fatal(err)
	}
	d := newDecoder(src)
	p := d.policy(root)
	if err := d.err(); err != nil {
		t.Fatalf("%v\nin\n%s", err, data)
	}
	return p
}

// What later versions enforce is part of the language today.
func TestTheWholeModelSurvivesMarshal(t *testing.T) {
	gcm := []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}}
	ah := sadb.Suite{Proto: sadb.AH, Integrity: sadb.HMACSHA1}
	policies := []*policy.Policy{policy.Client(), policy.Server(), policy.SecureServer(), {
		Name:        "everything: \"quoted\" #1",
		Description: " two\nlines ",
		KeyExchange: policy.KeyExchange{Sessions: 1, MasterKeyPFS: true},
		FilterLists: []policy.FilterList{
			{Name: "1", Filters: []policy.Filter{
				{From: policy.Endpoint{Kind: policy.Name, Name: "db.example"}, To: policy.Endpoint{Kind: policy.DNSServers}},
				{From: policy.Endpoint{Kind: policy.WINSServers}, To: policy.Endpoint{Kind: policy.DHCPServers}},
				{From: policy.Endpoint{Kind: policy.DefaultGateway}, Protocol: sadb.TCP, ToPorts: sadb.Ports{From: 1, To: 65535}},
			}},
			{Name: "null"},
		},
		FilterActions: []policy.FilterAction{
			{Name: "true", Kind: sadb.Block},
			{Name: "contradiction", Kind: sadb.Permit, AllowClear: true},
			{Name: "n", Kind: sadb.Negotiate, ClearDelay: 1500 * time.Microsecond, Methods: []policy.SecurityMethod{
				{Suites: []sadb.Suite{ah}},
				{Suites: []sadb.Suite{ah, gcm[0]}, Bytes: 123_456_789, Lifetime: 61 * time.Second},
			}},
		},
		Rules: []policy.Rule{
			{Name: "tunnel", Tunnel: policy.TunnelSetting{Endpoint: netip.MustParseAddr("2001:db8::1")}, Connections: policy.RemoteAccess,
				Authentication: []policy.AuthMethod{
					{Kind: policy.Certificate, CA: "CN=Root, O=Bank", ExcludeCAName: true, MapToAccount: true},
					{Kind: policy.Kerberos, AcceptPrincipals: []string{"host/a@EXAMPLE", "yes"}},
					{Kind: policy.Kerberos},
				}},
			{Name: "by name", Tunnel: policy.TunnelSetting{Name: "gw.example"}, Connections: policy.LAN},
		},
		DefaultResponse: policy.DefaultResponse{Methods: []policy.SecurityMethod{{Suites: gcm}}},
		Tests:           []policy.Test{{Flow: "icmp me -> 10.0.0.1", Expect: "negotiate"}},
	}}
	for _, p := range policies {
		data, err := Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := decode(t, data); !reflect.DeepEqual(got, p) {
			t.Errorf("%s came back as\n%+v\nnot\n%+v\nfrom\n%s", p.Name, got, p, data)
		}
	}
}

func TestMarshalWritesShortForms(t *testing.T) {
	p := decode(t, []byte(header+"filterLists:\n  a: [{from: me, to: 10.0.0.0/8}]\nfilterActions: {open: permit}\n"+
		"rules: [{name: r, filterList: a, filterAction: open, authentication: [psk]}]\n"))
	data, err := Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	want := header + `filterLists:
  a:
  - {from: me, to: 10.0.0.0/8}
filterActions:
  open: permit
rules:
- name: r
  filterList: a
  filterAction: open
  authentication: [psk]
`
	if string(data) != want {
		t.Errorf("got\n%s\nwant\n%s", data, want)
	}
}

// All mistakes of a document come at once, each where it stands.
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
  - {name: b, filterList: a, filterAction: r, authentication: [kerberos, foo], tunnel: 1.2.3.4}
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
		`11:38: filter action "r": security method ah-sha1 is not enforced by this version`,
		`11:60: "3x" is not a duration`,
		`13:27: rule "a" names filter list "b", which is not defined (defined: a, empty)`,
		`14:64: rule "b": authentication by kerberos is not enforced by this version`,
		`14:74: unknown authentication method "foo"`,
		`14:88: rule "b": a tunnel setting is not enforced by this version`,
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
		{"a name for an address", header + filter + "{from: me, to: db.example}\n", "{name: host.example} is expected"},
		{"a name", header + filter + "{from: me, to: {name: db.example}}\n", "not enforced"},
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

// What follows from a mistake is not reported beside it.
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

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "8h": 8 * time.Hour, "1h30m": 90 * time.Minute, "90s": 90 * time.Second, "500ms": 500 * time.Millisecond,
		"1d": 24 * time.Hour, "2d1h": 49 * time.Hour, "1.5h": 90 * time.Minute,
	} {
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
		back, err := parseDuration(formatDuration(got))
		if err != nil || back != got {
			t.Errorf("%v is written %q and read as %v, %v", got, formatDuration(got), back, err)
		}
	}
	for _, text := range []string{"", "8", "h", "-8h", "+8h", "1d-1h", "d", "65536d", "9999999999h", "1d1d", "1h2d", "1dx", ".5h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"0B": 0, "1B": 1, "100MB": 100e6, "100GB": 100e9, "1GiB": 1 << 30, "2KiB": 2048, "3kB": 3000, "3KB": 3000, "4TB": 4e12, "1TiB": 1 << 40, "1MiB": 1 << 20,
	} {
		got, err := parseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
		back, err := parseSize(formatSize(got))
		if err != nil || back != got {
			t.Errorf("%v is written %q and read as %v, %v", got, formatSize(got), back, err)
		}
	}
	for _, text := range []string{"", "1", "B", "1.5GB", "-1B", "1gb", "1 GB", "1GBB", "99999999TB", "18446744073709551615KB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.yaml")
	write(t, good, header)
	if p, err := Load(good); err != nil || p.Name != "test" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := Load(filepath.Join(dir, "lost.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	large := filepath.Join(dir, "large.yaml")
	write(t, large, header+"#"+strings.Repeat("x", 2*maxSize))
	if _, err := Load(large); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: %v", err)
	}
	bad := filepath.Join(dir, "bad.yaml")
	write(t, bad, header+"x: 1\n")
	if _, err := Load(bad); len(Errors(err)) != 1 || Errors(err)[0].File != bad {
		t.Errorf("a bad file: %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDirKeepsGoodDocumentsBesideBadOnes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), header)
	write(t, filepath.Join(dir, "b.yaml"), header+"x: 1\n")
	write(t, filepath.Join(dir, "c.yaml"), header)
	write(t, filepath.Join(dir, "d.yaml"), strings.Replace(header, "test", "other", 1))
	write(t, filepath.Join(dir, ".hidden.yaml"), "x")
	write(t, filepath.Join(dir, "README.md"), "x")
	if err := os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ file, policy, problem string }{
		{"a.yaml", "test", ""},
		{"b.yaml", "", `unknown field "x"`},
		{"c.yaml", "", `policy "test" of`},
		{"d.yaml", "other", ""},
	}
	if len(entries) != len(want) {
		t.Fatalf("%+v", entries)
	}
	for i, e := range entries {
		w := want[i]
		switch {
		case filepath.Base(e.Path) != w.file, (e.Err == nil) != (e.Policy != nil), (e.Err == nil) != (w.problem == ""):
			t.Errorf("entry %+v, want %+v", e, w)
		case e.Err != nil && !strings.Contains(e.Err.Error(), w.problem):
			t.Errorf("%v, want %q", e.Err, w.problem)
		case e.Policy != nil && e.Policy.Name != w.policy:
			t.Errorf("policy %q, want %q", e.Policy.Name, w.policy)
		}
	}
	if _, err := Dir(filepath.Join(dir, "lost")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestDirIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range maxFiles + 1 {
		write(t, filepath.Join(dir, fmt.Sprintf("%04d.yaml", i)), "x")
	}
	entries, err := Dir(dir)
	if len(entries) != maxFiles || err == nil || !strings.Contains(err.Error(), "more than 1000 documents") {
		t.Errorf("%d entries, %v", len(entries), err)
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

// No prefix of a document, and no document with one byte changed, does harm.
func TestDamagedDocumentsAreReadOrRefused(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "examples", "database-servers.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) {
		check(t, data[:n])
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		damaged := bytes.Clone(data)
		damaged[rng.IntN(len(damaged))] ^= byte(1 + rng.IntN(255))
		check(t, damaged)
	}
}

// check fails unless data is refused with places inside it, or read as a
// policy that compiles and that Marshal writes.
func check(t *testing.T, data []byte) {
	t.Helper()
	p, err := Parse("t.yaml", data)
	if err == nil {
		if _, err := policy.Compile(p, policy.Host{}); err != nil {
			t.Fatalf("read but not compiled: %v\n%q", err, data)
		}
		roundTrip(t, p)
		return
	}
	places := Errors(err)
	if len(places) == 0 {
		t.Fatalf("%v has no place", err)
	}
	for _, e := range places {
		if e.Line < 1 || e.Column < 1 || e.Message == "" {
			t.Fatalf("%+v in %q", e, data)
		}
	}
}

func FuzzParse(f *testing.F) {
	entries, err := Dir(filepath.Join("..", "..", "examples"))
	if err != nil || len(entries) == 0 {
		f.Fatalf("no examples: %v", err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(e.Path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(allFields))
	f.Add([]byte(header + "tests: [{flow: \"tcp me=::1 -> [::2]:3\", expect: none}]"))
	f.Fuzz(func(t *testing.T, data []byte) { check(t, data) })
}
