package nft

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mdlayher/netlink"
)

// How far a layout may wear before it is made anew: each slot more is a look-up
// more for every packet.
const (
	wornFactor = 2
	wornSlots  = 16
)

// worn reports whether a layout is to be made anew for a change: it would be
// looked up much more often than one made in one go, forwarded packets are to
// be looked at or not any more, or most of it changes anyway.
func (l *layout) worn(c *change) bool {
	slots, boxes := 0, 0
	for _, s := range l.spaces {
		slots += len(s.slots)
		for _, t := range s.slots {
			boxes += t.boxes
		}
	}
	return slots > wornFactor*l.built+wornSlots || l.via != (l.tunnels > 0) || len(c.add)+len(c.remove) > boxes
}

// carryOut brings a change into the table that is in force. Each packet is
// decided by the old list or by the new one at every moment:
//
// Elements are added before any is removed, those of upper layers first. Of the
// elements that hold a packet, the first of the old list and, once it is there,
// the first of the new list stand above all others of their list; so the first
// of both together is one of the two. Removing goes the other way round, from
// below. It takes a transaction for each step, because the kernel publishes the
// contents of sets of ranges one by one, a moment after the transaction.
func (e *engine) carryOut(c *change) error {
	l := e.layout
	if err := e.prepare(c); err != nil {
		return fmt.Errorf("make sets and chains: %w", err)
	}
	for _, step := range byDepth(c.add) {
		if err := e.putElements(unix.NFT_MSG_NEWSETELEM, step); err != nil {
			return fmt.Errorf("add elements: %w", err)
		}
	}
	if err := e.keepCounts(c.remove); err != nil {
		return fmt.Errorf("read counters: %w", err)
	}
	for _, step := range slices.Backward(byDepth(c.remove)) {
		if err := e.putElements(unix.NFT_MSG_DELSETELEM, step); err != nil {
			return fmt.Errorf("remove elements: %w", err)
		}
	}
	for _, x := range c.remove {
		x.slot.doomed = nil
	}
	for _, id := range c.gone {
		delete(e.retired, id)
	}
	return e.clearAway(l.release(e.cfg, c.remove))
}

// prepare makes the chains and sets that are new, and has the sets looked up:
// empty ones decide nothing.
func (e *engine) prepare(c *change) error {
	var b batch
	l := e.layout
	for _, name := range l.use(e.cfg, c.add) {
		if err := e.buildChain(&b, name, l.chains[name].rules); err != nil {
			return err
		}
	}
	fresh := false
	for _, s := range l.spaces {
		for _, t := range s.slots {
			if t.serial <= c.made {
				continue
			}
			fresh = true
			for _, p := range l.paths(s) {
				e.addSet(&b, l.setName(p.chain, s.v6, t), t.shape, s.v6)
			}
		}
	}
	if fresh {
		e.putRules(&b, l.dispatchRules(e.cfg))
	}
	return e.conn.commit(&b)
}

// clearAway removes the slots that are empty and chains that nothing leads to.
func (e *engine) clearAway(chains []string) error {
	var rules, b batch
	l, emptied := e.layout, false
	for _, s := range l.spaces {
		s.slots = slices.DeleteFunc(s.slots, func(t *slot) bool {
			if t.boxes > 0 {
				return false
			}
			emptied = true
			for _, p := range l.paths(s) {
				e.deleteSet(&b, l.setName(p.chain, s.v6, t))
			}
			return true
		})
	}
	if emptied {
		e.putRules(&rules, l.dispatchRules(e.cfg))
	}
	if err := e.conn.commit(&rules); err != nil {
		return fmt.Errorf("exchange rules: %w", err)
	}
	for _, name := range chains {
		e.deleteChain(&b, name)
	}
	// What cannot go now is swept by the next change.
	if e.conn.commit(&b) != nil {
		e.unswept = true
	}
	return nil
}

