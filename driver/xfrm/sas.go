package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

const (
	maxReservations = 1024
	reservationLife = 10 * time.Minute
	lowestSPI       = 256
	highestSPI      = 0xffffffff
	maxWindow       = 4096
)

func (e *engine) find(id sadb.SAID) *association { return e.sas.byID[id] }

// plain returns an address as packets show it, without the zone that the key
// exchange gives link-local ones.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// plainSA returns an association with the addresses of its packets.
func plainSA(sa sadb.SA) sadb.SA {
	sa.Src, sa.ID.Dst, sa.Bundle.Dst, sa.Replaces.Dst = plain(sa.Src), plain(sa.ID.Dst), plain(sa.Bundle.Dst), plain(sa.Replaces.Dst)
	if !sa.Encap.IsZero() {
		sa.Encap.Local = netip.AddrPortFrom(plain(sa.Encap.Local.Addr()), sa.Encap.Local.Port())
		sa.Encap.Remote = netip.AddrPortFrom(plain(sa.Encap.Remote.Addr()), sa.Encap.Remote.Port())
	}
	return sa
}

// oursState reports whether a state was made by this driver.
func (e *engine) oursState(s wire.State) bool {
	return s.ReqID >= reqidFirst && s.ReqID <= reqidLast
}

// allocSPI lets the kernel choose. Its reservation ends after half a minute
// (net.core.xfrm_acq_expires), ours lasts longer.
func (e *engine) allocSPI(src, dst netip.Addr, p sadb.Proto) (sadb.SPI, error) {
	if len(e.reserved) >= maxReservations {
		return 0, fmt.Errorf("%d SPIs are reserved already", maxReservations)
	}
	want := wire.State{ID: sadb.SAID{Dst: plain(dst), Proto: p}, Src: plain(src), ReqID: reqidLast}
	for range 10 {
		answer, err := e.link.ask(wire.MsgAllocSPI, want.AppendAllocSPI(nil, lowestSPI, highestSPI))
		if err != nil {
			return 0, err
		}
		s, err := wire.ParseState(answer)
		if err != nil {
			return 0, err
		}
		if _, taken := e.reserved[s.ID]; !taken && e.find(s.ID) == nil {
			e.reserved[s.ID] = now()
			return s.ID.SPI, nil
		}
	}
	return 0, errors.New("the kernel offers only SPIs that are reserved already")
}

// addSA puts an association in force. One of the same name ends first: of a
// state that carries packets the kernel changes neither keys nor suite, whatever
// it is told, and says that it has.
func (e *engine) addSA(sa sadb.SA) error {
	sa = plainSA(sa)
	if err := checkSA(sa); err != nil {
		return err
	}
	again := e.find(sa.ID) != nil
	if again {
		if err := e.deleteSA(sa.ID); err != nil {
			return err
		}
	}
	err := e.enterSA(sa)
	if err != nil && again {
		e.emit(driver.Expire{ID: sa.ID, Hard: true})
	}
	return err
}

// enterSA adds an association: first the policies of its shape, if it has one of
// its own, then the state. Half of a bundle carries nothing.
func (e *engine) enterSA(sa sadb.SA) error {
	a := &association{SA: sa, Added: now(), root: rootOf(sa.Filter, e.overlays)}
	a.SA.EncKey, a.SA.AuthKey = sadb.Secret{}, sadb.Secret{}
	a.stamp = e.stamp(a)
	if err := e.book.saveSA(a); err != nil {
		return err
	}
	e.sas.add(a)
	err := e.reshape(a)
	if err == nil {
		err = refused(e.addState(a, sa), sa.Suite)
	}
	if err != nil {
		return errors.Join(err, e.takeOut(a))
	}
	delete(e.reserved, sa.ID)
	if sa.Dir == sadb.Out {
		err = e.opened(a)
	}
	if err != nil {
		return errors.Join(err, e.link.deleteState(sa.ID), e.takeOut(a))
	}
	return nil
}

