package wire

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/sadb"
)

// Flags of a state (XFRM_STATE_*) that are used here.
const (
	FlagNoPMTUDisc = 4
	FlagAlign4     = 64 // AH in words of 32 bits, as RFC 4302 §2.2 has it for IPv4
	FlagAnyFamily  = 32
	FlagESN        = 128
)

// State is an entry of the kernel's security association database.
type State struct {
	ID       sadb.SAID
	Src      netip.Addr
	Selector Selector
	Lifetime sadb.Lifetime
	Seq      uint32 // number of the acquire it answers
	ReqID    uint32
	Mode     sadb.Mode
	Flags    uint8
	Window   uint32 // replay window in packets; 0: none
	Encap    Encap
	Mark     Mark
	SetMark  Mark // what its packets' marks become
	IfID     uint32
	CareOf   netip.Addr

	// Algorithms and keys: only in requests.
	Suite           sadb.Suite
	EncKey, AuthKey sadb.Secret

	// Use is what has gone through. In requests Added alone counts: zero is
	// now. Of states that serve alike the kernel takes the last added, by whole
	// seconds.
	Use Use

	// Read only.
	LastUsed     time.Time // zero: never
	SeqOut       uint64    // highest sent
	SeqIn        uint64    // highest authenticated
	Replayed     uint32
	BadIntegrity uint32
}

// Encap is ESP in UDP (RFC 3948) as a state has it: ports of its source and
// destination. The zero value: none.
type Encap struct {
	SrcPort, DstPort uint16
}

const (
	sizeState   = 224
	sizeStateID = 24
	sizeEncap   = 24
	sizeESN     = 24
	sizeReplay  = 12
	sizeOptions = 256 // more than the attributes besides algorithms and the window's bits
	encapInUDP  = 2   // UDP_ENCAP_ESPINUDP
)

// Append appends the body of a request that adds or updates s.
func (s State) Append(b []byte) ([]byte, error) {
	algorithms, err := s.algorithms()
	defer clear(algorithms)
	if err != nil {
		return b, err
	}
	// Room for all of it, so that no copy of the keys is left behind.
	b = slices.Grow(b, sizeState+len(algorithms)+sizeOptions+int(s.Window)/8)
	b = s.appendInfo(b)
	b = append(b, algorithms...)
	b = s.appendEncap(b)
	b = appendMark(b, s.Mark)
	if s.SetMark.Mask != 0 {
		b = appendAttr32(b, attrSetMark, s.SetMark.Value)
		b = appendAttr32(b, attrSetMarkMask, s.SetMark.Mask)
	}
	if s.IfID != 0 {
		b = appendAttr32(b, attrIfID, s.IfID)
	}
	if s.CareOf.IsValid() {
		care := make([]byte, sizeAddr)
		putAddr(care, s.CareOf)
		b = appendAttr(b, attrCareOf, care)
	}
	return s.appendWindow(s.appendAdded(b)), nil
}

func (s State) appendAdded(b []byte) []byte {
	if s.Use.Added.IsZero() {
		return b
	}
	v := make([]byte, sizeUse)
	native.PutUint64(v[16:], uint64(s.Use.Added.Unix()))
	return appendAttr(b, attrLifetime, v)
}

func (s State) appendInfo(b []byte) []byte {
	b, fixed := zeros(b, sizeState)
	putSelector(fixed, s.Selector)
	putAddr(fixed[56:], s.ID.Dst)
	binary.BigEndian.PutUint32(fixed[72:], uint32(s.ID.SPI))
	fixed[76] = byte(s.ID.Proto)
	putAddr(fixed[80:], s.Src)
	putLifetime(fixed[96:], s.Lifetime)
	native.PutUint32(fixed[204:], s.Seq)
	native.PutUint32(fixed[208:], s.ReqID)
	native.PutUint16(fixed[212:], uint16(FamilyOf(s.ID.Dst)))
	fixed[214], fixed[216] = byte(s.Mode), s.Flags
	return b
}

func (s State) appendEncap(b []byte) []byte {
	if s.Encap == (Encap{}) {
		return b
	}
	e := make([]byte, sizeEncap)
	native.PutUint16(e, encapInUDP)
	binary.BigEndian.PutUint16(e[2:], s.Encap.SrcPort)
	binary.BigEndian.PutUint16(e[4:], s.Encap.DstPort)
	return appendAttr(b, attrEncap, e)
}

// appendWindow always takes the long form: the short one holds 32 packets.
func (s State) appendWindow(b []byte) []byte {
	if s.Window == 0 {
		return b
	}
	words := (s.Window + 31) / 32
	v := make([]byte, sizeESN+4*words)
	native.PutUint32(v, words)
	native.PutUint32(v[20:], s.Window)
	return appendAttr(b, attrReplayESN, v)
}

