package policy

import (
	"fmt"
	"slices"

	"ipsecagent/sadb"
)

// Explanation says how a packet is treated and why.
type Explanation struct {
	Policy   string // name
	Question Question
	// Exempt is why no filter is asked, whatever they say; "": they are.
	Exempt string
	// Decided is the filter that decides; nil: none matches, and the packet
	// passes unmodified. Place is its place in the order of decision, from 1.
	Decided *CompiledFilter
	Place   int
	// Destination: a forwarded packet that no filter holds by its source is
	// decided by one that has its destination on this side.
	Destination bool
	// Next is the filter that would decide if Decided were not there, and
	// its place; nil: none.
	Next      *CompiledFilter
	NextPlace int
	// Passed are the filters before the one that decides, all of them when
	// none does: those that match but for the fewest things first.
	Passed []Passed
	// DefaultResponse answers a peer that asks for security where no filter
	// speaks; nil: not active.
	DefaultResponse *Negotiation
	KeyExchange     KeyExchange
	// Filters is how many there are.
	Filters int
	// Unresolved are the names and sets that stand for nothing, so that
	// filters with them were not asked.
	Unresolved []Unresolved
}

// Passed is the filters that do not match for the same reasons.
type Passed struct {
	Differs Aspects
	Count   int
	// First are the places of the first of them, from 1, in order.
	First []int
}

// Aspects is a set of things in which a packet is not what a filter asks for.
type Aspects uint8

// What a filter asks for.
const (
	OtherDirection Aspects = 1 << iota
	OtherConnection
	OtherRemote
	OtherLocal
	OtherProtocol
	OtherRemotePort
	OtherLocalPort
	OtherICMP // or code
)

// Words names the aspects, in the order of the constants.
func (a Aspects) Words() []string {
	names := []string{"direction", "connection type", "remote address", "local address", "protocol", "remote port", "local port", "ICMP type or code"}
	var words []string
	for i, n := range names {
		if a&(1<<i) != 0 {
			words = append(words, n)
		}
	}
	return words
}

// firstPassed is how many filters that pass a packet on for the same reasons are
// named.
const firstPassed = 5

// Explain says which filter of c decides about a packet, and why none before it
// does. It agrees with what the data path is given: the first that matches. It
// goes through the filters in order, so a change of c.Filters' order (temporary
// filters among them) is seen.
func Explain(c *Compiled, q Question) Explanation {
	x := Explanation{Policy: c.Policy, Question: q, Exempt: exemption(q), DefaultResponse: c.DefaultResponse,
		KeyExchange: c.KeyExchange, Filters: len(c.Filters), Unresolved: c.Unresolved}
	decided, passed := scan(c.Filters, &q)
	if decided < 0 && q.Forwarded() && q.Dir == sadb.Out {
		q.Flow, q.Dir = swapped(q.Flow), sadb.In
		again, others := scan(c.Filters, &q)
		if again >= 0 {
			decided, passed, x.Destination = again, others, true
		}
	}
	x.Passed = passed
	if decided < 0 {
		return x
	}
	x.Decided, x.Place = &c.Filters[decided], decided+1
	for i := decided + 1; i < len(c.Filters); i++ {
		if differs(&c.Filters[i].Filter, &q) == 0 {
			x.Next, x.NextPlace = &c.Filters[i], i+1
			break
		}
	}
	return x
}

// scan returns the index of the first filter that matches, -1 if none does, and
// those before it.
func scan(filters []CompiledFilter, q *Question) (int, []Passed) {
	var counts [256]int
	var first [256][]int
	for i := range filters {
		d := differs(&filters[i].Filter, q)
		if d == 0 {
			return i, groups(&counts, &first)
		}
		if counts[d]++; len(first[d]) < firstPassed {
			first[d] = append(first[d], i+1)
		}
	}
	return -1, groups(&counts, &first)
}

func groups(counts *[256]int, first *[256][]int) []Passed {
	var all []Passed
	for d, n := range counts {
		if n > 0 {
			all = append(all, Passed{Differs: Aspects(d), Count: n, First: first[d]})
		}
	}
	slices.SortFunc(all, func(a, b Passed) int {
		if by := len(a.Differs.Words()) - len(b.Differs.Words()); by != 0 {
			return by
		}
		return a.First[0] - b.First[0]
	})
	return all
}

// differs returns in what a packet is not what a filter asks for; none: it
// matches (sadb.Filter.Matches).
func differs(f *sadb.Filter, q *Question) Aspects {
	var d Aspects
	s, p := &f.Selector, &q.Flow
	if f.Dir&q.Dir == 0 {
		d |= OtherDirection
	}
	if !f.Connections.Matches(p.Connection) {
		d |= OtherConnection
	}
	if !s.Remote.Matches(p.Remote, p.RemoteMe) {
		d |= OtherRemote
	}
	if !s.Local.Matches(p.Local, p.LocalMe) {
		d |= OtherLocal
	}
	if s.Proto != 0 && s.Proto != p.Proto {
		return d | OtherProtocol // ports and types of another protocol mean nothing
	}
	if sadb.HasPorts(p.Proto) {
		if !s.RemotePorts.Matches(p.RemotePort) {
			d |= OtherRemotePort
		}
		if !s.LocalPorts.Matches(p.LocalPort) {
			d |= OtherLocalPort
		}
	}
	if sadb.HasICMP(p.Proto) && !(s.ICMPType.Matches(p.ICMPType) && s.ICMPCode.Matches(p.ICMPCode)) {
		d |= OtherICMP
	}
	return d
}

