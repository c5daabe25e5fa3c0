package nft

import (
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

// path is one of the ways a packet takes: a base chain and how its filters
// decide there.
type path struct {
	chain  string
	dir    sadb.Directions
	target func(*layout, sadb.Filter, bool) target
}

func paths() []path {
	return []path{
		{chainSteer, sadb.Out, (*layout).steerTarget},
		{chainLast, sadb.Out, (*layout).lastTarget},
		{chainIn, sadb.In, (*layout).inTarget},
		{chainVia, sadb.Out, (*layout).viaTarget},
	}
}

// paths returns those that the boxes of a space decide on. What is forwarded is
// looked at where there are tunnels.
func (l *layout) paths(s *space) []path {
	return slices.DeleteFunc(paths(), func(p path) bool {
		return p.dir != s.dir || p.chain == chainVia && !l.via
	})
}

// element returns the element of a box in the set of its slot on a path.
func (l *layout) element(p path, x *placed) element {
	from, to := x.key(x.slot.shape, family(x.space.v6))
	if !x.slot.shape.has(ranges) {
		to = nil
	}
	return element{from: from, to: to, target: p.target(l, *x.entry.filter, x.space.v6), id: x.entry.filter.ID}
}

// dispatchRules returns the rules of every dispatch chain: one look-up or a few
// for each slot.
func (l *layout) dispatchRules(cfg Config) map[string][]rule {
	all := map[string][]rule{}
	for _, v6 := range []bool{false, true} {
		all[dispatch(chainVia, v6)] = nil
	}
	for _, s := range l.spaces {
		for _, p := range l.paths(s) {
			all[dispatch(p.chain, s.v6)] = l.pathRules(cfg, p, s)
		}
	}
	return all
}

func (l *layout) pathRules(cfg Config, p path, s *space) []rule {
	var rules []rule
	inside := slices.ContainsFunc(s.slots, func(t *slot) bool { return t.shape.looksInside() })
	if inside && p.chain != chainSteer && p.chain != chainVia {
		rules = append(rules, join(jump(chainParse)))
	}
	for _, t := range s.slots {
		look := s.lookup(t.shape, l.setName(p.chain, s.v6, t))
		for _, mine := range s.localIsMe(p.chain, t.shape) {
			for _, condition := range cfg.connections(p.chain, t.shape) {
				rules = append(rules, join(condition, mine, look))
			}
		}
	}
	return rules
}

// localIsMe returns conditions of which one holds for packets whose local side
// is Me: an address of this host. It is also whatever an application here sends,
// which is all there is to steer, and in the last chain what no interface has
// brought: its source may be an address that this host has lost meanwhile, and
// IPv6 lets the socket go on.
func (s *space) localIsMe(chain string, sh shape) []rule {
	local := saddrType(expr.CmpOpEq, typeLocal)
	if s.dir == sadb.In {
		local = daddrType(expr.CmpOpEq, typeLocal)
	}
	switch {
	case !sh.has(localMe) || chain == chainSteer:
		return []rule{nil}
	case chain == chainLast:
		return []rule{local, metaIs(expr.MetaKeyIIF, native(0)...)}
	}
	return []rule{local}
}

func (l *layout) setName(chain string, v6 bool, s *slot) string {
	return fmt.Sprintf("%s-%s-%x", dispatch(chain, v6), l.epoch, s.serial)
}

// setNames returns the names of all sets of filters.
func (l *layout) setNames() map[string]bool {
	all := map[string]bool{}
	for _, s := range l.spaces {
		for _, p := range l.paths(s) {
			for _, t := range s.slots {
				all[l.setName(p.chain, s.v6, t)] = true
			}
		}
	}
	return all
}

func family(v6 bool) byte {
	if v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// lookup is the end of the rule that decides by a set: whether the remote side
// is Me, where its elements say so, the key, the look-up of the verdict.
func (s *space) lookup(sh shape, name string) rule {
	remote := daddrType
	if s.dir == sadb.In {
		remote = saddrType
	}
	var r rule
	if sh.has(remoteMe) {
		r = join(r, remote(expr.CmpOpEq, typeLocal))
	}
	return join(r, s.loads(sh), []expr.Any{&expr.Lookup{SourceRegister: scratch, IsDestRegSet: true, SetName: name}})
}

// loads puts the key together, field by field as shape.fields has them.
func (s *space) loads(sh shape) rule {
	const network, transport = expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	src, dst, size := uint32(12), uint32(16), uint32(4)
	if s.v6 {
		src, dst, size = 8, 24, 16
	}
	sport, dport := uint32(0), uint32(2)
	if s.dir == sadb.In {
		src, dst, sport, dport = dst, src, dport, sport
	}
	reg := scratch + 1
	r := rule{meta(expr.MetaKeyNFPROTO, scratch)}
	add := func(part shape, x func(uint32) expr.Any, size uint32) {
		if sh.has(part) {
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

func (l *layout) steerTarget(f sadb.Filter, _ bool) target {
	if f.Action.Requires() {
		return target{expr.VerdictGoto, chainMark, matches}
	}
	return target{expr.VerdictAccept, "", 0}
}

// tunnelled reports whether a filter sends traffic into a tunnel.
func tunnelled(f sadb.Filter) bool { return f.Mode == sadb.Tunnel && f.Action.Requires() }

// viaTarget steers what is forwarded and belongs into a tunnel. Transport mode
// does not carry other hosts' traffic: the last chain drops it.
func (l *layout) viaTarget(f sadb.Filter, _ bool) target {
	if tunnelled(f) {
		return target{expr.VerdictGoto, chainMark, matches}
	}
	return target{expr.VerdictAccept, "", 0}
}

func (l *layout) lastTarget(f sadb.Filter, v6 bool) target {
	switch {
	case f.Action.Kind == sadb.Permit:
		return target{expr.VerdictAccept, "", matches}
	case f.Action.Kind == sadb.Negotiate && f.Action.AllowClear:
		return target{expr.VerdictGoto, l.clearChain("out", f, v6), matches}
	case f.Action.Kind == sadb.Negotiate:
		return target{expr.VerdictGoto, chainLeak, drops}
	}
	return target{expr.VerdictDrop, "", matches | drops}
}

func (l *layout) inTarget(f sadb.Filter, v6 bool) target {
	switch {
	case f.Action.Kind == sadb.Permit:
		return target{expr.VerdictAccept, "", matches}
	case f.Action.Kind != sadb.Negotiate:
		return target{expr.VerdictDrop, "", matches | drops}
	case f.Action.PassThrough:
		return target{expr.VerdictGoto, l.clearChain("in", f, v6), matches}
	case f.Action.AllowClear:
		return target{expr.VerdictGoto, chainUnicast, matches | drops}
	}
	return target{expr.VerdictGoto, chainRefuse, matches | drops}
}
