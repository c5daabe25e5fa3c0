package esp

import (
	"encoding/binary"
	"fmt"

	"ipsecagent/sadb"
)

// Inbound is an inbound association. Several workers may use it at once; its
// replay window has a lock of its own, held for a few instructions.
type Inbound struct {
	sa sadb.SA
	t  *transform
	w  *window
}

// NewInbound makes the keys of sa ready for use. It fails for what this
// package cannot carry (see the package comment) and for a replay window of 0
// or more than MaxWindow packets.
func NewInbound(sa sadb.SA) (*Inbound, error) {
	if sa.Dir != sadb.In {
		return nil, fmt.Errorf("esp: inbound %s: its direction is %s", sa.ID, sa.Dir)
	}
	if sa.Replay == 0 || sa.Replay > MaxWindow {
		return nil, fmt.Errorf("esp: inbound %s: replay window of %d packets (possible: 1 to %d)", sa.ID, sa.Replay, MaxWindow)
	}
	sa = unbundled(sa)
	t, err := newTransform(sa)
	if err != nil {
		return nil, fmt.Errorf("esp: inbound %s: %w", sa.ID, err)
	}
	sa.EncKey, sa.AuthKey = sadb.Secret{}, sadb.Secret{} // the ciphers have their own copies
	return &Inbound{sa: sa, t: t, w: newWindow(sa.Replay, sa.ESN)}, nil
}

// Seq returns the highest authenticated sequence number; 0: none.
func (in *Inbound) Seq() uint64 { return in.w.highest() }

// Opened is what is known of an authenticated packet.
type Opened struct {
	Seq  uint64 // full sequence number
	Next uint8  // next header of the trailer: upper protocol, or 4 or 41 in a tunnel
	Len  int    // bytes of payload that were protected, without padding
}

// Open verifies the IP packet that holds ESP or AH, decrypts it in place, and
// returns the packet inside, a part of the buffer: in transport mode with the
// IP header of the outer packet, mended. What it returns is authentic; whether
// the association may carry it is for the caller to match against its
// selector. The AH of a bundle gives the packet with ESP: see Seal. ESP in
// UDP comes without its UDP header.
//
// With ErrDummy the Opened is valid; with every other error nothing is, the
// packet's bytes included, and nothing has been remembered, unless the packet
// was authentic: then its number is used up. Errors: ErrMalformed,
// ErrFragment, ErrReplay, ErrICV, ErrDummy, ErrECN.
func (in *Inbound) Open(packet []byte) ([]byte, Opened, error) {
	h, err := Parse(packet)
	if err != nil {
		return nil, Opened{}, err
	}
	if h.Fragment {
		return nil, Opened{}, ErrFragment
	}
	if h.Proto != uint8(in.sa.ID.Proto) || h.SPI != in.sa.ID.SPI {
		return nil, Opened{}, ErrMalformed
	}
	packet = packet[:h.Length]
	if h.Proto == protoAH {
		return in.openAH(packet, &h)
	}
	plain, seq, err := in.verify(packet[h.Upper:], h.Seq)
	if err != nil {
		return nil, Opened{}, err
	}
	payload, next, ok := trim(plain)
	if !ok {
		return nil, Opened{}, ErrMalformed
	}
	o := Opened{Seq: seq, Next: next, Len: len(payload)}
	inner, err := in.unwrap(packet, &h, payload, next)
	if err != nil && err != ErrDummy {
		return nil, Opened{}, err
	}
	return inner, o, err
}

// verify checks replay, then the ICV, and only then moves the window.
func (in *Inbound) verify(p []byte, low uint32) (plain []byte, seq uint64, err error) {
	if !in.t.fits(len(p)) {
		return nil, 0, ErrMalformed
	}
	seq, ok := in.w.check(low)
	if !ok {
		return nil, 0, ErrReplay
	}
	if plain, err = in.t.open(p, seq); err != nil {
		return nil, 0, err
	}
	if !in.w.accept(seq) {
		return nil, 0, ErrReplay
	}
	return plain, seq, nil
}

// trim takes padding and trailer off. The pad bytes must be 1, 2, 3, …
// (RFC 4303 §2.4).
func trim(plain []byte) (payload []byte, next uint8, ok bool) {
	end := len(plain) - trailerLen
	pad := int(plain[end])
	if pad > end {
		return nil, 0, false
	}
	for i, b := range plain[end-pad : end] {
		if int(b) != i+1 {
			return nil, 0, false
		}
	}
	return plain[:end-pad], plain[end+1], true
}

func (in *Inbound) unwrap(packet []byte, h *Headers, payload []byte, next uint8) ([]byte, error) {
	switch {
	case next == protoNone:
		return nil, ErrDummy
	case in.sa.Mode == sadb.Tunnel:
		return unwrapTunnel(h, payload, next)
	}
	return in.unwrapTransport(packet, h, payload, next)
}

// unwrapTransport moves the IP header to the payload. What stands behind ESP
// must not be a header that belongs before it: a fragment would be put
// together, and judged, after we have let it pass.
func (in *Inbound) unwrapTransport(packet []byte, h *Headers, payload []byte, next uint8) ([]byte, error) {
	if h.V6 && (next == protoHopByHop || next == protoFragment) {
		return nil, ErrMalformed
	}
	return keepHeader(packet, h, h.Upper+headerLen+in.t.ivLen, len(payload), next), nil
}

// keepHeader moves the IP header to the payload of n bytes at body.
func keepHeader(packet []byte, h *Headers, body, n int, next uint8) []byte {
	inner := packet[body-h.Upper : body+n]
	copy(inner, packet[:h.Upper])
	inner[h.upperNext] = next
	setLength(inner, len(inner))
	return inner
}

// unwrapTunnel returns the inner packet without traffic-flow padding
// (RFC 4303 §2.7).
func unwrapTunnel(outer *Headers, payload []byte, next uint8) ([]byte, error) {
	h, err := Parse(payload)
	if err != nil || next != protoIPv4 && next != protoIPv6 || h.V6 != (next == protoIPv6) {
		return nil, ErrMalformed
	}
	inner := payload[:h.Length]
	if outer.TOS&ecnMask == ecnCE && !setCE(inner, &h) {
		return nil, ErrECN
	}
	return inner, nil
}

const (
	ecnMask = 3
	ecnCE   = 3 // congestion experienced (RFC 3168)
)

// setCE marks the inner packet with the congestion that the outer one met. It
// reports false if the inner one does not take part in ECN: then the packet is
// to be dropped (RFC 6040 §4.2).
func setCE(p []byte, h *Headers) bool {
	if own := h.TOS & ecnMask; own == 0 || own == ecnCE {
		return own == ecnCE
	}
	if h.V6 {
		p[1] |= ecnCE << 4
		return true
	}
	old := binary.BigEndian.Uint16(p)
	p[1] |= ecnCE
	// RFC 1624: the checksum changes by what the word changes.
	sum := uint64(^binary.BigEndian.Uint16(p[10:])) + uint64(^old) + uint64(binary.BigEndian.Uint16(p))
	binary.BigEndian.PutUint16(p[10:], ^fold(sum))
	return true
}
