package policy

import (
	"fmt"
	"net/netip"
	"strings"
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
	// Names is what DNS names stand for now, by CanonicalName. One that is
	// missing stands for nothing.
	Names map[string][]netip.Addr
	// Sets is what the sets of the host's own configuration hold now
	// (DNSServers, WINSServers, DHCPServers, DefaultGateway).
	Sets map[EndpointKind][]netip.Addr
	// Broadcasts are the broadcast addresses of the networks this host is on.
	Broadcasts []netip.Addr
	// Exempt is what passes before the policy is asked.
	Exempt Exemptions
	// Now is the moment it is compiled for, which decides over report mode
	// alone. Zero: all report mode has ended.
	Now time.Time
	// NoUplift: this host offers what policies list and nothing else.
	NoUplift bool
	// Carries is what the data path of this host carries: nothing else is
	// offered. Nil: not known, and all is.
	Carries []sadb.Suite
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
	// Left is what the policy lists and is not offered, because the data path
	// of the host does not carry it. With no Proposals beside it nothing can be
	// negotiated.
	Left []sadb.Proposal
}

// CompiledFilter is a filter of the SPD with what the agent needs beside it.
type CompiledFilter struct {
	sadb.Filter
	Rule       string // names of the objects it comes from
	FilterList string
	// Expanded are the names and sets that the addresses of the filter come
	// from: none, or one for each side that has one.
	Expanded []Endpoint
	// Negotiation is nil unless the action negotiates.
	Negotiation *Negotiation
	// Report is nil unless the rule is in report mode.
	Report *Report
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
	// Unresolved are the names and sets that stand for nothing now, so that
	// filters which need them match nothing and tunnels to them are blocked.
	Unresolved []Unresolved
	// DefaultResponse is nil when the rule is not active.
	DefaultResponse *Negotiation
	// ReportOnly: the policy itself is in report mode, so that what the
	// default response rule secures may pass in clear, too.
	ReportOnly      bool
	PollingInterval time.Duration
}

// Unresolved is a name or set of a rule that stands for no address that a
// packet could have.
type Unresolved struct {
	Rule       string
	FilterList string
	// Filter counts from 1, as the list is written; 0: it is the rule's
	// tunnel endpoint, whose traffic is blocked.
	Filter   int
	Endpoint Endpoint
}

// String says what stands for nothing, and what that means.
func (u Unresolved) String() string {
	if u.Filter == 0 {
		return fmt.Sprintf("rule %q: its tunnel endpoint %s stands for no address of another gateway now: its traffic is blocked", u.Rule, u.Endpoint)
	}
	return fmt.Sprintf("rule %q, filter list %q, filter %d: %s stands for no address now: the filter matches nothing", u.Rule, u.FilterList, u.Filter, u.Endpoint)
}

// SPD returns the filters as a driver takes them.
func (c *Compiled) SPD() []sadb.Filter {
	spd := make([]sadb.Filter, len(c.Filters))
	for i, f := range c.Filters {
		spd[i] = f.Filter
	}
	return spd
}

// LeftWords names the methods of Left, for people.
func (n *Negotiation) LeftWords() string {
	var names []string
	for _, p := range n.Left {
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
}
