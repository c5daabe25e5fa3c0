package xfrm

import (
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

func TestForeignIsToldFromOurs(t *testing.T) {
	e := &engine{cfg: Config{}.withDefaults()}
	at := func(priority, value, mask uint32) wire.Policy {
		return wire.Policy{Dir: wire.Out, Priority: priority, Mark: wire.Mark{Value: value, Mask: mask},
			Selector: wire.Selector{Src: wire.IPv4.Any(), Dst: netip.MustParsePrefix("10.0.0.0/8")}}
	}
	states := []wire.State{{ReqID: reqidFirst + 1}, {ReqID: 1, ID: sadb.SAID{Proto: sadb.ESP, SPI: 0x1234, Dst: netip.MustParseAddr("192.0.2.1")}, Src: netip.MustParseAddr("192.0.2.2")}}
	f := e.sort([]wire.Policy{at(priorityExempt, 0, DefaultExempt), at(5000, 0, 0), at(6000, 0, DefaultExempt|0x20000000), at(7000, 0, 0), at(10, 1, DefaultExempt)}, states)
	if f.OurPolicies != 2 || f.OurStates != 1 || len(f.Policies) != 3 || len(f.States) != 1 {
		t.Fatalf("%+v", f)
	}
	if !f.Policies[0].Before || f.Policies[1].Before || !f.Policies[2].Before || !strings.Contains(f.Policies[0].Words, "0.0.0.0/0 -> 10.0.0.0/8, priority 5000") {
		t.Errorf("%+v", f.Policies)
	}
	if len(f.Marked) != 0 {
		t.Errorf("marks that are not ours: %q", f.Marked)
	}
	ours := at(8000, DefaultExempt, 0xff000000)
	ours.IfID = 42
	f = e.sort([]wire.Policy{at(9000, 1, 0xffffffff), ours}, []wire.State{{ReqID: 1, SetMark: wire.Mark{Value: 0x03000000, Mask: 0xff000000}}})
	if len(f.Marked) != 2 || !strings.Contains(f.Marked[0], "priority 8000, mark 0x2000000/0xff000000, interface ID 42") || !strings.Contains(f.Marked[1], "0x3000000") {
		t.Errorf("marks that are ours: %q", f.Marked)
	}
	if !f.Policies[0].Before || f.Policies[1].Before {
		t.Errorf("a policy of an interface decides for others: %+v", f.Policies)
	}
	f = e.sort(nil, states)
	if !strings.Contains(f.States[0], "ESP from 192.0.2.2 to 192.0.2.1") {
		t.Errorf("%q", f.States)
	}
}

// TestOursUnderAMarkOfBefore: with another exempt mark in the settings the policies
// of the former one are still ours, as the book says; what cannot be such a mark is
// not taken from it.
func TestOursUnderAMarkOfBefore(t *testing.T) {
	c := Config{Dir: t.TempDir(), Exempt: 0x2000}
	before := wire.Policy{Priority: 7000, Mark: wire.Mark{Mask: 0x1000}}
	if f := (&engine{cfg: c, marks: c.marksOfBefore()}).sort([]wire.Policy{before}, nil); f.OurPolicies != 0 {
		t.Errorf("without a book: %+v", f)
	}
	if err := (book{c.Dir}).saveFilters(page{Marks: []uint32{0x1000, 0x3000, 0x40000000, 0}}); err != nil {
		t.Fatal(err)
	}
	if got := c.marksOfBefore(); len(got) != 1 || got[0] != 0x1000 {
		t.Errorf("marks of before: %#x", got)
	}
	if f := (&engine{cfg: c, marks: c.marksOfBefore()}).sort([]wire.Policy{before}, nil); f.OurPolicies != 1 || len(f.Policies) != 0 {
		t.Errorf("with the book: %+v", f)
	}
}