// AppendStateID appends the body of a request that gets or deletes a state.
func AppendStateID(b []byte, id sadb.SAID) []byte {
	b, fixed := zeros(b, sizeStateID)
	putAddr(fixed, id.Dst)
	binary.BigEndian.PutUint32(fixed[16:], uint32(id.SPI))
	native.PutUint16(fixed[20:], uint16(FamilyOf(id.Dst)))
	fixed[22] = byte(id.Proto)
	return b
}

// AppendAllocSPI appends the body of a request for an SPI between low and high:
// for the state that waits under s.Seq or, without one, for that with the
// addresses, protocol, mode and request ID of s, or a new one.
func (s State) AppendAllocSPI(b []byte, low, high sadb.SPI) []byte {
	b = s.appendInfo(b)
	b = native.AppendUint32(b, uint32(low))
	b = native.AppendUint32(b, uint32(high))
	return appendMark(b, s.Mark)
}

// ParseState reads a message of type MsgNewSA or MsgUpdateSA.
func ParseState(b []byte) (State, error) {
	s, err := parseStateInfo(b)
	if err != nil {
		return State{}, err
	}
	err = eachAttr(b[sizeState:], s.attribute)
	return s, err
}

func parseStateInfo(b []byte) (s State, err error) {
	if err := need(b, sizeState, "state"); err != nil {
		return s, err
	}
	family := Family(native.Uint16(b[212:]))
	if s.Selector, err = parseSelector(b); err != nil {
		return s, err
	}
	if s.ID.Dst, err = parseAddr(b[56:], family); err != nil {
		return s, err
	}
	if s.Src, err = parseAddr(b[80:], family); err != nil {
		return s, err
	}
	s.ID.SPI, s.ID.Proto = sadb.SPI(binary.BigEndian.Uint32(b[72:])), sadb.Proto(b[76])
	s.Lifetime, s.Use = parseLifetime(b[96:]), parseUse(b[160:])
	s.Replayed, s.BadIntegrity = native.Uint32(b[196:]), native.Uint32(b[200:])
	s.Seq, s.ReqID = native.Uint32(b[204:]), native.Uint32(b[208:])
	s.Mode, s.Window, s.Flags = sadb.Mode(b[214]), uint32(b[215]), b[216]
	return s, nil
}

func (s *State) attribute(typ uint16, b []byte) (err error) {
	switch typ {
	case attrEncap:
		err = s.parseEncap(b)
	case attrReplay:
		err = s.parseReplay(b)
	case attrReplayESN:
		err = s.parseWindow(b)
	case attrMark:
		s.Mark, err = parseMark(b)
	case attrSetMark:
		s.SetMark.Value, err = parse32(b)
	case attrSetMarkMask:
		s.SetMark.Mask, err = parse32(b)
	case attrIfID:
		s.IfID, err = parse32(b)
	case attrCareOf:
		if err = need(b, sizeAddr, "address"); err == nil {
			s.CareOf, err = parseAddr(b, FamilyOf(s.ID.Dst))
		}
	case attrLastUsed:
		if err = need(b, 8, "time"); err == nil {
			s.LastUsed = instant(native.Uint64(b))
		}
	}
	return err
}

func (s *State) parseEncap(b []byte) error {
	if err := need(b, sizeEncap, "encapsulation"); err != nil {
		return err
	}
	s.Encap = Encap{SrcPort: binary.BigEndian.Uint16(b[2:]), DstPort: binary.BigEndian.Uint16(b[4:])}
	return nil
}

func (s *State) parseReplay(b []byte) error {
	if err := need(b, sizeReplay, "replay state"); err != nil {
		return err
	}
	s.SeqOut, s.SeqIn = uint64(native.Uint32(b)), uint64(native.Uint32(b[4:]))
	return nil
}

func (s *State) parseWindow(b []byte) error {
	if err := need(b, sizeESN, "replay window"); err != nil {
		return err
	}
	s.SeqOut = uint64(native.Uint32(b[12:]))<<32 | uint64(native.Uint32(b[4:]))
	s.SeqIn = uint64(native.Uint32(b[16:]))<<32 | uint64(native.Uint32(b[8:]))
	s.Window = native.Uint32(b[20:])
	return nil
}

// WithEncap returns the body of a request that updates the state in message, of
// type MsgNewSA as the kernel sent it, to another encapsulation. What holds
// the message or the result holds keys.
func WithEncap(message []byte, e Encap) ([]byte, error) {
	if err := need(message, sizeState, "state"); err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, len(message)+attrHeader+sizeEncap), message[:sizeState]...)
	b[215] = 0 // the short replay window: the attribute says it
	err := eachAttr(message[sizeState:], func(typ uint16, payload []byte) error {
		switch typ {
		case attrAlgAEAD, attrAlgCrypt, attrAlgAuthTrunc, attrReplayESN, attrMark, attrIfID, attrSetMark, attrSetMarkMask:
			b = appendAttr(b, typ, payload)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return State{Encap: e}.appendEncap(b), nil
}
