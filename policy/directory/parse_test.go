package directory

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// A datagram of a Samba domain controller, and the same as the value of
// "netlogon": in the site Default-First-Site-Name, and so is who asks.
func pong() []byte {
	names := "\x07example\x04test\x00" + "\xc0\x18" + "\x03dc1\xc0\x18" + "\x07EXAMPLE\x00" + "\x03DC1\x00" + "\x00" + "\x17Default-First-Site-Name\x00" + "\xc0\x3d"
	b := []byte("\x17\x00\x00\x00\xfd\x13\x00\x00" + strings.Repeat("G", 16) + names)
	return append(b, "\x05\x00\x00\x00\xff\xff\xff\xff"...)
}

func datagram() []byte {
	value := tlv(0x31, tlv(tagOctetString, pong()))
	return append(tlv(tagSequence, tlv(tagInteger, []byte{1}), tlv(0x64, tlv(tagOctetString), tlv(tagSequence, tlv(tagSequence, tlv(tagOctetString, []byte("netlogon")), value)))),
		tlv(tagSequence, tlv(tagInteger, []byte{1}), tlv(0x65, tlv(tagEnumerated, []byte{0}), tlv(tagOctetString), tlv(tagOctetString)))...)
}

func TestThePingSaysTheSite(t *testing.T) {
	n, err := parsePing(datagram())
	if err != nil || n.domain != "example.test" || n.host != "dc1.example.test" || n.serverSite != "Default-First-Site-Name" || n.clientSite != "Default-First-Site-Name" {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestEveryPrefixOfAPingIsRefused(t *testing.T) {
	whole := pong()
	for n := range len(whole) - 8 { // what follows the names is not looked at
		if _, err := parseNetlogon(whole[:n]); !errors.Is(err, errNetlogon) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	d := datagram()
	for n := range 100 {
		if _, err := parsePing(d[:n]); err == nil {
			t.Errorf("%d bytes of the datagram are taken", n)
		}
	}
}

func TestNamesInAPingDoNotGoInCircles(t *testing.T) {
	head := "\x17\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("G", 16)
	for _, names := range []string{
		"\xc0\x18", "\x01a\xc0\x18", "\xc0\x1a\xc0\x18", "\xc0\xff", "\xc0", "\x40a", "\x80a", strings.Repeat("\x3f"+strings.Repeat("a", 63), 5) + "\x00",
	} {
		if _, err := parseNetlogon([]byte(head + names)); !errors.Is(err, errNetlogon) {
			t.Errorf("%q: %v", names, err)
		}
	}
	if _, err := parseNetlogon([]byte("\x13" + head[1:] + "\x00\x00\x00\x00\x00\x00\x00\x00")); !errors.Is(err, errNetlogon) {
		t.Errorf("another operation: %v", err)
	}
}

func TestSitesThatAreNoLabelAreNotAskedFor(t *testing.T) {
	for _, s := range []string{"", "a.b", "a b", "*", strings.Repeat("a", 64), "é", "a\x00"} {
		if safeLabel(s) {
			t.Errorf("%q", s)
		}
	}
	if !safeLabel("Default-First-Site-Name") || !safeLabel("Site_2") {
		t.Error("real names are refused")
	}
}

func FuzzPing(f *testing.F) {
	f.Add(datagram())
	f.Add(pong())
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parsePing(b)
		_, _ = parseNetlogon(b)
	})
}

func TestLinksAreRead(t *testing.T) {
	got, err := parseLinks("[LDAP://CN={A},CN=Policies;0][ldap://cn={B};1][LDAP://CN={C};2] [LDAP://CN=x\\;y;3]")
	want := []link{{gpo: "CN={A},CN=Policies"}, {gpo: "cn={B}", disabled: true}, {gpo: "CN={C}", enforced: true}, {gpo: "CN=x\\;y", disabled: true}}
	if err != nil || len(got) != len(want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, not %+v", got[i], want[i])
		}
	}
	if got, err := parseLinks(" "); err != nil || got != nil {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for _, bad := range []string{"x", "[", "[]", "[LDAP://CN=a]", "[LDAP://CN=a;]", "[LDAP://CN=a;x]", "[LDAP://CN=a;-1]", "[LDAP://;0]", "[CN=a;0]", "[LDAP://CN=a;0", "[LDAP://CN=a;0]x", "[LDAP://CN=a;0x1]",
		strings.Repeat("[LDAP://CN=a;0]", maxLinks+1)} {
		if got, err := parseLinks(bad); !errors.Is(err, errAttribute) {
			t.Errorf("%.30q: %v, %v", bad, got, err)
		}
	}
}

func FuzzLinks(f *testing.F) {
	f.Add("[LDAP://CN={A},CN=Policies;0][LDAP://CN={B};2]")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseLinks(s)
		if err == nil && len(got) > maxLinks {
			t.Error("too many")
		}
		for _, l := range got {
			if l.gpo == "" || l.enforced && l.disabled {
				t.Errorf("%+v", l)
			}
		}
	})
}

