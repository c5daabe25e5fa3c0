package xfrm

import (
	"fmt"
	"os"

	"ipsecagent/driver/xfrm/wire"
)

// Remove takes out of force what a driver with this configuration has left in
// the network namespace of the calling thread, and says in words what it was.
// Nothing is protected after it. The driver must be closed; the table of
// nftables is not looked at.
func Remove(c Config) (removed []string, err error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("xfrm: %w", err)
	}
	conn, err := dial()
	if err != nil {
		return nil, fmt.Errorf("xfrm: remove: %w", err)
	}
	defer conn.Close()
	e := &engine{cfg: c, link: link{conn}, marks: c.marksOfBefore()}
	policies, states, err := e.removeAll()
	if policies > 0 {
		removed = append(removed, fmt.Sprintf("%d XFRM policies", policies))
	}
	if states > 0 {
		removed = append(removed, fmt.Sprintf("%d XFRM states", states))
	}
	if err == nil {
		err = os.RemoveAll(c.Dir)
	}
	return removed, wrap(err, "remove")
}

// removeAll deletes policies and states of ours and counts them.
func (e *engine) removeAll() (policies, states int, err error) {
	all, err := e.link.policies()
	if err != nil {
		return 0, 0, err
	}
	for _, p := range all {
		if !e.ours(p) {
			continue
		}
		if err := e.link.deletePolicy(wire.Policy{Selector: p.Selector, Dir: p.Dir, Mark: p.Mark}); err != nil {
			return policies, 0, err
		}
		policies++
	}
	there, err := e.link.states()
	if err != nil {
		return policies, 0, err
	}
	for _, s := range there {
		if !e.oursState(s) || s.ID.SPI == 0 {
			continue
		}
		if err := e.link.deleteState(s.ID); err != nil {
			return policies, states, err
		}
		states++
	}
	return policies, states, nil
}

// marksOfBefore are the exempt marks of policies that may be in force, as the book
// says; none where it cannot be read: then Exempt alone says what is ours.
func (c Config) marksOfBefore() []uint32 {
	p, err := (book{c.Dir}).loadFilters()
	if err != nil {
		return nil
	}
	return exemptMarks(p.Marks)
}
