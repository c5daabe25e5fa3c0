package ike

import (
	"net/netip"
	"testing"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// TestTunnelOfTheOtherFamily: what is inside a tunnel need not be of the family
// that it runs over.
func TestTunnelOfTheOtherFamily(t *testing.T) {
	inner := sadb.Selector{Local: sadb.AnyAddrs(), Remote: sadb.Prefix(netip.MustParsePrefix("10.1.0.0/16"))}
	_, a, b := agree(t, v6, mainOffer(t), QuickOffer{Mode: sadb.Tunnel, Proposals: proposals(t, "esp-aes128gcm")}, inner)
	if len(b.established) != 1 || b.newestPair().Selector.String() != "10.1.0.0/16 <-> 0.0.0.0/0 any" {
		t.Errorf("%+v %+v", b.established, a.failed)
	}
	mixed := sadb.Selector{Local: sadb.Prefix(netip.MustParsePrefix("2001:db8::/32")), Remote: sadb.Prefix(netip.MustParsePrefix("10.1.0.0/16"))}
	_, a, _ = agree(t, v6, mainOffer(t), QuickOffer{Mode: sadb.Tunnel, Proposals: proposals(t, "esp-aes128gcm")}, mixed)
	if len(a.failed) != 1 || a.failed[0].Code != FailLocal {
		t.Errorf("two families: %+v", a.failed)
	}
}

// TestESN: 64-bit sequence numbers are used if both ends may, and the pair
// comes about without if one may not.
func TestESN(t *testing.T) {
	for _, c := range []struct{ initiator, responder, agent, want bool }{
		{true, true, true, true}, {true, false, true, false}, {false, true, true, false}, {true, true, false, false},
	} {
		w, a, b := two(t, 1)
		q := quickOffer(t, a.addr, b.addr)
		q.ESN = c.initiator
		theirs := responderQuick(t)
		theirs.ESN = c.responder
		b.m.Handle(w.now, SetPolicy{policyOf(mainOffer(t), theirs)})
		a.m.anonymous = !c.agent
		a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: q})
		w.run(time.Second)
		w.checkPaired(a, b)
		for _, h := range []*host{a, b} {
			for _, sa := range h.sas {
				if sa.ESN != c.want {
					t.Errorf("%+v: %s has ESN %v", c, sa.ID, sa.ESN)
				}
			}
		}
	}
}

// askBehindNAT has a pair made across address translation and returns the
// halves of both ends.
func askBehindNAT(t *testing.T, change func(q *QuickOffer)) (w *world, a, b *host, n *translator) {
	w, a, b, n = behindNAT(t, 1)
	q := quickOffer(t, a.addr, b.addr)
	change(&q)
	theirs := responderQuick(t)
	theirs.Mode, theirs.Proposals = q.Mode, q.Proposals
	b.m.Handle(w.now, SetPolicy{policyOf(mainOffer(t), theirs)})
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: q})
	w.run(2 * time.Second)
	return w, a, b, n
}

// TestPairAcrossNAT: transport mode is for the addresses that each end sees,
// tunnel mode for what it was asked for, both in UDP.
func TestPairAcrossNAT(t *testing.T) {
	inner := sadb.Selector{Local: sadb.Addr(mustAddr("10.0.0.1")), Remote: sadb.Prefix(netip.MustParsePrefix("10.1.0.0/16"))}
	for name, change := range map[string]func(q *QuickOffer){
		"transport": func(*QuickOffer) {},
		"a port":    func(q *QuickOffer) { q.Selector.Proto, q.Selector.RemotePorts = sadb.TCP, sadb.Port(443) },
		"tunnel":    func(q *QuickOffer) { q.Mode, q.Selector = sadb.Tunnel, inner },
	} {
		_, a, b, n := askBehindNAT(t, change)
		if len(a.established) != 1 || len(b.established) != 1 {
			t.Fatalf("%s: %+v %+v", name, a.failed, b.failed)
		}
		outside := netip.AddrPortFrom(n.addr, n.ports[at4500(a)])
		pa, pb := a.newestPair(), b.newestPair()
		if pa.Encap != (sadb.Encap{Local: at4500(a), Remote: at4500(b), KeepAlive: true}) || pb.Encap != (sadb.Encap{Local: at4500(b), Remote: outside}) {
			t.Errorf("%s: %+v and %+v", name, pa.Encap, pb.Encap)
		}
		want := pa.Selector.Mirror()
		if pa.Mode == sadb.Transport {
			want = want.Narrow(b.addr, n.addr)
		}
		if pb.Selector != want {
			t.Errorf("%s: %s, should be %s", name, pb.Selector, want)
		}
		for _, h := range []*host{a, b} {
			for _, sa := range h.sas {
				if sa.Encap != h.newestPair().Encap {
					t.Errorf("%s: %s goes between %+v", name, sa.ID, sa.Encap)
				}
			}
		}
	}
}

