package policy

import (
	"cmp"
	"fmt"
	"slices"
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
// is pure: the same policy and facts give the same value, in whatever order the
// policy lists its objects. Me stays symbolic: the host's addresses decide over
// the ends of tunnels alone. A policy that Validate refuses does not compile, nor
// one that names too many ways for one peer to prove itself. A name or set that
// stands for nothing is no error. The result shares the policy's slices: p is not changed
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
		ReportOnly:      reporting(p.Mode, p.ReportUntil, h.Now),
	}
	c.KeyExchange, c.UpliftedMain = p.effectiveKeyExchange(p.uplifts(h))
	if c.PollingInterval == 0 {
		c.PollingInterval = defaultPolling
	}
	if err := c.compileRules(p, h); err != nil {
		return nil, fmt.Errorf("policy: compile %q: %w", p.Name, err)
	}
	if d := p.DefaultResponse; d.Active {
		c.DefaultResponse = &Negotiation{PFS: d.SessionKeyPFS, PFSGroup: d.PFSGroup, Authentication: d.Authentication}
		c.DefaultResponse.offer(d.Methods, p.uplifts(h), h.Carries)
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

// compileRules makes the filters of all rules that are enabled, in order.
func (c *Compiled) compileRules(p *Policy, h Host) error {
	o := p.objects()
	ways := p.oneWays(o)
	exempt := h.Exempt.filters(h.Broadcasts)
	c.Filters = append(make([]CompiledFilter, 0, len(exempt)+p.used(o)), exempt...)
	for i := range p.Rules {
		rule := &p.Rules[i]
		if rule.Disabled {
			continue
		}
		action := o.action(rule.FilterAction)
		r := ruleCompiler{to: c, policy: p, host: h, rule: rule, list: &p.FilterLists[o.list(rule.FilterList)], action: action,
			negotiation: negotiationOf(action, rule, p.uplifts(h), h.Carries), ways: ways, at: map[sadb.FilterID]int{}}
		r.compile()
		if len(c.Filters) > maxExpanded {
			return fmt.Errorf("on this host the policy has more than %d filters: use fewer, or names and sets that stand for fewer addresses", maxExpanded)
		}
	}
	sortFilters(c.Filters)
	slices.SortFunc(c.Unresolved, func(a, b Unresolved) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.FilterList, b.FilterList), cmp.Compare(a.Filter, b.Filter), cmp.Compare(a.Endpoint.String(), b.Endpoint.String()))
	})
	return nil
}

// used returns how many filters the rules that are enabled use.
func (p *Policy) used(o objects) int {
	n := 0
	for _, rule := range p.Rules {
		if !rule.Disabled {
			n += len(p.FilterLists[o.list(rule.FilterList)].Filters)
		}
	}
	return n
}

// ruleCompiler adds the filters of one rule to a compiled policy.
type ruleCompiler struct {
	to          *Compiled
	policy      *Policy
	host        Host
	rule        *Rule
	list        *FilterList
	action      *FilterAction
	negotiation *Negotiation
	ways        map[oneWay]*Rule
	at          map[sadb.FilterID]int // of the rule's filters, in to.Filters
}

func (r *ruleCompiler) compile() {
	if r.host.lost(r.rule, r.list) {
		r.say(0, Endpoint{Kind: Name, Name: r.rule.Tunnel.Name})
	}
	for i := range r.list.Filters {
		f := &r.list.Filters[i]
		if !f.From.Dynamic() && !f.To.Dynamic() {
			r.add(f, f)
			continue
		}
		expanded := r.host.expand(f)
		for j := range expanded {
			r.add(f, &expanded[j])
		}
		if len(expanded) > 0 {
			continue
		}
		for _, e := range r.host.missing(f) {
			r.say(i+1, e)
		}
	}
}

func (r *ruleCompiler) say(filter int, e Endpoint) {
	r.to.Unresolved = append(r.to.Unresolved, Unresolved{Rule: r.rule.label(), FilterList: r.list.Name, Filter: filter, Endpoint: e})
}

