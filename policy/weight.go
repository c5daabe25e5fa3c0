package policy

import (
	"fmt"
	"math/bits"
	"strings"

	"ipsecagent/sadb"
)

// The order of filters, most significant first. Windows documents only that
// the more specific filter decides; this order is complete, so that every host
// decides alike, and can be told in words.
//
//	place       the exemptions, then tunnels, then all others
//	addresses   both sides' specificity added: Me and a single address 128,
//	            Any 0, a prefix or range by its width
//	remote      the remote side's alone
//	protocol    one protocol before all
//	remote port a narrower range before a wider one
//	local port  likewise
//	ICMP        type and code likewise
//	connection  one type before all
//	action      block, negotiate, permit: fail closed
//	ID          between equals, stable
//
// Weight packs all but the last into one number of 38 bits, exact in JSON. It is
// the order of the model's specific filters; type of connection and ICMP are our
// own, where Windows has none or says nothing.

// place is what comes before all specificity.
type place int

const (
	ordinary place = iota
	inTunnel       // the filters of tunnel rules are asked first
	aboveAll       // the exemptions
)

func placeOf(rule *Rule) place {
	if rule.Tunnel.IsZero() {
		return ordinary
	}
	return inTunnel
}

// weigh returns the weight of a filter and the reason in words.
func weigh(f sadb.Filter, p place) (int, string) {
	s := f.Selector
	local, remote := s.Local.Specificity(), s.Remote.Specificity()
	w := int(p)
	w = w<<9 | local + remote // 0…256
	w = w<<8 | remote         // 0…128
	w = w<<1 | protocolOf(s)  // 0, 1
	w = w<<5 | portWeight(s.RemotePorts)
	w = w<<5 | portWeight(s.LocalPorts)
	w = w<<5 | octetWeight(s.ICMPType) + octetWeight(s.ICMPCode)
	w = w<<1 | connectionWeight(f.Connections)
	w = w<<2 | actionWeight(f.Action.Kind)
	return w, reason(f, p)
}

func protocolOf(s sadb.Selector) int {
	if s.Proto == 0 {
		return 0
	}
	return 1
}

// portWeight is 0 for all ports, 17 for one, and between them 17 less log2 of
// the number of ports, rounded up: a range is always more specific than none.
func portWeight(p sadb.Ports) int {
	if p.IsAny() {
		return 0
	}
	return 17 - bits.Len16(p.To-p.From)
}

// octetWeight is 0 for all values, 9 for one, and between them likewise.
func octetWeight(o sadb.Octets) int {
	if !o.Set {
		return 0
	}
	return 9 - bits.Len8(o.To-o.From)
}

func connectionWeight(c sadb.ConnectionType) int {
	if c == sadb.AllConnections {
		return 0
	}
	return 1
}

func actionWeight(k sadb.ActionKind) int {
	switch k {
	case sadb.Permit:
		return 0
	case sadb.Negotiate:
		return 1
	}
	return 2
}

// reason says in words what weigh counted.
func reason(f sadb.Filter, p place) string {
	s := f.Selector
	var words []string
	if p == inTunnel {
		words = append(words, "tunnels are asked first")
	}
	words = append(words, sides(s.Local, s.Remote))
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if s.Proto != 0 {
		add("protocol %s", sadb.ProtoName(s.Proto))
	}
	if !s.RemotePorts.IsAny() {
		add("remote port %s", s.RemotePorts)
	}
	if !s.LocalPorts.IsAny() {
		add("local port %s", s.LocalPorts)
	}
	if s.ICMPType.Set {
		add("ICMP type %s", s.ICMPType)
	}
	if s.ICMPCode.Set {
		add("code %s", s.ICMPCode)
	}
	if f.Connections != sadb.AllConnections {
		add("connection %s", f.Connections)
	}
	add("%s", f.Action.Kind)
	return strings.Join(words, "; ")
}

func sides(local, remote sadb.Addrs) string {
	const whole = 128
	l, r := local.Specificity(), remote.Specificity()
	switch {
	case l == whole && r == whole:
		return "both sides single addresses"
	case l == 0 && r == 0:
		return "both sides any address"
	}
	return fmt.Sprintf("local %s (%d), remote %s (%d)", sideWords(local), l, sideWords(remote), r)
}

func sideWords(a sadb.Addrs) string {
	if a.IsAny() {
		return "any address"
	}
	return a.String()
}
