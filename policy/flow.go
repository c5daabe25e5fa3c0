package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"ipsecagent/sadb"
)

// ephemeralPort stands for a port that a flow does not name: one that no
// filter is likely to single out.
const ephemeralPort = 50000

// ParseFlow reads a flow, the headers of one packet, and the direction in
// which it passes this host. The grammar:
//
//	flow     = protocol side "->" side     sender, receiver
//	protocol = "tcp" | "udp" | "sctp" | "dccp" | 1…255
//	         | ("icmp" | "icmpv6") [":" type ["/" code]]      echo request
//	side     = host [":" port]             no port: 50000, an ephemeral one
//	host     = "me" ["=" address] | address      IPv6 with a port: [address]
//
// me is this host at no particular address; me=10.0.0.5 is this host at that
// one. With me to the right the packet comes in, else it goes out; without me
// it is forwarded.
func ParseFlow(text string) (sadb.Flow, sadb.Directions, error) {
	left, right, ok := strings.Cut(text, "->")
	fields := strings.Fields(left)
	if !ok || len(fields) != 2 || len(strings.Fields(right)) != 1 {
		return sadb.Flow{}, 0, fmt.Errorf(`flow %q is not "PROTOCOL FROM -> TO", for example "tcp me:1433 -> 10.1.2.3"`, text)
	}
	var f sadb.Flow
	if err := parseProtocol(&f, fields[0]); err != nil {
		return sadb.Flow{}, 0, fmt.Errorf("flow %q: %w", text, err)
	}
	from, err := parseSide(fields[1], f.Proto)
	if err != nil {
		return sadb.Flow{}, 0, fmt.Errorf("flow %q: %w", text, err)
	}
	to, err := parseSide(strings.TrimSpace(right), f.Proto)
	if err != nil {
		return sadb.Flow{}, 0, fmt.Errorf("flow %q: %w", text, err)
	}
	if from.me && to.me {
		return sadb.Flow{}, 0, fmt.Errorf("flow %q goes from me to me: traffic of a host with itself is never filtered", text)
	}
	dir := sadb.Out
	if to.me {
		dir, from, to = sadb.In, to, from
	}
	f.Local, f.LocalMe, f.LocalPort = from.addr, from.me, from.port
	f.Remote, f.RemotePort = to.addr, to.port
	if f.Local.IsValid() && f.Remote.IsValid() && f.Local.Is4() != f.Remote.Is4() {
		return sadb.Flow{}, 0, fmt.Errorf("flow %q goes between IPv4 and IPv6", text)
	}
	return f, dir, nil
}

func parseProtocol(f *sadb.Flow, text string) error {
	name, kind, typed := strings.Cut(text, ":")
	proto, ok := ParseProtocol(name)
	if !ok || proto == 0 {
		return fmt.Errorf("unknown protocol %q (tcp, udp, sctp, dccp, icmp, icmpv6 or 1-255)", name)
	}
	f.Proto = proto
	if proto == sadb.ICMP {
		f.ICMPType = 8
	}
	if proto == sadb.ICMPv6 {
		f.ICMPType = 128
	}
	if !typed {
		return nil
	}
	if !sadb.HasICMP(proto) {
		return fmt.Errorf("%q: only icmp and icmpv6 have a type", text)
	}
	return parseTypeCode(f, kind)
}

func parseTypeCode(f *sadb.Flow, text string) error {
	t, c, coded := strings.Cut(text, "/")
	typ, err := strconv.ParseUint(t, 10, 8)
	if err != nil {
		return fmt.Errorf("ICMP type %q is not 0-255", t)
	}
	f.ICMPType = uint8(typ)
	if !coded {
		return nil
	}
	code, err := strconv.ParseUint(c, 10, 8)
	if err != nil {
		return fmt.Errorf("ICMP code %q is not 0-255", c)
	}
	f.ICMPCode = uint8(code)
	return nil
}

// ParseProtocol reads the name or number of an IP protocol; "any" is 0.
func ParseProtocol(name string) (proto uint8, ok bool) {
	for _, p := range []uint8{0, sadb.ICMP, sadb.TCP, sadb.UDP, sadb.DCCP, sadb.ICMPv6, sadb.SCTP} {
		if sadb.ProtoName(p) == name {
			return p, true
		}
	}
	n, err := strconv.ParseUint(name, 10, 8)
	return uint8(n), err == nil && n > 0
}

type flowSide struct {
	addr netip.Addr
	me   bool
	port uint16
}

func parseSide(text string, proto uint8) (flowSide, error) {
	s := flowSide{}
	rest, me := strings.CutPrefix(text, "me")
	if me {
		s.me = true
		var named bool
		if rest, named = strings.CutPrefix(rest, "="); !named {
			err := s.parsePort(rest, proto)
			return s, err
		}
		text = rest
	}
	host, port := splitPort(text)
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return s, fmt.Errorf("%q is neither me nor an IP address", host)
	}
	s.addr = addr.Unmap()
	err = s.parsePort(port, proto)
	return s, err
}

// splitPort returns the host, and the port with its colon if there is one.
func splitPort(text string) (host, port string) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		host, port, _ = strings.Cut(inner, "]")
		return host, port
	}
	if strings.Count(text, ":") != 1 {
		return text, ""
	}
	i := strings.IndexByte(text, ':')
	return text[:i], text[i:]
}

// parsePort reads ":80"; the empty text leaves an ephemeral port.
func (s *flowSide) parsePort(text string, proto uint8) error {
	if !sadb.HasPorts(proto) {
		if text != "" {
			return fmt.Errorf("protocol %s has no ports", sadb.ProtoName(proto))
		}
		return nil
	}
	if text == "" {
		s.port = ephemeralPort
		return nil
	}
	digits, ok := strings.CutPrefix(text, ":")
	port, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || port == 0 {
		return fmt.Errorf("port %q is not 1-65535", digits)
	}
	s.port = uint16(port)
	return nil
}
