package doctor

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// turn is what becomes of a packet's mark: mark&and ^ xor.
type turn struct {
	and, xor uint32
	unknown  bool // by something else, such as the mark of the connection
}

func (t turn) of(mark uint32) uint32 { return mark&t.and ^ t.xor }

// bits are those of the mark that it sets or clears by what it says.
func (t turn) bits() uint32 {
	if t.and == 0 {
		return t.xor // a whole mark is set: the others are of nobody
	}
	return t.xor | ^t.and
}

// test is a condition on a packet's mark: mark&mask is value, or is not.
type test struct {
	value, mask uint32
	invert      bool
}

func (c test) holds(mark uint32) bool { return (mark&c.mask == c.value) != c.invert }

// minds reports whether a bit alone changes what it finds.
func (c test) minds(bit uint32) bool { return c.holds(0) != c.holds(bit) }

// bits are those of the mark that it is about.
func (c test) bits() uint32 {
	if c.mask == ^uint32(0) {
		return c.value
	}
	return c.mask
}

// marking is what a rule has to do with marks.
type marking struct {
	turns []turn
	tests []test
}

// markingOf reads it from a rule of nftables, or of iptables on nftables.
func markingOf(rule *nftables.Rule) (m marking) {
	loaded := map[uint32]turn{} // registers that hold a mark, or a number
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			m.meta(e, loaded)
		case *expr.Immediate:
			delete(loaded, e.Register)
			if n, ok := number(e.Data); ok {
				loaded[e.Register] = turn{xor: n}
			}
		case *expr.Bitwise:
			t, ok := loaded[e.SourceRegister]
			delete(loaded, e.DestRegister)
			mask, okMask := number(e.Mask)
			xor, okXor := number(e.Xor)
			if ok && okMask && okXor {
				loaded[e.DestRegister] = turn{and: t.and & mask, xor: t.xor&mask ^ xor, unknown: t.unknown}
			}
		case *expr.Cmp:
			m.compare(e, loaded[e.Register])
		case *expr.Ct:
			delete(loaded, e.Register)
		case *expr.Payload:
			delete(loaded, e.DestRegister)
		case *expr.Lookup:
			delete(loaded, e.DestRegister)
		case *expr.Match:
			m.match(e)
		case *expr.Target:
			m.target(e)
		}
	}
	return m
}

// meta loads the mark, or sets it to what a register holds.
func (m *marking) meta(e *expr.Meta, loaded map[uint32]turn) {
	switch {
	case e.Key != expr.MetaKeyMARK:
		delete(loaded, e.Register)
	case e.SourceRegister:
		t, ok := loaded[e.Register]
		t.unknown = t.unknown || !ok
		m.turns = append(m.turns, t)
	default:
		loaded[e.Register] = turn{and: ^uint32(0)}
	}
}

// compare notes a test of the mark.
func (m *marking) compare(e *expr.Cmp, t turn) {
	n, ok := number(e.Data)
	if !ok || t.and == 0 || e.Op != expr.CmpOpEq && e.Op != expr.CmpOpNeq {
		return
	}
	m.tests = append(m.tests, test{value: (n ^ t.xor) & t.and, mask: t.and, invert: e.Op == expr.CmpOpNeq})
}

// match reads iptables' -m mark: mark, mask and whether it is turned round.
func (m *marking) match(e *expr.Match) {
	info, ok := e.Info.(*xt.Unknown)
	if !ok || e.Name != "mark" || len(*info) < 9 {
		return
	}
	value, mask := binary.NativeEndian.Uint32(*info), binary.NativeEndian.Uint32((*info)[4:])
	m.tests = append(m.tests, test{value, mask, (*info)[8] != 0})
}

// restores reports whether CONNMARK is in the mode that sets the packet's mark.
// From revision 2 on the mode stands after two bytes about shifting.
func restores(revision uint32, info []byte) bool {
	at := 12
	if revision >= 2 {
		at = 14
	}
	return len(info) > at && info[at] == 2
}

// target reads iptables' -j MARK and -j CONNMARK --restore-mark.
func (m *marking) target(e *expr.Target) {
	info, ok := e.Info.(*xt.Unknown)
	switch {
	case !ok:
	case e.Name == "MARK" && e.Rev == 2 && len(*info) >= 8:
		xor, mask := binary.NativeEndian.Uint32(*info), binary.NativeEndian.Uint32((*info)[4:])
		m.turns = append(m.turns, turn{and: ^mask, xor: xor})
	case e.Name == "CONNMARK" && restores(e.Rev, *info):
		m.turns = append(m.turns, turn{and: ^binary.NativeEndian.Uint32((*info)[8:]), unknown: true})
	}
}

// number reads four bytes as the kernel holds a mark.
func number(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(b), true
}

// sets reports whether a bit is set in packets that did not have it.
func (m marking) sets(bit uint32) bool {
	return slices.ContainsFunc(m.turns, func(t turn) bool { return t.of(0)&bit != 0 })
}

// clears reports whether a bit goes that a packet had, or may go.
func (m marking) clears(bit uint32) bool {
	return slices.ContainsFunc(m.turns, func(t turn) bool { return t.of(bit)&bit == 0 })
}

// minds reports whether a bit alone changes whether the rule matches.
func (m marking) minds(bit uint32) bool {
	return slices.ContainsFunc(m.tests, func(c test) bool { return c.minds(bit) })
}

// bits are those of the mark that the rule has to do with.
func (m marking) bits() (all uint32) {
	for _, t := range m.turns {
		all |= t.bits()
	}
	for _, c := range m.tests {
		all |= c.bits()
	}
	return all
}
