package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/host"
	"ipsecagent/policy"
)

// What names and sets of a policy stand for is followed here. Whatever stops
// being known keeps the addresses it last had, over a restart too: a filter must
// not vanish because a name server is down.

// Names is how an agent learns what DNS names stand for, a host.Names as a rule.
type Names struct {
	// Follow says which names are followed and what was known of them.
	Follow func(map[string]host.Answer)
	// Answers returns what is known, Changed hints that it has changed.
	Answers func() map[string]host.Answer
	Changed <-chan struct{}
}

// lookups is what the names and sets of policies stand for.
type lookups struct {
	Names map[string]host.Answer              `json:"names"`
	Sets  map[policy.EndpointKind]host.Answer `json:"sets"`
}

// newLookups goes on from what an earlier process knew; nil: nothing.
func newLookups(kept *lookups) lookups {
	l := lookups{map[string]host.Answer{}, map[policy.EndpointKind]host.Answer{}}
	if kept != nil {
		maps.Copy(l.Names, kept.Names)
		maps.Copy(l.Sets, kept.Sets)
	}
	return l
}

// of returns what a name or set stands for.
func (l lookups) of(e policy.Endpoint) host.Answer {
	if e.Kind == policy.Name {
		return l.Names[policy.CanonicalName(e.Name)]
	}
	return l.Sets[e.Kind]
}

// addresses returns the addresses of each, as compiling takes them.
func addresses[K comparable](answers map[K]host.Answer) map[K][]netip.Addr {
	all := make(map[K][]netip.Addr, len(answers))
	for k, answer := range answers {
		all[k] = answer.Addresses
	}
	return all
}

// takeSets takes over what the configuration of the host names now.
func (l lookups) takeSets(now time.Time, s host.Sets) {
	for kind, found := range map[policy.EndpointKind][]netip.Addr{policy.DNSServers: s.DNS, policy.WINSServers: s.WINS,
		policy.DHCPServers: s.DHCP, policy.DefaultGateway: s.Gateways} {
		former := l.Sets[kind]
		switch {
		case len(found) > 0:
			l.Sets[kind] = host.Answer{Addresses: found, Resolved: now}
		case len(former.Addresses) > 0 && former.Stale.IsZero():
			former.Stale, former.Problem = now, "the configuration of this host names none any more"
			l.Sets[kind] = former
		}
	}
}

// followNames has the names of the policy in force followed, and forgets others.
func (a *Agent) followNames() {
	wanted := map[string]host.Answer{}
	if a.inForce.state == policy.Assigned {
		for _, name := range a.inForce.policy.Names() {
			wanted[name] = a.lookups.Names[name]
		}
	}
	if a.cfg.Names.Follow == nil || a.following != nil && sameNames(a.following, wanted) {
		return
	}
	a.following = wanted
	maps.DeleteFunc(a.lookups.Names, func(name string, _ host.Answer) bool { _, ok := wanted[name]; return !ok })
	a.cfg.Names.Follow(wanted)
}

func sameNames(x, y map[string]host.Answer) bool {
	return maps.EqualFunc(x, y, func(host.Answer, host.Answer) bool { return true })
}

// namesChanged takes over what names stand for now, and compiles the policy anew
// where that has changed.
func (a *Agent) namesChanged(now time.Time) {
	changed := ""
	answers := a.cfg.Names.Answers()
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		if _, wanted := a.following[name]; !wanted {
			continue
		}
		former, answer := a.lookups.Names[name], answers[name]
		a.lookups.Names[name] = answer
		a.reportName(now, name, former, answer)
		if !slices.Equal(former.Addresses, answer.Addresses) {
			changed = name
		}
	}
	if changed == "" {
		return
	}
	a.recompile(now, "the addresses of "+changed+" have changed")
	a.keepLookups()
}

