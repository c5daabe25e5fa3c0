package xfrm

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// adopt takes up what an earlier process left in force. Policies and states that
// the book does not know stay until the first SetFilters; so do all of them if
// the book cannot be read.
func (e *engine) adopt() error {
	p, err := e.book.loadFilters()
	if err != nil {
		e.cfg.Log.Error("what is in force cannot be told: it stays until the first policy, which replaces it", "error", err)
		p = page{}
	}
	e.filters, e.overlays = p.Filters, unexpired(p.Overlays)
	e.reqids, e.edition, e.marks = newRequestIDs(p.ReqIDs), p.Edition, exemptMarks(p.Marks)
	for name, s := range p.Places {
		e.places[name] = s
	}
	if e.have, err = e.inForce(); err != nil {
		return err
	}
	e.blind = p.Places == nil && len(e.have) > 0
	if err := e.adoptSAs(); err != nil {
		return err
	}
	if err := e.readOwn(); err != nil {
		return err
	}
	if e.list, err = e.compose(e.filters, e.overlays); err != nil || len(e.list.items) == 0 {
		return err
	}
	// Temporary filters that ended meanwhile are still in the table.
	return e.table.Apply(sadb.Splice(e.filters, e.overlays))
}

// exemptMarks returns those that an exempt mark can be.
func exemptMarks(marks []uint32) []uint32 {
	return slices.DeleteFunc(slices.Clone(marks), func(m uint32) bool { return bits.OnesCount32(m) != 1 || m&variantBits != 0 })
}

func unexpired(overlays []sadb.Filter) []sadb.Filter {
	return slices.DeleteFunc(overlays, func(o sadb.Filter) bool { return !o.Expires.IsZero() && !now().Before(o.Expires) })
}

// adoptSAs matches the book's associations with the kernel's states. One whose
// state has not the request ID of its filter serves another or none, and stays
// until the first SetFilters; until then no filter gets its request ID.
func (e *engine) adoptSAs() error {
	saved, err := e.book.loadSAs()
	if err != nil {
		e.cfg.Log.Error("some associations cannot be told: they stay until the first policy, and are negotiated anew", "error", err)
	}
	states, err := e.link.states()
	if err != nil {
		return err
	}
	serves := map[sadb.SAID]uint32{} // which request ID a state has
	for _, s := range states {
		if e.oursState(s) {
			serves[s.ID] = s.ReqID
			e.reqids.avoid(s.ReqID)
		}
	}
	slices.SortStableFunc(saved, func(a, b *association) int { return a.Added.Compare(b.Added) })
	for _, a := range saved {
		if reqid, ok := e.reqids.of[a.root]; !ok || serves[a.SA.ID] != reqid {
			if err := e.book.dropSA(a.SA.ID); err != nil {
				return err
			}
			continue
		}
		e.sas.add(a)
	}
	return nil
}

// sweep deletes states of ours that nobody knows any more: those of a process
// that ended between two messages, or whose book is gone.
func (e *engine) sweep() error {
	if e.swept {
		return nil
	}
	states, err := e.link.states()
	if err != nil {
		return err
	}
	for _, s := range states {
		_, reserved := e.reserved[s.ID]
		if !e.oursState(s) || s.ID.SPI == 0 || reserved || e.find(s.ID) != nil {
			continue
		}
		if err := e.link.deleteState(s.ID); err != nil {
			return fmt.Errorf("delete %s, which an earlier process left: %w", s.ID, err)
		}
	}
	e.swept = true
	e.resume(states)
	return nil
}

// repair compares the kernel with what should be in force, after something else
// has changed XFRM, and puts right what differs.
func (e *engine) repair() {
	if e.blind {
		return // what should be in force comes with the first policy
	}
	e.suspect = false
	have, err := e.inForce()
	if err == nil {
		err = e.putRight(have)
	}
	if err == nil {
		err = e.compareStates()
	}
	if err != nil {
		e.cfg.Log.Error("put right what something else changed in XFRM", "error", err)
		e.suspect, e.retry = true, now().Add(retryAfter)
	}
}

// putRight puts in force what should be: the policies and, after a change that
// failed, table and book. It reports what something else has changed.
func (e *engine) putRight(have map[key]wire.Policy) error {
	e.tampered = e.tampered || !e.astray && !maps.EqualFunc(have, e.have, same)
	e.have = have
	var err error
	if e.astray || len(plan(have, e.policiesOf(e.list))) > 0 {
		err = e.enforce(e.filters, e.overlays)
	}
	if e.tampered {
		e.emit(driver.Tampered{What: "policies of XFRM", Restored: err == nil})
	}
	e.tampered = e.tampered && err != nil
	return err
}

// compareStates reports associations that the kernel no longer has or that are
// beyond their soft limits, which the kernel says once and nobody was told yet,
// and asks for those that it waits for.
func (e *engine) compareStates() error {
	states, err := e.link.states()
	if err != nil {
		return err
	}
	alive := map[sadb.SAID]wire.Use{}
	for _, s := range states {
		alive[s.ID] = s.Use
	}
	for _, a := range e.sas.all() {
		use, ok := alive[a.SA.ID]
		switch {
		case !ok:
			e.ended(a.SA.ID)
		case !a.told && a.isOld(use, now()):
			a.told = e.emit(driver.Expire{ID: a.SA.ID})
		}
	}
	e.resume(states)
	return nil
}
