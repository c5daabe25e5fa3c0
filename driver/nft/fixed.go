package nft

import (
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Chains whose rules do not depend on the filters.
const (
	chainSteer    = "steer" // base
	chainLast     = "last"  // base
	chainIn       = "in"    // base
	chainVia      = "via"   // base
	chainMark     = "mark"
	chainLeak     = "leak"
	chainRefuse   = "refuse"
	chainUnicast  = "refuse-unicast"
	chainParse    = "parse"
	chainExempt   = "exempt"
	chainExemptO  = "exempt-out"
	chainExemptI  = "exempt-in"
	chainListener = "listener"
	chainFromTUN  = "from-tun"
)

// Named counters.
const (
	counterLast   = "last-chain"
	counterClear  = "in-clear"
	counterOpaque = "opaque"
)

// setLooked holds the protocols whose headers filters look into.
const setLooked = "looked-into"

// dispatch names the chain of filters of a path and family.
func dispatch(path string, v6 bool) string {
	if v6 {
		return path + "6"
	}
	return path + "4"
}

// hooks returns the base chains. Without a TUN nothing is steered.
func (c Config) hooks() map[string]*hook {
	if c.TUN == "" {
		return map[string]*hook{
			chainLast: {"filter", unix.NF_INET_POST_ROUTING, 300},
			chainIn:   {"filter", unix.NF_INET_PRE_ROUTING, -300},
		}
	}
	return map[string]*hook{
		chainSteer: {"route", unix.NF_INET_LOCAL_OUT, -90},
		chainLast:  {"filter", unix.NF_INET_POST_ROUTING, 300},
		chainIn:    {"filter", unix.NF_INET_PRE_ROUTING, -300},
		chainVia:   {"filter", unix.NF_INET_PRE_ROUTING, -90},
	}
}

// fixed returns the rules of the chains that do not depend on the filters.
func (c Config) fixed() map[string][]rule {
	return map[string][]rule{
		chainSteer:    c.steerRules(),
		chainLast:     c.lastRules(),
		chainIn:       c.inRules(),
		chainVia:      c.viaRules(),
		chainMark:     {clamp(false), clamp(true), join(setMark(c.Steer), accept())},
		chainLeak:     {join(count(counterLast), drop())},
		chainRefuse:   {join(count(counterClear), drop())},
		chainUnicast:  refuseUnicastRules(),
		chainParse:    parseRules(),
		chainExempt:   exemptRules(),
		chainListener: listenerRules(),
		chainFromTUN:  c.fromTUNRules(),
		// DHCP of this host as a client: RFC 2131 §4.1, RFC 8415 §7.2.
		chainExemptO: {
			join(familyIs(unix.NFPROTO_IPV4), protocolIs(unix.IPPROTO_UDP), transportIs(0, 0, 68, 0, 67), accept()),
			join(familyIs(unix.NFPROTO_IPV6), linkLocalSource(), protocolIs(unix.IPPROTO_UDP), transportIs(0, 546>>8, 546&0xff, 547>>8, 547&0xff), accept()),
		},
		chainExemptI: {
			join(familyIs(unix.NFPROTO_IPV4), protocolIs(unix.IPPROTO_UDP), transportIs(0, 0, 67, 0, 68), accept()),
			join(familyIs(unix.NFPROTO_IPV6), linkLocalSource(), protocolIs(unix.IPPROTO_UDP), transportIs(0, 547>>8, 547&0xff, 546>>8, 546&0xff), accept()),
		},
	}
}

func (c Config) steerRules() []rule {
	return []rule{
		join(markHas(c.Exempt), accept()),
		join(loopback(expr.MetaKeyOIFTYPE), accept()),
		join(readable(), jump(chainExempt)),
		join(readable(), jump(chainExemptO)),
		// Multicast and broadcast are never negotiated; the last chain decides.
		join(daddrType(expr.CmpOpEq, typeMulticast), accept()),
		join(daddrType(expr.CmpOpEq, typeBroadcast), accept()),
		join(familyIs(unix.NFPROTO_IPV4), goTo(dispatch(chainSteer, false))),
		join(familyIs(unix.NFPROTO_IPV6), goTo(dispatch(chainSteer, true))),
	}
}

// viaRules look at what this host forwards: it may belong into a tunnel. What
// came out of one goes on as it is; the last chain decides about it.
func (c Config) viaRules() []rule {
	return []rule{
		join(interfaceIs(expr.MetaKeyIIFNAME, c.TUN), accept()),
		join(loopback(expr.MetaKeyIIFTYPE), accept()),
		join(daddrType(expr.CmpOpEq, typeLocal), accept()),
		join(daddrType(expr.CmpOpEq, typeMulticast), accept()),
		join(daddrType(expr.CmpOpEq, typeBroadcast), accept()),
		join(familyIs(unix.NFPROTO_IPV4), goTo(dispatch(chainVia, false))),
		join(familyIs(unix.NFPROTO_IPV6), goTo(dispatch(chainVia, true))),
	}
}

func (c Config) lastRules() []rule {
	return slices.Concat(
		[]rule{
			join(markHas(c.Exempt), accept()),
			join(c.toDataPath(), accept()),
			join(loopback(expr.MetaKeyOIFTYPE), accept()),
		},
		unreachableRules(),
		[]rule{
			join(readable(), jump(chainExempt)),
			join(readable(), ofSocket(), jump(chainExemptO)), // what is forwarded has none
			join(familyIs(unix.NFPROTO_IPV4), goTo(dispatch(chainLast, false))),
			join(familyIs(unix.NFPROTO_IPV6), goTo(dispatch(chainLast, true))),
		})
}

// ofSocket holds for packets that a socket of this host has sent: those alone
// have an owner, without whom the rule ends there.
func ofSocket() rule { return rule{meta(expr.MetaKeySKUID, scratch)} }

// rtXFRM asks whether a packet's route goes through XFRM (NFT_RT_XFRM),
// metaSecpath whether it came out of XFRM (NFT_META_SECPATH).
const (
	rtXFRM      expr.RtKey   = 4
	metaSecpath expr.MetaKey = 25
)

// toDataPath holds for packets that leave secured: by the TUN or, where the
// kernel is the data path, by a route that goes through XFRM.
func (c Config) toDataPath() []expr.Any {
	if c.TUN == "" {
		return []expr.Any{&expr.Rt{Key: rtXFRM, Register: scratch}, compare(expr.CmpOpEq, 1)}
	}
	return interfaceIs(expr.MetaKeyOIFNAME, c.TUN)
}

// fromDataPath lets pass what came secured. Whether its association may carry
// it, the data path decides.
func (c Config) fromDataPath() rule {
	if c.TUN == "" {
		return join(metaIs(metaSecpath, 1), accept())
	}
	return join(interfaceIs(expr.MetaKeyIIFNAME, c.TUN), goTo(chainFromTUN))
}

func (c Config) inRules() []rule {
	return slices.Concat(
		[]rule{
			// A rule that looks at connections makes the kernel put fragments
			// together before it (nf_ct_netns_get), so that ports are seen.
			join([]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: scratch}}),
			// What comes from the data path: marked, so that the route back
			// to the source leads to the TUN and rp_filter is content. A rule
			// of the data path keeps what goes on from going back.
			c.fromDataPath(),
			join(loopback(expr.MetaKeyIIFTYPE), accept()),
			join(readable(), jump(chainExempt)),
			join(readable(), daddrType(expr.CmpOpEq, typeLocal), jump(chainExemptI)), // what is forwarded is another's
			join(readable(), daddrType(expr.CmpOpEq, typeBroadcast), jump(chainExemptI)),
		},
		c.ipsecRules(), c.replyRules(), tooBigRules(),
		[]rule{
			join(familyIs(unix.NFPROTO_IPV4), goTo(dispatch(chainIn, false))),
			join(familyIs(unix.NFPROTO_IPV6), goTo(dispatch(chainIn, true))),
		})
}

