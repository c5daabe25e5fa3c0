package xfrm

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// steps composes a list and returns it with the steps to it.
func (e *engine) steps(t *testing.T, filters, overlays []sadb.Filter) (*list, []step) {
	t.Helper()
	l, err := e.compose(filters, overlays)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(e.exempt)
	for _, it := range l.items {
		want = append(want, it.policies...)
	}
	return l, plan(e.have, want)
}

// take makes a step in memory, as send does with a kernel.
func (e *engine) take(s step) {
	if s.typ == wire.MsgDelPolicy {
		delete(e.have, keyOf(s.policy))
		return
	}
	e.have[keyOf(s.policy)] = s.policy
}

func (e *engine) settle(l *list) {
	e.list, e.places = l, map[string]standing{}
	for _, it := range l.items {
		e.places[it.name] = standing{it.priority, it.variant}
	}
}

// packet is the headers of an outbound packet.
type packet struct {
	src, dst     netip.Addr
	proto        uint8
	sport, dport uint16
}

func (p packet) flow() sadb.Flow {
	return sadb.Flow{Local: p.src, Remote: p.dst, LocalMe: true, Proto: p.proto, LocalPort: p.sport, RemotePort: p.dport}
}

func meets(s wire.Selector, p packet) bool {
	return s.Src.Contains(p.src) && s.Dst.Contains(p.dst) && (s.Proto == 0 || s.Proto == p.proto) &&
		p.sport&s.SrcPort.Mask == s.SrcPort.Port && p.dport&s.DstPort.Mask == s.DstPort.Port
}

// decided is what the kernel may do with a packet, "" for without a policy. Of
// two policies of one priority either may decide.
func (e *engine) decided(p packet) []string {
	best, out := uint32(0), []string{""}
	for _, q := range e.have {
		if q.Dir != wire.Out || q.Priority == priorityExempt || !meets(q.Selector, p) {
			continue
		}
		does := outcome(q.Action == wire.Block, q.Templates)
		switch {
		case best == 0 || q.Priority < best:
			best, out = q.Priority, []string{does}
		case q.Priority == best:
			out = append(out, does)
		}
	}
	return out
}

func outcome(block bool, ts []wire.Template) string {
	switch {
	case block:
		return "block"
	case len(ts) == 0:
		return "permit"
	}
	return fmt.Sprintf("negotiate %d %v", ts[0].ReqID, ts[0].Optional)
}

// wanted is what the filters say about a packet.
func (e *engine) wanted(filters []sadb.Filter, p packet) string {
	f, ok := sadb.Decide(filters, p.flow(), sadb.Out)
	if !ok {
		return ""
	}
	if f.Action.Kind != sadb.Negotiate {
		return f.Action.Kind.String()
	}
	return fmt.Sprintf("negotiate %d %v", e.reqids.id(f.ID), f.Action.AllowClear)
}

func randomFilter(r *rand.Rand, id int) sadb.Filter {
	s := sadb.Selector{Local: sadb.Me(), Remote: []sadb.Addrs{sadb.AnyAddrs(), sadb.Prefix(netip.MustParsePrefix("10.0.0.0/30")),
		sadb.Range(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.6")), sadb.Addr(netip.MustParseAddr("10.0.0.2"))}[r.IntN(4)]}
	if r.IntN(2) == 0 {
		s.Proto = sadb.UDP
		from := uint16(r.IntN(6))
		s.RemotePorts = sadb.Ports{From: from, To: from + uint16(r.IntN(6))}
	}
	a := sadb.Action{Kind: sadb.ActionKind(r.IntN(3))}
	a.AllowClear = a.Kind == sadb.Negotiate && r.IntN(2) == 0
	return sadb.Filter{ID: sadb.FilterID(fmt.Sprint("f", id)), Selector: s, Dir: sadb.Both, Action: a}
}

func randomPacket(r *rand.Rand) packet {
	p := packet{src: netip.MustParseAddr("192.0.2.1"), dst: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(8))}), proto: []uint8{sadb.UDP, sadb.TCP}[r.IntN(2)]}
	p.sport, p.dport = uint16(r.IntN(4)), uint16(r.IntN(12))
	return p
}

// While a list is exchanged for another, message by message, every packet is
// decided by the old list or by the new one; afterwards by the new one.
func TestEveryStepDecidesByTheOldOrTheNewList(t *testing.T) {
	composed := 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		e := bench()
		var before []sadb.Filter
		for round := range 6 {
			after := changedList(r, before, round)
			if _, err := e.compose(after, nil); err != nil {
				continue // more filters have a piece in common than can be told apart
			}
			composed++
			l, steps := e.steps(t, after, nil)
			packets := make([]packet, 40)
			for i := range packets {
				packets[i] = randomPacket(r)
			}
			for n, s := range steps {
				e.take(s)
				for _, p := range packets {
					was, will := e.wanted(before, p), e.wanted(after, p)
					for _, got := range e.decided(p) {
						if got != will && (got != was || n == len(steps)-1) {
							t.Fatalf("seed %d round %d, step %d of %d: %v: %q, before %q, after %q", seed, round, n+1, len(steps), p, got, was, will)
						}
					}
				}
			}
			e.settle(l)
			before = after
		}
	}
	if composed < 150 {
		t.Errorf("only %d of 180 lists could be made", composed)
	}
}

