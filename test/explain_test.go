package test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// leastFlows is how many flows are sent for each policy, and leastNegotiated how
// many of a hundred must be negotiated where the policy negotiates at all.
const (
	leastFlows      = 200
	leastNegotiated = 30
)

// wave is how many flows are under way at a time: fewer than the half-open
// exchanges that a responder keeps for one address.
const wave = 24

// TestExplainAgreesWithPackets assigns every policy of examples/ and the
// predefined ones to a live agent, asks explain how packets are treated, and
// sends them. What the packets do is judged by the capture of the wire and by
// what arrives at the other end, never by what the programs say of themselves.
func TestExplainAgreesWithPackets(t *testing.T) {
	for i, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t, fmt.Sprintf("exp%d", i))
		})
	}
}

func (s scenario) run(t *testing.T, tag string) {
	p := s.document(t)
	l := newLab(t, tag, s, p)
	wire := l.a.capture("wire")
	begin := time.Now()
	for some := range slices.Chunk(l.flows, wave) {
		l.round(1, some)
		l.answer(some)
		l.settle(some)
		l.round(2, some)
	}
	took := time.Since(begin)
	seen := newSightings(wire.end())
	for _, trial := range l.trials {
		if got := l.observed(trial, seen); got != trial.want {
			t.Errorf("%s, %v:\n  explain: %s (rule %q), so it is expected to be %s\n  on the wire: %s", trial.flow.words(), trial.send, trial.said.Outcome,
				ruleOf(trial.said), trial.want, got)
		}
	}
	l.covers(p)
	negotiated := 0
	for _, f := range l.flows {
		if l.negotiated(f, seen) {
			negotiated++
		}
	}
	t.Logf("figure: %d flows, %d packets sent, %d%% of the flows negotiated, in %.0f s", len(l.flows), len(l.trials), negotiated*100/len(l.flows), took.Seconds())
	if len(l.flows) < leastFlows {
		t.Errorf("only %d flows", len(l.flows))
	}
	if !s.clear && negotiated*100 < leastNegotiated*len(l.flows) {
		t.Errorf("only %d of %d flows were negotiated", negotiated, len(l.flows))
	}
}

// trial is a packet that was sent, what explain said just before, and what that
// means.
type trial struct {
	flow flow
	send send
	said control.Explanation
	want verdict
}

// round asks explain about flows, then sends a packet of each.
func (l *lab) round(n int, flows []flow) {
	l.t.Helper()
	var begun []trial
	try := func(f flow, forged bool, said control.Explanation) {
		tr := trial{flow: f, send: send{f.n, n, forged}, said: said}
		tr.want = l.means(tr)
		begun = append(begun, tr)
		if err := l.send(f, tr.send); err != nil {
			l.t.Errorf("send %s: %v", f.words(), err)
		}
	}
	said := make([]control.Explanation, len(flows))
	for i, f := range flows {
		said[i] = l.explain(f)
	}
	for i, f := range flows {
		try(f, !f.out, said[i])
	}
	l.wait(begun)
	for i, f := range flows {
		// In the first round a peer that only answers would send the same once more.
		if !f.out && (n == 2 || l.s.peer != peerAnswers) {
			try(f, false, said[i])
		}
	}
	l.wait(begun)
	l.trials = append(l.trials, begun...)
}

func (l *lab) send(f flow, id send) error {
	switch {
	case id.forged:
		return l.far.forge(f, id, l.hardware)
	case f.out:
		return l.near(f).send(f, id)
	}
	return l.far.send(f, id)
}

// wait waits for the packets that are expected to arrive, but not for ever: those
// that do not are found later, and the test has failed. Then it waits until
// nothing arrives any more.
func (l *lab) wait(trials []trial) {
	missing := func() bool {
		return slices.ContainsFunc(trials, func(tr trial) bool { return tr.want != dropped && !l.arrived(tr) })
	}
	for deadline := time.Now().Add(l.patience); missing(); {
		if time.Now().After(deadline) {
			l.patience = 200 * time.Millisecond
			break
		}
		time.Sleep(10 * time.Millisecond) // polling
	}
	l.quiet()
}

// quiet waits until nothing has arrived anywhere for a while: what should not
// arrive has had its time.
func (l *lab) quiet() {
	arrivals := func() (n int) {
		for _, s := range l.stations {
			n += s.arrivals()
		}
		return n
	}
	last, since := arrivals(), time.Now()
	for time.Since(since) < patient(150*time.Millisecond) {
		time.Sleep(10 * time.Millisecond) // polling
		if n := arrivals(); n != last {
			last, since = n, time.Now()
		}
	}
}

func (l *lab) arrived(tr trial) bool {
	if tr.flow.out {
		return l.far.arrived(tr.send)
	}
	return l.near(tr.flow).arrived(tr.send)
}