// ipsecRules accept what the data path and the IKE sockets take: ESP and AH to
// addresses of this host, and UDP 500 and 4500 where the socket that would get
// it bears the exempt mark. The port alone opens nothing: while no agent runs,
// another program may bind it.
func (c Config) ipsecRules() []rule {
	toMe := daddrType(expr.CmpOpEq, typeLocal)
	var out []rule
	for _, p := range []byte{unix.IPPROTO_ESP, unix.IPPROTO_AH} {
		out = append(out, join(protocolIs(p), toMe, accept()))
	}
	for _, port := range []uint16{500, 4500} {
		out = append(out, join(protocolIs(unix.IPPROTO_UDP), transportIs(2, byte(port>>8), byte(port)), toMe, socketHas(c.Exempt), accept()))
	}
	return out
}

// icmpAbout matches an ICMP or ICMPv6 message of a type and code that quotes a
// packet of an IP protocol (for IPv4 one without options, as ours are).
func icmpAbout(v6 bool, typ, code, quoted byte) rule {
	if v6 {
		return join(familyIs(unix.NFPROTO_IPV6), protocolIs(unix.IPPROTO_ICMPV6), transportIs(0, typ, code), transportIs(8+6, quoted))
	}
	return join(familyIs(unix.NFPROTO_IPV4), protocolIs(unix.IPPROTO_ICMP), transportIs(0, typ, code), transportIs(8+9, quoted))
}

