package xfrm

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// Peers choose the SPIs of what goes to them, and one that has begun anew may
// choose one that is in force: from then on its keys are those.
func TestAnAssociationInPlaceOfItsNamesake(t *testing.T) {
	k := newKernel()
	s := situationOf(1)
	e := s.begin(t, k, t.TempDir())
	sa := s.sas[0]
	key := bytes.Repeat([]byte{0x5a}, sa.Suite.EncKeyLen())
	sa.EncKey = sadb.NewSecret(key)
	if err := e.addSA(sa); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(k.bodies[sa.ID], key) || len(e.sas.byID) != len(s.sas) {
		t.Errorf("the kernel has not the new key, or %d associations are known, not %d", len(e.sas.byID), len(s.sas))
	}
}

// If the kernel does not take what is to stand in the place of another, the
// other has ended all the same, and that is said.
func TestAnAssociationThatEndedForNothing(t *testing.T) {
	k := newKernel()
	s := situationOf(1)
	s.sas = s.sas[:1]
	e := s.begin(t, k, t.TempDir())
	taken(e)
	k.fail, k.number = k.messages+3, unix.ENOSYS // get, delete, add
	if err := e.addSA(s.sas[0]); err == nil {
		t.Fatal("the kernel has refused nothing")
	}
	if events := taken(e); !slices.Contains(events, driver.Event(driver.Expire{ID: s.sas[0].ID, Hard: true})) {
		t.Errorf("events %v: nothing says that it has ended", events)
	}
	if _, there := k.states[s.sas[0].ID]; there || e.find(s.sas[0].ID) != nil {
		t.Error("it is there")
	}
}

// askedFor is what the kernel says when a packet waits.
func askedFor(e *engine, id sadb.FilterID) wire.Acquire {
	w := waiting(e, id)
	for _, it := range e.list.byRoot[id] {
		for _, p := range it.policies {
			if p.Dir == wire.Out {
				return wire.Acquire{ID: w.ID, Src: w.Src, Selector: w.Selector, Policy: p, Seq: w.Seq}
			}
		}
	}
	return wire.Acquire{}
}

// A question that crossed its answer is none; when the answer has ended, the
// kernel's next question is asked, whatever was asked before.
func TestAQuestionThatCrossedItsAnswer(t *testing.T) {
	for _, before := range []bool{false, true} { // a question without an answer
		k := newKernel()
		s := situationOf(1)
		s.overlays, s.sas = nil, nil
		e := s.begin(t, k, t.TempDir())
		in, out := testSA(sadb.In, sadb.ESP, 0x9001), testSA(sadb.Out, sadb.ESP, 0x9002)
		if err := e.addSA(in); err != nil {
			t.Fatal(err)
		}
		if before {
			e.handle(askedFor(e, "lab"))
		} else if err := e.addSA(out); err != nil {
			t.Fatal(err)
		}
		if !before {
			e.handle(askedFor(e, "lab"))
		}
		if n := len(taken(e)); n != map[bool]int{false: 0, true: 1}[before] {
			t.Errorf("asked before %v: %d events", before, n)
		}
		for _, sa := range []sadb.SA{in, out} {
			if err := e.deleteSA(sa.ID); err != nil {
				t.Fatal(err)
			}
		}
		e.handle(askedFor(e, "lab"))
		if events := taken(e); len(events) != 1 || len(e.asked) != 1 {
			t.Errorf("asked before %v: when it has ended: %v", before, events)
		}
	}
}

// The kernel refuses messages for a while, those that take back too. Whatever it
// has obeyed, the list of before is in force when it is set again, and else by
// itself.
func TestARefusalThatLasts(t *testing.T) {
	s := situationOf(1)
	for _, op := range operations()[:8] {
		for _, failing := range []int{3, 40} {
			for n := 1; refusedFor(t, s, op, n, failing); n++ {
			}
		}
	}
}

// refusedFor runs an operation of which the kernel refuses messages from n on,
// and reports whether it has so many.
func refusedFor(t *testing.T, s situation, op operation, n, failing int) bool {
	t.Helper()
	for _, again := range []bool{false, true} {
		k, dir := newKernel(), t.TempDir()
		e := s.begin(t, k, dir)
		was, filters := maps.Clone(k.policies), k.filters
		k.fail, k.failing = k.messages+n, failing
		err := op.do(e, s)
		if k.messages < k.fail {
			return false
		}
		k.fail = 0
		if err == nil {
			return true // it could do without
		}
		if again {
			if err := e.setFilters(s.filters); err != nil {
				t.Fatal(err)
			}
		}
		e.tick(now())
		where := fmt.Sprintf("%s, %d messages from %d on, the list again: %v", op.name, failing, n, again)
		if !alike(k.policies, was) || !alike(e.have, was) {
			t.Errorf("%s: %d policies, not the %d of before, as before: %v", where, len(k.policies), len(was), alike(k.policies, was))
		}
		if !reflect.DeepEqual(k.filters, filters) || e.suspect || e.astray {
			t.Errorf("%s: the table is as before: %v; suspect %v", where, reflect.DeepEqual(k.filters, filters), e.suspect)
		}
		if next := k.open(t, dir); len(plan(next.have, next.policiesOf(next.list))) > 0 {
			t.Errorf("%s: the book is not as before", where)
		}
	}
	return true
}
