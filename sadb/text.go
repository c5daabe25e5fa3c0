package sadb

import (
	"fmt"
	"net/netip"
	"strings"
)

// MarshalText returns what String does, for JSON and the like.
func (a Addrs) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes: "any", "me", an address, a
// prefix or a range.
func (a *Addrs) UnmarshalText(text []byte) error {
	got, err := parseAddrs(string(text))
	if err != nil {
		return fmt.Errorf("sadb: addresses %q: %w", text, err)
	}
	*a = got
	return nil
}

func parseAddrs(s string) (Addrs, error) {
	switch s {
	case "any":
		return AnyAddrs(), nil
	case "me":
		return Me(), nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Addrs{}, err
		}
		return Prefix(p), nil
	}
	first, last, isRange := strings.Cut(s, "-")
	from, err := netip.ParseAddr(first)
	if err != nil || !isRange {
		last = first
	}
	to, err2 := netip.ParseAddr(last)
	switch {
	case err != nil:
		return Addrs{}, err
	case err2 != nil:
		return Addrs{}, err2
	case from.Is4In6() || to.Is4In6() || from.BitLen() != to.BitLen() || to.Less(from):
		return Addrs{}, fmt.Errorf("no ascending range of one family")
	}
	return Range(from, to), nil
}