// exemption says why no filter is asked about a packet.
func exemption(q Question) string {
	f := q.Flow
	v6 := f.Remote.Is6()
	switch {
	case f.Remote.IsLoopback() || f.Local.IsLoopback():
		return "loopback traffic is never filtered"
	case f.Proto == sadb.ICMPv6 && f.ICMPType >= 133 && f.ICMPType <= 137:
		return "IPv6 neighbour discovery from the link is never filtered (RFC 4861)"
	case f.Proto == sadb.ICMPv6 && (f.ICMPType >= 130 && f.ICMPType <= 132 || f.ICMPType == 143):
		return "IPv6 multicast listener discovery is never filtered (RFC 2710, RFC 3810)"
	case f.LocalMe && f.Proto == sadb.UDP && !v6 && f.LocalPort == 68 && f.RemotePort == 67:
		return "DHCP of this host as a client is never filtered (RFC 2131)"
	case f.LocalMe && f.Proto == sadb.UDP && v6 && f.LocalPort == 546 && f.RemotePort == 547 && linkLocal(q):
		return "DHCPv6 of this host as a client is never filtered (RFC 8415)"
	case f.LocalMe && q.Dir == sadb.In && (f.Proto == uint8(sadb.ESP) || f.Proto == uint8(sadb.AH)):
		return "ESP and AH to this host are never filtered: what is inside is"
	}
	return ""
}

// linkLocal reports whether the sender's address is link-local; an own one that
// is not named may be.
func linkLocal(q Question) bool {
	sender := q.Flow.Local
	if q.Dir == sadb.In {
		sender = q.Flow.Remote
	}
	return !sender.IsValid() || sender.IsLinkLocalUnicast()
}

// Group reports whether the packet goes to many hosts (multicast, broadcast):
// security is never negotiated for it.
func (q Question) Group() bool {
	to := q.Flow.Remote
	if q.Dir == sadb.In {
		to = q.Flow.Local
	}
	return q.Broadcast || to.IsMulticast() || to == limitedBroadcast()
}

// Outcome says in words what becomes of the packet.
func (x Explanation) Outcome() string {
	switch {
	case x.Exempt != "":
		return "passes in clear: " + x.Exempt
	case x.Decided == nil && x.DefaultResponse != nil:
		return "passes unmodified: no filter matches it; if the peer asks for security, the default response rule answers"
	case x.Decided == nil:
		return "passes unmodified: no filter matches it"
	case x.Decided.Action.Kind == sadb.Permit:
		return "passes in clear"
	case x.Decided.Action.Kind == sadb.Block:
		return "is dropped"
	}
	return x.negotiated()
}

// negotiated says what becomes of a packet whose filter negotiates security.
func (x Explanation) negotiated() string {
	a := x.Decided.Action
	in := x.Question.Dir == sadb.In
	switch {
	case x.Decided.Report != nil:
		return x.reportWords()
	case x.Question.Group() && a.AllowClear:
		return "passes in clear: it goes to a group of hosts, with which security is never negotiated, and the filter action allows clear"
	case x.Question.Group():
		return "is dropped: it goes to a group of hosts, with which security is never negotiated, and the filter action requires it"
	case in && a.PassThrough:
		return "is accepted secured, and in clear too until the peer has an association; what answers it asks for one"
	case in && a.AllowClear:
		return "is accepted secured; in clear it is dropped, unless the peer has been let fall back to clear"
	case in:
		return "is accepted secured alone; in clear it is dropped"
	case a.AllowClear && a.ClearDelay > 0:
		return "is secured; without an association one is negotiated, and what is sent after " + a.ClearDelay.String() + " without success goes in clear"
	case a.AllowClear:
		return "is secured; without an association one is negotiated, and meanwhile it goes in clear"
	}
	return "is secured; without an association it waits until one is negotiated, and is dropped if that fails"
}

// Decision returns "permit", "block" or "negotiate", "none" when no filter
// matches and "exempt" when none is asked.
func (x Explanation) Decision() string {
	switch {
	case x.Exempt != "":
		return "exempt"
	case x.Decided == nil:
		return "none"
	}
	return x.Decided.Action.Kind.String()
}

// maxUnresolved bounds the names that an explanation lists.
const maxUnresolved = 5

// Notes says what else is to be known about the decision.
func (x Explanation) Notes() []string {
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if x.Destination {
		add("the packet is forwarded; no filter holds it by its source, this one has its destination on this side")
	}
	other := func(p Passed) bool { return p.Differs == OtherConnection }
	if slices.ContainsFunc(x.Passed, other) {
		add("the type of connection decides here: this is about a packet of a %s connection", connectionOf(x.Question.Flow))
	}
	own := func(p Passed) bool { return p.Differs&OtherLocal != 0 }
	if !x.Question.Flow.Local.IsValid() && slices.ContainsFunc(x.Passed, own) {
		add("me is no particular address here: filters that name addresses of this side are passed over; say me=ADDRESS")
	}
	for i, u := range x.Unresolved {
		if i == maxUnresolved {
			add("and %d more names and sets that stand for nothing", len(x.Unresolved)-i)
			break
		}
		add("%s", u)
	}
	if p := x.Question.Flow; p.Proto == sadb.UDP && p.LocalMe && (p.LocalPort == 500 || p.LocalPort == 4500) {
		add("the agent's own IKE packets pass whatever the filters say; this is about any other program on that port")
	}
	return notes
}

// connectionOf returns the type that a packet's connection counts as.
func connectionOf(f sadb.Flow) sadb.ConnectionType {
	if f.Connection == sadb.RemoteAccess {
		return sadb.RemoteAccess
	}
	return sadb.LAN
}
