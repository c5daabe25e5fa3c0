package ike

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// agree has two hosts negotiate and returns them.
func agree(t *testing.T, addrs [2]string, main MainOffer, quick QuickOffer, sel sadb.Selector) (*world, *host, *host) {
	t.Helper()
	w := newWorld(t, 1)
	w.net.SetPath(iketest.Path{Delay: time.Millisecond})
	p := policyOf(main, quick)
	a, b := w.host(addrs[0], goodKey, p), w.host(addrs[1], goodKey, p)
	o := quick
	o.Selector = sel
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: main, Quick: o})
	w.run(5 * time.Second)
	return w, a, b
}

var v4, v6 = [2]string{"192.0.2.1", "192.0.2.2"}, [2]string{"2001:db8::1", "2001:db8::2"}

func between(addrs [2]string) sadb.Selector {
	return sadb.Selector{}.Narrow(mustAddr(addrs[0]), mustAddr(addrs[1]))
}

func TestEveryMainModeSuite(t *testing.T) {
	for _, name := range []string{"aes256-sha256-ecp256", "aes128-sha256-modp2048", "aes192-sha512-ecp521", "aes256-sha384-ecp384",
		"aes256-sha1-modp1024", "aes256-md5-modp3072", "3des-sha1-modp1024", "3des-md5-modp2048", "des-md5-modp768"} {
		main := MainOffer{Suites: mainSuite(t, name), Auth: []auth.Requirement{{Method: auth.PSK}}}
		w, a, b := agree(t, v6, main, QuickOffer{Proposals: proposals(t, "esp-aes128gcm")}, between(v6))
		w.checkPaired(a, b)
		if sas := b.m.SAs(); len(sas) != 1 || sas[0].Suite.String() != name || sas[0].Expires.Sub(sas[0].Since) != 8*time.Hour {
			t.Errorf("%s: %+v", name, sas)
		}
	}
}