// answer has whoever got a packet answer it, as servers do: where this host or
// the peer takes packets in clear, it is the answer that asks for security.
func (l *lab) answer(flows []flow) {
	for _, tr := range l.trials {
		if tr.send.round != 1 || !slices.ContainsFunc(flows, func(f flow) bool { return f.n == tr.flow.n }) || !l.arrived(tr) || tr.flow.rport == 0 {
			continue
		}
		back := tr.flow
		back.out = !back.out
		if err := l.send(back, send{n: back.n, round: 0}); err != nil {
			l.t.Errorf("answer %s: %v", tr.flow.words(), err)
		}
	}
	l.quiet()
}

// settle waits until no negotiation is under way with peers that answer, and the
// others have been let fall back to clear where that is allowed.
func (l *lab) settle(flows []flow) {
	l.t.Helper()
	eventually(l.t, 60*time.Second, "every negotiation has ended", func() bool {
		s := l.a.status()
		open := map[string]bool{}
		for _, f := range flows {
			open[f.remote.String()] = f.silent && l.s.falls
		}
		for _, c := range s.InClear {
			open[c.Peer] = false
		}
		for _, n := range s.Negotiating {
			open[n.Peer] = !l.silent[n.Peer]
		}
		return !slices.Contains(slices.Collect(maps.Values(open)), true)
	})
}

// explain asks the live agent; of some flows the program is asked too, and says
// the same.
func (l *lab) explain(f flow) control.Explanation {
	l.t.Helper()
	said, err := l.client.Explain(context.Background(), control.ExplainRequest{Flow: f.words()})
	if err != nil {
		l.t.Fatalf("explain %s: %v", f.words(), err)
	}
	if f.n%50 == 0 {
		l.sameAsProgram(f, said)
	}
	return said
}

func (l *lab) sameAsProgram(f flow, said control.Explanation) {
	l.t.Helper()
	src, dst, sport, dport := f.ends()
	args := []string{"explain", "-o", "json"}
	proto, icmp, _ := strings.Cut(strings.Fields(f.words())[0], ":")
	args = append(args, "--src", src.String(), "--dst", dst.String(), "--proto", proto)
	if icmp != "" {
		args = append(args, "--icmp-type", icmp)
	}
	if sport != 0 {
		args = append(args, "--sport", fmt.Sprint(sport), "--dport", fmt.Sprint(dport))
	}
	var printed control.Explanation
	if err := json.Unmarshal([]byte(l.a.mustCtl(args...)), &printed); err != nil {
		l.t.Fatal(err)
	}
	again, err := l.client.Explain(context.Background(), control.ExplainRequest{Flow: f.words()})
	if err != nil {
		l.t.Fatal(err)
	}
	if again.Outcome != said.Outcome {
		return // it has changed meanwhile
	}
	if printed.Outcome != said.Outcome || printed.Flow != said.Flow || !reflect.DeepEqual(printed.Offer, said.Offer) {
		l.t.Errorf("ipsecctl %s says %q of %s, the agent %q of %s", strings.Join(args, " "), printed.Outcome, printed.Flow, said.Outcome, said.Flow)
	}
}

func ruleOf(x control.Explanation) string {
	if x.Decided == nil {
		return ""
	}
	return x.Decided.Rule
}

// covers fails unless every rule has decided in each direction and family that
// its filters have, for packets sent.
func (l *lab) covers(p *policy.Policy) {
	decided := map[string]bool{}
	key := func(rule string, out, v6 bool) string { return fmt.Sprintf("%q, out %v, IPv6 %v", rule, out, v6) }
	for _, tr := range l.trials {
		decided[key(ruleOf(tr.said), tr.flow.out, tr.flow.remote.Is6())] = true
	}
	for _, s := range shapes(p, l.s.inside) {
		if l.s.otherHalf(p, s.rule) {
			continue
		}
		for _, v6 := range []bool{false, true} {
			if s.has(v6) && !decided[key(s.rule, s.out, v6)] {
				l.t.Errorf("rule %s has decided nothing", key(s.rule, s.out, v6))
			}
		}
	}
}

// near is where the flow ends on this side.
func (l *lab) near(f flow) *station {
	if f.behind {
		return l.stations[2]
	}
	return l.stations[0]
}

// lab is a host with the policy under test, its peer, and flows between them.
type lab struct {
	t        *testing.T
	s        scenario
	a, b, c  *host // c is behind a
	client   *control.Client
	flows    []flow
	far      *station
	stations []*station      // of a, b and c
	hardware []byte          // address of a's wire
	silent   map[string]bool // peers that do not answer, by address
	trials   []trial
	patience time.Duration // with packets that are expected to arrive
}

