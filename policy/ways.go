package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"ipsecagent/sadb"
)

// How many preshared keys, and authorities, the rules for one peer may name: a
// responder tries a proof under each (auth.MaxWays).
const (
	MaxKeys        = 64
	MaxAuthorities = 8
)

// way is what a peer may prove its identity under.
type way struct {
	kind    AuthKind
	key, ca string
	mapped  bool
}

// border is where the addresses of the peers begin or end that a filter
// negotiates with.
type border struct {
	at   netip.Addr
	end  bool
	ways []AuthMethod
}

// checkWays refuses more keys or authorities for one peer than a responder can
// try its proof under. It goes through the peers in the order of their
// addresses, so that thousands of rules, each for its own, cost little.
func (c *Compiled) checkWays() error {
	open := map[way]int{}
	count := map[AuthKind]int{}
	for _, b := range c.borders() {
		for _, m := range b.ways {
			w := way{m.Kind, m.Key, m.CA, m.MapToAccount}
			if b.end {
				if open[w]--; open[w] == 0 {
					count[m.Kind]--
				}
				continue
			}
			if open[w]++; open[w] == 1 {
				count[m.Kind]++
			}
			if limit := m.Kind.limit(); count[m.Kind] > limit {
				return fmt.Errorf("the rules for peer %s name more than %d %s: name fewer, or give rules filters for fewer peers", b.at, limit, m.Kind.ways())
			}
		}
	}
	return nil
}

// limit is how many ways of that kind may be named for one peer.
func (k AuthKind) limit() int {
	if k == PresharedKey {
		return MaxKeys
	}
	return MaxAuthorities
}

func (k AuthKind) ways() string {
	if k == PresharedKey {
		return "different preshared keys"
	}
	return "different authorities (one with and without mapToAccount counts twice)"
}

// borders returns those of all filters in order; where one begins at the
// address that another ends at, both hold it.
func (c *Compiled) borders() []border {
	all := make([]border, 0, 2*len(c.Filters)+4)
	add := func(a sadb.Addrs, methods []AuthMethod) {
		for _, r := range ranges(a) {
			all = append(all, border{r[0], false, methods}, border{r[1], true, methods})
		}
	}
	for i := range c.Filters {
		f := &c.Filters[i]
		switch {
		case f.Negotiation == nil:
		case f.Mode == sadb.Tunnel:
			add(sadb.Addr(f.TunnelRemote), f.Negotiation.Authentication)
		default:
			add(f.Selector.Remote, f.Negotiation.Authentication)
		}
	}
	if c.DefaultResponse != nil {
		add(sadb.AnyAddrs(), c.DefaultResponse.Authentication)
	}
	slices.SortFunc(all, func(a, b border) int {
		if by := a.at.Compare(b.at); by != 0 || a.end == b.end {
			return by
		}
		if a.end {
			return 1
		}
		return -1
	})
	return all
}

// ranges returns the first and last addresses that a stands for.
func ranges(a sadb.Addrs) [][2]netip.Addr {
	if from, to, ok := a.Bounds(); ok {
		return [][2]netip.Addr{{from, to}}
	}
	var last [16]byte
	for i := range last {
		last[i] = 0xff
	}
	return [][2]netip.Addr{{netip.IPv4Unspecified(), netip.AddrFrom4([4]byte(last[:4]))}, {netip.IPv6Unspecified(), netip.AddrFrom16(last)}}
}
