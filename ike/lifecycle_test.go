package ike

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// newestPair returns the pair established last.
func (h *host) newestPair() sadb.Pair {
	if len(h.established) == 0 {
		return sadb.Pair{}
	}
	return h.established[len(h.established)-1].Pair
}

// traffic has the first packet arrive on the inbound association of a pair.
func (w *world) traffic(to *host, p sadb.Pair) {
	to.m.Handle(w.now, Used{p.In[0]})
	w.flush()
}

func TestRekeyReplacesThePairWithoutAGap(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	old := a.newestPair()
	a.m.Handle(w.now, Rekey{old.ID})
	a.m.Handle(w.now, Rekey{old.ID}) // once is enough
	w.run(time.Second)
	fresh, peer := a.newestPair(), b.newestPair()
	if len(a.established) != 2 || fresh.Replaces != old.ID || len(b.established) != 2 || peer.Replaces != b.established[0].Pair.ID {
		t.Fatalf("a %+v\nb %+v", a.established, b.established)
	}
	for _, h := range []*host{a, b} {
		was, is := h.established[0].Pair, h.newestPair()
		if h.sas[is.Out[0]].Replaces != was.Out[0] || h.sas[is.In[0]].Replaces != was.In[0] {
			t.Errorf("%s: the associations do not say what they replace", h.addr)
		}
	}
	if len(a.ended)+len(b.ended) != 0 || len(a.sas) != 4 || len(b.sas) != 4 {
		t.Error("the old pair went at once")
	}
	w.traffic(a, fresh)
	w.run(2 * time.Second)
	if len(a.ended) != 0 {
		t.Error("the old pair went while its packets may still be on their way")
	}
	w.run(10 * time.Second)
	if len(a.ended) != 1 || a.ended[0].Pair != old.ID || len(b.ended) != 1 || b.ended[0].Pair != b.established[0].Pair.ID {
		t.Errorf("ended: a %+v, b %+v", a.ended, b.ended)
	}
	w.checkPaired(a, b)
}

func TestReplacedPairGoesWithoutTrafficToo(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	b.m.Handle(w.now, Rekey{b.newestPair().ID}) // the responder of the first renews
	w.run(3 * time.Second)
	if len(a.ended)+len(b.ended) != 0 {
		t.Error("gone too early")
	}
	w.run(5 * time.Second) // message 3 has told the responder
	if len(a.ended) != 1 || len(b.ended) != 1 {
		t.Errorf("ended: a %+v, b %+v", a.ended, b.ended)
	}
	w.checkPaired(a, b)
}

func TestSimultaneousInitiation(t *testing.T) {
	for seed := range uint64(50) {
		w, a, b := two(t, seed)
		w.net.SetPath(iketest.Path{Loss: 0.2, Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond})
		w.ask(a, b, 1)
		w.ask(b, a, 1)
		w.run(300 * time.Second)
		if err := paired(a, b); err != nil {
			t.Errorf("seed %d: %v: ended %v %v", seed, err, a.ended, b.ended)
		}
		if len(a.sas) != 2 || len(a.failed)+len(b.failed) != 0 {
			t.Errorf("seed %d: %d associations, failed %v %v", seed, len(a.sas), a.failed, b.failed)
		}
	}
}

// TestSimultaneousRekeysSettle: both ends renew at once, twice. Nothing is
// lost, and the number of pairs does not grow: only the newest is renewed.
func TestSimultaneousRekeysSettle(t *testing.T) {
	w, a, b := two(t, 4)
	w.ask(a, b, 1)
	w.run(time.Second)
	for range 3 {
		for _, h := range []*host{a, b} {
			for _, e := range slices.Clone(h.established) {
				h.m.Handle(w.now, Rekey{e.Pair.ID})
			}
		}
		w.run(90 * time.Second)
		w.checkPaired(a, b)
	}
	if len(a.m.pairs) != 1 || len(b.m.pairs) != 1 {
		t.Errorf("%d and %d pairs", len(a.m.pairs), len(b.m.pairs))
	}
	for range 3 {
		a.m.Handle(w.now, Rekey{a.m.sortedPairs(func(sadb.Pair) bool { return true })[len(a.m.pairs)-1].pair.ID})
		w.run(90 * time.Second)
	}
	w.checkPaired(a, b)
}

func TestRekeyIsTriedAgain(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	w.net.SetPath(iketest.Path{Loss: 1})
	a.m.Handle(w.now, Rekey{a.newestPair().ID})
	w.run(130 * time.Second)
	if len(a.failed) != 1 || a.failed[0].Filter != "filter-1" {
		t.Fatalf("failed: %+v", a.failed)
	}
	w.net.SetPath(iketest.Path{Delay: time.Millisecond})
	w.run(150 * time.Second)
	if len(a.established) != 2 {
		t.Errorf("not tried again: %+v", a.failed)
	}
}

