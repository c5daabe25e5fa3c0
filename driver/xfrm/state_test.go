package xfrm

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// What associations have carried counts for their filter, after their end too;
// what goes through a bundle counts once.
func TestSecuredPacketsCountForTheirFilter(t *testing.T) {
	k := newKernel()
	s := situationOf(1)
	s.sas = []sadb.SA{testSA(sadb.Out, sadb.ESP, 0x7001), testSA(sadb.In, sadb.ESP, 0x7002), testSA(sadb.Out, sadb.ESP, 0x7003), testSA(sadb.Out, sadb.AH, 0x7004)}
	s.sas[2].Bundle, s.sas[3].Bundle = s.sas[3].ID, s.sas[2].ID
	e := s.begin(t, k, t.TempDir())
	e.suites = []sadb.Suite{}
	var err error
	if e.stat, err = os.Create(filepath.Join(t.TempDir(), "stat")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.stat.Close() })
	if _, err := e.stat.WriteString("XfrmInError 0\n"); err != nil {
		t.Fatal(err)
	}
	for _, sa := range s.sas {
		st := k.states[sa.ID]
		st.Use = wire.Use{Packets: 10, Bytes: 1000}
		k.states[sa.ID] = st
	}
	want := func(what string, packets, bytes uint64) {
		t.Helper()
		state, err := e.state()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range state.Filters {
			w := driver.FilterStat{Filter: f.Filter}
			if f.Filter.ID == "lab" {
				w.Packets, w.Bytes = packets, bytes
			}
			if f != w {
				t.Errorf("%s: %s has %d packets of %d bytes, want %d of %d", what, f.Filter.ID, f.Packets, f.Bytes, w.Packets, w.Bytes)
			}
		}
	}
	want("all there", 30, 3000)
	if err := e.deleteSA(s.sas[0].ID); err != nil {
		t.Fatal(err)
	}
	want("one deleted", 30, 3000)
	gone := k.states[s.sas[1].ID]
	gone.Use.Packets = 15
	delete(k.states, gone.ID)
	e.reached(wire.Expire{State: gone, Hard: true})
	want("one at its end", 35, 3000)
}

// The key exchange names link-local addresses with their zone; packets and the
// kernel do not.
func TestLinkLocalAssociations(t *testing.T) {
	k := newKernel()
	e := situation{}.begin(t, k, t.TempDir())
	local, remote := netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("fe80::2%eth0")
	spi, err := e.allocSPI(remote, local, sadb.ESP)
	if err != nil {
		t.Fatal(err)
	}
	in, out := testSA(sadb.In, sadb.ESP, spi), testSA(sadb.Out, sadb.ESP, 0x7001)
	for sa, addrs := range map[*sadb.SA][2]netip.Addr{&in: {remote, local}, &out: {local, remote}} {
		sa.Src, sa.ID.Dst, sa.Selector = addrs[0], addrs[1], sadb.Selector{}.Narrow(local, remote)
		if err := e.addSA(*sa); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.states) != 2 || len(e.reserved) != 0 {
		t.Errorf("%d states and %d reservations, want 2 and none", len(k.states), len(e.reserved))
	}
	for _, sa := range []sadb.SA{in, out} {
		st, ok := k.states[sadb.SAID{Dst: sa.ID.Dst.WithZone(""), Proto: sa.ID.Proto, SPI: sa.ID.SPI}]
		if !ok || st.Selector.Family() != wire.IPv6 {
			t.Errorf("the kernel's state of %s is %+v", sa.ID, st)
		}
		if err := e.deleteSA(sa.ID); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.states) != 0 || len(e.sas.byID) != 0 {
		t.Errorf("%d states and %d associations are left", len(k.states), len(e.sas.byID))
	}
}

// Of many associations that nobody has used yet all are asked about in turn, and
// the first packet by each is said once.
func TestFirstUseAmongMany(t *testing.T) {
	k := newKernel()
	e := situation{}.begin(t, k, t.TempDir())
	const n = 500
	for i := range n {
		if err := e.addSA(testSA(sadb.In, sadb.ESP, sadb.SPI(0x9000+i))); err != nil {
			t.Fatal(err)
		}
	}
	taken(e)
	for id, s := range k.states {
		s.Use.Packets = 1
		k.states[id] = s
	}
	was, said := k.messages, map[driver.Event]bool{}
	for range 20 {
		e.pollUse()
		for _, ev := range taken(e) {
			if said[ev] {
				t.Fatalf("%v is said twice", ev)
			}
			said[ev] = true
		}
	}
	if len(said) != n || k.messages-was != n {
		t.Errorf("%d first uses of %d, by %d messages", len(said), n, k.messages-was)
	}
}
