package sadb

import (
	"net/netip"
	"testing"
)

func TestAddrsAsText(t *testing.T) {
	for _, a := range []Addrs{AnyAddrs(), Me(), Addr(netip.MustParseAddr("192.0.2.1")), Addr(netip.MustParseAddr("2001:db8::1")),
		Prefix(netip.MustParsePrefix("10.0.0.0/8")), Prefix(netip.MustParsePrefix("::/0")), Prefix(netip.MustParsePrefix("::/80")),
		Prefix(netip.MustParsePrefix("::fffe:0:0/95")), Prefix(netip.MustParsePrefix("::ffff:10.0.0.0/104")), Prefix(netip.MustParsePrefix("0.0.0.0/0")),
		Range(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")), Range(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::9"))} {
		text, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Addrs
		if err := got.UnmarshalText(text); err != nil || got != a {
			t.Errorf("%s came back as %s, %v", a, got, err)
		}
	}
	for _, bad := range []string{"", "you", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "10.0.0.1-", "-10.0.0.1", "10.0.0.1-fd00::1", "::ffff:10.0.0.1", "/8"} {
		var got Addrs
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as %s", bad, got)
		}
	}
}

func FuzzAddrsText(f *testing.F) {
	f.Add([]byte("10.0.0.1-10.0.0.9"))
	f.Add([]byte("fd00::/8"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a, again Addrs
		if a.UnmarshalText(b) != nil {
			return
		}
		text, _ := a.MarshalText()
		if err := again.UnmarshalText(text); err != nil || again != a {
			t.Fatalf("%q is %s and then %s, %v", b, a, again, err)
		}
	})
}