// Types and codes of RFC 792, RFC 1191 and RFC 4443.
const (
	icmpUnreachable   = 3
	codeNoProtocol    = 2
	codeTooBig        = 4
	icmp6TooBig       = 2
	icmp6Parameter    = 4
	codeNoNextHeader  = 1
	quotedUDPPorts4   = 8 + 20
	quotedUDPPorts6   = 8 + 40
	portESPInUDP      = 4500
	listenerHopLimit  = 1
	discoveryHopLimit = 255
)

// tooBigRules admit "too big" about what we sent: ESP, AH and ESP in UDP. The
// data path acts on them for a live association only.
func tooBigRules() []rule {
	toMe := daddrType(expr.CmpOpEq, typeLocal)
	var out []rule
	for _, p := range []byte{unix.IPPROTO_ESP, unix.IPPROTO_AH} {
		out = append(out,
			join(icmpAbout(false, icmpUnreachable, codeTooBig, p), toMe, accept()),
			join(icmpAbout(true, icmp6TooBig, 0, p), toMe, accept()))
	}
	hi, lo := byte(portESPInUDP>>8), byte(portESPInUDP&0xff)
	return append(out,
		join(icmpAbout(false, icmpUnreachable, codeTooBig, unix.IPPROTO_UDP), transportIs(quotedUDPPorts4, hi, lo), toMe, accept()),
		join(icmpAbout(true, icmp6TooBig, 0, unix.IPPROTO_UDP), transportIs(quotedUDPPorts6, hi, lo), toMe, accept()))
}

// unreachableRules drop what the kernel says of ESP and AH when no socket
// takes them: peers could take the data path for gone.
func unreachableRules() []rule {
	fromMe := saddrType(expr.CmpOpEq, typeLocal)
	var out []rule
	for _, p := range []byte{unix.IPPROTO_ESP, unix.IPPROTO_AH} {
		out = append(out,
			join(icmpAbout(false, icmpUnreachable, codeNoProtocol, p), fromMe, drop()),
			join(icmpAbout(true, icmp6Parameter, codeNoNextHeader, p), fromMe, drop()))
	}
	return out
}

// exemptRules accept IPv6 neighbour discovery (RFC 4861: types 133 to 137, hop
// limit 255, so from the link) and multicast listener discovery (RFC 2710,
// RFC 3810: types 130 to 132 and 143, hop limit 1, from a link-local or no
// address).
func exemptRules() []rule {
	icmp6 := join(familyIs(unix.NFPROTO_IPV6), protocolIs(unix.IPPROTO_ICMPV6))
	const hopLimit = 7
	return []rule{
		join(icmp6, netIs(hopLimit, discoveryHopLimit), typeBetween(133, 137), accept()),
		join(icmp6, netIs(hopLimit, listenerHopLimit), typeBetween(130, 132), jump(chainListener)),
		join(icmp6, netIs(hopLimit, listenerHopLimit), typeBetween(143, 143), jump(chainListener)),
	}
}

const sourceOffset6 = 8

func linkLocalSource() []expr.Any {
	return masked(sourceOffset6, []byte{0xff, 0xc0, 0, 0}, []byte{0xfe, 0x80, 0, 0})
}

func listenerRules() []rule {
	return []rule{
		join(linkLocalSource(), accept()),
		join(netIs(sourceOffset6, make([]byte, 16)...), accept()),
	}
}

// refuseUnicastRules decide packets in clear under a filter that requests
// security and does not accept unsecured packets: multicast and broadcast
// cannot be secured and pass.
func refuseUnicastRules() []rule {
	return []rule{
		join(daddrType(expr.CmpOpEq, typeMulticast), accept()),
		join(daddrType(expr.CmpOpEq, typeBroadcast), accept()),
		join(goTo(chainRefuse)),
	}
}

// readable holds for packets with the 8 bytes that every upper-layer header
// looked into has, and not for fragments. The kernel checks that only in loads
// longer than 4 bytes: shorter ones read a fragment's data as if it were ports.
func readable() []expr.Any {
	return []expr.Any{load(expr.PayloadBaseTransportHeader, 0, 8, scratch)}
}

// parseRules drop packets whose ports or ICMP type cannot be read: the rules
// behind it could not match them, and they would pass. Fragments are together
// again here; what is left is malformed or made by hand.
func parseRules() []rule {
	protocol := meta(expr.MetaKeyL4PROTO, scratch)
	unlooked := &expr.Lookup{SourceRegister: scratch, SetName: setLooked, Invert: true}
	return []rule{
		{protocol, unlooked, &expr.Verdict{Kind: expr.VerdictReturn}},
		join(readable(), verdict(expr.VerdictReturn, "")),
		join(count(counterOpaque), drop()),
	}
}

func (c Config) fromTUNRules() []rule {
	return []rule{clamp(false), clamp(true), join(setMark(c.Steer), accept())}
}
