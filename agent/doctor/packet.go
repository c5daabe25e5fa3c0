package doctor

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// truth is whether something holds for a packet of which not all is known.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

func certain(b bool) truth {
	if b {
		return yes
	}
	return no
}

// packet is the first packet of a kind that IPsec needs, from or to any host, by
// any interface but the loopback.
type packet struct {
	out   bool // it leaves this host
	v6    bool
	proto uint8
	port  uint16 // it goes to; 0: the protocol has none
}

func (p packet) String() string {
	what := map[uint8]string{unix.IPPROTO_UDP: fmt.Sprintf("UDP %d (IKE)", p.port), unix.IPPROTO_ESP: "ESP", unix.IPPROTO_AH: "AH"}[p.proto]
	if p.port == 4500 {
		what = "UDP 4500 (IKE and ESP through NAT)"
	}
	return what
}

// value is what a register holds.
type value struct {
	is  []byte // nil: not known
	not []byte // what it certainly is not; nil: that is not known
}

// registers hold what the expressions of a rule have loaded. A value is taken
// where it is used: an expression that the reader does not know may load another.
type registers map[uint32]value

func (r registers) take(n uint32) value {
	v := r[n]
	delete(r, n)
	return v
}

// effect is what a rule does to the packets it matches.
type effect struct {
	verdict expr.VerdictKind // VerdictContinue: nothing
	chain   string
}

// outcome is what a rule makes of a packet.
type outcome struct {
	matches truth
	named   bool // the rule names the protocol, or its port
	effect
}

// judge evaluates one rule for the packet. lookup finds an element of a set.
func (p packet) judge(rule *nftables.Rule, lookup finder) outcome {
	regs := registers{}
	o := outcome{matches: yes, effect: effect{verdict: expr.VerdictContinue}}
	for _, e := range rule.Exprs {
		holds := yes
		switch e := e.(type) {
		case *expr.Verdict:
			o.effect = effect{e.Kind, e.Chain}
		case *expr.Reject:
			o.verdict = expr.VerdictDrop
		case *expr.Target:
			o.verdict = targetVerdict(e)
		case *expr.Lookup:
			var found *expr.Verdict
			if holds, found = lookup(rule.Table, e, regs.take(e.SourceRegister)); found != nil {
				o.effect = effect{found.Kind, found.Chain}
			}
		default:
			holds = p.holds(e, regs, &o.named)
		}
		if o.matches = min(o.matches, holds); o.matches == no {
			return o
		}
	}
	return o
}

// holds evaluates an expression that loads, changes or compares.
func (p packet) holds(e expr.Any, regs registers, named *bool) truth {
	switch e := e.(type) {
	case *expr.Meta:
		regs[e.Register] = p.meta(e.Key)
	case *expr.Payload:
		regs[e.DestRegister] = p.payload(e)
		*named = *named || e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && p.port != 0 || p.port == 0 && p.protocolAt(e)
	case *expr.Ct:
		regs[e.Register] = newConnection(e.Key)
	case *expr.Bitwise:
		regs[e.DestRegister] = masked(regs.take(e.SourceRegister), e)
	case *expr.Cmp:
		*named = *named || p.port == 0 && e.Op == expr.CmpOpEq && bytes.Equal(e.Data, []byte{p.proto})
		if e.Op != expr.CmpOpEq { // a range is two comparisons
			return compare(regs[e.Register], e)
		}
		return compare(regs.take(e.Register), e)
	case *expr.Range:
		return within(regs.take(e.Register), e)
	case *expr.Match:
		*named = *named || e.Name == "udp" && p.port != 0
		return p.xtables(e)
	case *expr.Limit, *expr.Connlimit, *expr.Quota, *expr.Fib, *expr.Exthdr, *expr.Numgen, *expr.Hash, *expr.Dynset:
		return maybe
	}
	return yes
}

// targetVerdict returns what a target of iptables does to the packet.
func targetVerdict(t *expr.Target) expr.VerdictKind {
	if t.Name == "REJECT" || t.Name == "DROP" {
		return expr.VerdictDrop
	}
	return expr.VerdictContinue
}

