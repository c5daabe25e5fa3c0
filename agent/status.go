package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Status says what is in force, with whom traffic is secured, with whom not,
// and what failed.
func (a *Agent) Status(ctx context.Context) (control.Status, error) {
	return ask(ctx, a, func(now time.Time) (control.Status, error) { return a.status(now), nil })
}

func (a *Agent) status(now time.Time) control.Status {
	state, err := a.driverState()
	a.collect(now, state)
	problems := slices.Sorted(maps.Values(a.problems))
	if err != nil && a.lost == "" {
		problems = append(problems, "the state of the data path cannot be read: "+err.Error())
	}
	problems = append(problems, a.reportOnly()...)
	problems = append(problems, a.unsecurable()...)
	problems = append(problems, a.unresolved()...)
	if words := a.cfg.Exemptions.Warning(); words != "" {
		problems = append(problems, words)
	}
	if state.ClearLost {
		problems = append(problems, "more peers than can be listed exchange traffic in clear with this host")
	}
	return control.Status{SchemaVersion: control.SchemaVersion,
		Agent:  control.AgentStatus{Version: a.cfg.Version, PID: os.Getpid(), Started: a.started, Host: a.cfg.Hostname},
		Policy: a.policyStatus(), DataPath: a.dataPath(state), Secured: a.secured(state), InClear: a.inClear(now, state),
		Pending: a.pendingStatus(), Report: a.reportStatus(), Directory: a.directoryStatus(),
		Negotiating: a.negotiating(), Failures: a.lastFailures(), Problems: problems, Warnings: a.warnings()}
}

// warnings are what may become a problem.
func (a *Agent) warnings() []string {
	if d := a.directoryStatus(); d != nil {
		return slices.Concat(a.ownWarnings(), d.Warnings)
	}
	return a.ownWarnings()
}

// ownWarnings are those of this host.
func (a *Agent) ownWarnings() []string {
	if a.inForce.compiled == nil {
		return a.broken
	}
	left, _ := a.carried(a.inForce.compiled) // it is in force: no error
	return slices.Concat(left, a.broken)
}

// maxUnsecurable bounds how many peers the problems name.
const maxUnsecurable = 8

// unsecurable names the peers that this host wants to be secured with and
// cannot, for a reason that somebody has to mend: a key, a method, a policy.
// That a peer does not answer is no such reason.
func (a *Agent) unsecurable() []string {
	var words []string
	for k, f := range a.failures.lasting() {
		if k.own && mendable(f.Code) && !a.pairedWith(k.remote) {
			words = append(words, fmt.Sprintf("traffic with %s cannot be secured: %s", k.remote, f.Reason))
		}
	}
	slices.Sort(words)
	if more := len(words) - maxUnsecurable; more > 0 {
		words = append(words[:maxUnsecurable], fmt.Sprintf("and %d more peers", more))
	}
	return words
}

// mendable reports whether somebody has to change something before a
// negotiation that failed for this reason can succeed.
func mendable(code string) bool {
	switch ike.FailCode(code) {
	case ike.FailNoAnswer, ike.FailProtocol, ike.FailLocal, ike.FailCancelled:
		return false
	}
	return true
}

func (a *Agent) pairedWith(remote netip.Addr) bool {
	return slices.ContainsFunc(a.book.All(), func(p sadb.Pair) bool { return plain(p.Remote) == remote })
}

func (a *Agent) policyStatus() control.PolicyStatus {
	f := a.inForce
	s := control.PolicyStatus{State: "none", Name: f.name, Origin: f.origin, Applied: f.applied, Error: f.rejected, From: f.from, Cached: f.cached,
		DefaultResponse: f.snapshot.response != nil}
	if f.state == policy.Assigned {
		s.State = "assigned"
	}
	if f.compiled != nil {
		s.Filters = len(f.compiled.Filters)
	}
	if a.held != "" {
		s.State, s.Error = "held", cmp.Or(s.Error, a.held)
	}
	return s
}

func (a *Agent) dataPath(s driver.State) control.DataPath {
	c := s.Counters
	return control.DataPath{Driver: s.Name, Why: a.cfg.DriverWhy, Started: s.Started, Exempt: s.Exempt, Counters: map[string]uint64{
		"outPackets": c.OutPackets, "inPackets": c.InPackets, "queued": c.Queued, "queueDrops": c.QueueDrops,
		"noSA": c.NoSA, "badICV": c.BadICV, "replayed": c.Replayed, "malformed": c.Malformed,
		"badSelector": c.BadSelector, "lastChain": c.LastChain, "inClear": c.InClear, "ikeDropped": a.ikeDropped, "ikeInternalErrors": a.ikeInternal}}
}

