package policy

import (
	"fmt"
	"sort"
	"time"

	"ipsecagent/sadb"
)

// What a policy means where it says nothing.
const (
	defaultPolling  = 3 * time.Hour
	defaultMainMode = 8 * time.Hour
	defaultLifetime = time.Hour
	defaultBytes    = 100_000_000_000
	// defaultBytes64 keeps ciphers of 64-bit blocks far below the birthday
	// bound of 32 GB (RFC 7296 §5 and the attack called Sweet32); it is what
	// the Windows model has.
	defaultBytes64 = 100_000_000
)

// Compile turns p into the filters of one host in their order of decision. It
// is pure: the same policy and facts give the same value. Me stays symbolic: the
// host's addresses decide over the ends of tunnels alone. A policy that Validate
// refuses does not compile, nor one that names too many ways for one peer to
// prove itself. The result shares the policy's slices: p is not changed
// afterwards.
func Compile(p *Policy, h Host) (*Compiled, error) {
	err := Validate(p)
	if err == nil {
		err = p.checkEndpoints(h)
	}
	if err != nil {
		return nil, fmt.Errorf("policy: compile %q: %w", p.Name, err)
	}
	c := &Compiled{
		Policy:          p.Name,
		PollingInterval: p.PollingInterval,
	}
	c.KeyExchange, c.UpliftedMain = p.effectiveKeyExchange(p.uplifts(h))
	if c.PollingInterval == 0 {
		c.PollingInterval = defaultPolling
	}
	ways := p.oneWays()
	for i := range p.Rules {
		if !p.Rules[i].Disabled {
			c.Filters = append(c.Filters, p.compileRule(&p.Rules[i], h, ways)...)
		}
	}
	sortFilters(c.Filters)
	if d := p.DefaultResponse; d.Active {
		c.DefaultResponse = &Negotiation{Authentication: d.Authentication}
		c.DefaultResponse.offer(d.Methods, p.uplifts(h))
	}
	if err := c.checkWays(); err != nil {
		return nil, fmt.Errorf("policy: compile %q: %w", p.Name, err)
	}
	return c, nil
}

// sortFilters puts the greatest weight first; IDs decide between equals, so
// that the order is the same on every host and run.
func sortFilters(filters []CompiledFilter) {
	sort.Slice(filters, func(i, j int) bool {
		if filters[i].Weight != filters[j].Weight {
			return filters[i].Weight > filters[j].Weight
		}
		return filters[i].ID < filters[j].ID
	})
}

func (p *Policy) effectiveKeyExchange(uplift bool) (k KeyExchange, uplifted int) {
	k = p.KeyExchange
	if len(k.Methods) == 0 {
		k.Methods = modernKeyExchange()
	}
	if uplift && oldMain(k.Methods) {
		uplifted = len(modernKeyExchange())
		k.Methods = append(modernKeyExchange(), k.Methods...)
	}
	if k.Lifetime == 0 {
		k.Lifetime = defaultMainMode
	}
	if k.MasterKeyPFS {
		k.Sessions = 1 // whatever the limit says, as in the Windows model
	}
	return k, uplifted
}

// compileRule makes the filters of one rule. Filters of its list that come out
// alike (a filter and its own mirror) are one.
func (p *Policy) compileRule(rule *Rule, h Host, ways map[oneWay]*Rule) []CompiledFilter {
	list := &p.FilterLists[p.list(rule.FilterList)]
	action := p.action(rule.FilterAction)
	negotiation := negotiationOf(action, rule, p.uplifts(h))
	seen := map[sadb.FilterID]bool{}
	var out []CompiledFilter
	for _, f := range list.Filters {
		for _, o := range h.oriented(rule, f) {
			c := compileFilter(rule, list, o)
			if seen[c.ID] {
				continue
			}
			seen[c.ID] = true
			c.Action = actionOf(action)
			c.Negotiation = negotiation
			h.shape(&c, rule, ways[wayOf(f).back()])
			c.Weight, c.Reason = weigh(c.Filter)
			out = append(out, c)
		}
	}
	return out
}

