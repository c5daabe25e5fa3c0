package user

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

const (
	// reservationTime is how long an SPI stays reserved: longer than any
	// exchange that asked for it can live.
	reservationTime = 3 * time.Minute
	maxReservations = 65536
	maxAssociations = 100_000
)

// rebind binds associations that were made for an overlay to its parent, for
// good: they outlive the overlay.
func (e *engine) rebind() {
	for id, a := range e.sas {
		if root := e.spd.root(a.sa.Filter); root != a.root && root != a.sa.Filter {
			b := *a
			b.root = root
			e.sas[id] = &b
			e.change(a, &b)
		}
	}
}

// change publishes that b is in force in the place of a; either may be nil.
func (e *engine) change(a, b *assoc) {
	e.sh.snap.Store(e.sh.snap.Load().with(a, b))
}

// allocSPI reserves an SPI that nothing here uses.
func (e *engine) allocSPI(r request, now time.Time) (sadb.SPI, error) {
	dst := plain(r.Dst)
	switch {
	case r.Proto != sadb.ESP && r.Proto != sadb.AH:
		return 0, fmt.Errorf("reserve SPI: %s is neither ESP nor AH", r.Proto)
	case !dst.IsValid() || plain(r.Src).Is4() != dst.Is4():
		return 0, fmt.Errorf("reserve SPI: addresses %v and %v are not a pair of one family", r.Src, r.Dst)
	case len(e.reserved) >= maxReservations:
		return 0, fmt.Errorf("reserve SPI: %d are reserved already", maxReservations)
	}
	for {
		id := sadb.SAID{Dst: dst, Proto: r.Proto, SPI: sadb.RandomSPI()}
		_, taken := e.reserved[id]
		if taken || e.sas[id] != nil {
			continue
		}
		e.reserved[id] = now.Add(reservationTime)
		e.due(now.Add(reservationTime))
		return id.SPI, nil
	}
}

func (e *engine) endReservations(now time.Time) {
	for id, end := range e.reserved {
		if now.Before(end) {
			e.due(end)
		} else {
			delete(e.reserved, id)
		}
	}
}

// plain returns an address as packets show it.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// addSA puts an association in force; an outbound one sends what waited for it.
func (e *engine) addSA(w *wireSA, now time.Time) error {
	if w == nil {
		return errors.New("add association: it is missing in the request")
	}
	sa, err := w.sa()
	if err != nil {
		return fmt.Errorf("add association: %w", err)
	}
	defer sa.EncKey.Zero() // the ciphers have their own copies
	defer sa.AuthKey.Zero()
	sa.ID.Dst, sa.Src = plain(sa.ID.Dst), plain(sa.Src)
	a, err := e.prepare(sa, now)
	if err != nil {
		return fmt.Errorf("add association %s: %w", sa.ID, err)
	}
	e.install(a)
	if a.sa.Encap.KeepAlive {
		a.use.alive = now // IKE has just been there
		e.due(now.Add(keepAliveEvery))
	}
	if a = e.joined(a); a != nil {
		for _, h := range e.wait.answered(a.pairKey()) {
			e.sendHeld(h, now)
		}
	}
	return nil
}

// joined returns the association by which packets may go now that a is there:
// a itself, or ESP of a bundle if both halves are there; nil: none.
func (e *engine) joined(a *assoc) *assoc {
	switch {
	case a.out == nil:
		return nil
	case !a.bundled():
		return a
	}
	esp, ah := a, e.sas[plainID(a.sa.Bundle)]
	if a.sa.ID.Proto == sadb.AH {
		esp, ah = ah, esp
	}
	if esp == nil || ah == nil || esp.out == nil || ah.out == nil || plainID(esp.sa.Bundle) != ah.sa.ID || plainID(ah.sa.Bundle) != esp.sa.ID {
		return nil
	}
	whole := *esp
	whole.outer = ah
	e.sas[esp.sa.ID] = &whole
	e.change(esp, &whole)
	return &whole
}

