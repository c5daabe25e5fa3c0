package agent

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"ipsecagent/auth"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// The notifies a refusal carries (RFC 2408 §3.14.1).
const (
	notifyNoProposal   = 14 // NO-PROPOSAL-CHOSEN
	notifyInvalidID    = 18 // INVALID-ID-INFORMATION
	notifyAuthFailed   = 24 // AUTHENTICATION-FAILED
	defaultResponseTag = "default response"
)

// snapshot is a compiled policy as the key exchange asks it. It never changes,
// so that the IKE loop may ask from its own goroutine.
type snapshot struct {
	keyExchange policy.KeyExchange
	filters     []policy.CompiledFilter
	byID        map[sadb.FilterID]int
	// toOne are the filters whose remote side is one address, others the
	// rest, both as indices in order.
	toOne    map[netip.Addr][]int
	others   []int
	response *policy.Negotiation // the default response rule; nil: inactive
	// accepts is what the rule of each filter accepts, made once: a stranger's
	// main mode keeps it, of which there may be thousands.
	accepts map[sadb.FilterID][]auth.Requirement
	// remoteAccess are the own addresses on connections of that type.
	remoteAccess map[netip.Addr]bool
	// unprovable are the requirements that this host cannot satisfy.
	unprovable map[provable]bool
}

// provable is what decides whether this host can satisfy a requirement.
type provable struct {
	method  auth.Method
	key, ca string
}

func provableOf(r auth.Requirement) provable { return provable{r.Method, r.Key, r.CA} }

// newSnapshot returns c as the key exchange asks it. unusable is as in Config.
func newSnapshot(c *policy.Compiled, unusable func(auth.Requirement) string) *snapshot {
	s := &snapshot{keyExchange: c.KeyExchange, filters: c.Filters, response: c.DefaultResponse,
		byID: make(map[sadb.FilterID]int, len(c.Filters)), toOne: map[netip.Addr][]int{}, accepts: map[sadb.FilterID][]auth.Requirement{}}
	for i, f := range c.Filters {
		s.byID[f.ID] = i
		if f.Negotiation != nil {
			s.accepts[f.ID] = requirements(f.Negotiation.Authentication)
		}
		if one, ok := f.Selector.Remote.Single(); ok && f.Mode == sadb.Transport {
			s.toOne[one] = append(s.toOne[one], i)
		} else {
			s.others = append(s.others, i)
		}
	}
	s.tryIdentities(unusable)
	return s
}

// tryIdentities finds out, once, which requirements this host can satisfy: a
// stranger's first datagram must not cost a look at certificates.
func (s *snapshot) tryIdentities(unusable func(auth.Requirement) string) {
	if unusable == nil {
		return
	}
	s.unprovable = map[provable]bool{}
	try := func(n *policy.Negotiation) {
		if n == nil {
			return
		}
		for _, r := range requirements(n.Authentication) {
			if _, tried := s.unprovable[provableOf(r)]; !tried {
				s.unprovable[provableOf(r)] = unusable(r) != ""
			}
		}
	}
	for _, f := range s.filters {
		try(f.Negotiation)
	}
	try(s.response)
}

// proven returns those of a rule's requirements that this host can satisfy:
// what it offers must not be chosen in vain. If it can satisfy none it offers
// them all, so that the failure says why.
func (s *snapshot) proven(accepted []auth.Requirement) []auth.Requirement {
	unprovable := func(r auth.Requirement) bool { return s.unprovable[provableOf(r)] }
	if !slices.ContainsFunc(accepted, unprovable) {
		return accepted
	}
	if kept := slices.DeleteFunc(slices.Clone(accepted), unprovable); len(kept) > 0 {
		return kept
	}
	return accepted
}

// about returns the filters that may speak of a peer, in order. A stranger's
// first datagram leads here: thousands of filters for other peers cost nothing.
func (s *snapshot) about(remote netip.Addr) iter.Seq[policy.CompiledFilter] {
	return func(yield func(policy.CompiledFilter) bool) {
		one, others := s.toOne[plain(remote)], s.others
		for len(one)+len(others) > 0 {
			next := &others
			if len(others) == 0 || len(one) > 0 && one[0] < others[0] {
				next = &one
			}
			if !yield(s.filters[(*next)[0]]) {
				return
			}
			*next = (*next)[1:]
		}
	}
}

// policy returns the two functions for the key exchange.
func (s *snapshot) policy() ike.Policy { return ike.Policy{Main: s.main, Quick: s.quick} }

// filter returns the filter of that ID.
func (s *snapshot) filter(id sadb.FilterID) (policy.CompiledFilter, bool) {
	i, ok := s.byID[id]
	if !ok {
		return policy.CompiledFilter{}, false
	}
	return s.filters[i], true
}