// byDepth divides boxes by their layers, the uppermost first. Layers of spaces
// have nothing to do with each other: the first of each come together.
func byDepth(boxes []*placed) [][]*placed {
	layers := map[*space][]layer{}
	for _, x := range boxes {
		layers[x.space] = append(layers[x.space], x.slot.layer)
	}
	for s, list := range layers {
		slices.Sort(list)
		layers[s] = slices.Compact(list)
	}
	var steps [][]*placed
	for _, x := range boxes {
		depth, _ := slices.BinarySearch(layers[x.space], x.slot.layer)
		for depth >= len(steps) {
			steps = append(steps, nil)
		}
		steps[depth] = append(steps[depth], x)
	}
	return steps
}

// bySlot sorts boxes so that those of one slot stand together.
func bySlot(boxes []*placed) [][]*placed {
	sorted := slices.SortedStableFunc(slices.Values(boxes), func(x, y *placed) int { return cmp.Compare(x.slot.serial, y.slot.serial) })
	var all [][]*placed
	for i, x := range sorted {
		if i == 0 || x.slot != sorted[i-1].slot {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], x)
	}
	return all
}

// putElements adds or removes the elements of boxes of one layer. Their order
// does not matter: they do not overlap.
func (e *engine) putElements(message uint16, boxes []*placed) error {
	var b batch
	for _, group := range bySlot(boxes) {
		if err := e.slotElements(&b, message, group); err != nil {
			return err
		}
	}
	return e.conn.commit(&b)
}

// slotElements adds or removes elements of boxes of one slot, on every path.
func (e *engine) slotElements(b *batch, message uint16, boxes []*placed) error {
	l, first := e.layout, boxes[0]
	for _, p := range l.paths(first.space) {
		name := l.setName(p.chain, first.space.v6, first.slot)
		for part := range slices.Chunk(boxes, elementsPerMessage) {
			e.setElements(b, message, name, l.elements(p, part))
			if err := e.flush(b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *layout) elements(p path, boxes []*placed) []element {
	out := make([]element, len(boxes))
	for i, x := range boxes {
		out[i] = l.element(p, x)
	}
	return out
}

// singleReads is up to how many elements are asked for one by one: more are
// read with their set.
const singleReads = 64

// keepCounts remembers what elements have counted that go, of filters that
// stay.
func (e *engine) keepCounts(boxes []*placed) error {
	boxes = slices.DeleteFunc(slices.Clone(boxes), func(x *placed) bool { return e.layout.byID[x.entry.filter.ID] == nil })
	for _, group := range bySlot(boxes) {
		for _, p := range e.layout.paths(group[0].space) {
			if err := e.keepSlotCounts(p, group); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *engine) keepSlotCounts(p path, boxes []*placed) error {
	name := e.layout.setName(p.chain, boxes[0].space.v6, boxes[0].slot)
	elements := e.layout.elements(p, boxes)
	if len(elements) > singleReads {
		return e.keepSetCounts(name, elements)
	}
	for _, x := range elements {
		if x.target.counts == 0 {
			continue
		}
		list, err := e.readElement(name, x)
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
		for _, y := range list {
			e.tally(y)
		}
	}
	return nil
}

// keepSetCounts reads a whole set for some of its elements.
func (e *engine) keepSetCounts(name string, elements []element) error {
	wanted := map[string]bool{}
	for _, x := range elements {
		wanted[string(x.from)] = true
	}
	list, err := e.elements(name)
	if err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	for _, x := range list {
		if wanted[string(x.key)] {
			e.tally(x)
		}
	}
	return nil
}

// readElement reads one element with its counter.
func (e *engine) readElement(set string, x element) ([]counted, error) {
	msgs, err := e.conn.ask(unix.NFT_MSG_GETSETELEM, func(ae attrs) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		nest(ae, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(n attrs) { nest(n, unix.NFTA_LIST_ELEM, x.encodeKey) })
	})
	if err != nil {
		return nil, err
	}
	var out []counted
	for _, m := range msgs {
		list, err := parseElements(m.Data)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func (e *engine) tally(x counted) { tally(e.retired, x) }

// ask sends one question that is answered by one message.
func (c *conn) ask(kind uint16, f func(attrs)) ([]netlink.Message, error) {
	data, err := encode(unix.NFPROTO_INET, f)
	if err != nil {
		return nil, err
	}
	return c.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem | kind), Flags: netlink.Request},
		Data:   data,
	})
}
