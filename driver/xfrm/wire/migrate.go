package wire

import (
	"fmt"
	"net/netip"

	"ipsecagent/sadb"
)

// Migrate (MsgMigrate): the templates of a policy and the states they have found
// move to other addresses (RFC 4555 is carried out so). The kernel tells with the
// same message that something has asked for it.
type Migrate struct {
	Selector Selector  // of the policy
	Dir      Direction // of the policy
	Moves    []Move    // 1 to maxTemplates
}

// Move is what moves: states and templates of a protocol, mode and request ID
// between two addresses (struct xfrm_user_migrate).
type Move struct {
	OldSrc, OldDst netip.Addr // of one family
	NewSrc, NewDst netip.Addr // of one family
	Proto          sadb.Proto
	Mode           sadb.Mode
	ReqID          uint32
}

const sizeMove = 76

// Append appends the body of a request of type MsgMigrate.
func (m Migrate) Append(b []byte) []byte {
	b, fixed := zeros(b, sizePolicyID)
	putSelector(fixed, m.Selector)
	fixed[60] = byte(m.Dir)
	var all []byte
	for _, v := range m.Moves {
		all = v.append(all)
	}
	return appendAttr(b, attrMigrate, all)
}

func (v Move) append(b []byte) []byte {
	b, fixed := zeros(b, sizeMove)
	for i, a := range []netip.Addr{v.OldDst, v.OldSrc, v.NewDst, v.NewSrc} {
		putAddr(fixed[i*sizeAddr:], a)
	}
	fixed[64], fixed[65] = byte(v.Proto), byte(v.Mode)
	native.PutUint32(fixed[68:], v.ReqID)
	native.PutUint16(fixed[72:], uint16(FamilyOf(v.OldDst)))
	native.PutUint16(fixed[74:], uint16(FamilyOf(v.NewDst)))
	return b
}

// ParseMigrate reads a message of type MsgMigrate.
func ParseMigrate(b []byte) (m Migrate, err error) {
	if err := need(b, sizePolicyID, "migration"); err != nil {
		return m, err
	}
	if m.Selector, err = parseSelector(b); err != nil {
		return m, err
	}
	m.Dir = Direction(b[60])
	err = eachAttr(b[sizePolicyID:], func(typ uint16, payload []byte) error {
		if typ != attrMigrate {
			return nil
		}
		return m.moves(payload)
	})
	if err == nil && len(m.Moves) == 0 {
		err = fmt.Errorf("wire: a migration of nothing")
	}
	return m, err
}

func (m *Migrate) moves(b []byte) error {
	if len(b)%sizeMove != 0 || len(b) > maxTemplates*sizeMove {
		return fmt.Errorf("%d bytes of moves", len(b))
	}
	m.Moves = nil
	for ; len(b) > 0; b = b[sizeMove:] {
		v, err := parseMove(b)
		if err != nil {
			return err
		}
		m.Moves = append(m.Moves, v)
	}
	return nil
}

func parseMove(b []byte) (v Move, err error) {
	before, after := Family(native.Uint16(b[72:])), Family(native.Uint16(b[74:]))
	for i, to := range []*netip.Addr{&v.OldDst, &v.OldSrc, &v.NewDst, &v.NewSrc} {
		family := before
		if i >= 2 {
			family = after
		}
		if *to, err = parseAddr(b[i*sizeAddr:], family); err != nil {
			return v, err
		}
	}
	v.Proto, v.Mode, v.ReqID = sadb.Proto(b[64]), sadb.Mode(b[65]), native.Uint32(b[68:])
	return v, nil
}