func TestEveryQuickModeSuite(t *testing.T) {
	names := []string{"esp-aes256gcm", "esp-aes192gcm", "esp-aes128gcm", "esp-aes256-sha512", "esp-aes256-sha384", "esp-aes128-sha256",
		"esp-aes128-sha1", "esp-3des-sha1", "esp-des-md5", "esp-null-sha256", "ah-sha512", "ah-sha1", "ah-md5"}
	for _, name := range names {
		w, a, b := agree(t, v4, mainOffer(t), QuickOffer{Proposals: proposals(t, name)}, between(v4))
		w.checkPaired(a, b)
		if p := a.newestPair(); len(p.Suites) != 1 || p.Suites[0].String() != name {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestBundleOfAHAndESP(t *testing.T) {
	both := sadb.Proposal{Suites: []sadb.Suite{proposals(t, "ah-sha256")[0].Suites[0], proposals(t, "esp-aes128gcm")[0].Suites[0]}}
	w, a, b := agree(t, v4, mainOffer(t), QuickOffer{Proposals: append([]sadb.Proposal{both}, proposals(t, "esp-aes128gcm")...)}, between(v4))
	w.checkPaired(a, b)
	p := a.newestPair()
	if len(p.Suites) != 2 || len(p.In) != 2 || p.In[0].Proto != sadb.AH || p.Out[1].Proto != sadb.ESP || p.Lifetime.Time != 8*time.Hour {
		t.Errorf("%+v", p)
	}
	a.m.Handle(w.now, Close{Pair: p.ID})
	w.run(time.Second)
	if len(b.ended) != 1 || len(b.sas) != 0 {
		t.Errorf("ended %+v", b.ended)
	}
}

func TestPFS(t *testing.T) {
	for name, o := range map[string]QuickOffer{
		"group":      {PFS: sadb.ECP384},
		"main group": {PFSAny: true},
	} {
		o.Proposals = proposals(t, "esp-aes128gcm")
		w, a, b := agree(t, v4, mainOffer(t), o, between(v4))
		w.checkPaired(a, b)
		// 1 before message 3, 1 for 4, 1 for 6, 2 in quick mode
		if a.works != 5 || b.works != 3 {
			t.Errorf("%s: %d and %d pieces of work", name, a.works, b.works)
		}
	}
}

func TestResponderAcceptsMoreThanItAsksFor(t *testing.T) {
	w := newWorld(t, 1)
	p := policyOf(mainOffer(t), QuickOffer{Proposals: proposals(t, "esp-aes128gcm")})
	a, b := w.host(v4[0], goodKey, p), w.host(v4[1], goodKey, p)
	for request, group := range map[uint64]sadb.Group{1: sadb.ECP521, 2: sadb.MODP1024} {
		o := quickOffer(t, a.addr, b.addr)
		o.Proposals, o.PFS = proposals(t, "esp-aes128gcm"), group
		a.m.Handle(w.now, Initiate{Request: request, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: o})
		w.run(time.Second)
	}
	if len(a.established) != 1 || a.established[0].Request != 1 || len(a.failed) != 1 || a.failed[0].Request != 2 {
		t.Errorf("established %+v, failed %+v", a.established, a.failed)
	}
}

func TestResponderChoosesByItsOwnPreference(t *testing.T) {
	w := newWorld(t, 1)
	theirs := mainOffer(t)
	slices.Reverse(theirs.Suites)
	a := w.host(v4[0], goodKey, Policy{})
	b := w.host(v4[1], goodKey, policyOf(theirs, QuickOffer{Proposals: proposals(t, "esp-aes128-sha256", "esp-aes256gcm")}))
	w.ask(a, b, 1)
	w.run(time.Second)
	w.checkPaired(a, b)
	if a.newestPair().Suites[0].String() != "esp-aes128-sha256" || a.m.SAs()[0].Suite.String() != "aes128-sha1-modp1024" {
		t.Errorf("%s under %s", a.newestPair().Suites[0], a.m.SAs()[0].Suite)
	}
}

func TestSelectors(t *testing.T) {
	hosts4 := between(v4)
	tcp := hosts4
	tcp.Proto, tcp.RemotePorts = sadb.TCP, sadb.Port(443)
	ports := tcp
	ports.RemotePorts = sadb.Ports{From: 8000, To: 8080}
	icmp := hosts4
	icmp.Proto, icmp.ICMPType = sadb.ICMP, sadb.Octets{From: 8, To: 8, Set: true}
	nets := sadb.Selector{Local: sadb.Prefix(netip.MustParsePrefix("10.1.0.0/16")), Remote: sadb.Range(mustAddr("10.2.0.3"), mustAddr("10.2.0.9")), Proto: 6}
	everything := sadb.Selector{Local: sadb.AnyAddrs(), Remote: sadb.AnyAddrs()}
	cases := map[string]struct {
		sel  sadb.Selector
		mode sadb.Mode
		seen string // by the responder
	}{
		"hosts":      {hosts4, sadb.Transport, "192.0.2.2 <-> 192.0.2.1 any"},
		"a port":     {tcp, sadb.Transport, "192.0.2.2:443 <-> 192.0.2.1 tcp"},
		"a range":    {ports, sadb.Transport, "192.0.2.2 <-> 192.0.2.1 tcp"},
		"icmp":       {icmp, sadb.Transport, "192.0.2.2 <-> 192.0.2.1 icmp"},
		"nets":       {nets, sadb.Tunnel, "10.2.0.3-10.2.0.9 <-> 10.1.0.0/16 tcp"},
		"everything": {everything, sadb.Tunnel, "0.0.0.0/0 <-> 0.0.0.0/0 any"},
	}
	for name, c := range cases {
		_, a, b := agree(t, v4, mainOffer(t), QuickOffer{Mode: c.mode, Proposals: proposals(t, "esp-aes128gcm")}, c.sel)
		if len(a.established) != 1 || len(b.established) != 1 {
			t.Errorf("%s: failed %+v %+v", name, a.failed, b.failed)
			continue
		}
		if got := b.newestPair().Selector.String(); got != c.seen || a.newestPair().Selector != c.sel || a.newestPair().Mode != c.mode {
			t.Errorf("%s: responder has %s, initiator %s", name, got, a.newestPair().Selector)
		}
	}
	six := sadb.Selector{Local: sadb.Me(), Remote: sadb.Prefix(netip.MustParsePrefix("2001:db8:1::/48"))}
	_, a, b := agree(t, v6, mainOffer(t), QuickOffer{Mode: sadb.Tunnel, Proposals: proposals(t, "esp-aes128gcm")}, six)
	if len(b.established) != 1 || b.newestPair().Selector.String() != "2001:db8:1::/48 <-> 2001:db8::1 any" {
		t.Errorf("v6: %+v %+v", b.established, a.failed)
	}
}

// TestResponderNarrows: policy may allow less than asked for, but never more.
func TestResponderNarrows(t *testing.T) {
	w, a, b := two(t, 1)
	p := b.m.policy
	narrow := between([2]string{v4[1], v4[0]})
	narrow.Proto, narrow.LocalPorts = sadb.TCP, sadb.Ports{From: 80, To: 90}
	p.Quick = func(q QuickQuery) (QuickOffer, error) {
		return QuickOffer{Selector: narrow, Proposals: proposals(t, "esp-aes256gcm")}, nil
	}
	b.m.Handle(w.now, SetPolicy{p})
	w.ask(a, b, 1)
	w.run(time.Second)
	if len(b.established) != 1 || b.newestPair().Selector != narrow {
		t.Errorf("%+v", b.established)
	}
	narrow.Proto = sadb.UDP
	w.ask2(a, b, 2, mainOffer(t), 443)
	w.run(time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailFilters {
		t.Errorf("%+v", a.failed)
	}
}

func TestShorterLifetimeWins(t *testing.T) {
	w := newWorld(t, 1)
	short, long := proposals(t, "esp-aes256gcm"), proposals(t, "esp-aes256gcm")
	short[0].Lifetime = sadb.Limits{Time: 10 * time.Minute, Bytes: 100_000 * 1024}
	main := mainOffer(t)
	main.Lifetime = time.Hour
	a := w.host(v4[0], goodKey, policyOf(mainOffer(t), QuickOffer{Proposals: long}))
	b := w.host(v4[1], goodKey, policyOf(main, QuickOffer{Proposals: short}))
	for request, from := range map[uint64]*host{1: a, 2: b} {
		to, o := b, quickOffer(t, from.addr, b.addr)
		o.Proposals = long
		if from == b {
			to, o = a, quickOffer(t, b.addr, a.addr)
			o.Proposals = short
		}
		from.m.Handle(w.now, Initiate{Request: request, Local: from.addr, Remote: to.addr, Main: mainOffer(t), Quick: o})
		w.run(time.Second)
	}
	for _, h := range []*host{a, b} {
		for _, e := range h.established {
			if e.Pair.Lifetime != short[0].Lifetime {
				t.Errorf("%s: %+v", h.addr, e.Pair.Lifetime)
			}
		}
		if len(h.established) != 2 {
			t.Errorf("%s: %d pairs", h.addr, len(h.established))
		}
	}
	if sa := b.m.SAs()[0]; sa.Expires.Sub(sa.Since) != time.Hour && sa.Expires.Sub(sa.Since) != 8*time.Hour {
		t.Errorf("ISAKMP SA lives %s", sa.Expires.Sub(sa.Since))
	}
}

func TestStrangeTransformsAreSkippedNotFatal(t *testing.T) {
	good := mainOffer(t).choices()[0].transform(1)
	change := func(f func(*wire.Transform)) wire.Transform {
		c := good
		c.Attributes = slices.Clone(good.Attributes)
		f(&c)
		return c
	}
	strange := map[string]wire.Transform{
		"unknown attribute": change(func(x *wire.Transform) { x.Attributes = append(x.Attributes, wire.Uint16(77, 1)) }),
		"unknown cipher":    change(func(x *wire.Transform) { x.Attributes[0] = wire.Uint16(attrEncryption, 3) }),
		"unknown hash":      change(func(x *wire.Transform) { x.Attributes[2] = wire.Uint16(attrHash, 3) }),
		"custom group":      change(func(x *wire.Transform) { x.Attributes[4] = wire.Uint16(attrGroup, 1025) }),
		"no group":          change(func(x *wire.Transform) { x.Attributes = slices.Delete(x.Attributes, 4, 5) }),
		"no key length":     change(func(x *wire.Transform) { x.Attributes = slices.Delete(x.Attributes, 1, 2) }),
		"odd key length":    change(func(x *wire.Transform) { x.Attributes[1] = wire.Uint16(attrKeyLength, 100) }),
		"a minute's life":   change(func(x *wire.Transform) { x.Attributes[6] = wire.Uint16(attrLifeDuration, 5) }),
		"other transform":   change(func(x *wire.Transform) { x.ID = 2 }),
		"long number":       change(func(x *wire.Transform) { x.Attributes[3] = wire.Attribute{Type: attrAuth, Value: make([]byte, 9)} }),
		"huge number":       change(func(x *wire.Transform) { x.Attributes[3] = wire.Uint32(attrAuth, 1<<20) }),
		"RSA encryption":    change(func(x *wire.Transform) { x.Attributes[3] = wire.Uint16(attrAuth, 4) }),
	}
	own := mainOffer(t).choices()
	for name, transform := range strange {
		p := wire.Proposal{Number: 1, Protocol: wire.ProtoISAKMP, Transforms: []wire.Transform{transform, good}}
		r, err := readMainSA(saBody(p), true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c, ok := pick(own, r.choices); !ok || c.raw.Number != 1 || len(r.words()) != 2 {
			t.Errorf("%s: spoils the rest: %v", name, r.words())
		}
		p.Transforms = []wire.Transform{transform}
		if r, err = readMainSA(saBody(p), true); err != nil {
			t.Fatal(err)
		}
		if c, ok := pick(own, r.choices); ok {
			t.Errorf("%s: taken as %s", name, c)
		}
	}
	if r, _ := readMainSA(saBody(wire.Proposal{Protocol: wire.ProtoISAKMP}), true); mainDiffers(own, r.choices) == "" {
		t.Error("nothing readable, nothing said")
	}
}

func TestAnswersThatWereNotOffered(t *testing.T) {
	own := mainOffer(t).choices()
	good := wire.Proposal{Number: 1, Protocol: wire.ProtoISAKMP, Transforms: []wire.Transform{own[0].transform(1)}}
	other := MainOffer{Suites: mainSuite(t, "3des-md5-modp1024"), Auth: []auth.Requirement{{Method: auth.PSK}}}.choices()[0].transform(1)
	cases := map[string][]byte{
		"two transforms": saBody(wire.Proposal{Number: 1, Protocol: wire.ProtoISAKMP, Transforms: append(good.Transforms, own[1].transform(2))}),
		"two proposals":  saBody(good, good),
		"protocol":       saBody(wire.Proposal{Number: 1, Protocol: wire.ProtoESP, Transforms: good.Transforms}),
		"not offered":    saBody(wire.Proposal{Number: 1, Protocol: wire.ProtoISAKMP, Transforms: []wire.Transform{other}}),
		"DOI":            {0, 0, 0, 0},
		"situation":      {0, 0, 0, 1, 0, 0, 0, 2},
		"garbage":        {1},
	}
	for name, body := range cases {
		if c, err := checkMainAnswer(own, body, true); err == nil {
			t.Errorf("%s: taken as %s", name, c)
		}
	}
	if _, err := checkMainAnswer(own, saBody(good), true); err != nil {
		t.Errorf("a good one: %v", err)
	}
	spis := map[sadb.Proto]sadb.SPI{sadb.ESP: 0x1000}
	offered := proposals(t, "esp-aes256gcm", "esp-aes128-sha256")
	quick := map[string][]byte{
		"both":        quickSA(offered, spis, quickShape{}),
		"not offered": quickSA(proposals(t, "esp-3des-sha1"), spis, quickShape{}),
		"other mode":  quickSA(offered[:1], spis, quickShape{Mode: sadb.Tunnel}),
		"PFS":         quickSA(offered[:1], spis, quickShape{PFS: sadb.ECP256}),
		"SPI":         quickSA(offered[:1], map[sadb.Proto]sadb.SPI{}, quickShape{}),
		"garbage":     {1},
	}
	two := wire.Proposal{Number: 1, Protocol: wire.ProtoESP, SPI: spiBytes(0x1000), Transforms: []wire.Transform{
		transformOf(offered[0].Suites[0], sadb.Limits{}, quickShape{}), transformOf(offered[1].Suites[0], sadb.Limits{}, quickShape{})}}
	quick["two transforms"] = saBody(two)
	for name, body := range quick {
		if _, err := checkQuickAnswer(offered, quickShape{}, body); err == nil {
			t.Errorf("quick mode, %s: accepted", name)
		}
	}
	if _, err := checkQuickAnswer(offered, quickShape{}, quickSA(offered[1:], spis, quickShape{})); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func TestStrangeQuickTransforms(t *testing.T) {
	suite := proposals(t, "esp-aes128-sha256")[0].Suites[0]
	good := transformOf(suite, sadb.Limits{Time: time.Hour}, quickShape{})
	set := func(class, v uint16) func(*wire.Transform) {
		return func(x *wire.Transform) {
			for i, a := range x.Attributes {
				if a.Type == class {
					x.Attributes[i] = wire.Uint16(class, v)
					return
				}
			}
			x.Attributes = append(x.Attributes, wire.Uint16(class, v))
		}
	}
	cases := map[string]func(*wire.Transform){
		"mode 5":         set(attr2Mode, 5),
		"unknown auth":   set(attr2Auth, 8),
		"key of 100":     set(attr2KeyLength, 100),
		"key of 1000":    set(attr2KeyLength, 1000),
		"custom group":   set(attr2Group, 1025),
		"ESN of 2":       set(attr2ESN, 2),
		"key rounds":     set(7, 1),
		"short life":     set(attr2LifeDuration, 5),
		"no auth":        func(x *wire.Transform) { x.Attributes = slices.Delete(x.Attributes, 0, 1) },
		"unknown cipher": func(x *wire.Transform) { x.ID = 7 },
		"no mode": func(x *wire.Transform) {
			x.Attributes = slices.DeleteFunc(x.Attributes, func(a wire.Attribute) bool { return a.Type == attr2Mode })
		},
		"long number": func(x *wire.Transform) { x.Attributes[0].Value = make([]byte, 9) },
	}
	for name, damage := range cases {
		x := good
		x.Attributes = slices.Clone(good.Attributes)
		damage(&x)
		if q, err := readQuickTransform(sadb.ESP, x); err == nil {
			t.Errorf("%s: read as %s", name, q)
		}
	}
	ah := transformOf(proposals(t, "ah-sha256")[0].Suites[0], sadb.Limits{}, quickShape{})
	set(attr2Auth, 2)(&ah)
	if q, err := readQuickTransform(sadb.AH, ah); err == nil {
		t.Errorf("AH of two algorithms: read as %s", q)
	}
	ok := good
	ok.Attributes = append(slices.Clone(good.Attributes), wire.Uint16(attr2ESN, 0))
	if q, err := readQuickTransform(sadb.ESP, ok); err != nil || q.Lifetime.Time != time.Hour {
		t.Errorf("ESN 0: %v", err)
	}
	comp := wire.Proposal{Number: 1, Protocol: wire.ProtoIPComp, SPI: []byte{1, 2}, Transforms: []wire.Transform{{ID: 2}}}
	r, err := readQuickSA(saBody(comp))
	if err != nil || !strings.Contains(fmt.Sprint(r.words()), "not known") {
		t.Errorf("IPComp: %v %v", r.words(), err)
	}
	if _, found := r.mode(); found {
		t.Error("IPComp has a mode")
	}
}

func TestLifetimesAreBounded(t *testing.T) {
	forever := []wire.Attribute{wire.Uint16(attr2LifeType, lifeSeconds), {Type: attr2LifeDuration, Value: []byte{255, 255, 255, 255, 255, 255, 255, 255}},
		wire.Uint16(attr2LifeType, lifeKilobytes), {Type: attr2LifeDuration, Value: []byte{255, 255, 255, 255, 255, 255, 255, 255}}}
	if l := readLifetime(forever); l.Time <= 0 || l.Time > 366*24*time.Hour || l.Bytes == 0 {
		t.Errorf("%+v", l)
	}
	if l := readLifetime(nil); !l.IsZero() {
		t.Errorf("%+v", l)
	}
	if n := len(lifeAttributes(sadb.Limits{Time: time.Hour, Bytes: 1 << 30})); n != 4 {
		t.Errorf("%d attributes", n)
	}
	if (MainOffer{Lifetime: time.Second}).lifetime() != minLife {
		t.Error("a lifetime below the least is offered")
	}
}

func TestSchedule(t *testing.T) {
	var total time.Duration
	for n := 1; n <= maxSends; n++ {
		total += wait(n)
	}
	if wait(1) != 500*time.Millisecond || wait(2) != 900*time.Millisecond || total < giveUp-time.Second || total > giveUp+time.Second {
		t.Errorf("waits %s, %s … in all %s", wait(1), wait(2), total)
	}
}

func TestTimersFireInOrder(t *testing.T) {
	var ts timers
	var fired []string
	add := func(name string, after time.Duration) *timer {
		return ts.set(nil, epoch.Add(after), func(time.Time) { fired = append(fired, name) })
	}
	add("c", 3)
	add("a", 1)
	b := add("b", 2)
	add("a2", 1)
	ts.stop(b)
	ts.stop(b)
	ts.stop(nil)
	for x, ok := ts.due(epoch.Add(5)); ok; x, ok = ts.due(epoch.Add(5)) {
		x.fire(epoch)
	}
	if strings.Join(fired, " ") != "a a2 c" || !ts.next().IsZero() {
		t.Errorf("fired %v", fired)
	}
}

func TestNamesForTheAdministrator(t *testing.T) {
	for _, err := range []error{&Refusal{Reason: "because"}, &errSA{reason: "because"}} {
		if err.Error() != "because" {
			t.Errorf("%q", err)
		}
	}
	if awaitMessage5.String() != "main mode message 5" {
		t.Errorf("%s", awaitMessage5)
	}
}