// secured lists the pairs in force, oldest first; of those that replaced
// another only the newest.
func (a *Agent) secured(state driver.State) []control.SecuredPeer {
	return a.securedIf(state, func(sadb.Pair) bool { return true })
}

// securedIf lists those of the pairs in force that wanted says.
func (a *Agent) securedIf(state driver.State, wanted func(sadb.Pair) bool) []control.SecuredPeer {
	counters := make(map[sadb.SAID]driver.SAState, len(state.SAs))
	for _, s := range state.SAs {
		counters[s.SA.ID] = s
	}
	list := []control.SecuredPeer{}
	for _, p := range a.book.All() {
		if _, replaced := a.book.ReplacedBy(p.ID); !replaced && wanted(p) {
			list = append(list, a.securedPeer(p, counters))
		}
	}
	return list
}

func (a *Agent) securedPeer(p sadb.Pair, counters map[sadb.SAID]driver.SAState) control.SecuredPeer {
	s := control.SecuredPeer{Peer: p.Remote.String(), Local: p.Local.String(), Flow: p.Selector.String(),
		Rule: a.ruleOf(p.Filter, p.DefaultResponse), Filter: string(p.Filter), Principal: printable(p.Principal, maxField),
		Method: p.Method, Suite: suiteNames(p), Mode: p.Mode.String(), Since: p.Since, Expires: pairEnds(p), CA: p.CA, LastUsed: lastUsed(p, counters)}
	if !p.Encap.IsZero() {
		s.NAT = p.Encap.Local.String() + " - " + p.Encap.Remote.String()
	}
	if len(p.In) > 0 {
		in := counters[p.In[0]]
		s.SPIIn, s.BytesIn, s.PacketsIn = p.In[0].SPI.String(), in.Bytes, in.Packets
	}
	if len(p.Out) > 0 {
		out := counters[p.Out[0]]
		s.SPIOut, s.BytesOut, s.PacketsOut = p.Out[0].SPI.String(), out.Bytes, out.Packets
	}
	return s
}

// lastUsed returns when a pair last carried a packet, in either direction.
func lastUsed(p sadb.Pair, counters map[sadb.SAID]driver.SAState) time.Time {
	var last time.Time
	for _, id := range slices.Concat(p.In, p.Out) {
		if at := counters[id].LastUsed; at.After(last) {
			last = at
		}
	}
	return last
}

// inClear lists the peers with which traffic goes in clear although a filter
// asks for security, with the reason.
func (a *Agent) inClear(now time.Time, state driver.State) []control.ClearPeer {
	list := []control.ClearPeer{}
	for _, c := range bothWays(state.Clear) {
		// What passed before the policy in force is not its doing.
		c, left := a.afterSecured(c)
		if left && !a.securedSince(c) && !c.Last.Before(a.inForce.applied) {
			list = append(list, control.ClearPeer{Peer: c.Remote.String(), Local: c.Local.String(), Rule: a.ruleOf(c.Filter, false),
				Filter: string(c.Filter), Since: c.Since, Last: c.Last, Packets: c.Packets, Why: a.whyClear(c), Inbound: c.Inbound})
		}
	}
	for _, s := range state.Filters {
		if o, ok := a.overlays[s.Filter.ID]; ok && o.kind == softOverlay && o.filter.Expires.After(now) {
			list = append(list, a.softPeer(now, o, s.Packets))
		}
	}
	for _, r := range a.returned {
		list = append(list, control.ClearPeer{Peer: r.remote.String(), Local: r.local.String(), Rule: defaultResponseTag,
			Filter: string(r.filter.ID), Since: r.at, Last: r.at, Why: "the association that the peer had asked for has ended, and no filter of this host's policy asks for one"})
	}
	slices.SortFunc(list, func(x, y control.ClearPeer) int {
		return strings.Compare(x.Peer+" "+x.Filter, y.Peer+" "+y.Filter)
	})
	return list
}

// bothWays joins what a driver lists of one peer for each direction: a peer to
// which packets were sent is no longer one that has only sent. Packets are
// those sent; of a peer that has only sent, those received.
func bothWays(clear []driver.ClearPeer) []driver.ClearPeer {
	type key struct {
		filter        sadb.FilterID
		local, remote netip.Addr
	}
	index := map[key]int{}
	var joined []driver.ClearPeer
	for _, c := range clear {
		k := key{c.Filter, c.Local, c.Remote}
		i, again := index[k]
		if !again {
			index[k] = len(joined)
			joined = append(joined, c)
			continue
		}
		joined[i] = join(joined[i], c)
	}
	return joined
}

