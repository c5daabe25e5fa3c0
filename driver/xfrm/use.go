package xfrm

import (
	"fmt"
	"net/netip"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

const (
	// pollMax bounds the states asked about at each tick.
	pollMax = 64
	// pollLongest is the longest time between two questions about one state.
	pollLongest = time.Minute
)

// pollUse raises Used for inbound associations by which a first packet came:
// the kernel does not tell by itself. Of one that waits for it long it is told
// later, by at most half of that time.
func (e *engine) pollUse(at time.Time) {
	for _, a := range e.sas.due(at, pollMax) {
		if e.passed(a.SA.ID) && (a.SA.Bundle == (sadb.SAID{}) || e.passed(a.SA.Bundle)) {
			e.sas.used(a)
			e.emit(driver.Used{ID: a.SA.ID})
			continue
		}
		a.look = at.Add(min(max(tick, at.Sub(a.Added)/2), pollLongest))
	}
}

// passed reports whether packets have gone through a state.
func (e *engine) passed(id sadb.SAID) bool {
	s, message, err := e.get(id)
	clear(message)
	return err == nil && s.Use.Packets > 0
}

// get returns a state and the message it came in. The message holds keys.
func (e *engine) get(id sadb.SAID) (wire.State, []byte, error) {
	answer, err := e.link.ask(wire.MsgGetSA, wire.AppendStateID(nil, id))
	if err != nil {
		return wire.State{}, nil, err
	}
	s, err := wire.ParseState(answer)
	return s, answer, err
}

// remap changes the peer's port of an association, in the kernel and the book.
func (e *engine) remap(a *association, port uint16) error {
	s, message, err := e.get(a.SA.ID)
	defer clear(message)
	if err != nil {
		return err
	}
	encap := wire.Encap{SrcPort: port, DstPort: s.Encap.DstPort}
	if a.SA.Dir == sadb.Out {
		encap = wire.Encap{SrcPort: s.Encap.SrcPort, DstPort: port}
	}
	body, err := wire.WithEncap(message, encap)
	defer clear(body)
	if err != nil {
		return err
	}
	if err := e.link.request(wire.MsgUpdateSA, body); err != nil {
		return fmt.Errorf("update its state: %w", err)
	}
	a.SA.Encap.Remote = netip.AddrPortFrom(a.SA.Encap.Remote.Addr(), port)
	return e.book.saveSA(a)
}
