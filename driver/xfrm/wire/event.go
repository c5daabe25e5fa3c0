package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"ipsecagent/sadb"
)

// Acquire (MsgAcquire): a packet met a policy with templates and no state.
type Acquire struct {
	ID       sadb.SAID // wanted: destination and protocol; SPI 0
	Src      netip.Addr
	Selector Selector // of the packet
	Policy   Policy   // that decided
	Seq      uint32   // of the state that waits
}

// Expire (MsgExpire): a state reached a limit. At Hard it is gone.
type Expire struct {
	State State
	Hard  bool
}

// PolicyExpire (MsgPolExpire): a policy reached a limit. At Hard it is gone.
type PolicyExpire struct {
	Policy Policy
	Hard   bool
}

// Mapping (MsgMapping): valid ESP in UDP came from another address or port.
type Mapping struct {
	ID       sadb.SAID
	ReqID    uint32
	Old, New netip.AddrPort
}

const (
	sizeAcquire      = 280
	sizeExpire       = 232
	sizePolicyExpire = 176
	sizeMapping      = 64
)

// ParseAcquire reads a message of type MsgAcquire.
func ParseAcquire(b []byte) (a Acquire, err error) {
	if err := need(b, sizeAcquire, "acquire"); err != nil {
		return a, err
	}
	if a.Policy, err = parsePolicyInfo(b[96:264]); err != nil {
		return a, err
	}
	if err := eachAttr(b[sizeAcquire:], a.Policy.attribute); err != nil {
		return a, err
	}
	if a.Selector, err = parseSelector(b[40:]); err != nil {
		return a, err
	}
	if a.Selector.Family() == 0 {
		return a, fmt.Errorf("wire: an acquire without a packet's addresses")
	}
	// Of a tunnel between families the addresses are of the template's.
	family := a.Selector.Family()
	if len(a.Policy.Templates) > 0 {
		family = a.Policy.Templates[0].Family
	}
	if a.ID.Dst, err = parseAddr(b, family); err != nil {
		return a, err
	}
	if a.Src, err = parseAddr(b[24:], family); err != nil {
		return a, err
	}
	a.ID.SPI, a.ID.Proto = sadb.SPI(binary.BigEndian.Uint32(b[16:])), sadb.Proto(b[20])
	a.Seq = native.Uint32(b[276:])
	return a, nil
}

// ParseExpire reads a message of type MsgExpire.
func ParseExpire(b []byte) (e Expire, err error) {
	if err := need(b, sizeExpire, "expire"); err != nil {
		return e, err
	}
	if e.State, err = parseStateInfo(b); err != nil {
		return e, err
	}
	e.Hard = b[sizeState] != 0
	return e, eachAttr(b[sizeExpire:], e.State.attribute)
}

// ParsePolicyExpire reads a message of type MsgPolExpire.
func ParsePolicyExpire(b []byte) (e PolicyExpire, err error) {
	if err := need(b, sizePolicyExpire, "policy expire"); err != nil {
		return e, err
	}
	if e.Policy, err = parsePolicyInfo(b); err != nil {
		return e, err
	}
	e.Hard = b[sizePolicy] != 0
	return e, eachAttr(b[sizePolicyExpire:], e.Policy.attribute)
}

// ParseMapping reads a message of type MsgMapping.
func ParseMapping(b []byte) (m Mapping, err error) {
	if err := need(b, sizeMapping, "mapping"); err != nil {
		return m, err
	}
	family := Family(native.Uint16(b[20:]))
	if m.ID.Dst, err = parseAddr(b, family); err != nil {
		return m, err
	}
	m.ID.SPI, m.ID.Proto, m.ReqID = sadb.SPI(binary.BigEndian.Uint32(b[16:])), sadb.Proto(b[22]), native.Uint32(b[24:])
	before, err := parseAddr(b[28:], family)
	if err != nil {
		return m, err
	}
	after, err := parseAddr(b[44:], family)
	if err != nil {
		return m, err
	}
	m.Old = netip.AddrPortFrom(before, binary.BigEndian.Uint16(b[60:]))
	m.New = netip.AddrPortFrom(after, binary.BigEndian.Uint16(b[62:]))
	return m, nil
}

// ParseDeletedState reads a message of type MsgDelSA: the kernel says that a
// state is gone.
func ParseDeletedState(b []byte) (id sadb.SAID, err error) {
	if err := need(b, sizeStateID, "state's identity"); err != nil {
		return id, err
	}
	if id.Dst, err = parseAddr(b, Family(native.Uint16(b[20:]))); err != nil {
		return id, err
	}
	id.SPI, id.Proto = sadb.SPI(binary.BigEndian.Uint32(b[16:])), sadb.Proto(b[22])
	return id, eachAttr(b[sizeStateID:], func(uint16, []byte) error { return nil })
}
