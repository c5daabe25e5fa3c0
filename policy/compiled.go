package policy

import (
	"net/netip"
	"time"

	"ipsecagent/sadb"
)

// Host is the facts of a host that compilation needs. The zero value is a host
// without addresses; every filter with Me still covers the ones that come.
type Host struct {
	Addresses []netip.Addr
	// Outer is the address of this host that packets to a tunnel endpoint
	// come from, by endpoint (TunnelEndpoints). One that is missing cannot be
	// reached: the traffic of its tunnel is blocked.
	Outer map[netip.Addr]netip.Addr
	// NoUplift: this host offers what policies list and nothing else.
	NoUplift bool
}

// Negotiation is what a filter of action Negotiate offers and accepts.
type Negotiation struct {
	Proposals      []sadb.Proposal // in order of preference
	PFS            bool
	PFSGroup       sadb.Group // 0: the group of the main mode
	Authentication []AuthMethod
	// Uplifted marks the proposals that the policy does not list and uplift
	// has put before those it lists; as many as Proposals, or none.
	Uplifted []bool
}

// CompiledFilter is a filter of the SPD with what the agent needs beside it.
type CompiledFilter struct {
	sadb.Filter
	Rule       string // names of the objects it comes from
	FilterList string
	// Negotiation is nil unless the action negotiates.
	Negotiation *Negotiation
	// Weight and Reason say why the filter stands where it stands: a filter
	// of a greater weight decides first; Reason in words.
	Weight int
	Reason string
}

// Compiled is a policy compiled for one host: the same policy and facts give
// the same value, byte for byte.
type Compiled struct {
	Policy      string // name
	KeyExchange KeyExchange
	// UpliftedMain is how many of the main-mode methods, from the first on,
	// the policy does not list.
	UpliftedMain int
	// Filters in order of decision. What none of them matches passes
	// unmodified.
	Filters []CompiledFilter
	// DefaultResponse is nil when the rule is not active.
	DefaultResponse *Negotiation
	PollingInterval time.Duration
}

// SPD returns the filters as a driver takes them.
func (c *Compiled) SPD() []sadb.Filter {
	spd := make([]sadb.Filter, len(c.Filters))
	for i, f := range c.Filters {
		spd[i] = f.Filter
	}
	return spd
}
