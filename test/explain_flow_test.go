package test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// flow is one packet that is sent for real, and the traffic around it: as far as
// the policy leaves the choice, no other flow has its remote address, so that
// IKE and ESP between the two addresses belong to it.
type flow struct {
	n             int    // part of its marker
	rule          string // the rule it was made for; "": none
	inside        bool   // made to match that rule's filter
	negotiated    bool   // by that rule
	out           bool
	proto         uint8
	local, remote netip.Addr
	lport, rport  uint16
	icmp          [2]uint8 // type and code
	behind        bool     // local is behind the gateway, which forwards it
	silent        bool     // remote does not answer IKE
}

// ends returns who sends and who receives, with their ports.
func (f flow) ends() (src, dst netip.Addr, sport, dport uint16) {
	if f.out {
		return f.local, f.remote, f.lport, f.rport
	}
	return f.remote, f.local, f.rport, f.lport
}

// words is the flow as explain takes it.
func (f flow) words() string {
	src, dst, sport, dport := f.ends()
	left, right := sideWords(src, sport, f.proto, f.out && !f.behind), sideWords(dst, dport, f.proto, !f.out && !f.behind)
	name := sadb.ProtoName(f.proto)
	if sadb.HasICMP(f.proto) {
		name = fmt.Sprintf("%s:%d/%d", name, f.icmp[0], f.icmp[1])
	}
	return fmt.Sprintf("%s %s -> %s", name, left, right)
}

func sideWords(a netip.Addr, port uint16, proto uint8, me bool) string {
	text := a.String()
	if sadb.HasPorts(proto) {
		text = netip.AddrPortFrom(a, port).String()
	}
	if me {
		return "me=" + text
	}
	return text
}

// shape is one direction of one filter of a rule.
type shape struct {
	rule          string
	negotiates    bool
	out           bool
	local, remote policy.Endpoint
	lport, rport  sadb.Ports
	proto         uint8
	icmp          [2]sadb.Octets
}

// shapes lists every direction of every filter of the rules that are enforced.
// inside says which addresses are on this host's side, for filters without me.
func shapes(p *policy.Policy, inside netip.Prefix) []shape {
	var all []shape
	for _, r := range p.Rules {
		if r.Disabled {
			continue
		}
		for _, f := range listOf(p, r.FilterList).Filters {
			s := shapeOf(f, inside)
			s.rule, s.negotiates = r.Name, actionOf(p, r.FilterAction).Kind == sadb.Negotiate
			all = append(all, s)
			if f.Mirrored {
				s.out = !s.out
				all = append(all, s)
			}
		}
	}
	return all
}

// shapeOf is the filter as written: from its source to its destination. Seen
// from here its mirror is the same with the other direction.
func shapeOf(f policy.Filter, inside netip.Prefix) shape {
	s := shape{out: true, local: f.From, remote: f.To, lport: f.FromPorts, rport: f.ToPorts, proto: f.Protocol,
		icmp: [2]sadb.Octets{f.ICMPType, f.ICMPCode}}
	first, _, _ := f.From.Addrs.Bounds()
	if f.From.Kind == policy.Me || f.To.Kind != policy.Me && inside.Contains(first) {
		return s
	}
	s.out = false
	s.local, s.remote, s.lport, s.rport = s.remote, s.local, s.rport, s.lport
	return s
}

func listOf(p *policy.Policy, name string) policy.FilterList {
	for _, l := range p.FilterLists {
		if l.Name == name {
			return l
		}
	}
	return policy.FilterList{}
}

func actionOf(p *policy.Policy, name string) policy.FilterAction {
	for _, a := range p.FilterActions {
		if a.Name == name {
			return a
		}
	}
	if name == "permit" {
		return policy.FilterAction{Name: name, Kind: sadb.Permit}
	}
	return policy.FilterAction{Name: name, Kind: sadb.Block}
}

// generator makes flows around filters, the same ones in every run.
type generator struct {
	random *rand.Rand
	inside netip.Prefix // behind the host under test, if it is a gateway
	used   map[netip.Addr]bool
	flows  []flow
}

func newGenerator(inside netip.Prefix) *generator {
	return &generator{random: rand.New(rand.NewPCG(2000, 409)), inside: inside, used: map[netip.Addr]bool{}}
}

