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
	// pollMax bounds the states asked about one by one at each tick; more are
	// asked about together, every pollAll.
	pollMax = 64
	pollAll = time.Second
)

// pollUse raises Used for inbound associations by which a first packet came:
// the kernel does not tell by itself.
func (e *engine) pollUse(at time.Time) {
	var fresh []*association
	for _, a := range e.sas {
		if !a.used && a.SA.Dir == sadb.In {
			fresh = append(fresh, a)
		}
	}
	passed := e.passed
	if len(fresh) > pollMax {
		if at.Sub(e.polled) < pollAll {
			return
		}
		e.polled = at
		passed = e.passedOf()
	}
	for _, a := range fresh {
		if passed(a.SA.ID) && (a.SA.Bundle == (sadb.SAID{}) || passed(a.SA.Bundle)) {
			a.used = true
			e.emit(driver.Used{ID: a.SA.ID})
		}
	}
}

// passed reports whether packets have gone through a state.
func (e *engine) passed(id sadb.SAID) bool {
	s, message, err := e.get(id)
	clear(message)
	return err == nil && s.Use.Packets > 0
}

// passedOf is passed for all states, asked about at once.
func (e *engine) passedOf() func(sadb.SAID) bool {
	states, err := e.link.states()
	if err != nil {
		e.cfg.Log.Error("look for associations that are used for the first time", "error", err)
	}
	used := make(map[sadb.SAID]bool, len(states))
	for _, s := range states {
		used[s.ID] = s.Use.Packets > 0
	}
	return func(id sadb.SAID) bool { return used[id] }
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