// TestAHAcrossNAT: it is left out of the offer, and where there is nothing else
// the failure says why.
func TestAHAcrossNAT(t *testing.T) {
	_, a, _, _ := askBehindNAT(t, func(q *QuickOffer) { q.Proposals = proposals(t, "ah-sha256", "esp-aes256gcm") })
	if len(a.established) != 1 || a.newestPair().Suites[0].Proto != sadb.ESP {
		t.Errorf("%+v %+v", a.established, a.failed)
	}
	_, a, _, _ = askBehindNAT(t, func(q *QuickOffer) { q.Proposals = proposals(t, "ah-sha256") })
	if len(a.failed) != 1 || a.failed[0].Code != FailNAT || a.failed[0].Hint == "" {
		t.Errorf("%+v", a.failed)
	}
}

// TestTwoPeersBehindOneTranslator: they have one address and one name. The
// second does not end what the first has.
func TestTwoPeersBehindOneTranslator(t *testing.T) {
	w, a, b, n := behindNAT(t, 1)
	c := w.host("192.0.2.3", goodKey, policyOf(mainOffer(t), responderQuick(t)))
	n.hosts[c.addr] = true
	w.ask(a, b, 1)
	w.run(2 * time.Second)
	w.ask(c, b, 1)
	w.run(200 * time.Second)
	if len(b.established) != 2 || len(b.ended)+len(a.ended)+len(c.ended) != 0 || len(b.m.sas) != 2 {
		t.Errorf("%d pairs, ended %+v, %d ISAKMP SAs", len(b.established), b.ended, len(b.m.sas))
	}
}

// TestIdentificationsAcrossNAT: one host by whatever name, and never more.
func TestIdentificationsAcrossNAT(t *testing.T) {
	p := path{netip.MustParseAddrPort("192.0.2.2:4500"), netip.MustParseAddrPort("198.51.100.7:20001")}
	host := func(body string) []byte { return []byte(body) }
	mine := host("\x01\x11\x06\xa5\xc6\x33\x64\x01")
	for name, c := range map[string]struct{ id, want string }{
		"private address": {"\x01\x11\x06\xa5\x0a\x00\x00\x09", "192.0.2.2:1701 <-> 198.51.100.7:1701 udp"},
		"name":            {"\x02\x11\x00\x00pc.example", "192.0.2.2:1701 <-> 198.51.100.7 udp"},
		"IPv6 address":    {"\x05\x11\x00\x00\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09", "192.0.2.2:1701 <-> 198.51.100.7 udp"},
		"subnet":          {"\x04\x11\x00\x00\x0a\x00\x00\x00\xff\x00\x00\x00", ""},
		"range":           {"\x07\x11\x00\x00\x0a\x00\x00\x00\x0a\x00\x00\x09", ""},
		"key":             {"\x0b\x11\x00\x00abc", ""},
		"other protocol":  {"\x01\x06\x00\x00\x0a\x00\x00\x09", ""},
		"cut":             {"\x01\x11\x00\x00\x0a\x00", ""},
	} {
		s, err := selectorOf(mine, []byte(c.id), p, true)
		if (err == nil) != (c.want != "") || err == nil && s.String() != c.want {
			t.Errorf("%s: %s, %v", name, s, err)
		}
	}
}