// main answers main mode with a peer: everything that the rules which speak of
// this pair of addresses allow. Which of it may carry what is decided at quick
// mode, when the peer's identity is proven.
func (s *snapshot) main(q ike.MainQuery) (ike.MainOffer, error) {
	var accepted []auth.Requirement
	var named bool
	for f := range s.about(q.Remote) {
		if f.Negotiation != nil && covers(f.Filter, q.Local, q.Remote) && f.Connections.Matches(s.connection(q.Local)) {
			accepted = union(accepted, s.accepts[f.ID])
			named = named || names(f.Filter)
		}
	}
	if s.response != nil {
		accepted = union(accepted, requirements(s.response.Authentication))
	}
	if len(accepted) == 0 {
		return ike.MainOffer{}, fmt.Errorf("no rule of the policy speaks of %s and %s, and the default response rule is not active", q.Local, q.Remote)
	}
	offer := s.mainOffer(accepted)
	offer.Named = named
	return offer, nil
}

// names reports whether f is for a peer by its address, or for the addresses of
// one network: what somebody who forges addresses at random does not hit.
func names(f sadb.Filter) bool {
	if f.Mode == sadb.Tunnel {
		return true
	}
	from, to, ok := f.Selector.Remote.Bounds()
	width := 24
	if from.Is6() {
		width = 64
	}
	network, err := from.Prefix(width)
	return ok && err == nil && network.Contains(to)
}

func (s *snapshot) mainOffer(accepted []auth.Requirement) ike.MainOffer {
	return ike.MainOffer{Suites: s.keyExchange.Methods, Lifetime: s.keyExchange.Lifetime,
		Sessions: s.keyExchange.Sessions, Auth: s.proven(accepted)}
}

// covers reports whether some traffic between the two addresses is f's.
func covers(f sadb.Filter, local, remote netip.Addr) bool {
	if f.Mode == sadb.Tunnel {
		return f.TunnelLocal == plain(local) && f.TunnelRemote == plain(remote)
	}
	return f.Selector.Local.Matches(local, true) && f.Selector.Remote.Matches(remote, false)
}

// quick answers a quick mode that a proven peer proposes: what the most
// specific filter that holds all of the proposed traffic says, else the
// default response rule.
func (s *snapshot) quick(q ike.QuickQuery) (ike.QuickOffer, error) {
	if err := checkHosts(q); err != nil {
		return ike.QuickOffer{}, err
	}
	out, okOut := s.decide(q, sadb.Out)
	in, okIn := s.decide(q, sadb.In)
	if !okOut && !okIn {
		return s.quickDefault(q)
	}
	if err := checkDecision(q, out, in); err != nil {
		return ike.QuickOffer{}, err
	}
	if q.Mode == sadb.Tunnel && out.Mode == sadb.Tunnel && !covers(out.Filter, plain(q.Local), plain(q.Remote)) {
		return ike.QuickOffer{}, refuse(notifyInvalidID, "%s has its tunnel between %s and %s; the peer proposes one between %s and %s", named(out.Filter), out.TunnelLocal, out.TunnelRemote, q.Local, q.Remote)
	}
	if q.Mode != out.Mode {
		return ike.QuickOffer{}, refuse(notifyNoProposal, "the peer proposes %s mode where %s wants %s mode", q.Mode, named(out.Filter), out.Mode)
	}
	if err := checkIdentity(q, out.Negotiation.Authentication, named(out.Filter)); err != nil {
		return ike.QuickOffer{}, err
	}
	sel := q.Selector
	// IKEv1 identities cannot say ICMP type and code: the filter's hold.
	sel.ICMPType, sel.ICMPCode = out.Selector.ICMPType, out.Selector.ICMPCode
	return quickOffer(out, sel), nil
}