// takeOut forgets an association that could not be put in force.
func (e *engine) takeOut(a *association) error {
	e.sas.remove(a.SA.ID)
	err := errors.Join(e.reshape(a), e.book.dropSA(a.SA.ID))
	e.unneeded(a.root)
	if err != nil {
		e.stray()
	}
	return err
}

// stamp returns when the kernel is to take an association for added: after
// every other that serves the same filter and peers. It compares whole seconds, and of two
// in one second it may take either.
func (e *engine) stamp(a *association) int64 {
	last := a.Added.Unix()
	for _, b := range e.sas.byRoot[a.root] {
		if b.SA.Dir == a.SA.Dir && b.SA.ID.Dst == a.SA.ID.Dst && b.SA.Src == a.SA.Src && b.SA.ID != a.SA.ID {
			last = max(last, b.stamp+1)
		}
	}
	return last
}

// addState makes the state. The reservation of an inbound one has to be
// updated, if the kernel still has it.
func (e *engine) addState(a *association, keyed sadb.SA) error {
	s := e.stateOf(keyed, a.root)
	if a.stamp > now().Unix() {
		s.Use.Added = time.Unix(a.stamp, 0)
	}
	body, err := s.Append(nil)
	defer clear(body)
	if err != nil {
		return err
	}
	if _, reserved := e.reserved[keyed.ID]; !reserved {
		return e.link.request(wire.MsgNewSA, body)
	}
	err = e.link.request(wire.MsgUpdateSA, body)
	if errors.Is(err, unix.ESRCH) {
		err = e.link.request(wire.MsgNewSA, body)
	}
	return err
}

// refused says what to do about a state that the kernel does not take.
func refused(err error, s sadb.Suite) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("this kernel does not carry %s (modules esp4, esp6, ah4, ah6 and those of its algorithms): load them, choose another security method, or set driver: user: %w", s, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("another program has an association with this SPI (ip xfrm state): %w", err)
	}
	return err
}

// stateOf returns the kernel's state of an association that serves a filter.
func (e *engine) stateOf(sa sadb.SA, root sadb.FilterID) wire.State {
	s := wire.State{ID: sa.ID, Src: sa.Src, Mode: sa.Mode, Suite: sa.Suite, EncKey: sa.EncKey, AuthKey: sa.AuthKey,
		ReqID: e.reqids.id(root), Lifetime: sa.Lifetime}
	if sa.ID.Proto == sadb.AH && sa.Bundle != (sadb.SAID{}) {
		s.Mode = sadb.Transport // see templates
	}
	sel := covering(sa.Selector, wire.FamilyOf(sa.ID.Dst))
	if sel.Family() == wire.FamilyOf(sa.ID.Dst) {
		s.Selector = sel
	} else {
		s.Flags |= wire.FlagAnyFamily
	}
	if sa.ESN {
		s.Flags |= wire.FlagESN
	}
	if sa.ID.Proto == sadb.AH && sa.ID.Dst.Is4() {
		s.Flags |= wire.FlagAlign4 // else the kernel fills up to 64 bits, and takes nothing else
	}
	if e.connectionsOf(root) == sadb.RemoteAccess {
		s.Selector.IfIndex = noInterface // it may carry nothing over others
	}
	if sa.Dir == sadb.Out {
		// What leaves secured is passed by firewall rules of ours.
		s.SetMark = wire.Mark{Value: e.cfg.Exempt, Mask: e.cfg.Exempt}
		s.Encap = wire.Encap{SrcPort: sa.Encap.Local.Port(), DstPort: sa.Encap.Remote.Port()}
		if sa.ESN {
			s.Window = max(sa.Replay, 1)
		}
		return s
	}
	s.Selector = mirrorState(s.Selector)
	s.Window = sa.Replay
	s.Encap = wire.Encap{SrcPort: sa.Encap.Remote.Port(), DstPort: sa.Encap.Local.Port()}
	return s
}

