package sadb

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestZeroActionBlocks(t *testing.T) {
	var f Filter
	if f.Action.Kind != Block {
		t.Fatalf("zero action is %v", f.Action.Kind)
	}
	if !f.Selector.Matches(Flow{Proto: TCP, RemotePort: 80}) {
		t.Error("zero selector must match everything")
	}
}

func TestSecretNeverPrints(t *testing.T) {
	const canary = "canary-key-material"
	s := NewSecret([]byte(canary))
	type holder struct {
		Exported   Secret
		unexported Secret
		ptr        *Secret
	}
	h := holder{s, s, &s}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", &h)
		fmt.Fprintf(&out, verb+"\n", []any{s, h, map[string]Secret{"k": s}})
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "secret", s, "holder", h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "secret", s, "holder", h)
	j, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	hexed := fmt.Sprintf("%x", canary)
	decimal := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
	for _, leak := range []string{canary, hexed, strings.ToUpper(hexed), decimal, "0x63, 0x61"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("output holds %q:\n%s", leak, out.String())
		}
	}
	if string(s.Bytes()) != canary {
		t.Error("Bytes does not return the key")
	}
	if _, err := s.MarshalBinary(); err == nil {
		t.Error("MarshalBinary must refuse")
	}
}

func TestSecretCompareAndZero(t *testing.T) {
	b := []byte("0123456789")
	s := NewSecret(b)
	clear(b)
	if !s.Equal(NewSecret([]byte("0123456789"))) || s.Equal(NewSecret([]byte("0123456780"))) || s.Equal(Secret{}) {
		t.Error("Equal is wrong")
	}
	s.Zero()
	if s.Equal(NewSecret([]byte("0123456789"))) || s.Len() != 10 {
		t.Error("Zero must overwrite")
	}
}

func addrs(t *testing.T, s string) Addrs {
	t.Helper()
	switch {
	case s == "any":
		return AnyAddrs()
	case s == "me":
		return Me()
	case strings.Contains(s, "/"):
		return Prefix(netip.MustParsePrefix(s))
	}
	from, to, ok := strings.Cut(s, "-")
	if !ok {
		to = from
	}
	return Range(netip.MustParseAddr(from), netip.MustParseAddr(to))
}

func TestAddrs(t *testing.T) {
	for _, c := range []struct {
		in, out, ip string
		spec        int
		match       bool
	}{
		{"any", "any", "2001:db8::1", 0, true},
		{"me", "me", "10.0.0.1", 128, false},
		{"10.1.2.3", "10.1.2.3", "10.1.2.3", 128, true},
		{"10.1.2.3", "10.1.2.3", "::ffff:10.1.2.3", 128, true},
		{"10.1.2.3", "10.1.2.3", "10.1.2.4", 128, false},
		{"10.0.0.0/8", "10.0.0.0/8", "10.255.255.255", 32, true},
		{"10.0.0.0/8", "10.0.0.0/8", "11.0.0.0", 32, false},
		{"10.0.0.0/8", "10.0.0.0/8", "::10.0.0.0", 32, false},
		{"0.0.0.0/0", "0.0.0.0/0", "1.2.3.4", 0, true},
		{"10.0.0.0-10.0.0.255", "10.0.0.0/24", "10.0.0.7", 96, true},
		{"10.0.0.1-10.0.0.3", "10.0.0.1-10.0.0.3", "10.0.0.2", 120, true},
		{"2001:db8::/32", "2001:db8::/32", "2001:db8:ffff::1", 32, true},
		{"fe80::1", "fe80::1", "fe80::1%eth0", 128, true},
	} {
		a := addrs(t, c.in)
		if a.String() != c.out || a.Specificity() != c.spec || a.Matches(netip.MustParseAddr(c.ip), false) != c.match {
			t.Errorf("%s: %v specificity %d, matches %s: %v", c.in, a, a.Specificity(), c.ip, !c.match)
		}
	}
	if !Me().Matches(netip.MustParseAddr("192.0.2.1"), true) {
		t.Error("me must match an address of this host")
	}
}

