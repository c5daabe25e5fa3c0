package nft

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// target is what a packet that matches an element meets.
type target struct {
	kind  expr.VerdictKind
	chain string // for goto
	// counts says what the element's counter means.
	counts meaning
}

// meaning is kept with each element, in its user data.
type meaning byte

const (
	matches meaning = 1 << iota
	drops
)

// element is one box in a set, with its verdict.
type element struct {
	from, to []byte // to is nil in a set of single values
	target   target
	id       sadb.FilterID
}

// set is the boxes of one layer, shape, family and path.
type set struct {
	name     string
	shape    shape
	v6       bool
	elements []element
}

// plan is what a list of filters asks of the kernel.
type plan struct {
	epoch  string
	sets   map[string]*set     // by name
	chains map[string][]rule   // of single filters, by name
	rules  map[string][]rule   // of the dispatch chains, by name
	order  map[string][]string // of the sets in each dispatch chain
}

// path is one of the ways a packet takes: a base chain and how its filters
// decide there.
type path struct {
	chain  string
	dir    sadb.Directions
	target func(*plan, Config, sadb.Filter, bool) target
}

func paths() []path {
	return []path{
		{chainSteer, sadb.Out, (*plan).steerTarget},
		{chainLast, sadb.Out, (*plan).lastTarget},
		{chainIn, sadb.In, (*plan).inTarget},
		{chainVia, sadb.Out, (*plan).viaTarget},
	}
}

// newPlan lays filters out. Names carry the epoch, so that nothing of an
// earlier process or a failed attempt is mistaken for complete.
func newPlan(cfg Config, epoch string, filters []sadb.Filter) *plan {
	p := &plan{epoch: epoch, sets: map[string]*set{}, chains: map[string][]rule{},
		rules: map[string][]rule{}, order: map[string][]string{}}
	for _, dir := range []sadb.Directions{sadb.Out, sadb.In} {
		for _, v6 := range []bool{false, true} {
			groups := group(filters, dir, v6)
			for _, path := range paths() {
				if path.dir != dir {
					continue
				}
				if path.chain == chainVia && !tunnels(filters) {
					p.rules[dispatch(path.chain, v6)] = nil // what is forwarded is not looked at
					continue
				}
				decide := func(f sadb.Filter) target { return path.target(p, cfg, f, v6) }
				p.rules[dispatch(path.chain, v6)] = p.dispatchRules(path.chain, groups, filters, decide)
			}
		}
	}
	return p
}

// boxGroup is the boxes that share a set.
type boxGroup struct {
	layer int
	shape shape
	dir   sadb.Directions
	v6    bool
	boxes []box
}

// group returns the boxes of a direction and family, layer by layer.
func group(filters []sadb.Filter, dir sadb.Directions, v6 bool) []boxGroup {
	var all []box
	for i, f := range filters {
		if f.Dir&dir != 0 {
			all = append(all, boxes(i, f.Selector, v6)...)
		}
	}
	type place struct {
		layer int
		shape shape
	}
	byPlace := map[place][]box{}
	for i, l := range layers(all) {
		at := place{l, all[i].shape()}
		byPlace[at] = append(byPlace[at], all[i])
	}
	var out []boxGroup
	for at, b := range byPlace {
		out = append(out, boxGroup{at.layer, at.shape, dir, v6, b})
	}
	slices.SortFunc(out, func(a, b boxGroup) int {
		return cmp.Or(cmp.Compare(a.layer, b.layer), cmp.Compare(a.shape, b.shape))
	})
	return out
}

// dispatchRules makes the sets of a chain and its rules: one look-up for each.
func (p *plan) dispatchRules(chain string, groups []boxGroup, filters []sadb.Filter, decide func(sadb.Filter) target) []rule {
	var rules []rule
	if slices.ContainsFunc(groups, func(g boxGroup) bool { return g.shape.looksInside() }) && chain != chainSteer && chain != chainVia {
		rules = append(rules, join(jump(chainParse)))
	}
	for _, g := range groups {
		s := &set{shape: g.shape, v6: g.v6}
		for i := range g.boxes {
			f := filters[g.boxes[i].filter]
			from, to := g.boxes[i].key(g.shape, family(g.v6))
			if !g.shape.has(ranges) {
				to = nil
			}
			s.elements = append(s.elements, element{from: from, to: to, target: decide(f), id: f.ID})
		}
		p.name(s, chain)
		p.sets[s.name] = s
		at := dispatch(chain, g.v6)
		p.order[at] = append(p.order[at], s.name)
		rules = append(rules, lookup(g, s.name))
	}
	return rules
}

