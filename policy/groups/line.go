package groups

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// spot is the traffic of one line: between this host and a prefix.
type spot struct {
	prefix      netip.Prefix
	protocol    uint8  // 0: any
	own, theirs uint16 // ports; 0: any
}

// String returns the line as libreswan writes it.
func (s spot) String() string {
	if s.protocol == 0 {
		return s.prefix.String()
	}
	return fmt.Sprintf("%s %s %d %d", s.prefix, sadb.ProtoName(s.protocol), s.own, s.theirs)
}

// meets reports whether a packet of both protocols and ports exists; of the
// prefixes one contains the other.
func (s spot) meets(t spot) bool {
	either := func(a, b uint16) bool { return a == 0 || b == 0 || a == b }
	return (s.protocol == 0 || t.protocol == 0 || s.protocol == t.protocol) && either(s.own, t.own) && either(s.theirs, t.theirs)
}

// group reports whether every address is multicast, or the broadcast one.
func (s spot) group() bool {
	a := s.prefix.Addr()
	least := 4 // 224.0.0.0/4
	if a.Is6() {
		least = 8 // ff00::/8
	}
	return a.IsMulticast() && s.prefix.Bits() >= least || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// filter is the traffic in both directions.
func (s spot) filter() policy.Filter {
	return policy.Filter{
		From:     policy.Endpoint{Kind: policy.Me},
		To:       policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(s.prefix)},
		Protocol: s.protocol, FromPorts: ports(s.own), ToPorts: ports(s.theirs), Mirrored: true,
	}
}

func ports(p uint16) sadb.Ports { return sadb.Ports{From: p, To: p} }

// parseLine reads "10.0.1.0/24" or "10.0.1.0/24 tcp 0 22": prefix, protocol,
// port of this host, port of the other. ok is false for a line that says
// nothing.
func parseLine(line []byte) (s spot, ok bool, err error) {
	if !utf8.Valid(line) {
		return s, false, errors.New("the line is not UTF-8 text")
	}
	text, _, _ := strings.Cut(string(line), "#")
	words := strings.Fields(text)
	switch len(words) {
	case 0:
		return s, false, nil
	case 1, 4:
	default:
		return s, false, fmt.Errorf("%d words; a line is a prefix, or a prefix, a protocol, the port of this host and the port of the other (0: any)", len(words))
	}
	if s.prefix, err = parsePrefix(words[0]); err != nil || len(words) == 1 {
		return s, err == nil, err
	}
	return s, true, s.narrow(words[1:])
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, addrErr := netip.ParseAddr(text)
		if addrErr != nil || a.Zone() != "" {
			return p, fmt.Errorf("%q is neither a prefix such as 10.0.1.0/24 nor an address", text)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%q is IPv4 written as IPv6; write it as IPv4", text)
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits behind the prefix; write %s for the network or %s for the host", text, p.Masked(), p.Addr())
	case p.IsSingleIP() && p.Addr().IsUnspecified():
		return p, fmt.Errorf("%q is not an address of a host; write %s/0 for every address", text, p.Addr())
	}
	return p, nil
}

// narrow reads protocol and ports.
func (s *spot) narrow(words []string) error {
	proto, ok := policy.ParseProtocol(strings.ToLower(words[0]))
	if words[0] == "0" {
		proto, ok = 0, true
	}
	if !ok {
		return fmt.Errorf("unknown protocol %q; write tcp, udp, icmp, icmpv6, sctp, or a number up to 255", words[0])
	}
	s.protocol = proto
	for i, into := range []*uint16{&s.own, &s.theirs} {
		n, err := strconv.ParseUint(words[i+1], 10, 16)
		if err != nil {
			return fmt.Errorf("%q is not the number of a port; write 0 for any", words[i+1])
		}
		*into = uint16(n)
	}
	switch {
	case (s.own != 0 || s.theirs != 0) && !sadb.HasPorts(proto):
		return fmt.Errorf("protocol %s has no ports; write 0 0", sadb.ProtoName(proto))
	case proto == sadb.ICMP && !s.prefix.Addr().Is4(), proto == sadb.ICMPv6 && s.prefix.Addr().Is4():
		return fmt.Errorf("%s is not spoken with %s", sadb.ProtoName(proto), s.prefix)
	}
	return nil
}