func TestContains(t *testing.T) {
	for _, c := range []struct {
		outer, inner string
		want         bool
	}{
		{"any", "me", true}, {"any", "10.0.0.0/8", true}, {"me", "any", false}, {"me", "me", true},
		{"me", "10.0.0.1", false}, {"10.0.0.0/8", "10.1.0.0/16", true}, {"10.1.0.0/16", "10.0.0.0/8", false},
		{"10.0.0.0/8", "any", false}, {"10.0.0.0/8", "fd00::1", false},
	} {
		if got := addrs(t, c.outer).Contains(addrs(t, c.inner)); got != c.want {
			t.Errorf("%s contains %s: %v", c.outer, c.inner, got)
		}
	}
	all := Selector{}
	web := Selector{Local: Me(), Proto: TCP, RemotePorts: Port(443)}
	if !all.Contains(web) || web.Contains(all) || !web.Contains(web) {
		t.Error("Selector.Contains is wrong")
	}
	if (Selector{Proto: ICMP, ICMPType: Octets{8, 8, true}}).Contains(Selector{Proto: ICMP}) {
		t.Error("one ICMP type does not contain all")
	}
}

func TestRangePanicsOnNonsense(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a descending range must panic")
		}
	}()
	Range(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"))
}

func TestSelectorMatches(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	web := Selector{Local: Me(), Remote: Addr(b), Proto: TCP, RemotePorts: Ports{80, 90}}
	ping := Selector{Proto: ICMP, ICMPType: Octets{8, 8, true}}
	flow := Flow{Local: a, Remote: b, LocalMe: true, Proto: TCP, LocalPort: 40000, RemotePort: 85}
	for name, c := range map[string]struct {
		s    Selector
		f    func(*Flow)
		want bool
	}{
		"match":      {web, func(*Flow) {}, true},
		"not me":     {web, func(f *Flow) { f.LocalMe = false }, false},
		"port above": {web, func(f *Flow) { f.RemotePort = 91 }, false},
		"udp":        {web, func(f *Flow) { f.Proto = UDP }, false},
		"echo":       {ping, func(f *Flow) { f.Proto, f.ICMPType = ICMP, 8 }, true},
		"reply":      {ping, func(f *Flow) { f.Proto, f.ICMPType = ICMP, 0 }, false},
	} {
		f := flow
		c.f(&f)
		if got := c.s.Matches(f); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestMirrorSwapsPortsNotICMP(t *testing.T) {
	s := Selector{Local: Me(), Proto: TCP, RemotePorts: Port(80), ICMPType: Octets{8, 8, true}}
	m := s.Mirror()
	if !m.Remote.IsMe() || m.LocalPorts != Port(80) || m.ICMPType != s.ICMPType || m.Mirror() != s {
		t.Errorf("mirror of %v is %v", s, m)
	}
}

func TestSelectorString(t *testing.T) {
	s := Selector{Local: Me(), Remote: addrs(t, "2001:db8::/32"), Proto: TCP, RemotePorts: Ports{80, 90}}
	if got, want := s.String(), "me <-> [2001:db8::/32]:80-90 tcp"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSuitesRoundTripByName(t *testing.T) {
	for n := range suites {
		s, err := ParseSuite(n.name)
		if err != nil || s.String() != n.name || !s.Valid() {
			t.Errorf("%s: %v, %v", n.name, s, err)
		}
	}
	if (Suite{Proto: ESP, Encryption: AESCBC, KeyBits: 128}).Valid() {
		t.Error("encryption without integrity must not be valid")
	}
	if _, err := ParseSuite("esp-rot13"); err == nil || !strings.Contains(err.Error(), "esp-aes256gcm") {
		t.Errorf("unknown suite: %v", err)
	}
	if n := (Suite{ESP, AESGCM, 256, IntegrityNone}).EncKeyLen(); n != 36 {
		t.Errorf("AES-256-GCM key with salt is %d bytes", n)
	}
}

func TestISAKMPSuiteNames(t *testing.T) {
	for _, name := range []string{"aes256-sha256-ecp256", "3des-sha1-modp1024", "des-md5-modp768", "aes128-sha512-modp4096"} {
		s, err := ParseISAKMPSuite(name)
		if err != nil || s.String() != name {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for _, bad := range []string{"", "aes256", "aes257-sha256-ecp256", "aes256-sha3-ecp256", "aes256-sha256-ecp"} {
		if s, err := ParseISAKMPSuite(bad); err == nil {
			t.Errorf("%q gave %v", bad, s)
		}
	}
}

func TestLimits(t *testing.T) {
	hard := Limits{Time: time.Hour, Bytes: 1000}
	soft := hard.Fraction(9, 10)
	if soft != (Limits{Time: 54 * time.Minute, Bytes: 900}) {
		t.Errorf("90 %% is %v", soft)
	}
	if soft.Reached(53*time.Minute, 899, 1<<40) || !soft.Reached(54*time.Minute, 0, 0) || !soft.Reached(0, 900, 0) {
		t.Error("Reached is wrong")
	}
	if m := hard.Min(Limits{Time: 2 * time.Hour, Packets: 5}); m != (Limits{time.Hour, 1000, 5}) {
		t.Errorf("Min is %v", m)
	}
	if big := (Limits{Bytes: 1 << 63}).Fraction(9, 10).Bytes; big < 1<<62 || big > 1<<63 {
		t.Errorf("Fraction overflows: %d", big)
	}
}

func TestSpliceAndDecide(t *testing.T) {
	peer := netip.MustParseAddr("10.0.0.9")
	filters := []Filter{
		{ID: "icmp", Selector: Selector{Proto: ICMP}, Dir: Both, Action: Action{Kind: Permit}},
		{ID: "all", Selector: Selector{Local: Me()}, Dir: Both, Action: Action{Kind: Negotiate, AllowClear: true}},
	}
	overlays := []Filter{
		{ID: "soft", Parent: "all", Selector: Selector{Local: Me(), Remote: Addr(peer)}, Dir: Both, Action: Action{Kind: Permit}},
		{ID: "secured", Parent: "all", Selector: Selector{Local: Me(), Remote: Addr(peer)}, Dir: Both, Action: Action{Kind: Negotiate}},
		{ID: "orphan", Parent: "gone"},
		{ID: "response", Selector: Selector{Remote: Addr(peer)}, Dir: Both, Action: Action{Kind: Negotiate}},
	}
	var order []string
	spd := Splice(filters, overlays)
	for _, f := range spd {
		order = append(order, string(f.ID))
	}
	if got := strings.Join(order, " "); got != "icmp secured soft all response" {
		t.Errorf("order: %s", got)
	}
	f, ok := Decide(spd, Flow{LocalMe: true, Remote: peer, Proto: TCP}, Out)
	if !ok || f.ID != "secured" {
		t.Errorf("decided by %v", f.ID)
	}
	if _, ok := Decide(spd, Flow{Remote: netip.MustParseAddr("10.0.0.8"), Proto: TCP}, Out); ok {
		t.Error("what no filter matches must pass")
	}
}

// TestConnectionTypeDecides: a filter takes packets of its type of connection
// alone, an overlay those of its parent's.
func TestConnectionTypeDecides(t *testing.T) {
	lan := Filter{ID: "lan", Dir: Both, Connections: LAN, Action: Action{Kind: Permit}}
	dial := Filter{ID: "dial", Dir: Both, Connections: RemoteAccess, Action: Action{Kind: Negotiate}}
	rest := Filter{ID: "rest", Dir: Both}
	spd := Splice([]Filter{lan, dial, rest}, []Filter{
		{ID: "soft", Parent: "dial", Dir: Out, Action: Action{Kind: Permit}},
		{ID: "secured", Parent: "rest", Dir: In, Action: Action{Kind: Negotiate}}})
	for _, c := range []struct {
		connection ConnectionType
		dir        Directions
		want       FilterID
	}{
		{LAN, Out, "lan"}, {LAN, In, "lan"}, {AllConnections, Out, "lan"},
		{RemoteAccess, Out, "soft"}, {RemoteAccess, In, "dial"},
	} {
		if d, _ := Decide(spd, Flow{Connection: c.connection}, c.dir); d.ID != c.want {
			t.Errorf("%s over %s: filter %s decides, want %s", c.dir, c.connection, d.ID, c.want)
		}
	}
	if d, _ := Decide(spd[2:], Flow{Connection: LAN}, In); d.ID != "secured" {
		t.Errorf("filter %s decides below those of other types, want the overlay of rest", d.ID)
	}
}

func TestSoftOverlayNeverStandsAboveASecuredOne(t *testing.T) {
	peer := Addr(netip.MustParseAddr("10.0.0.9"))
	filters := []Filter{{ID: "all", Selector: Selector{Local: Me()}, Dir: Both, Action: Action{Kind: Negotiate, AllowClear: true}}}
	overlays := []Filter{
		{ID: "port 80 is secured", Parent: "all", Selector: Selector{Local: Me(), Remote: peer, Proto: TCP, RemotePorts: Port(80)}, Dir: Both, Action: Action{Kind: Negotiate}},
		{ID: "soft for all", Parent: "all", Selector: Selector{Local: Me(), Remote: peer}, Dir: Both, Action: Action{Kind: Permit}},
	}
	web := Flow{LocalMe: true, Remote: netip.MustParseAddr("10.0.0.9"), Proto: TCP, RemotePort: 80}
	spd := Splice(filters, overlays)
	if f, _ := Decide(spd, web, Out); f.ID != "port 80 is secured" {
		t.Errorf("what has an association is decided by %q", f.ID)
	}
	web.RemotePort = 81
	if f, _ := Decide(spd, web, Out); f.ID != "soft for all" {
		t.Errorf("what has none is decided by %q", f.ID)
	}
}

func TestBook(t *testing.T) {
	b := NewBook()
	r := netip.MustParseAddr("192.0.2.2")
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	in := SAID{Proto: ESP, SPI: 1000}
	out := SAID{Proto: ESP, SPI: 2000}
	b.Put(Pair{ID: 2, Filter: "f", Remote: r, Since: t0.Add(time.Minute), Replaces: 1, In: []SAID{in}, Out: []SAID{out}})
	b.Put(Pair{ID: 1, Filter: "f", Remote: r, Since: t0})
	if p, ok := b.Serving("f", r); !ok || p.ID != 2 {
		t.Errorf("serving: %v", p.ID)
	}
	if _, ok := b.Serving("g", r); ok {
		t.Error("an association belongs to one filter")
	}
	if p, ok := b.ByInbound(in); !ok || p.ID != 2 {
		t.Error("ByInbound")
	}
	if _, ok := b.ByInbound(out); ok {
		t.Error("ByInbound must not find an outbound one")
	}
	if p, ok := b.BySA(out); !ok || p.ID != 2 {
		t.Error("BySA")
	}
	if p, ok := b.ReplacedBy(1); !ok || p.ID != 2 {
		t.Error("ReplacedBy")
	}
	if all := b.All(); len(all) != 2 || all[0].ID != 1 {
		t.Error("All must be oldest first")
	}
	if _, ok := b.Remove(1); !ok || b.Len() != 1 {
		t.Error("Remove")
	}
	if _, ok := b.Get(1); ok {
		t.Error("removed pair is still there")
	}
}

func TestRandomNamesAreUsable(t *testing.T) {
	for range 1000 {
		if s := RandomSPI(); s <= 255 {
			t.Fatalf("reserved SPI %v", s)
		}
		if id := NewPairID(); id == 0 || id >= 1<<53 {
			t.Fatalf("pair ID %d", id)
		}
	}
}

func TestFilterIDsDependOnEveryPart(t *testing.T) {
	if NewFilterID("ab", "c") == NewFilterID("a", "bc") {
		t.Error("IDs must not be ambiguous")
	}
	// A value of an earlier build: an ID must survive an upgrade.
	if got := NewFilterID("rule", "list"); got != "14bbaabe2640a21b" {
		t.Errorf("the ID has changed: %s", got)
	}
}

// TestOutranksIsTheSameOnBothEnds: what is inbound here is outbound there.
func TestOutranksIsTheSameOnBothEnds(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	pair := func(round uint32, atA, atB SPI) (here, there Pair) {
		in, out := []SAID{{a, ESP, atA}, {a, AH, atA + 1}}, []SAID{{b, ESP, atB}, {b, AH, atB + 1}}
		return Pair{Round: round, In: in, Out: out}, Pair{Round: round, In: []SAID{out[1], out[0]}, Out: []SAID{in[1], in[0]}}
	}
	for _, c := range []struct {
		name   string
		round  uint32
		spis   [2]SPI
		higher bool
	}{
		{"later round, higher SPIs", 3, [2]SPI{900, 901}, true},
		{"earlier round, lower SPIs", 1, [2]SPI{300, 301}, false},
		{"same round, lowest SPI of all inbound", 2, [2]SPI{300, 901}, true},
		{"same round, lowest SPI of all outbound", 2, [2]SPI{900, 301}, true},
		{"same round, higher SPIs", 2, [2]SPI{900, 901}, false},
	} {
		p, pThere := pair(c.round, c.spis[0], c.spis[1])
		o, oThere := pair(2, 500, 600)
		if p.Outranks(o) != c.higher || pThere.Outranks(oThere) != c.higher || o.Outranks(p) == c.higher || oThere.Outranks(pThere) == c.higher {
			t.Errorf("%s: here %v %v, there %v %v", c.name, p.Outranks(o), o.Outranks(p), pThere.Outranks(oThere), oThere.Outranks(pThere))
		}
		if p.Outranks(p) || p.Outranks(pThere) {
			t.Errorf("%s: it outranks itself", c.name)
		}
	}
}

func TestSecretPart(t *testing.T) {
	whole := NewSecret([]byte("SKEYID_dSKEYID_a"))
	first, second := whole.Part(0, 8), whole.Part(8, 16)
	if string(first.Bytes()) != "SKEYID_d" || string(second.Bytes()) != "SKEYID_a" || cap(first.Bytes()) != 8 {
		t.Errorf("%q and %q", first.Bytes(), second.Bytes())
	}
	for _, none := range []Secret{whole.Part(16, 24), whole.Part(8, 8), whole.Part(9, 8), Secret{}.Part(0, 1)} {
		if none.Len() != 0 {
			t.Errorf("%q is beyond the end", none.Bytes())
		}
	}
	if whole.Zero(); string(second.Bytes()) != "\x00\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%q is left of what was overwritten", second.Bytes())
	}
}

// The IPv6 prefixes that end with the mapped IPv4 addresses are prefixes as any
// other.
func TestPrefixesAroundTheMappedAddresses(t *testing.T) {
	for _, s := range []string{"::/80", "::/90", "::fffe:0:0/95", "::/0", "::/64", "::/96"} {
		p := netip.MustParsePrefix(s)
		a := Prefix(p)
		if got, ok := a.Prefix(); !ok || got != p {
			t.Errorf("%s is read back as %v, %v", s, got, ok)
		}
		if !a.Matches(p.Addr(), false) || a.Matches(netip.MustParseAddr("192.0.2.1"), false) || a.Specificity() != p.Bits() {
			t.Errorf("%s: %v, specificity %d", s, a, a.Specificity())
		}
	}
}
