package xfrm

import (
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// asks lets time pass and returns how many messages that takes.
func asks(k *kernel, e *engine, from time.Time, d time.Duration) int {
	before := k.messages
	for at := from; at.Before(from.Add(d)); at = at.Add(tick) {
		e.pollUse(at)
	}
	return k.messages - before
}

// Associations that nobody uses cost the less the longer they are there, and no
// number of them costs more than so many questions at a time.
func TestWhatNobodyUsesIsAskedAboutLessAndLess(t *testing.T) {
	k := newKernel()
	e := situationOf(1).begin(t, k, t.TempDir())
	for i := range 299 { // and one of the situation's
		if err := e.addSA(testSA(sadb.In, sadb.ESP, sadb.SPI(0x9000+i))); err != nil {
			t.Fatal(err)
		}
	}
	begin := now()
	for _, test := range []struct {
		from, d time.Duration
		most    int // for each association
	}{{0, time.Second, 7}, {time.Second, 10 * time.Second, 8}, {11 * time.Second, 10 * time.Minute, 18}, {time.Hour, time.Hour, 61}} {
		n := asks(k, e, begin.Add(test.from), test.d)
		if n == 0 || n > 300*test.most {
			t.Errorf("%d questions about 300 associations in %s after %s: at most %d each", n, test.d, test.from, test.most)
		}
	}
	for at := begin.Add(2 * time.Hour); at.Before(begin.Add(2*time.Hour + time.Second)); at = at.Add(tick) {
		if n := asks(k, e, at, tick); n > pollMax {
			t.Fatalf("%d questions at once", n)
		}
	}
}

// The first packet is told of within half of the time that it was waited for.
func TestTheFirstPacketIsToldOfInTime(t *testing.T) {
	for _, waited := range []time.Duration{0, time.Second, time.Minute, time.Hour} {
		k := newKernel()
		e := situationOf(1).begin(t, k, t.TempDir())
		sa, begin := testSA(sadb.In, sadb.ESP, 0x9001), now()
		if err := e.addSA(sa); err != nil {
			t.Fatal(err)
		}
		asks(k, e, begin, waited)
		taken(e)
		st := k.states[sa.ID]
		st.Use.Packets = 1
		k.states[sa.ID] = st
		asks(k, e, begin.Add(waited), min(waited/2, pollLongest)+2*tick)
		if all := taken(e); len(all) != 1 || all[0] != (driver.Used{ID: sa.ID}) {
			t.Errorf("after %s: events %v, want the first use", waited, all)
		}
		if n := asks(k, e, begin.Add(10*waited), pollLongest+tick); n > 1+20 { // of the situation's alone
			t.Errorf("after %s: %d more questions", waited, n)
		}
	}
}