// mine is where the addresses of the host under test are. It has many: a peer
// answers by its default response rule for so many filters of one address only.
var mine = [2]netip.Prefix{netip.MustParsePrefix("10.77.1.0/24"), netip.MustParsePrefix("fd77:1::/120")}

// own is the address by which the host takes part in the nth flow.
func own(n, v6 int) netip.Addr {
	b := mine[v6].Addr().AsSlice()
	b[len(b)-1] = byte(n/8 + 1)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// elsewhere is where addresses are taken from that a filter leaves open.
var elsewhere = [2]netip.Prefix{netip.MustParsePrefix("10.99.0.0/16"), netip.MustParsePrefix("fd99::/64")}

// make returns at least n flows: for every shape and family the borders of each
// thing it names, from both sides; then more of the same, negotiated ones first.
func (g *generator) make(all []shape, n int) []flow {
	for _, s := range all {
		for v6 := range 2 {
			if s.has(v6 == 1) {
				g.borders(s, v6)
			}
		}
	}
	for v6 := range 2 {
		for _, out := range []bool{true, false} {
			g.add(shape{out: out}, v6, around{})
		}
	}
	for turn := 0; len(g.flows) < n; turn++ {
		for _, s := range all {
			for v6 := range 2 {
				if s.has(v6 == 1) && (s.negotiates || turn%3 == 0) {
					g.add(s, v6, around{turn: turn})
				}
			}
		}
		if len(all) == 0 || turn%4 == 0 {
			g.add(shape{out: turn%2 == 0}, turn/4%2, around{turn: turn})
		}
	}
	return g.flows
}

// has reports whether the shape has traffic of a family.
func (s shape) has(v6 bool) bool {
	for _, e := range []policy.Endpoint{s.local, s.remote} {
		if first, _, ok := e.Addrs.Bounds(); ok && first.Is6() != v6 {
			return false
		}
	}
	return s.proto != sadb.ICMP && v6 || s.proto != sadb.ICMPv6 && !v6
}

// where a value lies, seen from the range that a filter names.
type where int

const (
	within where = iota
	first
	last
	before
	after
)

// around says where the values of one flow lie.
type around struct {
	remote, local, rport, lport, icmpType, icmpCode where
	proto                                           bool // another one
	turn                                            int
}

func (a around) outside() bool {
	for _, w := range []where{a.remote, a.local, a.rport, a.lport, a.icmpType, a.icmpCode} {
		if w == before || w == after {
			return true
		}
	}
	return a.proto
}

// borders adds a flow for each border of what the shape names.
func (g *generator) borders(s shape, v6 int) {
	g.add(s, v6, around{})
	for _, w := range []where{first, last, before, after} {
		if s.remote.Kind == policy.Addresses {
			g.add(s, v6, around{remote: w})
		}
		if s.local.Kind == policy.Addresses {
			g.add(s, v6, around{local: w})
		}
		if !s.rport.IsAny() {
			g.add(s, v6, around{rport: w})
		}
		if !s.lport.IsAny() {
			g.add(s, v6, around{lport: w})
		}
		if s.icmp[0].Set {
			g.add(s, v6, around{icmpType: w})
		}
		if s.icmp[1].Set {
			g.add(s, v6, around{icmpCode: w})
		}
	}
	if s.proto != 0 {
		g.add(s, v6, around{proto: true})
	}
}

// add adds one flow, unless the range of a shape ends with the numbers.
func (g *generator) add(s shape, v6 int, a around) {
	f := flow{n: len(g.flows), rule: s.rule, out: s.out, inside: s.rule != "" && !a.outside(), negotiated: s.negotiates}
	f.proto = g.protocol(s.proto, v6, a)
	ok := [4]bool{true, true, true, true}
	f.remote, ok[0] = g.address(s.remote, elsewhere[v6], a.remote)
	f.local = own(f.n, v6)
	switch {
	case s.local.Kind == policy.Addresses:
		f.local, ok[1] = g.address(s.local, elsewhere[v6], a.local)
		f.behind = true
		// Neighbouring networks: an address is on one side only.
		ok[0] = ok[0] && !g.inside.Contains(f.remote)
		ok[1] = ok[1] && !s.remote.Addrs.Matches(f.local, false)
	case s.rule == "" && g.inside.IsValid() && v6 == 0:
		f.local, _ = g.address(policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(g.inside)}, g.inside, within)
		f.behind = true
	}
	if sadb.HasPorts(f.proto) {
		f.rport, ok[2] = g.port(s.rport, a.rport, a.turn)
		f.lport, ok[3] = g.port(s.lport, a.lport, a.turn)
	}
	if sadb.HasICMP(f.proto) {
		f.icmp = [2]uint8{octet(s.icmp[0], a.icmpType), octet(s.icmp[1], a.icmpCode)}
		if !s.icmp[0].Set {
			f.icmp = [2]uint8{[]uint8{8, 128}[v6], 0}
		}
	}
	if ok == [4]bool{true, true, true, true} {
		g.flows = append(g.flows, f)
	}
}