func TestISAKMPSAIsRenewedAndItsEndKillsNoPair(t *testing.T) {
	w := newWorld(t, 1)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	main := mainOffer(t)
	main.Lifetime = 30 * time.Minute
	p := policyOf(main, responderQuick(t))
	a, b := w.host("192.0.2.1", goodKey, p), w.host("192.0.2.2", goodKey, p)
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: main, Quick: quickOffer(t, a.addr, b.addr)})
	w.run(24 * time.Minute)
	if len(a.m.SAs()) != 1 {
		t.Errorf("%d ISAKMP SAs", len(a.m.SAs()))
	}
	w.run(4 * time.Minute)
	if n := len(a.m.SAs()); n != 2 || !a.m.SAs()[1].Initiator {
		t.Errorf("before the end there are %d ISAKMP SAs", n)
	}
	w.run(3 * time.Minute)
	if len(a.m.SAs()) != 1 || len(b.m.SAs()) != 1 || len(a.ended)+len(b.ended) != 0 {
		t.Errorf("after the end: %v %v, ended %v", a.m.SAs(), b.m.SAs(), a.ended)
	}
	a.m.Handle(w.now, Rekey{a.newestPair().ID})
	w.run(time.Second)
	if len(a.established) != 2 {
		t.Error("no rekey under the renewed ISAKMP SA")
	}
	a.m.Handle(w.now, Close{Reason: "policy is gone"}) // without pairs it is not renewed
	w.run(2 * time.Hour)
	if len(a.m.SAs())+len(b.m.SAs()) != 0 || len(a.m.mains)+len(b.m.mains) != 0 {
		t.Errorf("%d and %d ISAKMP SAs are left", len(a.m.SAs()), len(b.m.SAs()))
	}
	last := a.mains[len(a.mains)-1]
	if last.Ended == "" {
		t.Errorf("the end is not reported: %+v", last)
	}
}

func TestCloseAndGoneTellThePeer(t *testing.T) {
	cases := map[string]func(a *host) Input{
		"close one":  func(a *host) Input { return Close{Pair: a.newestPair().ID, Reason: "swept"} },
		"close peer": func(a *host) Input { return Close{Remote: mustAddr("192.0.2.2"), Main: true, Reason: "swept"} },
		"close all":  func(a *host) Input { return Close{Main: true, Reason: "swept"} },
		"gone":       func(a *host) Input { return Gone{a.newestPair().ID} },
	}
	for name, in := range cases {
		w, a, b := two(t, 1)
		w.ask(a, b, 1)
		w.run(time.Second)
		a.m.Handle(w.now, in(a))
		a.m.Handle(w.now, in(a)) // idempotent
		w.run(time.Second)
		if len(b.ended) != 1 || b.ended[0].Reason != "deleted by the peer" {
			t.Errorf("%s: the peer has %+v", name, b.ended)
		}
		if want := name != "gone"; (len(a.ended) == 1) != want {
			t.Errorf("%s: ended %+v", name, a.ended)
		}
		if main := name == "close peer" || name == "close all"; main != (len(a.m.SAs()) == 0) || main != (len(b.m.SAs()) == 0) {
			t.Errorf("%s: ISAKMP SAs %v %v", name, a.m.SAs(), b.m.SAs())
		}
		if len(a.m.pairs)+len(b.m.pairs)+len(a.m.inbound)+len(b.m.inbound) != 0 {
			t.Errorf("%s: something is remembered", name)
		}
	}
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	a.m.Handle(w.now, Close{Remote: mustAddr("192.0.2.77"), Main: true})
	w.run(time.Second)
	w.checkPaired(a, b)
}