// add adds the filters of one that names addresses alone; written is the one
// that it comes from. Filters that come out alike (a filter and its own mirror,
// two names of one address) are one.
func (r *ruleCompiler) add(written, f *Filter) {
	for _, o := range r.host.oriented(r.rule, f) {
		id := sadb.NewFilterID(identityOf(r.rule, r.list, o)...)
		if i, again := r.at[id]; again {
			r.to.Filters[i].addExpanded(written)
			continue
		}
		r.at[id] = len(r.to.Filters)
		name := r.rule.label()
		c := CompiledFilter{Rule: name, FilterList: r.list.Name, Negotiation: r.negotiation,
			Filter: sadb.Filter{ID: id, Name: name + " / " + r.list.Name, Selector: o.selector, Dir: o.dir,
				Connections: r.rule.Connections, Action: actionOf(r.action)}}
		c.addExpanded(written)
		r.policy.report(&c, r.rule, r.host.Now)
		r.host.shape(&c, r.rule, r.ways[wayOf(written).back()])
		c.Weight, c.Reason = weigh(c.Filter, placeOf(r.rule))
		r.to.Filters = append(r.to.Filters, c)
	}
}

// addExpanded notes the names and sets of the filter as it is written.
func (c *CompiledFilter) addExpanded(written *Filter) {
	for _, e := range expandedOf(written) {
		if !slices.Contains(c.Expanded, e) {
			c.Expanded = append(c.Expanded, e)
		}
	}
	slices.SortFunc(c.Expanded, func(a, b Endpoint) int { return cmp.Compare(a.String(), b.String()) })
}

// identityOf is what makes a filter the same from one compilation to the next.
func identityOf(rule *Rule, list *FilterList, o orientation) []string {
	parts := []string{rule.identity(), list.Name, o.selector.String(), o.dir.String()}
	if !rule.Tunnel.IsZero() {
		parts = append(parts, rule.Tunnel.String())
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

func negotiationOf(a *FilterAction, rule *Rule, uplift bool, carries []sadb.Suite) *Negotiation {
	if a.Kind != sadb.Negotiate {
		return nil
	}
	n := &Negotiation{PFS: a.SessionKeyPFS, PFSGroup: a.PFSGroup, Authentication: rule.Authentication}
	n.offer(a.Methods, uplift, carries)
	return n
}

// offer sets what is proposed and accepted, the modern methods first where uplift
// is on and only old ones are listed, without what the host does not carry (nil:
// not known).
func (n *Negotiation) offer(methods []SecurityMethod, uplift bool, carries []sadb.Suite) {
	if uplift {
		methods, n.Uplifted = upliftMethods(methods)
	}
	n.Proposals = proposals(methods)
	if carries != nil {
		n.leaveOut(carries)
	}
}

// leaveOut takes out of the offer what the host does not carry.
func (n *Negotiation) leaveOut(carries []sadb.Suite) {
	var offered []sadb.Proposal
	var uplifted []bool
	for i, p := range n.Proposals {
		added := n.Uplifted != nil && n.Uplifted[i]
		missing := slices.ContainsFunc(p.Suites, func(s sadb.Suite) bool { return !slices.Contains(carries, s) })
		switch {
		case !missing:
			offered, uplifted = append(offered, p), append(uplifted, added)
		case !added:
			n.Left = append(n.Left, p)
		}
	}
	n.Proposals = offered
	if n.Uplifted = nil; slices.Contains(uplifted, true) {
		n.Uplifted = uplifted
	}
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
func orientations(f *Filter) []orientation {
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

// addrs returns the endpoint as a selector's side: names and sets are expanded
// before.
func (e Endpoint) addrs() sadb.Addrs {
	switch e.Kind {
	case Me:
		return sadb.Me()
	case Addresses:
		return e.Addrs
	}
	return sadb.AnyAddrs()
}