// changedList drops, keeps, moves, changes and adds filters.
func changedList(r *rand.Rand, before []sadb.Filter, round int) []sadb.Filter {
	var out []sadb.Filter
	for _, f := range before {
		switch r.IntN(5) {
		case 0:
			continue
		case 1:
			f.Action = randomFilter(r, 0).Action
		}
		out = append(out, f)
	}
	for i := range 1 + r.IntN(6) {
		at := r.IntN(len(out) + 1)
		out = slices.Insert(out, at, randomFilter(r, round*10+i))
	}
	if len(out) > 2 && r.IntN(3) == 0 {
		i, j := r.IntN(len(out)), r.IntN(len(out))
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// Invariant 2: the same list again asks nothing of the kernel.
func TestTheSameListAgainChangesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	e := bench()
	var filters []sadb.Filter
	for i := range 200 {
		filters = append(filters, randomFilter(r, i))
	}
	filters = distinct(filters)
	l, steps := e.steps(t, filters, nil)
	for _, s := range steps {
		e.take(s)
	}
	e.settle(l)
	if _, again := e.steps(t, filters, nil); len(again) != 0 {
		t.Errorf("%d messages for nothing", len(again))
	}
	filters[len(filters)/2].Action = sadb.Action{}
	filters[len(filters)/2].Name = "changed"
	if _, one := e.steps(t, filters, nil); len(one) > 100 {
		t.Errorf("%d messages for one filter", len(one))
	}
}

// distinct leaves out filters of a selector that is there already.
func distinct(filters []sadb.Filter) []sadb.Filter {
	seen := map[sadb.Selector]bool{}
	return slices.DeleteFunc(filters, func(f sadb.Filter) bool {
		was := seen[f.Selector]
		seen[f.Selector] = true
		return was
	})
}

// Overlays of one selector stand above their filter, the newest first, and each
// is a policy of its own.
func TestOverlaysOfOneSelector(t *testing.T) {
	e := bench()
	base := sadb.Filter{ID: "f", Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(netip.MustParseAddr("10.0.0.2"))}, Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate}}
	p := packet{src: netip.MustParseAddr("192.0.2.1"), dst: netip.MustParseAddr("10.0.0.2"), proto: sadb.TCP}
	settled := func(overlays []sadb.Filter) (messages int) {
		l, steps := e.steps(t, []sadb.Filter{base}, overlays)
		for _, s := range steps {
			e.take(s)
		}
		e.settle(l)
		return len(steps)
	}
	settled(nil)
	var overlays []sadb.Filter
	for i := range variants - 1 {
		o := base
		o.ID, o.Parent, o.Expires = sadb.FilterID(fmt.Sprint("o", i)), "f", time.Now().Add(time.Hour)
		o.Action = sadb.Action{Kind: []sadb.ActionKind{sadb.Block, sadb.Negotiate}[i%2]}
		overlays = append(overlays, o)
		if n := settled(overlays); n != 2 {
			t.Errorf("%d messages for an overlay of two directions", n)
		}
		want := []string{"block", fmt.Sprintf("negotiate %d false", e.reqids.id("f"))}[i%2]
		if got := e.decided(p); !slices.Equal(got, []string{want}) {
			t.Errorf("%d overlays: %s, want %s", i+1, got, want)
		}
	}
	o := overlays[0]
	o.ID = "one too many"
	if _, err := e.compose([]sadb.Filter{base}, append(overlays, o)); err == nil {
		t.Error("more overlays of one selector than variants were accepted")
	}
}

// On a host that forwards, Me is its addresses: what it forwards for others is
// theirs.
func TestMeOnAHostThatForwards(t *testing.T) {
	e := bench()
	e.own = []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")}
	f := sadb.Filter{ID: "f", Selector: sadb.Selector{Local: sadb.Me()}, Dir: sadb.Both}
	l, steps := e.steps(t, []sadb.Filter{f}, nil)
	for _, s := range steps {
		e.take(s)
	}
	e.settle(l)
	for src, want := range map[string]string{"10.0.0.9": "block", "10.0.0.8": ""} {
		p := packet{src: netip.MustParseAddr(src), dst: netip.MustParseAddr("192.0.2.1"), proto: sadb.TCP}
		if got := e.decided(p); !slices.Equal(got, []string{want}) {
			t.Errorf("from %s: %q, want %q", src, got, want)
		}
	}
	for k := range e.have {
		if k.dir == wire.Forward {
			t.Errorf("a policy for forwarded packets: %+v", k)
		}
		if k.dir == wire.In && k.sel.Dst.Bits() != 0 && k.sel.Proto == 0 {
			t.Errorf("inbound, Me is not any address: %+v", k)
		}
	}
}