// TestForgedDeleteEndsNothing flips each bit of a genuine delete.
func TestForgedDeleteEndsNothing(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	s := a.m.established()[0]
	s.agent = false // closes at once
	before := len(a.sent)
	a.m.sendDelete(w.now, s, a.newestPair().In)
	a.m.closeSA(w.now, s, "test")
	var genuine [][]byte
	for o, ok := a.m.Poll(); ok; o, ok = a.m.Poll() {
		if o, ok := o.(Send); ok {
			genuine = append(genuine, o.Data)
		}
	}
	if len(genuine) != 2 || before == 0 {
		t.Fatalf("%d datagrams", len(genuine))
	}
	for _, g := range genuine {
		for bit := 8 * wire.HeaderLen; bit < 8*len(g); bit++ {
			forged := slices.Clone(g)
			forged[bit/8] ^= 1 << (bit % 8)
			b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: forged})
		}
		for n := range g {
			b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: g[:n]})
		}
		clear := slices.Clone(g)
		clear[19] = 0
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: clear})
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: netip.AddrPortFrom(mustAddr("192.0.2.66"), 500), Data: g})
	}
	w.flush()
	if len(b.ended) != 0 || len(b.m.SAs()) != 1 || len(b.m.pairs) != 1 {
		t.Fatalf("a forged delete was believed: %+v", b.ended)
	}
	for _, g := range genuine {
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: g})
	}
	w.run(time.Second)
	if len(b.ended) != 1 || len(b.m.SAs()) != 0 {
		t.Error("the genuine ones were not")
	}
}

// TestDeleteOfAnotherPeersPairIsIgnored: authenticated, but not the owner.
func TestDeleteOfAnotherPeersPairIsIgnored(t *testing.T) {
	w, a, b := two(t, 1)
	c := w.host("192.0.2.3", goodKey, policyOf(mainOffer(t), responderQuick(t)))
	w.ask(a, b, 1)
	w.ask(c, b, 1)
	w.run(time.Second)
	s := c.m.established()[0]
	c.m.sendDelete(w.now, s, a.newestPair().In)
	victim := a.m.established()[0]
	d := wire.Delete{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, SPIs: [][]byte{append(victim.icookie[:], victim.rcookie[:]...)}}
	c.m.sendInformational(w.now, s, 1, wire.Payload{Type: wire.DeletePayload, Body: d.Append(nil)})
	w.run(time.Second)
	if len(b.ended) != 0 || len(b.m.SAs()) != 2 {
		t.Errorf("ended %+v", b.ended)
	}
}

func TestPeerThatRestarted(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Minute)
	// b starts anew, and asks first: INITIAL-CONTACT clears what a has.
	b.restart(t, w, 77)
	w.ask(b, a, 1)
	w.run(5 * time.Second)
	if len(a.ended) != 1 || len(a.m.SAs()) != 1 {
		t.Errorf("a: ended %+v, %d ISAKMP SAs", a.ended, len(a.m.SAs()))
	}
	w.checkPaired(a, b)
	// b starts anew, and a asks first, under an ISAKMP SA that b has
	// forgotten.
	w.run(time.Minute)
	b.restart(t, w, 78)
	a.established = nil
	w.ask(a, b, 2)
	w.run(20 * time.Second)
	if len(a.established) != 1 || len(b.established) != 1 || len(a.failed) != 0 {
		t.Errorf("a: %+v %+v, b: %+v", a.established, a.failed, b.established)
	}
}

// restart is the host with a fresh machine: nothing is known of before.
func (h *host) restart(t *testing.T, w *world, seed uint64) {
	fresh := w.bareHost(h.addr.String(), seed, h.m.cfg.Auth...)
	w.hosts = w.hosts[:len(w.hosts)-1]
	fresh.m.Handle(w.now, SetPolicy{h.m.policy})
	*h = *fresh
}

func TestInitialContactIsNotSentByWhoHoldsSomething(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Minute)
	old := b.newestPair()
	b.restart(t, w, 77)
	b.m.Handle(w.now, Adopt{Pair: old, Main: mainOffer(t), Quick: quickOffer(t, b.addr, a.addr)})
	b.m.Handle(w.now, Rekey{old.ID})
	w.run(5 * time.Second)
	if len(a.ended) != 0 || len(b.established) != 1 || b.newestPair().Replaces != old.ID {
		t.Fatalf("a: ended %+v, b: %+v %+v", a.ended, b.established, b.failed)
	}
	w.run(2 * time.Minute)
	if len(a.ended) != 1 || len(b.ended) != 1 || b.ended[0].Pair != old.ID {
		t.Errorf("ended: a %+v, b %+v", a.ended, b.ended)
	}
	// The same without a pair of its own to show, but told not to claim it.
	b.restart(t, w, 78)
	a.ended = nil
	b.m.Handle(w.now, Initiate{Request: 1, Local: b.addr, Remote: a.addr, Main: mainOffer(t),
		Quick: quickOffer(t, b.addr, a.addr), NoInitialContact: true})
	w.run(5 * time.Second)
	if len(a.ended) != 0 || len(b.established) != 1 {
		t.Errorf("a: ended %+v", a.ended)
	}
}

