package xfrm

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// situation is what is in force before an operation, and after it.
type situation struct {
	filters, after []sadb.Filter
	overlays       []sadb.Filter // before
	sas            []sadb.SA     // before
}

// operation is one call of the driver.
type operation struct {
	name string
	do   func(*engine, situation) error
}

func operations() []operation {
	lab := sadb.FilterID("lab")
	return []operation{
		{"SetFilters", func(e *engine, s situation) error { return e.setFilters(s.after) }},
		{"SetFilters of none", func(e *engine, _ situation) error { return e.setFilters(nil) }},
		{"PutFilter that closes", func(e *engine, s situation) error {
			return e.putFilter(overlayOf(s.filters, lab, "closes", sadb.Action{Kind: sadb.Negotiate}))
		}},
		{"PutFilter that opens", func(e *engine, s situation) error {
			return e.putFilter(overlayOf(s.filters, lab, "opens", sadb.Action{Kind: sadb.Permit}))
		}},
		{"PutFilter again", func(e *engine, s situation) error {
			o := s.overlays[0]
			o.Expires = o.Expires.Add(time.Hour)
			return e.putFilter(o)
		}},
		{"RemoveFilter", func(e *engine, s situation) error { return e.removeFilter(s.overlays[0].ID) }},
		{"expire", func(e *engine, s situation) error { e.expire(s.overlays[0].Expires); return nil }},
		{"AddSA inbound", func(e *engine, _ situation) error { return e.addSA(testSA(sadb.In, sadb.ESP, 0x9001)) }},
		{"AddSA outbound", func(e *engine, _ situation) error { return e.addSA(testSA(sadb.Out, sadb.ESP, 0x9001)) }},
		{"AddSA of AH", func(e *engine, _ situation) error { return e.addSA(testSA(sadb.Out, sadb.AH, 0x9001)) }},
		{"AllocSPI and AddSA", func(e *engine, _ situation) error {
			sa := testSA(sadb.In, sadb.ESP, 0)
			spi, err := e.allocSPI(sa.Src, sa.ID.Dst, sadb.ESP)
			if err != nil {
				return err
			}
			sa.ID.SPI = spi
			return e.addSA(sa)
		}},
		{"DeleteSA", func(e *engine, s situation) error { return e.deleteSA(s.sas[0].ID) }},
		{"DeleteSA of AH", func(e *engine, s situation) error { return e.deleteSA(s.sas[1].ID) }},
		{"Abandon", func(e *engine, _ situation) error {
			flow := sadb.Flow{Local: exampleAddr(1), Remote: netip.MustParseAddr("10.0.0.2"), LocalMe: true, Proto: sadb.UDP, RemotePort: 4}
			e.asked[question{lab, flow.Local, flow.Remote}] = pending{flow: flow, since: now(), waits: wire.State{ID: sadb.SAID{Dst: flow.Remote, Proto: sadb.ESP}, Src: flow.Local, ReqID: e.reqids.id(lab)}}
			return e.abandon(driver.Acquire{Filter: lab, Flow: flow})
		}},
	}
}

// overlayOf returns an overlay of a filter with its selector.
func overlayOf(filters []sadb.Filter, parent, id sadb.FilterID, a sadb.Action) sadb.Filter {
	i := slices.IndexFunc(filters, func(f sadb.Filter) bool { return f.ID == parent })
	o := filters[i]
	o.ID, o.Parent, o.Action, o.Expires = id, parent, a, now().Add(time.Hour)
	return o
}

func testSA(dir sadb.Directions, p sadb.Proto, spi sadb.SPI) sadb.SA {
	local, remote := exampleAddr(1), netip.MustParseAddr("10.0.0.2")
	sa := sadb.SA{ID: sadb.SAID{Dst: remote, Proto: p, SPI: spi}, Src: local, Dir: dir, Filter: "lab", Selector: sadb.Selector{}.Narrow(local, remote), Replay: 64}
	if dir == sadb.In {
		sa.ID.Dst, sa.Src = local, remote
	}
	for _, s := range sadb.Suites() {
		if s.Proto == p {
			sa.Suite = s
		}
	}
	sa.EncKey, sa.AuthKey = sampleKey(sa.Suite.EncKeyLen()), sampleKey(sa.Suite.Integrity.KeyLen())
	return sa
}