func TestPrioritiesAscendAndStay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var now []uint32
	for range 2000 {
		var slots []slot
		for _, p := range now {
			if r.IntN(10) > 0 {
				slots = append(slots, slot{now: p})
			}
		}
		at := r.IntN(len(slots) + 1)
		slots = slices.Insert(slots, at, slot{overlay: r.IntN(2) == 0})
		got, ok := prioritise(slots)
		if !ok {
			t.Fatal("no room")
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) || got[0] <= priorityTop {
			t.Fatalf("priorities %v", got)
		}
		for i, s := range slots {
			if s.now != 0 && got[i] > s.now {
				t.Fatalf("slot %d moved down, from %d to %d", i, s.now, got[i])
			}
		}
		now = got
	}
}

func TestRangesAreCutExactly(t *testing.T) {
	for _, c := range [][2]uint32{{0, 0}, {1, 65535}, {1024, 65535}, {80, 90}, {7, 7}, {0, 65535}, {65535, 65535}} {
		for v := range uint32(65536) {
			n := 0
			for _, m := range masks(c[0], c[1]) {
				if uint16(v)&m.Mask == m.Port {
					n++
				}
			}
			if in := v >= c[0] && v <= c[1]; (n == 1) != in || n > 1 {
				t.Fatalf("port %d of %v is in %d pieces", v, c, n)
			}
		}
	}
	from, to := netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.1.130")
	pieces := prefixes(sadb.Range(from, to), wire.IPv4)
	for a := netip.MustParseAddr("10.0.0.0"); a.Less(netip.MustParseAddr("10.0.2.0")); a = a.Next() {
		n := 0
		for _, p := range pieces {
			if p.Contains(a) {
				n++
			}
		}
		if in := !a.Less(from) && !to.Less(a); (n == 1) != in || n > 1 {
			t.Fatalf("%s is in %d pieces", a, n)
		}
	}
	whole := sadb.Range(netip.MustParseAddr("::"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
	if got := prefixes(whole, wire.IPv6); len(got) != 1 || got[0].Bits() != 0 {
		t.Errorf("all of IPv6 is %v", got)
	}
}

func TestRefusedFilters(t *testing.T) {
	good := sadb.Filter{ID: "f", Name: "the rule", Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate}}
	if err := checkFilter(good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*sadb.Filter){
		"no ID":                   func(f *sadb.Filter) { f.ID = "" },
		"an unknown action":       func(f *sadb.Filter) { f.Action.Kind = 9 },
		"no direction":            func(f *sadb.Filter) { f.Dir = 0 },
		"a delay":                 func(f *sadb.Filter) { f.Action.ClearDelay = time.Second },
		"a tunnel without an end": func(f *sadb.Filter) { f.Mode = sadb.Tunnel },
		"a tunnel that falls back to clear": func(f *sadb.Filter) {
			f.Mode, f.TunnelRemote, f.Action.AllowClear = sadb.Tunnel, netip.MustParseAddr("192.0.2.1"), true
		},
		"Me on the other side": func(f *sadb.Filter) { f.Selector.Remote = sadb.Me() },
	} {
		f := good
		change(&f)
		if checkFilter(f) == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	for what, s := range map[string]sadb.Selector{
		"ports of no protocol": {LocalPorts: sadb.Port(80)},
		"too many pieces": {Proto: sadb.TCP, LocalPorts: sadb.Ports{From: 1, To: 65534}, RemotePorts: sadb.Ports{From: 1, To: 65534},
			Remote: sadb.Range(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.14"))},
	} {
		if _, err := selectors(s); err == nil {
			t.Errorf("%s were accepted", what)
		}
	}
}

func TestCountersOfXFRM(t *testing.T) {
	got, err := parseStat([]byte("XfrmInError             \t1\nXfrmInNoStates          \t22\n"))
	if err != nil || got["XfrmInError"] != 1 || got["XfrmInNoStates"] != 22 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"XfrmInError\n", "XfrmInError x\n", "XfrmInError -1\n", "a b c\n"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// Every counter of the kernels at hand is explained.
func TestCountersAreExplained(t *testing.T) {
	all, err := Drops()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Meaning == "" {
			t.Errorf("%s has no explanation", d.Name)
		}
	}
	if len(all) < 28 {
		t.Errorf("only %d counters", len(all))
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("XfrmInError             \t1\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}