// reportName makes an event of a name that stops resolving, and does again.
func (a *Agent) reportName(now time.Time, name string, former, answer host.Answer) {
	fields := map[string]string{"name": name}
	switch {
	case former.Stale.IsZero() && !answer.Stale.IsZero():
		a.event(now, control.EventName, "warning", staleWords(name, answer), fields)
	case !former.Stale.IsZero() && answer.Stale.IsZero() && !answer.Resolved.IsZero():
		a.event(now, control.EventName, "info", fmt.Sprintf("%s resolves again, to %v", name, answer.Addresses), fields)
	}
}

// staleWords says that a name or set is not known now, why and since when.
func staleWords(what string, answer host.Answer) string {
	words := fmt.Sprintf("%s is not known since %s: %s", what, answer.Stale.UTC().Format(time.RFC3339), answer.Problem)
	if len(answer.Addresses) > 0 {
		words += fmt.Sprintf("; its last known addresses stay: %v", answer.Addresses)
	}
	return words
}

// keepLookups writes down what names and sets stand for.
func (a *Agent) keepLookups() {
	a.problem("lookups", "")
	if err := a.store.keepLookups(a.lookups); err != nil {
		a.problem("lookups", "the addresses of names could not be written and would be forgotten at a restart: "+err.Error())
	}
}

// maxLookups bounds how many names and sets the problems list.
const maxLookups = 8

// unresolved lists, for the status, the names and sets of the policy in force
// that stand for nothing, or for what they stood for once.
func (a *Agent) unresolved() []string {
	f := a.inForce
	if f.state != policy.Assigned {
		return nil
	}
	var words []string
	for _, u := range f.compiled.Unresolved {
		w := u.String()
		if problem := a.answer(u.Endpoint).Problem; problem != "" {
			w += ": " + problem
		}
		words = append(words, w)
	}
	for _, name := range f.policy.Names() {
		words = append(words, a.staleEndpoint(policy.Endpoint{Kind: policy.Name, Name: name})...)
	}
	for _, kind := range f.policy.Sets() {
		words = append(words, a.staleEndpoint(policy.Endpoint{Kind: kind})...)
	}
	if more := len(words) - maxLookups; more > 0 {
		words = append(words[:maxLookups], fmt.Sprintf("and %d more names or sets of the policy that are not known: ipsecctl policy show --effective", more))
	}
	return words
}

func (a *Agent) staleEndpoint(e policy.Endpoint) []string {
	answer := a.answer(e)
	if answer.Stale.IsZero() || len(answer.Addresses) == 0 {
		return nil
	}
	return []string{staleWords(e.String(), answer)}
}

// answer returns what is known of a name or set at this moment.
func (a *Agent) answer(e policy.Endpoint) host.Answer {
	if e.Kind == policy.Name && a.cfg.Names.Answers != nil {
		// Newer than what is compiled in how it has gone, never in addresses.
		if answer, ok := a.cfg.Names.Answers()[policy.CanonicalName(e.Name)]; ok && slices.Equal(answer.Addresses, a.lookups.of(e).Addresses) {
			return answer
		}
	}
	return a.lookups.of(e)
}

// origins says where the addresses of a filter come from.
func (a *Agent) origins(now time.Time, f policy.CompiledFilter) []string {
	var all []string
	for _, e := range f.Expanded {
		answer := a.answer(e)
		switch {
		case !answer.Stale.IsZero():
			all = append(all, fmt.Sprintf("%s, last known before it failed %s: %s", e, ago(now.Sub(answer.Stale)), answer.Problem))
		case e.Kind == policy.Name:
			all = append(all, fmt.Sprintf("%s, resolved %s", e, ago(now.Sub(answer.Resolved))))
		default:
			all = append(all, fmt.Sprintf("%s of this host", e))
		}
	}
	return all
}

// ago says how long something is past.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h ago", int(d.Hours()))
}

// hasAddress reports whether the host can be reached at all.
func hasAddress(f host.Facts) bool {
	return slices.ContainsFunc(f.Addresses, func(a netip.Addr) bool { return !a.IsLoopback() })
}