// protocol is that of the filter, another one, or where it names none one of
// many. Most are TCP: the other host's kernel answers.
func (g *generator) protocol(p uint8, v6 int, a around) uint8 {
	echo := []uint8{sadb.ICMP, sadb.ICMPv6}[v6]
	switch {
	case p == 0:
		return []uint8{sadb.TCP, sadb.UDP, sadb.TCP, echo, sadb.TCP, sadb.SCTP, sadb.TCP, 253}[a.turn%8]
	case !a.proto:
		return p
	case p == sadb.TCP:
		return sadb.UDP
	}
	return sadb.TCP
}

// address is one of an endpoint that no other flow has, as long as there is one.
func (g *generator) address(e policy.Endpoint, open netip.Prefix, w where) (netip.Addr, bool) {
	from, to, named := e.Addrs.Bounds()
	if e.Kind != policy.Addresses || !named {
		from, to, _ = sadb.Prefix(open).Bounds()
		w = within
	}
	var a netip.Addr
	switch w {
	case first:
		a = from
	case last:
		a = to
	case before:
		a = from.Prev()
	case after:
		a = to.Next()
	default:
		a = g.between(from, to)
	}
	g.used[a] = a.IsValid()
	return a, a.IsValid()
}

// between is an address of a range that is not used yet; of a small range it
// may be.
func (g *generator) between(from, to netip.Addr) (a netip.Addr) {
	for range 1000 {
		b := from.As16()
		for i := range 4 { // ranges of the examples differ in these
			b[12+i] = byte(g.random.UintN(256))
		}
		a = netip.AddrFrom16(b).Unmap()
		if from.Is4() {
			a = netip.AddrFrom4([4]byte(b[12:]))
		}
		if !a.Less(from) && !to.Less(a) && !g.used[a] {
			return a
		}
		if from == to {
			break
		}
		if from.Is4() { // close to the beginning, for the narrow ranges
			a = from
			for range g.random.UintN(200) {
				a = a.Next()
			}
			if !to.Less(a) && !g.used[a] {
				return a
			}
		}
	}
	return from
}

// taken are ports that have a meaning of their own.
var taken = map[uint16]bool{67: true, 68: true, 88: true, 500: true, 546: true, 547: true, 4500: true}

// port is one of a range; where every one matches the first, the last or another.
func (g *generator) port(p sadb.Ports, w where, turn int) (uint16, bool) {
	if p.IsAny() {
		switch turn % 7 {
		case 3:
			return 1, true
		case 5:
			return 65535, true
		}
		return 20000 + uint16(g.random.UintN(30000)), true
	}
	switch w {
	case before:
		return p.From - 1, p.From > 1 && !taken[p.From-1]
	case after:
		return p.To + 1, p.To < 65535 && !taken[p.To+1]
	case last:
		return p.To, true
	case within:
		return p.From + uint16(g.random.UintN(uint(p.To-p.From)+1)), true
	}
	return p.From, true
}

// octet is an ICMP type or code; 0 where every one matches.
func octet(o sadb.Octets, w where) uint8 {
	switch {
	case !o.Set:
		return 0
	case w == before:
		return o.From - 1
	case w == after:
		return o.To + 1
	case w == last:
		return o.To
	}
	return o.From
}
