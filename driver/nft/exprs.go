package nft

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is the expressions of one rule: conditions, then what to do. One that
// cannot be evaluated (a header that is not there) ends the rule without
// effect, so that no rule may rely on a load to drop.
type rule []expr.Any

func join(parts ...[]expr.Any) rule {
	var r rule
	for _, p := range parts {
		r = append(r, p...)
	}
	return r
}

// scratch is the register conditions use; keys begin there too.
const scratch uint32 = unix.NFT_REG32_00

// Types of addresses as the kernel's routing knows them (rtnetlink.h).
const (
	typeLocal     = unix.RTN_LOCAL
	typeBroadcast = unix.RTN_BROADCAST
	typeMulticast = unix.RTN_MULTICAST
)

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func compare(op expr.CmpOp, data ...byte) expr.Any {
	return &expr.Cmp{Op: op, Register: scratch, Data: data}
}

func metaIs(key expr.MetaKey, data ...byte) []expr.Any {
	return []expr.Any{meta(key, scratch), compare(expr.CmpOpEq, data...)}
}

func protocolIs(p byte) []expr.Any { return metaIs(expr.MetaKeyL4PROTO, p) }

func familyIs(f byte) []expr.Any { return metaIs(expr.MetaKeyNFPROTO, f) }

func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return metaIs(key, b...)
}

func loopback(key expr.MetaKey) []expr.Any {
	return metaIs(key, binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_LOOPBACK)...)
}

func markHas(bit uint32) []expr.Any { return has(meta(expr.MetaKeyMARK, scratch), bit) }

// socketHas matches a packet whose receiving socket bears a mark bit.
func socketHas(bit uint32) []expr.Any {
	return has(&expr.Socket{Key: expr.SocketKeyMark, Register: scratch}, bit)
}

// has matches when what load puts into the scratch register has a bit set.
func has(load expr.Any, bit uint32) []expr.Any {
	return []expr.Any{load,
		&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: 4, Mask: native(bit), Xor: native(0)},
		compare(expr.CmpOpNeq, native(0)...)}
}

func setMark(bit uint32) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyMARK, scratch),
		&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: 4, Mask: native(^bit), Xor: native(bit)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: scratch, SourceRegister: true}}
}

func load(base expr.PayloadBase, offset, length, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}
}

// netIs and transportIs compare bytes of the network or transport header.
func netIs(offset uint32, data ...byte) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, uint32(len(data)), scratch), compare(expr.CmpOpEq, data...)}
}

func transportIs(offset uint32, data ...byte) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseTransportHeader, offset, uint32(len(data)), scratch), compare(expr.CmpOpEq, data...)}
}

// typeBetween compares the ICMP type.
func typeBetween(from, to byte) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseTransportHeader, 0, 1, scratch),
		compare(expr.CmpOpGte, from), compare(expr.CmpOpLte, to)}
}

// masked compares the bytes at an offset of the network header under a mask.
func masked(offset uint32, mask, want []byte) []expr.Any {
	n := uint32(len(mask))
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, n, scratch),
		&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: n, Mask: mask, Xor: make([]byte, n)},
		compare(expr.CmpOpEq, want...)}
}

func saddrType(op expr.CmpOp, t uint32) []expr.Any {
	return []expr.Any{&expr.Fib{Register: scratch, ResultADDRTYPE: true, FlagSADDR: true}, compare(op, native(t)...)}
}

func daddrType(op expr.CmpOp, t uint32) []expr.Any {
	return []expr.Any{&expr.Fib{Register: scratch, ResultADDRTYPE: true, FlagDADDR: true}, compare(op, native(t)...)}
}

func count(name string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func accept() []expr.Any { return verdict(expr.VerdictAccept, "") }

func drop() []expr.Any { return verdict(expr.VerdictDrop, "") }

func jump(chain string) []expr.Any { return verdict(expr.VerdictJump, chain) }

func goTo(chain string) []expr.Any { return verdict(expr.VerdictGoto, chain) }

// The largest TCP segments that secured traffic has room for on a link of
// 1500 bytes: 100 bytes less than without IPsec, enough for ESP in UDP.
const (
	maxSegment4 = 1360
	maxSegment6 = 1340
)

// clamp lowers the maximum segment size that a TCP SYN announces. The kernel
// never raises it (nft_exthdr).
func clamp(v6 bool) rule {
	family, size := byte(unix.NFPROTO_IPV4), uint16(maxSegment4)
	if v6 {
		family, size = unix.NFPROTO_IPV6, maxSegment6
	}
	const flagsOffset, syn, rst = 13, 0x02, 0x04
	const maxseg = 2
	return join(familyIs(family), protocolIs(unix.IPPROTO_TCP), []expr.Any{
		load(expr.PayloadBaseTransportHeader, flagsOffset, 1, scratch),
		&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}},
		compare(expr.CmpOpEq, syn),
		&expr.Immediate{Register: scratch, Data: binary.BigEndian.AppendUint16(nil, size)},
		&expr.Exthdr{SourceRegister: scratch, Type: maxseg, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	})
}