// checkHosts refuses transport mode for other hosts than the two that speak.
func checkHosts(q ike.QuickQuery) error {
	if q.Mode == sadb.Tunnel {
		return nil
	}
	local, okLocal := q.Selector.Local.Single()
	remote, okRemote := q.Selector.Remote.Single()
	if okLocal && okRemote && local == plain(q.Local) && remote == plain(q.Remote) {
		return nil
	}
	return refuse(notifyInvalidID, "transport mode is for traffic between %s and %s alone; the peer proposes %s", q.Local, q.Remote, q.Selector)
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// decide returns the first filter for direction d that holds all of the
// proposed traffic. One that holds a part of it decides over that part packet
// by packet, above the association, as it would without one.
func (s *snapshot) decide(q ike.QuickQuery, d sadb.Directions) (policy.CompiledFilter, bool) {
	filters := s.about(q.Remote)
	if q.Mode == sadb.Tunnel {
		filters = slices.Values(s.filters) // the traffic is not the peer's own
	}
	connection := s.connection(q.Local)
	for f := range filters {
		if f.Dir&d != 0 && f.Connections.Matches(connection) && holds(f.Selector, q.Selector) {
			return f, true
		}
	}
	return policy.CompiledFilter{}, false
}

// holds reports whether all that the proposed selector covers is the filter's.
// Its local side is this host.
func holds(f, proposed sadb.Selector) bool {
	if f.Local.IsMe() {
		f.Local = proposed.Local
	}
	f.ICMPType, f.ICMPCode = sadb.Octets{}, sadb.Octets{} // not in an identity
	return f.Contains(proposed)
}

func checkDecision(q ike.QuickQuery, out, in policy.CompiledFilter) error {
	for _, f := range []policy.CompiledFilter{out, in} {
		if f.ID == "" {
			return refuse(notifyInvalidID, "the policy decides %s in one direction only", q.Selector)
		}
		if f.Action.Kind != sadb.Negotiate {
			return refuse(notifyInvalidID, "%s says %s for %s", named(f.Filter), f.Action, q.Selector)
		}
	}
	if out.ID != in.ID {
		return refuse(notifyInvalidID, "two filters decide %s: %s outbound, %s inbound", q.Selector, named(out.Filter), named(in.Filter))
	}
	return nil
}

func checkIdentity(q ike.QuickQuery, accepted []policy.AuthMethod, who string) error {
	if slices.ContainsFunc(requirements(accepted), q.Satisfies) {
		return nil
	}
	return refuse(notifyAuthFailed, "%s accepts %s, not %s, proven by %s; add it to the rule's authentication if it may stand there",
		who, methodsText(accepted), q.Principal, authWords(q.Method.String(), "", q.CA))
}

// quickDefault answers by the default response rule: transport mode, exactly
// the traffic proposed, under a temporary filter of its own.
func (s *snapshot) quickDefault(q ike.QuickQuery) (ike.QuickOffer, error) {
	switch {
	case s.response == nil:
		return ike.QuickOffer{}, refuse(notifyInvalidID, "no filter of the policy holds %s, and the default response rule is not active", q.Selector)
	case q.Mode != sadb.Transport:
		return ike.QuickOffer{}, refuse(notifyNoProposal, "the default response rule answers transport mode only")
	}
	if err := checkIdentity(q, s.response.Authentication, "the default response rule"); err != nil {
		return ike.QuickOffer{}, err
	}
	return responseOffer(s.response, q.Selector), nil
}

func responseOffer(n *policy.Negotiation, sel sadb.Selector) ike.QuickOffer {
	// The same traffic has the same filter, so that a rekey by either side
	// stays where it was.
	return ike.QuickOffer{Filter: sadb.NewFilterID(defaultResponseTag, sel.String()), Selector: sel,
		Mode: sadb.Transport, Proposals: n.Proposals, PFS: n.PFSGroup,
		PFSAny: n.PFS && n.PFSGroup == 0, DefaultResponse: true}
}

func quickOffer(f policy.CompiledFilter, sel sadb.Selector) ike.QuickOffer {
	n := f.Negotiation
	return ike.QuickOffer{Filter: f.ID, Selector: sel, Mode: f.Mode, Proposals: n.Proposals,
		PFS: n.PFSGroup, PFSAny: n.PFS && n.PFSGroup == 0}
}

// offers returns what this host proposes when it begins a negotiation for a
// filter: only what its own rule asks for.
func (s *snapshot) offers(f policy.CompiledFilter, sel sadb.Selector) (ike.MainOffer, ike.QuickOffer) {
	return s.mainOffer(requirements(f.Negotiation.Authentication)), quickOffer(f, sel)
}

// offersOf returns what this host proposes in a negotiation; ok is false when
// the policy no longer wants it.
func (s *snapshot) offersOf(t *talk) (main ike.MainOffer, quick ike.QuickOffer, ok bool) {
	if t.response {
		if s.response == nil {
			return main, quick, false
		}
		return s.mainOffer(requirements(s.response.Authentication)), responseOffer(s.response, t.key.selector), true
	}
	f, ok := s.filter(t.key.filter)
	if !ok || f.Negotiation == nil {
		return main, quick, false
	}
	main, quick = s.offers(f, t.key.selector)
	return main, quick, true
}

// offersFor returns what the policy offers for a pair that exists; ok is false
// when it no longer wants the pair.
func (s *snapshot) offersFor(p sadb.Pair, m auth.Method) (main ike.MainOffer, quick ike.QuickOffer, ok bool) {
	quick, err := s.quick(queryFor(p, m))
	if err != nil || quick.Filter != p.Filter || !offered(quick.Proposals, p.Suites) {
		return main, quick, false
	}
	accepted := s.response
	if f, found := s.filter(p.Filter); found {
		accepted = f.Negotiation
	}
	return s.mainOffer(requirements(accepted.Authentication)), quick, true
}

// queryFor asks what the policy would answer if the peer proposed a pair that
// exists.
func queryFor(p sadb.Pair, m auth.Method) ike.QuickQuery {
	return ike.QuickQuery{Local: p.Local, Remote: p.Remote, Selector: p.Selector, Mode: p.Mode,
		Proof: auth.Proof{Method: m, Principal: auth.Principal(p.Principal), CA: p.CA,
			Mapped: p.Mapped, Subject: auth.Principal(p.Subject), Named: p.Named, Listed: p.Listed}}
}

func offered(proposals []sadb.Proposal, suites []sadb.Suite) bool {
	return slices.ContainsFunc(proposals, func(p sadb.Proposal) bool { return slices.Equal(p.Suites, suites) })
}

// requirements says a rule's authentication methods in the words of IKE, each
// once, in order.
func requirements(methods []policy.AuthMethod) []auth.Requirement {
	var all []auth.Requirement
	for _, m := range methods {
		for _, number := range numbers(m.Kind) {
			r := auth.Requirement{Method: number, Key: m.Key, CA: m.CA, ExcludeCAName: m.ExcludeCAName, MapToAccount: m.MapToAccount, AcceptPrincipals: m.AcceptPrincipals}
			all = union(all, []auth.Requirement{r})
		}
	}
	return all
}

// union returns a and what of b it does not have yet, in order. It changes
// neither, and makes a new list only if it has to.
func union(a, b []auth.Requirement) []auth.Requirement {
	if len(a) == 0 {
		return b
	}
	a = slices.Clip(a)
	for _, r := range b {
		if !slices.ContainsFunc(a, func(h auth.Requirement) bool { return same(h, r) }) {
			a = append(a, r)
		}
	}
	return a
}

func numbers(k policy.AuthKind) []auth.Method {
	switch k {
	case policy.Kerberos:
		return []auth.Method{auth.Kerberos}
	case policy.Certificate:
		return []auth.Method{auth.ECDSA256, auth.ECDSA384, auth.ECDSA521, auth.RSA}
	case policy.PresharedKey:
		return []auth.Method{auth.PSK}
	}
	return nil
}

func same(a, b auth.Requirement) bool {
	return a.Method == b.Method && a.Key == b.Key && a.CA == b.CA && a.ExcludeCAName == b.ExcludeCAName && a.MapToAccount == b.MapToAccount && slices.Equal(a.AcceptPrincipals, b.AcceptPrincipals)
}

// narrow returns the traffic of f between two hosts as IKE can say it: a range
// of ports, which its identities cannot, becomes the port of the packet that
// asked. It never covers more than f.
func narrow(f sadb.Selector, flow sadb.Flow) sadb.Selector {
	s := f.Narrow(flow.Local, flow.Remote)
	s.LocalPorts = narrowPorts(s.LocalPorts, flow.LocalPort)
	s.RemotePorts = narrowPorts(s.RemotePorts, flow.RemotePort)
	return s
}

// narrowTunnel returns the inner traffic of a tunnel as IKE can say it: the whole
// of the filter, so that one association serves all hosts behind the gateways.
func narrowTunnel(f sadb.Selector, flow sadb.Flow) sadb.Selector {
	f.Local = tunnelSide(f.Local, flow.Local)
	f.Remote = tunnelSide(f.Remote, flow.Remote)
	f.LocalPorts = narrowPorts(f.LocalPorts, flow.LocalPort)
	f.RemotePorts = narrowPorts(f.RemotePorts, flow.RemotePort)
	return f
}

// tunnelSide says a side of a tunnel's traffic by addresses: "me" is the one of
// the packet that asked, "any" all of its family.
func tunnelSide(a sadb.Addrs, packet netip.Addr) sadb.Addrs {
	switch {
	case a.IsMe():
		return sadb.Addr(packet)
	case a.IsAny():
		all, _ := packet.Prefix(0) // never fails: 0 bits fit every address
		return sadb.Prefix(all)
	}
	return a
}

func narrowPorts(p sadb.Ports, port uint16) sadb.Ports {
	if p.IsAny() || p.From == p.To {
		return p
	}
	return sadb.Port(port)
}

// refuse makes the answer to a peer whose wish is refused.
func refuse(notify uint16, format string, args ...any) error {
	return &ike.Refusal{Notify: notify, Reason: fmt.Sprintf(format, args...)}
}

// named says a filter in the administrator's words.
func named(f sadb.Filter) string { return fmt.Sprintf("filter %q", f.Name) }