// noInterface is an index that no interface has.
const noInterface = 1<<31 - 1

// connectionsOf returns the type of connection that a filter is for.
func (e *engine) connectionsOf(root sadb.FilterID) sadb.ConnectionType {
	for _, it := range e.list.byRoot[root] {
		return it.filter.Connections
	}
	return sadb.AllConnections
}

func mirrorState(s wire.Selector) wire.Selector {
	if s.Family() == 0 {
		return s
	}
	return mirror(s)
}

func checkSA(sa sadb.SA) error {
	switch {
	case sa.Dir != sadb.In && sa.Dir != sadb.Out:
		return fmt.Errorf("direction %s", sa.Dir)
	case sa.Filter == "":
		return errors.New("it belongs to no filter")
	case !sa.ID.Dst.IsValid() || wire.FamilyOf(sa.Src) != wire.FamilyOf(sa.ID.Dst):
		return fmt.Errorf("addresses %s and %s", sa.Src, sa.ID.Dst)
	case sa.Mode == sadb.Transport && covering(sa.Selector, wire.FamilyOf(sa.ID.Dst)).Family() != wire.FamilyOf(sa.ID.Dst):
		return fmt.Errorf("its traffic (%s) is not of its peers' family, in transport mode", sa.Selector)
	case sa.ID.SPI < lowestSPI:
		return fmt.Errorf("SPI %s is reserved (RFC 4303 §2.1)", sa.ID.SPI)
	case sa.Dir == sadb.In && sa.Replay == 0:
		return errors.New("no replay window")
	case sa.Replay > maxWindow:
		return fmt.Errorf("a replay window of %d packets: the kernel's limit is %d", sa.Replay, maxWindow)
	}
	return nil
}

// opened does what a new outbound association asks for. Sockets that are open
// look for it again, and packets that wait go, when their policy is written.
func (e *engine) opened(a *association) error {
	e.answered(a.root, a.SA)
	sel := covering(a.SA.Selector, wire.FamilyOf(a.SA.ID.Dst))
	for _, it := range e.list.byRoot[a.root] {
		if it.filter.Action.Kind != sadb.Negotiate {
			continue
		}
		serves := func(p wire.Policy) bool { return p.Dir == wire.Out && overlap(p.Selector, sel) }
		if err := e.carry(it.rewritten(serves)); err != nil {
			return err
		}
	}
	return nil
}

// overlap reports whether two selectors have addresses in common.
func overlap(a, b wire.Selector) bool {
	return a.Family() == b.Family() && a.Family() != 0 && a.Src.Overlaps(b.Src) && a.Dst.Overlaps(b.Dst)
}

// deleteSA ends an association of ours or a reservation.
func (e *engine) deleteSA(id sadb.SAID) error {
	id.Dst = plain(id.Dst)
	if _, reserved := e.reserved[id]; reserved {
		delete(e.reserved, id)
		return e.link.deleteState(id)
	}
	a := e.find(id)
	if a == nil {
		return nil
	}
	last, message, _ := e.get(id) // nothing, if it has gone by itself
	clear(message)
	if err := e.link.deleteState(id); err != nil {
		return err
	}
	e.tally(e.carried, a, last.Use)
	e.forgetSA(id)
	return nil
}

// forgetSA removes an association that the kernel has no more. What cannot be
// done now is done later.
func (e *engine) forgetSA(id sadb.SAID) {
	a := e.sas.remove(id)
	e.askAnew(a)
	err := errors.Join(e.reshape(a), e.book.dropSA(id))
	e.unneeded(a.root)
	if err != nil {
		e.cfg.Log.Error("forget an association that has ended", "association", id, "error", err)
		e.stray()
	}
}

// ended reports that an association reached its hard limit or was deleted by
// something else.
func (e *engine) ended(id sadb.SAID) {
	if e.find(id) == nil {
		return
	}
	e.forgetSA(id)
	e.emit(driver.Expire{ID: id, Hard: true})
}
