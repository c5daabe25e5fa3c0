package xfrm

import (
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