// newLab makes the hosts, starts the agents and assigns the policies.
func newLab(t *testing.T, tag string, s scenario, p *policy.Policy) *lab {
	t.Helper()
	l := &lab{t: t, s: s, silent: map[string]bool{}, patience: patient(20 * time.Second)}
	l.a, l.b = newPair(t, tag)
	all := shapes(p, s.inside)
	if s.peer == peerAsks {
		all = append(all, shapes(parsePolicy(t, askedDocument), s.inside)...)
	}
	l.flows = newGenerator(s.inside).make(all, leastFlows)
	l.silence()
	l.join(tag)
	s.start(t, l, p)
	l.client = control.NewClient(l.a.socket(), patient(20*time.Second))
	l.hardware = mac(l.a)
	for _, h := range []*host{l.a, l.b, l.c} {
		if h != nil {
			l.stations = append(l.stations, newStation(t, h, l.flows))
		}
	}
	l.far = l.stations[1]
	return l
}

// silence has some of the peers not answer IKE; they come first, all at once,
// for it takes time to give up on them.
func (l *lab) silence() {
	flows := map[netip.Addr]int{}
	for _, f := range l.flows {
		flows[f.remote]++
	}
	n := 0
	for i, f := range l.flows {
		// Those of ICMP may be permitted; an address of several flows is spoken to.
		if l.s.silent > 0 && f.out && f.inside && f.negotiated && !sadb.HasICMP(f.proto) && flows[f.remote] == 1 {
			l.flows[i].silent = n/2%l.s.silent == 0 // of both families
			l.silent[f.remote.String()] = l.flows[i].silent
			n++
		}
	}
	slices.SortStableFunc(l.flows, func(a, b flow) int {
		switch {
		case a.silent == b.silent:
			return 0
		case a.silent:
			return -1
		}
		return 1
	})
}

// join gives the peer the addresses of the flows, and this side those behind it.
func (l *lab) join(tag string) {
	l.t.Helper()
	l.a.must("ip", "route", "add", "default", "via", l.b.v4)
	l.a.must("ip", "-6", "route", "add", "default", "via", l.b.v6)
	l.b.must("ip", "route", "add", "default", "via", l.a.v4)
	l.b.must("ip", "-6", "route", "add", "default", "via", l.a.v6)
	var near, far, behind []netip.Addr
	silent := []string{"add table inet silent { chain input { type filter hook input priority -10; }; }"}
	for _, f := range l.flows {
		far = append(far, f.remote)
		if f.behind {
			behind = append(behind, f.local)
		} else {
			near = append(near, f.local)
		}
		if f.silent {
			family := "ip"
			if f.remote.Is6() {
				family = "ip6"
			}
			silent = append(silent, fmt.Sprintf("add rule inet silent input %s daddr %s udp dport 500 drop", family, f.remote))
		}
	}
	l.a.own(near)
	l.b.own(far)
	l.b.must("nft", strings.Join(silent, "; "))
	if !l.s.inside.IsValid() {
		return
	}
	ends := l.s.gateways()
	l.a.must("ip", "addr", "add", ends[0].String()+"/24", "dev", "wire")
	l.b.must("ip", "addr", "add", ends[1].String()+"/24", "dev", "wire")
	l.c = newHost(l.t, tag+"-c")
	must(l.t, "ip", "link", "add", "inner", "netns", l.a.ns, "type", "veth", "peer", "name", "wire", "netns", l.c.ns)
	l.a.must("ip", "addr", "add", "10.88.0.1/24", "dev", "inner")
	l.a.must("ip", "link", "set", "inner", "up")
	l.a.must("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	l.c.must("ip", "addr", "add", "10.88.0.2/24", "dev", "wire")
	l.c.must("ip", "link", "set", "wire", "up")
	l.c.must("ip", "route", "add", "default", "via", "10.88.0.1")
	l.c.own(behind)
	l.a.routes(behind, "10.88.0.2")
}

func newHost(t *testing.T, ns string) *host {
	t.Helper()
	h := &host{t: t, ns: ns, dir: t.TempDir()}
	must(t, "ip", "netns", "add", h.ns)
	t.Cleanup(h.remove)
	must(t, "ip", "-n", h.ns, "link", "set", "lo", "up")
	return h
}

// own gives a host addresses.
func (h *host) own(addresses []netip.Addr) {
	h.t.Helper()
	h.batch(addresses, func(a netip.Addr) string {
		return fmt.Sprintf("addr add %s/%d dev wire %s", a, a.BitLen(), map[bool]string{true: "nodad"}[a.Is6()])
	})
}

// routes leads addresses over a gateway.
func (h *host) routes(addresses []netip.Addr, via string) {
	h.t.Helper()
	h.batch(addresses, func(a netip.Addr) string { return fmt.Sprintf("route add %s/%d via %s", a, a.BitLen(), via) })
}

// batch runs an ip command for each address once.
func (h *host) batch(addresses []netip.Addr, command func(netip.Addr) string) {
	h.t.Helper()
	var b strings.Builder
	done := map[netip.Addr]bool{}
	for _, a := range addresses {
		if !done[a] {
			fmt.Fprintln(&b, command(a))
		}
		done[a] = true
	}
	h.must("ip", "-batch", h.write("batch", b.String(), 0o644))
}

// examples is where the policies of the examples are.
func examples(name string) string { return filepath.Join("..", "examples", name) }
