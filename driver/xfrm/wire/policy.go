package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"ipsecagent/sadb"
)

// Direction is the list a policy stands in.
type Direction uint8

// In is for packets to this host, Out for packets that leave it (forwarded ones
// too), Forward for packets that it has received and forwards. Policies of
// sockets are dumped as SocketIn and above.
const (
	In Direction = iota
	Out
	Forward
	SocketIn
)

// String returns "in", "out", "fwd" or "socket".
func (d Direction) String() string {
	switch d {
	case In:
		return "in"
	case Out:
		return "out"
	case Forward:
		return "fwd"
	}
	return "socket"
}

// Action of a policy.
type Action uint8

// Allow with templates means: by states that fit them.
const (
	Allow Action = iota
	Block
)

// Policy is an entry of the kernel's security policy database.
type Policy struct {
	Selector  Selector
	Dir       Direction
	Action    Action
	Priority  uint32 // the smallest decides
	Index     uint32 // the kernel's number of it; 0 in requests
	Mark      Mark   // packets with another mark do not match
	IfID      uint32
	Flags     uint8
	Lifetime  sadb.Lifetime // the kernel deletes it at the hard end
	Use       Use           // read only
	Sub       bool          // of the second database (ptype sub)
	Templates []Template
}

// Template is what a policy wants applied to its packets.
type Template struct {
	Src, Dst netip.Addr // of a tunnel; none: those of the packet
	Family   Family     // of the states; needed where there are no addresses
	SPI      sadb.SPI   // 0: any
	Proto    sadb.Proto
	ReqID    uint32
	Mode     sadb.Mode
	Optional bool // without a state: outbound in clear, inbound accepted in clear
}

const (
	sizePolicy    = 168
	sizePolicyID  = 64
	sizeTemplate  = 64
	maxTemplates  = 6 // XFRM_MAX_DEPTH
	anyAlgorithm  = 0xffffffff
	policyTypeSub = 1
)

// Append appends the body of a request that adds or updates p.
func (p Policy) Append(b []byte) []byte {
	b, fixed := zeros(b, sizePolicy)
	putSelector(fixed, p.Selector)
	putLifetime(fixed[56:], p.Lifetime)
	native.PutUint32(fixed[152:], p.Priority)
	native.PutUint32(fixed[156:], p.Index)
	fixed[160], fixed[161], fixed[162] = byte(p.Dir), byte(p.Action), p.Flags
	if len(p.Templates) > 0 {
		var all []byte
		for _, t := range p.Templates {
			all = t.append(all)
		}
		b = appendAttr(b, attrTemplates, all)
	}
	return p.appendIdentity(b)
}

// AppendID appends the body of a request that gets or deletes the policy with
// the selector, direction, mark and interface ID of p.
func (p Policy) AppendID(b []byte) []byte {
	b, fixed := zeros(b, sizePolicyID)
	putSelector(fixed, p.Selector)
	fixed[60] = byte(p.Dir)
	return p.appendIdentity(b)
}

func (p Policy) appendIdentity(b []byte) []byte {
	b = appendMark(b, p.Mark)
	if p.IfID != 0 {
		b = appendAttr32(b, attrIfID, p.IfID)
	}
	return b
}

func (t Template) append(b []byte) []byte {
	b, fixed := zeros(b, sizeTemplate)
	putAddr(fixed, t.Dst)
	binary.BigEndian.PutUint32(fixed[16:], uint32(t.SPI))
	fixed[20] = byte(t.Proto)
	native.PutUint16(fixed[24:], uint16(t.Family))
	putAddr(fixed[28:], t.Src)
	native.PutUint32(fixed[44:], t.ReqID)
	fixed[48] = byte(t.Mode)
	if t.Optional {
		fixed[50] = 1
	}
	for _, at := range []int{52, 56, 60} {
		native.PutUint32(fixed[at:], anyAlgorithm)
	}
	return b
}

// ParsePolicy reads a message of type MsgNewPolicy or MsgUpdatePolicy.
func ParsePolicy(b []byte) (Policy, error) {
	p, err := parsePolicyInfo(b)
	if err != nil {
		return Policy{}, err
	}
	err = eachAttr(b[sizePolicy:], p.attribute)
	return p, err
}

func parsePolicyInfo(b []byte) (p Policy, err error) {
	if err := need(b, sizePolicy, "policy"); err != nil {
		return p, err
	}
	if p.Selector, err = parseSelector(b); err != nil {
		return p, err
	}
	p.Lifetime, p.Use = parseLifetime(b[56:]), parseUse(b[120:])
	p.Priority, p.Index = native.Uint32(b[152:]), native.Uint32(b[156:])
	p.Dir, p.Action, p.Flags = Direction(b[160]), Action(b[161]), b[162]
	return p, nil
}

func (p *Policy) attribute(typ uint16, b []byte) (err error) {
	switch typ {
	case attrTemplates:
		p.Templates, err = parseTemplates(b)
	case attrMark:
		p.Mark, err = parseMark(b)
	case attrIfID:
		p.IfID, err = parse32(b)
	case attrPolicyType:
		if err = need(b, 1, "type"); err == nil {
			p.Sub = b[0] == policyTypeSub
		}
	}
	return err
}

func parseTemplates(b []byte) ([]Template, error) {
	if len(b)%sizeTemplate != 0 || len(b) > maxTemplates*sizeTemplate {
		return nil, fmt.Errorf("wire: templates of %d bytes", len(b))
	}
	var all []Template
	for ; len(b) > 0; b = b[sizeTemplate:] {
		t, err := parseTemplate(b)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

func parseTemplate(b []byte) (t Template, err error) {
	t = Template{
		Family: Family(native.Uint16(b[24:])), SPI: sadb.SPI(binary.BigEndian.Uint32(b[16:])), Proto: sadb.Proto(b[20]),
		ReqID: native.Uint32(b[44:]), Mode: sadb.Mode(b[48]), Optional: b[50] != 0,
	}
	if t.Dst, err = parseAddr(b, t.Family); err != nil {
		return t, err
	}
	if t.Src, err = parseAddr(b[28:], t.Family); err != nil {
		return t, err
	}
	if t.Dst.IsUnspecified() && t.Src.IsUnspecified() {
		t.Dst, t.Src = netip.Addr{}, netip.Addr{}
	}
	return t, nil
}

// ParseDeletedPolicy reads a message of type MsgDelPolicy: the kernel says that
// a policy is gone.
func ParseDeletedPolicy(b []byte) (Policy, error) {
	if err := need(b, sizePolicyID, "policy's identity"); err != nil {
		return Policy{}, err
	}
	var p Policy
	found := false
	var rest []byte
	err := eachAttr(b[sizePolicyID:], func(typ uint16, payload []byte) (err error) {
		if typ == attrPolicy {
			found = true
			p, err = parsePolicyInfo(payload)
			return err
		}
		rest = appendAttr(rest, typ, payload)
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("wire: a deleted policy without the policy")
	}
	if err == nil {
		err = eachAttr(rest, p.attribute)
	}
	return p, err
}