// aGPO is the descriptor of a group policy object as a domain controller gives
// it to its reader: for authenticated users, and denied to one computer.
func aGPO(t *testing.T) []byte {
	t.Helper()
	const (
		guests = "010100000000000514000000"         // a domain's account, short
		users  = "01010000000000050b000000"         // authenticated users
		apply  = "8ffdacedb3ffd111b41d00a0c968f939" // Apply-Group-Policy
		deny   = "06002800" + "00010000" + "01000000" + apply + guests
		read   = "00021400" + "94000200" + users
		grant  = "05002800" + "00010000" + "01000000" + apply + users
		below  = "050a2800" + "00010000" + "01000000" + apply + guests // inherit only
	)
	b, err := hex.DecodeString("01000480" + "00000000" + "00000000" + "00000000" + "14000000" + "0400" + "9400" + "0400" + "0000" + deny + read + grant + below)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestADescriptorDecidesByItsFirstEntryThatSpeaks(t *testing.T) {
	d, err := parseDescriptor(aGPO(t))
	if err != nil {
		t.Fatal(err)
	}
	const guest = "S-1-5-20"
	for _, c := range []struct {
		token []string
		right uint32
		of    string
		want  bool
	}{
		{[]string{sidAuthenticated}, rightControl, applyGroupPolicy, true},
		{[]string{sidAuthenticated}, rightRead, "", true},
		{[]string{sidAuthenticated, guest}, rightControl, applyGroupPolicy, false},
		{[]string{guest}, rightControl, applyGroupPolicy, false},
		{[]string{guest}, rightRead, "", false},
		{[]string{sidEveryone}, rightRead, "", false},
		{[]string{sidAuthenticated}, rightControl, "another right", false},
		{nil, rightRead, "", false},
	} {
		if got := d.allows(c.token, c.right, c.of); got != c.want {
			t.Errorf("%v, right %x of %x: %v", c.token, c.right, c.of, got)
		}
	}
}

func TestADescriptorThatIsNoneIsRefused(t *testing.T) {
	whole := aGPO(t)
	for n := range whole {
		if d, err := parseDescriptor(whole[:n]); err == nil {
			t.Errorf("%d bytes are taken: %+v", n, d)
		}
	}
	open := append([]byte(nil), whole[:20]...)
	open[2], open[16] = 0, 0
	if d, err := parseDescriptor(open); err != nil || !d.open {
		t.Errorf("without a list: %+v, %v", d, err)
	}
	empty := append(append([]byte(nil), whole[:20]...), 4, 0, 8, 0, 0, 0, 0, 0)
	if d, err := parseDescriptor(empty); err != nil || d.open || d.allows([]string{sidEveryone}, rightRead, "") {
		t.Errorf("with an empty list: %+v, %v", d, err)
	}
}

func FuzzDescriptor(f *testing.F) {
	b, _ := hex.DecodeString("0100048000000000000000000000000014000000040024000100000000021400940002000101000000000005" + "0b000000")
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		d, err := parseDescriptor(b)
		if err == nil {
			d.allows([]string{sidEveryone}, rightControl, applyGroupPolicy)
		}
		_, _ = parseSID(b)
	})
}

func TestDNsAreParted(t *testing.T) {
	got, err := parents(`CN=a\,b,OU=x,OU=y\\,DC=example,DC=test`, "dc=Example,dc=test")
	if err != nil || len(got) != 3 || got[0] != `OU=x,OU=y\\,DC=example,DC=test` || got[1] != `OU=y\\,DC=example,DC=test` || got[2] != "DC=example,DC=test" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "CN=a", "CN=a,DC=other,DC=test", "DC=example,DC=test", "no DN"} {
		if got, err := parents(bad, "DC=example,DC=test"); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
	if got := nameOfRDN(`CN=a\,b`); got != "a,b" {
		t.Errorf("%q", got)
	}
}