// situationOf makes one out of random filters around those the operations name.
func situationOf(seed uint64) situation {
	r := rand.New(rand.NewPCG(seed, 3))
	lab := sadb.Filter{ID: "lab", Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(netip.MustParseAddr("10.0.0.2"))}, Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate, AllowClear: true}}
	before := []sadb.Filter{lab}
	for i := range 8 {
		before = append(before, randomFilter(r, i))
	}
	before = distinct(before)
	after := slices.Clone(before)
	for i := range after {
		if r.IntN(2) == 0 {
			after[i].Action = randomFilter(r, 0).Action
		}
	}
	after = distinct(append(after[:1:1], append(after[3:], randomFilter(r, 20), randomFilter(r, 21))...))
	return situation{filters: before, after: after,
		overlays: []sadb.Filter{overlayOf(before, "lab", "pair", sadb.Action{Kind: sadb.Negotiate})},
		sas:      []sadb.SA{testSA(sadb.Out, sadb.ESP, 0x7001), testSA(sadb.Out, sadb.AH, 0x7002), testSA(sadb.In, sadb.ESP, 0x7003)}}
}

// begin puts a situation in force.
func (s situation) begin(t *testing.T, k *kernel, dir string) *engine {
	t.Helper()
	e := k.open(t, dir)
	if err := e.setFilters(s.filters); err != nil {
		t.Fatal(err)
	}
	for _, o := range s.overlays {
		if err := e.putFilter(o); err != nil {
			t.Fatal(err)
		}
	}
	for _, sa := range s.sas {
		if err := e.addSA(sa); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// does is what the policies of a kernel may do with it.
func (k *kernel) does(p packet, d sadb.Directions) []string {
	dir := wire.Out
	if d == sadb.In {
		dir = wire.In
		p.src, p.dst, p.sport, p.dport = p.dst, p.src, p.dport, p.sport
	}
	best, out := uint32(0), []string{""}
	for _, q := range k.policies {
		if q.Dir != dir || q.Priority == priorityExempt || !meets(q.Selector, p) {
			continue
		}
		verdict := outcome(q.Action == wire.Block, q.Templates)
		switch {
		case best == 0 || q.Priority < best:
			best, out = q.Priority, []string{verdict}
		case q.Priority == best:
			out = append(out, verdict)
		}
	}
	return out
}

// watch wants every packet to be decided as one of some lists would have it,
// whatever message of the kernel's was the last.
type watch struct {
	t       *testing.T
	k       *kernel
	where   string
	packets []packet
	lists   [][2][]sadb.Filter // filters and overlays
	allowed []allowed          // of packets, outbound and then inbound
}

// allowed is what may become of a packet.
type allowed struct {
	p       packet
	d       sadb.Directions
	does    []string // what one list or another says
	inClear bool     // one of them lets it pass in clear
}

// expect says by which lists packets may be decided from now on, as the request
// IDs of an engine have it.
func (w *watch) expect(e *engine, lists ...[2][]sadb.Filter) {
	w.lists, w.allowed = lists, nil
	for _, d := range []sadb.Directions{sadb.Out, sadb.In} {
		for _, p := range w.packets {
			w.allowed = append(w.allowed, allowed{p: p, d: d})
		}
	}
	for _, l := range lists {
		spliced := sadb.Splice(l[0], l[1])
		for i := range w.allowed {
			w.allowed[i].by(e, spliced, l[1])
		}
	}
}

// by adds what a list says.
func (a *allowed) by(e *engine, spliced, overlays []sadb.Filter) {
	f, ok := sadb.Decide(spliced, a.p.flow(), a.d)
	a.inClear = a.inClear || !ok || inClear(f.Action, a.d)
	switch {
	case !ok:
		a.does = append(a.does, "")
	case f.Action.Kind != sadb.Negotiate:
		a.does = append(a.does, f.Action.Kind.String())
	default:
		a.does = append(a.does, fmt.Sprintf("negotiate %d %v", e.reqids.id(rootOf(f.ID, overlays)), inClear(f.Action, a.d)))
	}
}

// look wants XFRM to decide as allowed, and XFRM and the table together to let
// nothing pass in clear that each of the lists forbids.
func (w *watch) look() {
	for _, a := range w.allowed {
		clear := true
		for _, got := range w.k.does(a.p, a.d) {
			if !slices.Contains(a.does, got) {
				w.t.Fatalf("%s, message %d: %v %s: %q, want one of %q", w.where, w.k.messages, a.p, a.d, got, a.does)
			}
			clear = clear && got != "block" && !strings.HasSuffix(got, "false")
		}
		if f, ok := sadb.Decide(w.k.filters, a.p.flow(), a.d); ok && !inClear(f.Action, a.d) {
			clear = false
		}
		if clear && !a.inClear {
			w.t.Fatalf("%s, message %d: %v %s may pass in clear", w.where, w.k.messages, a.p, a.d)
		}
	}
}

func inClear(a sadb.Action, d sadb.Directions) bool {
	return a.Kind == sadb.Permit || a.Kind == sadb.Negotiate && (d == sadb.Out && a.AllowClear || d == sadb.In && a.PassThrough)
}

// Whenever a process dies, before or after any message of any operation, every
// packet is decided by the list there was or by the one there was to be; the
// next process finds its way from there, dies at a message of its own, and the
// one after it has exactly the policy in force that it is given.
func TestDeathAtAnyMessage(t *testing.T) {
	deaths, seeds := 0, uint64(1)
	if os.Getenv("IPSECAGENT_FULL") != "" {
		seeds = 4
	}
	for seed := range seeds {
		s := situationOf(seed)
		for _, op := range operations() {
			for _, after := range []bool{false, true} {
				n := 1
				for dieAt(t, s, op, n, after) {
					n++
				}
				deaths += n - 1
			}
		}
	}
	if deaths < 150*int(seeds) {
		t.Errorf("only %d deaths", deaths)
	}
}

// dieAt runs an operation in a process that dies at its message n, and reports
// whether it did.
func dieAt(t *testing.T, s situation, op operation, n int, after bool) bool {
	t.Helper()
	k, dir := newKernel(), t.TempDir()
	e := s.begin(t, k, dir)
	r := rand.New(rand.NewPCG(uint64(n), 5))
	w := &watch{t: t, k: k, where: fmt.Sprintf("%s, death at message %d (after it: %v)", op.name, n, after)}
	for range 25 {
		w.packets = append(w.packets, randomPacket(r))
	}
	k.die, k.after = k.messages+n, after
	died := !lives(t, func() error { return op.do(e, s) })
	w.expect(e, append(goals(op, s), [2][]sadb.Filter{s.filters, s.overlays})...)
	w.look()
	w.recover(dir, s.after, 1+r.IntN(12))
	return died
}

// goals returns the lists that an operation may have been on its way to.
func goals(op operation, s situation) [][2][]sadb.Filter {
	switch op.name {
	case "SetFilters":
		return [][2][]sadb.Filter{{s.after, s.overlays}} // their parent stays
	case "SetFilters of none":
		return [][2][]sadb.Filter{{nil, nil}}
	case "PutFilter that closes":
		return [][2][]sadb.Filter{{s.filters, append(slices.Clone(s.overlays), overlayOf(s.filters, "lab", "closes", sadb.Action{Kind: sadb.Negotiate}))}}
	case "PutFilter that opens":
		return [][2][]sadb.Filter{{s.filters, append(slices.Clone(s.overlays), overlayOf(s.filters, "lab", "opens", sadb.Action{Kind: sadb.Permit}))}}
	case "RemoveFilter", "expire":
		return [][2][]sadb.Filter{{s.filters, nil}}
	}
	return nil
}

// recover opens a process that is to put a list in force and dies at its message
// n, and then another.
func (w *watch) recover(dir string, filters []sadb.Filter, n int) {
	w.t.Helper()
	lists := slices.Clone(w.lists)
	for _, l := range w.lists {
		stay, _ := surviving(l[1], l[0], filters)
		lists = append(lists, [2][]sadb.Filter{filters, stay})
	}
	var e *engine
	for _, die := range []int{w.k.messages + n, 0} {
		w.k.die, w.k.after, w.k.done = die, n%2 == 0, nil
		lives(w.t, func() error {
			e = w.k.open(w.t, dir)
			w.expect(e, lists...)
			w.k.done = w.look
			return e.setFilters(filters)
		})
	}
	w.expect(e, [2][]sadb.Filter{filters, e.overlays})
	w.look()
	w.exact(e)
}

// exact wants nothing of ours in the kernel but what the engine knows.
func (w *watch) exact(e *engine) {
	w.t.Helper()
	want := len(e.exempt)
	for _, it := range e.list.items {
		want += len(it.policies)
	}
	if len(w.k.policies) != want {
		w.t.Fatalf("%s: %d policies in the end, want %d", w.where, len(w.k.policies), want)
	}
	if len(w.k.states) != len(e.sas.byID) {
		w.t.Fatalf("%s: %d states in the end, want %d", w.where, len(w.k.states), len(e.sas.byID))
	}
	for _, a := range e.sas.byID {
		if _, ok := w.k.states[a.SA.ID]; !ok {
			w.t.Fatalf("%s: %s is not in the kernel", w.where, a.SA.ID)
		}
	}
}
