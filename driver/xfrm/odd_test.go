package xfrm

import (
	"bytes"
	"strings"
	"testing"

	"net/netip"

	"github.com/mdlayher/netlink"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// What others have that cannot be read is theirs, and no reason to fail.
func TestWhatCannotBeReadIsAnothers(t *testing.T) {
	k, dir := newKernel(), t.TempDir()
	s := situationOf(1)
	s.begin(t, k, dir)
	k.odd = [][]byte{bytes.Repeat([]byte{0xff}, 300), {1}}
	e := k.open(t, dir)
	if len(e.have) != len(k.policies) || len(e.sas.byID) != len(s.sas) {
		t.Errorf("%d policies of %d, %d associations of %d", len(e.have), len(k.policies), len(e.sas.byID), len(s.sas))
	}
}

// The kernel's notices of states hold keys, which stay nowhere.
func TestNoticesOfStatesAreCleared(t *testing.T) {
	for _, typ := range []netlink.HeaderType{wire.MsgNewSA, wire.MsgUpdateSA, wire.MsgDelSA} {
		m := netlink.Message{Header: netlink.Header{Type: typ}, Data: bytes.Repeat([]byte{0x5a}, 400)}
		parse(m)
		if bytes.Contains(m.Data, []byte{0x5a}) {
			t.Errorf("message %#x is not cleared", typ)
		}
	}
}

// A list that would be millions of policies is refused, before they are made.
func TestAListHasAnEnd(t *testing.T) {
	k := newKernel()
	e := k.open(t, t.TempDir())
	a := netip.MustParseAddr("10.0.0.0")
	for range 70000 {
		a = a.Next()
		e.own = append(e.own, a)
	}
	var filters []sadb.Filter
	for i := range 1000 {
		f := between("", exampleAddr(2))
		f.ID, f.Selector.RemotePorts = sadb.FilterID(strings.Repeat("f", 1+i%60)+string(rune('a'+i/60))), sadb.Ports{From: 1, To: 65534}
		filters = append(filters, f)
	}
	_, err := e.compose(filters, nil)
	if err == nil || !strings.Contains(err.Error(), "70000 addresses") {
		t.Errorf("error %v", err)
	}
}

// Where a selector fits both families, the state of an association in transport
// mode is for that of its peers; for none of the other family is there one.
func TestTheFamilyOfAnAssociation(t *testing.T) {
	k := newKernel()
	e := situation{}.begin(t, k, t.TempDir())
	sa := testSA(sadb.Out, sadb.ESP, 0x9001)
	sa.Src, sa.ID.Dst, sa.Selector = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), sadb.Selector{Proto: sadb.UDP}
	if err := e.addSA(sa); err != nil {
		t.Fatal(err)
	}
	if st := k.states[sa.ID]; st.Selector.Family() != wire.IPv6 || st.Flags&wire.FlagAnyFamily != 0 {
		t.Errorf("the state is %+v", st)
	}
	sa.ID.SPI++
	sa.Selector = sadb.Selector{}.Narrow(exampleAddr(1), exampleAddr(2))
	if err := e.addSA(sa); err == nil || len(k.states) != 1 {
		t.Errorf("error %v, %d states", err, len(k.states))
	}
}

// The exempt mark is another one now: what the process before left in force is
// known all the same, decides until the first policy, and goes with it.
func TestAnotherExemptMark(t *testing.T) {
	k, dir := newKernel(), t.TempDir()
	s := situationOf(1)
	s.begin(t, k, dir)
	open := func() *engine {
		e := k.engine(dir)
		e.cfg.Exempt, e.exempt = 1<<20, exemptPolicies(1<<20)
		if err := e.adopt(); err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := open()
	w := &watch{t: t, k: k, where: "another mark"}
	for i := range 8 {
		w.packets = append(w.packets, packet{src: exampleAddr(1), dst: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), proto: sadb.UDP, dport: uint16(i)})
	}
	w.expect(e, [2][]sadb.Filter{s.filters, s.overlays}, [2][]sadb.Filter{s.after, s.overlays})
	k.done = w.look
	k.die = k.messages + 20
	if lives(t, func() error { return e.setFilters(s.after) }) {
		t.Fatal("it has not died")
	}
	k.die = 0
	e = open()
	if err := e.setFilters(s.after); err != nil {
		t.Fatal(err)
	}
	w.exact(e)
	for key := range k.policies {
		if key.mark.Mask&DefaultExempt != 0 {
			t.Fatalf("a policy of the former mark is in force: %+v", key)
		}
	}
	if got := e.page(e.filters, e.overlays, e.list).Marks; len(got) != 1 {
		t.Errorf("the book would still say %x", got)
	}
}

// A filter of the policy that names just what is exempt stands beside the exempt
// policy, on a host that has just begun too, and for the next process.
func TestFiltersOfWhatIsExempt(t *testing.T) {
	octet := func(n uint8) sadb.Octets { return sadb.Octets{Set: true, From: n, To: n} }
	for what, s := range map[string]sadb.Selector{
		"a path's MTU":      {Local: sadb.Me(), Proto: sadb.ICMP, ICMPType: octet(3), ICMPCode: octet(4)},
		"DHCP as a client":  {Local: sadb.Me(), Proto: sadb.UDP, LocalPorts: sadb.Port(68), RemotePorts: sadb.Port(67)},
		"packet too big":    {Local: sadb.Me(), Proto: sadb.ICMPv6, ICMPType: octet(2), ICMPCode: octet(0)},
		"listener reports":  {Local: sadb.Me(), Proto: sadb.ICMPv6, ICMPType: octet(143)},
		"DHCPv6, any other": {Local: sadb.Me(), Proto: sadb.UDP, LocalPorts: sadb.Port(546), RemotePorts: sadb.Port(547)},
	} {
		k, dir := newKernel(), t.TempDir()
		e := k.open(t, dir)
		f := sadb.Filter{ID: "f", Selector: s, Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Permit}}
		if err := e.setFilters([]sadb.Filter{f}); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, p := range e.exempt {
			if !same(k.policies[keyOf(p)], p) {
				t.Errorf("%s: the exempt policy %s is not in force", what, describe(p))
			}
		}
		for _, e := range []*engine{e, k.open(t, dir)} {
			(&watch{t: t, k: k, where: what}).exact(e)
			if again := plan(k.policies, e.policiesOf(e.list)); len(again) > 0 {
				t.Errorf("%s: %d policies would be changed again", what, len(again))
			}
		}
	}
}

// A process before knew less to be exempt, and its filter has the place of what is
// exempt now: it gets another one, and the exempt policy its own.
func TestAFilterInThePlaceOfWhatIsExempt(t *testing.T) {
	k, dir := newKernel(), t.TempDir()
	f := sadb.Filter{ID: "f", Selector: sadb.Selector{Local: sadb.Me(), Proto: sadb.UDP, LocalPorts: sadb.Port(68), RemotePorts: sadb.Port(67)},
		Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate}}
	before := k.open(t, dir)
	before.exempt = nil
	if err := before.setFilters([]sadb.Filter{f}); err != nil {
		t.Fatal(err)
	}
	e := k.open(t, dir)
	for range 2 {
		if err := e.setFilters([]sadb.Filter{f}); err != nil {
			t.Fatal(err)
		}
		(&watch{t: t, k: k, where: "another process"}).exact(e)
		if again := plan(k.policies, e.policiesOf(e.list)); len(again) > 0 {
			t.Errorf("%d policies are not as they should be", len(again))
		}
		e = k.open(t, dir)
	}
}