// meta returns what is known of the packet beside its bytes.
func (p packet) meta(key expr.MetaKey) value {
	switch key {
	case expr.MetaKeyL4PROTO:
		return value{is: []byte{p.proto}}
	case expr.MetaKeyNFPROTO:
		return value{is: []byte{p.family()}}
	case expr.MetaKeyPROTOCOL:
		if p.v6 {
			return value{is: []byte{0x86, 0xdd}}
		}
		return value{is: []byte{0x08, 0x00}}
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		return value{not: []byte("lo")}
	case expr.MetaKeyIIF, expr.MetaKeyOIF:
		return value{not: binary.NativeEndian.AppendUint32(nil, 1)}
	}
	return value{}
}

func (p packet) family() byte {
	if p.v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// protocolAt reports whether an expression loads the protocol from the IP header.
func (p packet) protocolAt(e *expr.Payload) bool {
	offset := uint32(9)
	if p.v6 {
		offset = 6
	}
	return e.Base == expr.PayloadBaseNetworkHeader && e.Offset == offset && e.Len == 1
}

// payload returns what is known of the packet's bytes: its protocol and the port
// it goes to.
func (p packet) payload(e *expr.Payload) value {
	switch {
	case p.protocolAt(e):
		return value{is: []byte{p.proto}}
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && e.Len == 2 && p.port != 0:
		return value{is: binary.BigEndian.AppendUint16(nil, p.port)}
	}
	return value{}
}

// newConnection returns what connection tracking says of a first packet.
func newConnection(key expr.CtKey) value {
	if key == expr.CtKeySTATE {
		return value{is: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW)}
	}
	return value{}
}

func masked(v value, e *expr.Bitwise) value {
	if len(v.is) == 0 || len(v.is) != len(e.Mask) || len(v.is) != len(e.Xor) {
		return value{}
	}
	out := make([]byte, len(v.is))
	for i := range out {
		out[i] = v.is[i]&e.Mask[i] ^ e.Xor[i]
	}
	return value{is: out}
}

func compare(v value, e *expr.Cmp) truth {
	if v.not != nil && bytes.Equal(bytes.TrimRight(e.Data, "\x00"), bytes.TrimRight(v.not, "\x00")) {
		return certain(e.Op == expr.CmpOpNeq)
	}
	if len(v.is) == 0 || len(v.is) != len(e.Data) {
		return maybe
	}
	c := bytes.Compare(v.is, e.Data)
	switch e.Op {
	case expr.CmpOpEq:
		return certain(c == 0)
	case expr.CmpOpNeq:
		return certain(c != 0)
	case expr.CmpOpLt:
		return certain(c < 0)
	case expr.CmpOpLte:
		return certain(c <= 0)
	case expr.CmpOpGt:
		return certain(c > 0)
	case expr.CmpOpGte:
		return certain(c >= 0)
	}
	return maybe
}

func within(v value, e *expr.Range) truth {
	if len(v.is) == 0 || len(v.is) != len(e.FromData) || len(v.is) != len(e.ToData) {
		return maybe
	}
	in := bytes.Compare(v.is, e.FromData) >= 0 && bytes.Compare(v.is, e.ToData) <= 0
	return certain(in == (e.Op == expr.CmpOpEq))
}

// xtables evaluates the matches of iptables that rules for IKE are made with.
func (p packet) xtables(m *expr.Match) truth {
	switch info := m.Info.(type) {
	case *xt.Udp:
		switch {
		case p.port == 0:
			return no
		case info.InvFlags != 0 || info.SrcPorts != [2]uint16{0, 0xffff}:
			return maybe
		}
		return certain(info.DstPorts[0] <= p.port && p.port <= info.DstPorts[1])
	case *xt.Tcp:
		return no
	case *xt.ConntrackMtinfo3:
		return connState(info.ConntrackMtinfoBase, info.StateMask)
	case *xt.ConntrackMtinfo2:
		return connState(info.ConntrackMtinfoBase, info.StateMask)
	case *xt.ConntrackMtinfo1:
		return connState(info.ConntrackMtinfoBase, uint16(info.StateMask))
	case *xt.Comment:
		return yes
	}
	return maybe
}

// connState evaluates iptables' -m conntrack --ctstate, and nothing else of it.
func connState(info xt.ConntrackMtinfoBase, states uint16) truth {
	if xt.ConntrackFlags(info.MatchFlags)&^xt.ConntrackStateAlias != xt.ConntrackState {
		return maybe
	}
	is := states&uint16(expr.CtStateBitNEW) != 0
	return certain(is == (xt.ConntrackFlags(info.InvertFlags)&xt.ConntrackState == 0))
}