// TestOriginalAddresses: both ends say their own, and what is none is refused.
func TestOriginalAddresses(t *testing.T) {
	for form, number := range map[natForm]wire.PayloadType{natRFC3947: wire.NATOAPayload, natDraft2n: wire.NATOADraftPayload} {
		s := &isakmp{path: path{netip.MustParseAddrPort("10.0.0.9:4500"), netip.MustParseAddrPort("192.0.2.2:4500")},
			nat: natFacts{form: form, local: true}}
		q := &quickMode{sa: s, initiator: true}
		p := q.originals()
		if len(p) != 2 || p[0].Type != number || string(p[0].Body) != "\x01\x00\x00\x00\x0a\x00\x00\x09" || string(p[1].Body) != "\x01\x00\x00\x00\xc0\x00\x02\x02" {
			t.Errorf("%+v", p)
		}
		q.initiator = false
		if r := q.originals(); string(r[1].Body) != string(p[0].Body) {
			t.Errorf("the responder says %+v", r)
		}
		q.shape.Mode = sadb.Tunnel
		if r := q.originals(); r != nil {
			t.Errorf("in tunnel mode: %+v", r)
		}
	}
	good := wire.Payload{Type: wire.NATOAPayload, Body: []byte("\x01\x00\x00\x00\x0a\x00\x00\x09")}
	for name, c := range map[string]struct {
		p  []wire.Payload
		ok bool
	}{
		"two":   {[]wire.Payload{good, good}, true},
		"three": {[]wire.Payload{good, good, good}, false},
		"cut":   {[]wire.Payload{{Type: wire.NATOAPayload, Body: good.Body[:7]}}, false},
		"name":  {[]wire.Payload{{Type: wire.NATOADraftPayload, Body: []byte("\x02\x00\x00\x00abcd")}}, false},
		"none":  {[]wire.Payload{{Type: wire.NATOADraftPayload}}, false},
	} {
		if err := checkOriginals(wire.Chain{Payloads: c.p}); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMovedPeerIsFollowed: a packet from another port moves the peer, one from
// another address or of another association does not.
func TestMovedPeerIsFollowed(t *testing.T) {
	w, a, b, n := askBehindNAT(t, func(*QuickOffer) {})
	p := b.newestPair()
	to := netip.AddrPortFrom(n.addr, 40000)
	for name, in := range map[string]Moved{
		"address":     {p.In[0], netip.MustParseAddrPort("203.0.113.9:40000")},
		"association": {p.Out[0], to},
		"port 0":      {p.In[0], netip.AddrPortFrom(n.addr, 0)},
	} {
		b.m.Handle(w.now, in)
		if b.m.established()[0].remote == in.From {
			t.Errorf("%s: followed", name)
		}
	}
	b.m.Handle(w.now, Moved{p.In[0], to})
	if s := b.m.established()[0]; s.remote != to || b.m.pairs[p.ID].pair.Encap.Remote != to {
		t.Errorf("%s", s.remote)
	}
	w.net.Attach(to)
	n.ports[at4500(a)] = to.Port()
	b.m.Handle(w.now, Rekey{p.ID})
	w.run(20 * time.Second)
	if len(b.established) != 2 || len(b.m.pairs) != 1 || len(a.m.pairs) != 1 || b.newestPair().Encap.Remote != to {
		t.Errorf("%d pairs, failed %+v %+v", len(b.m.pairs), a.failed, b.failed)
	}
}

// TestCommitBit: the responder sets it. Its word is awaited, for a second.
func TestCommitBit(t *testing.T) {
	for name, c := range map[string]struct {
		says bool
		at   time.Duration
	}{"says so": {true, 100 * time.Millisecond}, "never does": {false, commitWait + 100*time.Millisecond}} {
		w, a, b := two(t, 1)
		w.net.OnNth(w.at(b), w.at(a), 4, func(data []byte) []byte { // the flags are not under the hash
			data[19] |= wire.FlagCommit
			return data
		})
		w.ask(a, b, 1)
		var q *quickMode
		for range 100 {
			w.run(5 * time.Millisecond)
			for _, x := range b.m.quicks {
				q = x
			}
			if len(b.established) == 1 {
				break
			}
		}
		if _, ok := a.outbound(); ok || q == nil {
			t.Fatalf("%s: the initiator has not waited", name)
		}
		if c.says {
			n := wire.Notify{DOI: 1, Protocol: wire.ProtoESP, Type: wire.Connected}
			p := withHash(func(raw []byte) []byte { return q.sa.keys.Hash1(q.id, raw) }, []wire.Payload{{Type: wire.NotifyPayload, Body: n.Append(nil)}})
			data, err := b.m.sealQuick(q, p)
			if err != nil {
				t.Fatal(err)
			}
			forged := append([]byte(nil), data...)
			forged[len(forged)-1] ^= 1
			a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: forged})
			w.flush()
			if _, ok := a.outbound(); ok {
				t.Error("a forged CONNECTED was believed")
			}
			b.m.send(q.sa.path, data)
		}
		w.run(c.at)
		w.checkPaired(a, b)
	}
}

