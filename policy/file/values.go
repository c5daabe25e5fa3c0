package file

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func parseText(s string) (string, error) { return s, nil }

func parseBool(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return int(n), nil
}

const day = 24 * time.Hour

// parseDuration reads 8h, 30m, 90s, 500ms, 1d, 1d12h.
func parseDuration(s string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is not a duration such as 8h, 30m, 90s or 1d", s)
	var total time.Duration
	rest := s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16) // 65535 days do not overflow
		if err != nil {
			return 0, wrong
		}
		total, rest = time.Duration(n)*day, after
		if rest == "" {
			return total, nil
		}
	}
	if rest == "" || rest[0] < '0' || rest[0] > '9' { // no sign
		return 0, wrong
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d > 65535*day {
		return 0, wrong
	}
	return total + d, nil
}

// formatDuration writes what parseDuration reads, in the largest unit that
// says it exactly.
func formatDuration(d time.Duration) string {
	units := []struct {
		size time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}}
	for _, u := range units {
		if d%u.size == 0 {
			return fmt.Sprintf("%d%s", d/u.size, u.name)
		}
	}
	return d.String()
}

type sizeUnit struct {
	name string
	size uint64
}

// sizeUnits are the units of sizes, larger before smaller.
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3},
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1},
	}
}

// parseSize reads 100GB (10^9), 1GiB (2^30), 5000000B.
func parseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "BKMGTik")
	n, err := strconv.ParseUint(digits, 10, 64)
	for _, u := range sizeUnits() {
		if err == nil && s[len(digits):] == u.name && n <= (1<<63)/u.size {
			return n * u.size, nil
		}
	}
	return 0, fmt.Errorf("%q is not a size such as 100MB, 100GB or 1GiB", s)
}

// formatSize writes what parseSize reads.
func formatSize(n uint64) string {
	for _, u := range sizeUnits() {
		if n%u.size == 0 {
			return strconv.FormatUint(n/u.size, 10) + u.name
		}
	}
	return ""
}

func parseProtocol(s string) (uint8, error) {
	p, ok := policy.ParseProtocol(s)
	if !ok {
		return 0, fmt.Errorf("unknown protocol %q (any, tcp, udp, sctp, dccp, icmp, icmpv6 or 1-255)", s)
	}
	return p, nil
}

// parsePorts reads any, 443 or 8000-8100.
func parsePorts(s string) (sadb.Ports, error) {
	if s == "any" {
		return sadb.Ports{}, nil
	}
	from, to, err := parseRange(s, 16)
	if err != nil || from == 0 {
		return sadb.Ports{}, fmt.Errorf("%q is not a port (1-65535), a range such as 8000-8100, or any", s)
	}
	return sadb.Ports{From: uint16(from), To: uint16(to)}, nil
}

// parseOctets reads any, 8 or 0-8.
func parseOctets(s string) (sadb.Octets, error) {
	if s == "any" {
		return sadb.Octets{}, nil
	}
	from, to, err := parseRange(s, 8)
	if err != nil {
		return sadb.Octets{}, fmt.Errorf("%q is not an ICMP number (0-255), a range such as 0-8, or any", s)
	}
	return sadb.Octets{From: uint8(from), To: uint8(to), Set: true}, nil
}

func parseRange(s string, bits int) (from, to uint64, err error) {
	first, last, ranged := strings.Cut(s, "-")
	if from, err = strconv.ParseUint(first, 10, bits); err != nil {
		return 0, 0, err
	}
	if !ranged {
		return from, from, nil
	}
	to, err = strconv.ParseUint(last, 10, bits)
	return from, to, err
}

func parseEndpoint(s string) (policy.Endpoint, error) {
	for _, k := range []policy.EndpointKind{
		policy.Any, policy.Me, policy.DNSServers, policy.WINSServers, policy.DHCPServers, policy.DefaultGateway,
	} {
		if k.String() == s {
			return policy.Endpoint{Kind: k}, nil
		}
	}
	a, err := parseAddrs(s)
	return policy.Endpoint{Kind: policy.Addresses, Addrs: a}, err
}

// parseAddrs reads an address, a prefix or a range a-b.
func parseAddrs(s string) (sadb.Addrs, error) {
	if strings.Contains(s, "/") {
		return parsePrefix(s)
	}
	first, last, ranged := strings.Cut(s, "-")
	if _, err := netip.ParseAddr(first); err != nil {
		return sadb.Addrs{}, fmt.Errorf("%q is not an IP address; any, me, an address, a prefix, a range a-b, dns-servers, wins-servers, dhcp-servers, default-gateway or {name: host.example} is expected", s)
	}
	from, err := parseAddr(first)
	if err != nil {
		return sadb.Addrs{}, err
	}
	if !ranged {
		return sadb.Addr(from), nil
	}
	to, err := parseAddr(last)
	if err != nil {
		return sadb.Addrs{}, err
	}
	if from.Is4() != to.Is4() || to.Less(from) {
		return sadb.Addrs{}, fmt.Errorf("%q is not a range of one family from a lower to a higher address", s)
	}
	return sadb.Range(from, to), nil
}

// lengthOf says the length of a prefix that is written with a mask.
func lengthOf(s string) string {
	address, mask, _ := strings.Cut(s, "/")
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() {
		return ""
	}
	ones, bits := net.IPMask(m.AsSlice()).Size()
	if bits == 0 {
		return ""
	}
	return fmt.Sprintf("; write %s/%d", address, ones)
}

func parsePrefix(s string) (sadb.Addrs, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return sadb.Addrs{}, fmt.Errorf("%q is not a prefix such as 10.0.0.0/8 or 2001:db8::/32%s", s, lengthOf(s))
	}
	if p != p.Masked() {
		return sadb.Addrs{}, fmt.Errorf("%q has bits behind the prefix; write %s for the network or %s for the host", s, p.Masked(), p.Addr())
	}
	return sadb.Prefix(p), nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	if a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q has a zone, which means nothing on another host; leave it out", s)
	}
	if a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%q is an IPv4 address written as IPv6; write %s", s, a.Unmap())
	}
	return a, nil
}

// parseSimpleAction reads the actions without settings.
func parseSimpleAction(s string) (sadb.ActionKind, error) {
	switch s {
	case sadb.Permit.String():
		return sadb.Permit, nil
	case sadb.Block.String():
		return sadb.Block, nil
	}
	return sadb.Block, fmt.Errorf("%q is neither permit nor block; to negotiate security write negotiate: with its methods", s)
}

// suiteOf reads a suite of one protocol, with or without the prefix.
func suiteOf(prefix string) func(string) (sadb.Suite, error) {
	return func(s string) (sadb.Suite, error) {
		return sadb.ParseSuite(prefix + strings.TrimPrefix(s, prefix))
	}
}

func parseAuthentication(s string) (policy.AuthKind, error) {
	switch s {
	case "kerberos":
		return policy.Kerberos, nil
	case "psk":
		return policy.PresharedKey, nil
	case "certificate":
		return 0, fmt.Errorf(`a certificate names its authority: {certificate: {ca: "CN=…"}}`)
	}
	return 0, fmt.Errorf("unknown authentication method %q (kerberos, certificate, psk)", s)
}

func parseConnections(s string) (sadb.ConnectionType, error) {
	for c := sadb.AllConnections; c <= sadb.RemoteAccess; c++ {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, fmt.Errorf("unknown connection type %q (all, lan, remote-access)", s)
}