func family(v6 bool) byte {
	if v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// name names a set after its contents: the same contents are the same set.
func (p *plan) name(s *set, chain string) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %d %t\n", chain, s.shape, s.v6)
	for _, e := range s.elements {
		fmt.Fprintf(h, "%x-%x %v %q\n", e.from, e.to, e.target, e.id)
	}
	s.name = fmt.Sprintf("%s-%s-%s", dispatch(chain, s.v6), p.epoch, hex.EncodeToString(h.Sum(nil)[:8]))
}

// lookup is the rule that decides by a set: the conditions that are the same
// for all its elements, the key, the look-up of the verdict.
func lookup(g boxGroup, name string) rule {
	local, remote := saddrType, daddrType
	if g.dir == sadb.In {
		local, remote = daddrType, saddrType
	}
	var r rule
	if g.shape.has(localMe) {
		r = join(r, local(expr.CmpOpEq, typeLocal))
	}
	if g.shape.has(remoteMe) {
		r = join(r, remote(expr.CmpOpEq, typeLocal))
	}
	return join(r, g.loads(), []expr.Any{&expr.Lookup{SourceRegister: scratch, IsDestRegSet: true, SetName: name}})
}

// loads puts the key together, field by field as shape.fields has them.
func (g boxGroup) loads() rule {
	const network, transport = expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	src, dst, size := uint32(12), uint32(16), uint32(4)
	if g.v6 {
		src, dst, size = 8, 24, 16
	}
	sport, dport := uint32(0), uint32(2)
	if g.dir == sadb.In {
		src, dst, sport, dport = dst, src, dport, sport
	}
	reg := scratch + 1
	r := rule{meta(expr.MetaKeyNFPROTO, scratch)}
	add := func(s shape, x func(uint32) expr.Any, size uint32) {
		if g.shape.has(s) {
			r = append(r, x(reg))
			reg += (size + 3) / 4
		}
	}
	field := func(base expr.PayloadBase, offset, size uint32) func(uint32) expr.Any {
		return func(reg uint32) expr.Any { return load(base, offset, size, reg) }
	}
	add(localAddr, field(network, src, size), size)
	add(remoteAddr, field(network, dst, size), size)
	add(withProto, func(reg uint32) expr.Any { return meta(expr.MetaKeyL4PROTO, reg) }, 1)
	add(withLocalPort, field(transport, sport, 2), 2)
	add(withRemotePort, field(transport, dport, 2), 2)
	add(withICMPType, field(transport, 0, 1), 1)
	add(withICMPCode, field(transport, 1, 1), 1)
	return r
}

func (p *plan) steerTarget(_ Config, f sadb.Filter, _ bool) target {
	if f.Action.Requires() {
		return target{expr.VerdictGoto, chainMark, matches}
	}
	return target{expr.VerdictAccept, "", 0}
}

// tunnels reports whether a filter is of tunnel mode.
func tunnels(filters []sadb.Filter) bool {
	return slices.ContainsFunc(filters, tunnelled)
}

func tunnelled(f sadb.Filter) bool { return f.Mode == sadb.Tunnel && f.Action.Requires() }

// viaTarget steers what is forwarded and belongs into a tunnel. Transport mode
// does not carry other hosts' traffic: the last chain drops it.
func (p *plan) viaTarget(_ Config, f sadb.Filter, _ bool) target {
	if tunnelled(f) {
		return target{expr.VerdictGoto, chainMark, matches}
	}
	return target{expr.VerdictAccept, "", 0}
}

func (p *plan) lastTarget(cfg Config, f sadb.Filter, v6 bool) target {
	switch {
	case f.Action.Kind == sadb.Permit:
		return target{expr.VerdictAccept, "", matches}
	case f.Action.Kind == sadb.Negotiate && f.Action.AllowClear:
		return target{expr.VerdictGoto, p.addClearOut(cfg, f, v6), matches}
	case f.Action.Kind == sadb.Negotiate:
		return target{expr.VerdictGoto, chainLeak, drops}
	}
	return target{expr.VerdictDrop, "", matches | drops}
}

func (p *plan) inTarget(cfg Config, f sadb.Filter, v6 bool) target {
	switch {
	case f.Action.Kind == sadb.Permit:
		return target{expr.VerdictAccept, "", matches}
	case f.Action.Kind != sadb.Negotiate:
		return target{expr.VerdictDrop, "", matches | drops}
	case f.Action.PassThrough:
		return target{expr.VerdictGoto, p.addClearIn(cfg, f, v6), matches}
	case f.Action.AllowClear:
		return target{expr.VerdictGoto, chainUnicast, matches | drops}
	}
	return target{expr.VerdictGoto, chainRefuse, matches | drops}
}