func join(a, b driver.ClearPeer) driver.ClearPeer {
	if a.Inbound && !b.Inbound {
		a, b = b, a
	}
	if a.Inbound == b.Inbound {
		a.Packets += b.Packets
	}
	if b.Since.Before(a.Since) {
		a.Since = b.Since
	}
	if b.Last.After(a.Last) {
		a.Last = b.Last
	}
	return a
}

// softPeer describes a soft association. Its packets are counted and not
// timed: the last was at most softLifetime ago.
func (a *Agent) softPeer(now time.Time, o overlay, packets uint64) control.ClearPeer {
	c := control.ClearPeer{Peer: o.remote.String(), Local: o.local.String(), Rule: a.ruleOf(o.filter.ID, false),
		Filter: string(o.filter.ID), Since: o.since, Packets: packets, Why: printable(o.why, maxMessage)}
	if packets > 0 {
		c.Last = now
	}
	return c
}

// securedSince reports whether the traffic that the driver saw in clear was
// before the pair that secures it now.
func (a *Agent) securedSince(c driver.ClearPeer) bool {
	p, ok := a.serving(c.Filter, c.Remote)
	// The packet that began it all may be counted a moment late.
	return ok && !c.Last.After(p.Since.Add(time.Second))
}

// whyClear says why traffic that a filter wants secured goes in clear.
func (a *Agent) whyClear(c driver.ClearPeer) string {
	var best *talk
	for _, t := range a.talks.byKey {
		if t.key.filter == c.Filter && plain(t.remote) == plain(c.Remote) && (best == nil || t.since.After(best.since)) {
			best = t
		}
	}
	switch {
	case best != nil && best.last != nil:
		return printable(best.last.Reason, maxMessage)
	case best != nil:
		return "the peer has not answered yet; the negotiation is under way"
	}
	if f, ok := a.failures.of(plain(c.Remote)); ok {
		return f.Reason
	}
	if c.Inbound {
		return "the peer sends in clear, and the filter accepts unsecured communication; nothing was sent to the peer so far"
	}
	return "policy allows it, and no negotiation has been made yet"
}

func (a *Agent) negotiating() []control.Negotiating {
	return a.negotiatingIf(func(*talk) bool { return true })
}

func (a *Agent) negotiatingIf(wanted func(*talk) bool) []control.Negotiating {
	list := []control.Negotiating{}
	for _, t := range a.talks.all() {
		if (t.request != 0 || t.wanted) && wanted(t) {
			list = append(list, control.Negotiating{Peer: t.remote.String(), Rule: a.ruleOf(t.key.filter, t.response), Since: t.since, Why: t.why})
		}
	}
	slices.SortFunc(list, func(x, y control.Negotiating) int { return x.Since.Compare(y.Since) })
	return list
}

// maxShown bounds the failures of a status.
const maxShown = 256

// lastFailures returns the last failure of each peer that was not secured
// since, newest first.
func (a *Agent) lastFailures() []control.Failure {
	list := []control.Failure{}
	for _, f := range a.failures.lasting() {
		list = append(list, f)
	}
	slices.SortFunc(list, func(x, y control.Failure) int { return y.Time.Compare(x.Time) })
	return list[:min(len(list), maxShown)]
}

// SAs lists the ISAKMP SAs and the pairs in force.
func (a *Agent) SAs(ctx context.Context) (control.SAList, error) {
	list, err := ask(ctx, a, func(time.Time) (control.SAList, error) {
		state, err := a.driverState()
		return control.SAList{SchemaVersion: control.SchemaVersion, Pairs: a.secured(state)}, err
	})
	if err != nil || a.cfg.IKE.SAs == nil {
		return list, err
	}
	sas, err := a.cfg.IKE.SAs(ctx)
	list.MainMode = []control.MainModeSA{}
	for _, s := range sas {
		list.MainMode = append(list.MainMode, mainModeSA(s))
	}
	return list, err
}

func mainModeSA(s ike.ISAKMPSA) control.MainModeSA {
	return control.MainModeSA{Peer: s.Remote.String(), Local: s.Local.String(), Cookies: cookies(s), Suite: s.Suite.String(),
		Method: s.Method.String(), Principal: printable(string(s.Principal), maxField), Initiator: s.Initiator,
		Since: s.Since, Expires: s.Expires, QuickModes: s.QuickModes}
}