// part takes AH, which goes, from its bundle: what is left carries nothing.
func (e *engine) part(ah *assoc) {
	esp := e.sas[plainID(ah.sa.Bundle)]
	if ah.sa.ID.Proto != sadb.AH || esp == nil || esp.outer == nil {
		return
	}
	half := *esp
	half.outer = nil
	e.sas[esp.sa.ID] = &half
	e.change(esp, &half)
}

func plainID(id sadb.SAID) sadb.SAID {
	id.Dst = plain(id.Dst)
	return id
}

// prepare makes the association ready, or the one in force go on under new
// terms where the keys are the same: its sequence numbers must not start again.
func (e *engine) prepare(sa sadb.SA, now time.Time) (*assoc, error) {
	old := e.sas[sa.ID]
	switch {
	case sa.Bundle.SPI != 0 && (sa.Bundle.Proto == sa.ID.Proto || !sa.Encap.IsZero()):
		return nil, fmt.Errorf("bundle with %s: it is AH and ESP, and not in UDP", sa.Bundle)
	case sa.Dir != sadb.In && sa.Dir != sadb.Out:
		return nil, fmt.Errorf("direction %q: in or out", sa.Dir)
	case old == nil && len(e.sas) >= maxAssociations:
		return nil, fmt.Errorf("%d associations are in force already", maxAssociations)
	}
	a, err := newAssoc(sa, now)
	if err != nil {
		return nil, err
	}
	if old != nil && old.keys == a.keys {
		if !alike(old.sa, a.sa) {
			return nil, errors.New("it is in force with the same keys on other terms, and its sequence numbers must not start again: negotiate a new one")
		}
		a.in, a.out, a.use, a.order = old.in, old.out, old.use, old.order
		if a.out != nil && sa.Encap != old.sa.Encap {
			a.out.Move(sa.Encap.Remote)
		}
	}
	a.root = e.spd.root(sa.Filter)
	if a.out != nil {
		a.path = e.pathTo(sa.ID.Dst)
	}
	return a, nil
}

// install makes a part of what is in force.
func (e *engine) install(a *assoc) {
	id, old := a.sa.ID, e.sas[a.sa.ID]
	if a.order == 0 { // not one that goes on
		e.installed++
		a.order = e.installed
	}
	delete(e.reserved, id)
	e.sas[id] = a
	a.path.use()
	e.change(old, a)
	if old != nil {
		e.release(old.path)
	}
	e.due(a.deadline())
}

// sendHeld sends a packet that waited, or lets it wait for what it needs now.
func (e *engine) sendHeld(h held, now time.Time) {
	if now.Sub(h.at) > maxWaitAge {
		e.wait.dropped++
		return
	}
	e.missed(h.packet, now)
}

// deleteSA ends an association or a reservation, if it is there.
func (e *engine) deleteSA(id sadb.SAID) {
	id.Dst = plain(id.Dst)
	delete(e.reserved, id)
	a := e.sas[id]
	if a == nil {
		return
	}
	a.use.dead.Store(true)
	delete(e.sas, id)
	e.change(a, nil)
	e.part(a)
	e.leave(a)
	e.release(a.path)
}

// expire ends an association at its hard limit.
func (e *engine) expire(a *assoc) {
	e.deleteSA(a.sa.ID)
	e.emit(driver.Expire{ID: a.sa.ID, Hard: true})
}

// ageAll applies the time limits, and finds what notices that were lost would
// have told.
func (e *engine) ageAll(now time.Time) {
	for _, a := range e.sas {
		age := now.Sub(a.use.added)
		switch l := a.limits; {
		case a.use.dead.Load() || l.Hard.Time > 0 && age >= l.Hard.Time:
			e.expire(a)
			continue
		case l.Soft.Time > 0 && age >= l.Soft.Time && !a.use.soft.Swap(true):
			e.emit(driver.Expire{ID: a.sa.ID})
		}
		e.due(a.deadline())
	}
}
