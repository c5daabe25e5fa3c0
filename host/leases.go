package host

import (
	"net/netip"
	"strings"
)

// DHCP clients write their leases for themselves, each in a form of its own.
// What is not understood is left out: nothing here is an error, for a set may be
// empty.

// parseISC reads the leases of dhclient (dhclient.leases(5)): blocks of
// "lease { … }", the later of one address holding.
func parseISC(text []byte) []lease {
	var all []lease
	var l lease
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ";")
		name, value, _ := strings.Cut(strings.TrimPrefix(line, "option "), " ")
		switch {
		case name == "lease":
			l = lease{}
		case line == "}":
			all = keep(all, l)
			l = lease{}
		case name == "fixed-address":
			l.address = first(addresses(value))
		case name == "dhcp-server-identifier":
			l.server = first(addresses(value))
		case name == "domain-name-servers":
			l.dns = addresses(value)
		case name == "netbios-name-servers":
			l.wins = addresses(value)
		}
	}
	return all
}

// keep adds a lease in place of the former of the same address.
func keep(all []lease, l lease) []lease {
	if !l.address.IsValid() {
		return all
	}
	for i := range all {
		if all[i].address == l.address {
			all[i] = l
			return all
		}
	}
	if len(all) == maxLeases {
		return all
	}
	return append(all, l)
}

// parseKeyed reads a lease of systemd-networkd or of NetworkManager's own
// client: KEY=VALUE.
func parseKeyed(text []byte) []lease {
	var l lease
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "ADDRESS":
			l.address = first(addresses(value))
		case "SERVER_ADDRESS":
			l.server = first(addresses(value))
		case "DNS":
			l.dns = addresses(value)
		}
	}
	return keep(nil, l)
}

// parseRaw reads a lease of dhcpcd: the server's message as it came (RFC 2131
// §2, options of RFC 2132).
func parseRaw(text []byte) []lease {
	const yiaddr, cookie, options = 16, 236, 240
	if len(text) < options || [4]byte(text[cookie:options]) != [4]byte{99, 130, 83, 99} {
		return nil
	}
	l := lease{address: netip.AddrFrom4([4]byte(text[yiaddr : yiaddr+4]))}
	for rest := text[options:]; len(rest) > 0; {
		const pad, end = 0, 255
		if rest[0] == end {
			break
		}
		if rest[0] == pad {
			rest = rest[1:]
			continue
		}
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return nil
		}
		l.option(rest[0], rest[2:2+int(rest[1])])
		rest = rest[2+int(rest[1]):]
	}
	return keep(nil, l)
}

// option takes an option of a DHCP message (RFC 2132 §3.8, §8.5, §9.7).
func (l *lease) option(code byte, value []byte) {
	var all []netip.Addr
	for ; len(value) >= 4; value = value[4:] {
		all = append(all, netip.AddrFrom4([4]byte(value[:4])))
	}
	switch code {
	case 6:
		l.dns = all
	case 44:
		l.wins = all
	case 54:
		l.server = first(all)
	}
}

// addresses reads addresses with commas or spaces between them; what is none is
// left out.
func addresses(s string) []netip.Addr {
	var all []netip.Addr
	for _, field := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		if a, err := netip.ParseAddr(field); err == nil && len(all) < maxSet {
			all = append(all, a)
		}
	}
	return all
}

func first(all []netip.Addr) netip.Addr {
	if len(all) == 0 {
		return netip.Addr{}
	}
	return all[0]
}