func TestDeleteOfAnAdoptedPairIsHonoured(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Minute)
	old := b.newestPair()
	b.restart(t, w, 77)
	b.m.Handle(w.now, Adopt{Pair: old, Main: mainOffer(t), Quick: quickOffer(t, b.addr, a.addr)})
	w.ask(b, a, 1) // a main mode of b's own: no INITIAL-CONTACT, it holds a pair
	w.run(time.Second)
	a.m.Handle(w.now, Close{Pair: a.established[0].Pair.ID, Reason: "test"})
	w.run(time.Second)
	if len(b.ended) != 1 || b.ended[0].Pair != old.ID {
		t.Errorf("ended: %+v", b.ended)
	}
}

// TestWeakerRuleFirst: an ISAKMP SA made for a rule that takes any key may not
// carry a quick mode of a rule that names one.
func TestWeakerRuleFirst(t *testing.T) {
	const keys = "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n" +
		"- {name: weak, peers: [192.0.2.0/24], keys: [\"" + otherKey + "\"]}\n" +
		"- {name: strong, peers: [192.0.2.0/25], keys: [\"" + goodKey + "\"]}\n"
	weak, strong := mainOffer(t), mainOffer(t)
	weak.Auth = []auth.Requirement{{Method: auth.PSK, Key: "weak"}}
	strong.Auth = []auth.Requirement{{Method: auth.PSK, Key: "strong", AcceptPrincipals: []string{"psk:strong"}}}
	both := mainOffer(t)
	both.Auth = append(slices.Clone(weak.Auth), strong.Auth...)
	p := policyOf(both, responderQuick(t))
	answer := p.Quick
	p.Quick = func(q QuickQuery) (QuickOffer, error) {
		if q.Selector.LocalPorts == sadb.Port(443) && q.Principal != "psk:strong" {
			return QuickOffer{}, &Refusal{Notify: 18, Reason: "the rule wants the strong key"}
		}
		return answer(q)
	}
	w := newWorld(t, 1)
	a, b := w.host("192.0.2.1", keys, Policy{}), w.host("192.0.2.2", keys, p)
	w.ask2(a, b, 1, weak, 0)
	w.run(time.Second)
	w.ask2(a, b, 2, strong, 443)
	w.run(time.Second)
	if len(a.established) != 2 || len(a.m.SAs()) != 2 || a.established[1].Pair.Principal != "psk:strong" {
		t.Fatalf("established %+v under %+v, failed %+v", a.established, a.m.SAs(), a.failed)
	}
	w.ask2(a, b, 3, weak, 80) // and the weak rule does not take the strong one's
	w.run(time.Second)
	if len(a.established) != 3 || a.established[2].Pair.Principal != "psk:weak" {
		t.Errorf("established %+v", a.established)
	}
	// An initiator that does not ask its own policy is refused.
	cheat := weak
	w.ask2(a, b, 4, cheat, 443)
	w.run(time.Second)
	if len(a.established) != 3 || len(a.failed) != 1 || a.failed[0].Code != FailFilters || len(b.failed) != 1 {
		t.Errorf("the responder let a weaker proof through: %+v %+v", a.failed, b.failed)
	}
}

// ask2 asks under a main offer, for TCP to one port or for everything.
func (w *world) ask2(from, to *host, request uint64, main MainOffer, port uint16) {
	q := quickOffer(w.t, from.addr, to.addr)
	if port != 0 {
		q.Selector.Proto, q.Selector.RemotePorts = sadb.TCP, sadb.Port(port)
	}
	from.m.Handle(w.now, Initiate{Request: request, Local: from.addr, Remote: to.addr, Main: main, Quick: q})
}

func TestOneQuickModePerMainMode(t *testing.T) {
	w := newWorld(t, 1)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	once := mainOffer(t)
	once.Sessions = 1
	a, b := w.host("192.0.2.1", goodKey, Policy{}), w.host("192.0.2.2", goodKey, policyOf(once, responderQuick(t)))
	for r := range uint64(3) {
		w.ask2(a, b, r+1, mainOffer(t), 0) // only the responder has the limit
		w.run(3 * time.Second)
	}
	if len(a.established) != 3 || len(a.failed) != 0 {
		t.Errorf("established %d, failed %+v", len(a.established), a.failed)
	}
	mains := 0
	for _, m := range a.mains {
		if m.Ended == "" {
			mains++
		}
	}
	if mains != 3 {
		t.Errorf("%d main modes", mains)
	}
	c := w.host("192.0.2.3", goodKey, Policy{})
	for r := range uint64(3) {
		w.ask2(c, b, r+1, once, 0)
		w.run(3 * time.Second)
	}
	if len(c.established) != 3 || len(c.failed) != 0 {
		t.Errorf("established %d, failed %+v", len(c.established), c.failed)
	}
}