// TestMasterKeyPFS: each renewal is under a main mode of its own, whoever
// renews, and there is always one to tell of the end.
func TestMasterKeyPFS(t *testing.T) {
	w := newWorld(t, 1)
	once := mainOffer(t)
	once.Sessions = 1
	p := policyOf(once, QuickOffer{Filter: "filter-1", Proposals: proposals(t, "esp-aes256gcm")})
	a, b := w.host(v4[0], goodKey, p), w.host(v4[1], goodKey, p)
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: once, Quick: quickOffer(t, a.addr, b.addr)})
	w.run(time.Second)
	for i := range 4 {
		h := []*host{a, b}[i%2]
		h.m.Handle(w.now, Rekey{h.newestPair().ID})
		w.run(time.Minute)
		if len(h.established) != i+2 || len(a.m.sas) != 1 || len(b.m.sas) != 1 || len(a.m.pairs) != 1 {
			t.Fatalf("renewal %d: %d pairs of %d, %d and %d ISAKMP SAs, failed %+v", i, len(a.m.pairs), len(h.established), len(a.m.sas), len(b.m.sas), h.failed)
		}
	}
	mains := 0
	for _, m := range a.mains {
		if m.Ended == "" {
			mains++
		}
	}
	if mains != 5 {
		t.Errorf("%d main modes for 5 quick modes", mains)
	}
	a.m.Handle(w.now, Close{Pair: a.newestPair().ID, Reason: "test"})
	w.run(time.Second)
	if len(b.m.pairs) != 0 {
		t.Error("the peer was not told of the end")
	}
}

// TestRenewalOfAPeerBehindATranslator: the ISAKMP SA is gone on both ends. The
// host in the open reaches the other where its associations are.
func TestRenewalOfAPeerBehindATranslator(t *testing.T) {
	w, a, b, n := askBehindNAT(t, func(*QuickOffer) {})
	for _, h := range []*host{a, b} {
		for _, s := range h.m.established() {
			h.m.endSA(w.now, s, "test")
		}
	}
	old := b.newestPair()
	a.m.Handle(w.now, SetPolicy{policyOf(mainOffer(t), QuickOffer{Filter: "filter-1", Proposals: proposals(t, "esp-aes256gcm")})})
	b.m.Handle(w.now, Rekey{old.ID})
	w.run(30 * time.Second)
	if len(b.established) != 2 || b.newestPair().Encap != old.Encap || len(b.m.pairs) != 1 || len(a.m.pairs) != 1 {
		t.Errorf("%d pairs established, failed %+v %+v, ports %v", len(b.established), a.failed, b.failed, n.ports)
	}
}

// TestRebindingLeavesOnePair: the translator gives the peer another port, and
// the first to tell of it is a renewal.
func TestRebindingLeavesOnePair(t *testing.T) {
	w, a, b, n := askBehindNAT(t, func(*QuickOffer) {})
	n.rebind()
	a.m.Handle(w.now, Rekey{a.newestPair().ID})
	w.run(10 * time.Second)
	w.traffic(a, a.newestPair())
	w.run(10 * time.Second)
	if len(a.established) != 2 || len(a.m.pairs) != 1 || len(b.m.pairs) != 1 || b.newestPair().Encap.Remote.Port() != n.ports[at4500(a)] {
		t.Errorf("%d and %d pairs, failed %+v", len(a.m.pairs), len(b.m.pairs), a.failed)
	}
}