func compileFilter(rule *Rule, list *FilterList, o orientation) CompiledFilter {
	name := rule.Name
	if name == "" {
		name = rule.GUID
	}
	return CompiledFilter{
		Filter: sadb.Filter{
			ID:       sadb.NewFilterID(identityOf(rule, list, o)...),
			Name:     name + " / " + list.Name,
			Selector: o.selector,
			Dir:      o.dir,
		},
		Rule:       name,
		FilterList: list.Name,
	}
}

// identityOf is what makes a filter the same from one compilation to the next.
func identityOf(rule *Rule, list *FilterList, o orientation) []string {
	parts := []string{rule.identity(), list.Name, o.selector.String(), o.dir.String()}
	if !rule.Tunnel.IsZero() {
		parts = append(parts, rule.Tunnel.Endpoint.String())
	}
	return parts
}

func actionOf(a *FilterAction) sadb.Action {
	if a.Kind != sadb.Negotiate {
		return sadb.Action{Kind: a.Kind}
	}
	return sadb.Action{
		Kind:        sadb.Negotiate,
		PassThrough: a.AcceptUnsecured,
		AllowClear:  a.AllowClear,
		ClearDelay:  a.ClearDelay,
	}
}

func negotiationOf(a *FilterAction, rule *Rule, uplift bool) *Negotiation {
	if a.Kind != sadb.Negotiate {
		return nil
	}
	n := &Negotiation{PFS: a.SessionKeyPFS, PFSGroup: a.PFSGroup, Authentication: rule.Authentication}
	n.offer(a.Methods, uplift)
	return n
}

// offer sets what is proposed and accepted, the modern methods first where uplift
// is on and only old ones are listed.
func (n *Negotiation) offer(methods []SecurityMethod, uplift bool) {
	if uplift {
		methods, n.Uplifted = upliftMethods(methods)
	}
	n.Proposals = proposals(methods)
}

// proposals turns security methods into what quick mode offers, every limit
// spelled out. None at all means the modern ones.
func proposals(methods []SecurityMethod) []sadb.Proposal {
	if len(methods) == 0 {
		methods = modernMethods()
	}
	out := make([]sadb.Proposal, len(methods))
	for i, m := range methods {
		limits := sadb.Limits{Time: m.Lifetime, Bytes: m.Bytes}
		if limits.Time == 0 {
			limits.Time = defaultLifetime
		}
		if limits.Bytes == 0 {
			limits.Bytes = defaultBytesOf(m.Suites)
		}
		out[i] = sadb.Proposal{Suites: m.Suites, Lifetime: limits}
	}
	return out
}

func defaultBytesOf(suites []sadb.Suite) uint64 {
	for _, s := range suites {
		if s.Encryption == sadb.DES || s.Encryption == sadb.TripleDES {
			return defaultBytes64
		}
	}
	return defaultBytes
}

// orientation is a filter seen from this host.
type orientation struct {
	selector sadb.Selector
	dir      sadb.Directions
}

// orientations turns source and destination into local and remote. With Me on
// one side there is one way to see it. Without, this host may be the source or
// the destination (or forward between them), so there are two.
func orientations(f Filter) []orientation {
	source := sadb.Selector{
		Local: f.From.addrs(), Remote: f.To.addrs(),
		Proto:      f.Protocol,
		LocalPorts: f.FromPorts, RemotePorts: f.ToPorts,
		ICMPType: f.ICMPType, ICMPCode: f.ICMPCode,
	}
	out, in := sadb.Out, sadb.In
	if f.Mirrored {
		out, in = sadb.Both, sadb.Both
	}
	asSource := orientation{selector: source, dir: out}
	asDestination := orientation{selector: source.Mirror(), dir: in}
	switch {
	case f.From.Kind == Me:
		return []orientation{asSource}
	case f.To.Kind == Me:
		return []orientation{asDestination}
	}
	return []orientation{asSource, asDestination}
}

// addrs returns the endpoint as a selector's side. Validate lets no other kind
// through.
func (e Endpoint) addrs() sadb.Addrs {
	switch e.Kind {
	case Me:
		return sadb.Me()
	case Addresses:
		return e.Addrs
	}
	return sadb.AnyAddrs()
}
