package drivertest

import (
	"net/netip"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

func controlTests() []namedTest {
	return []namedTest{
		{"SetFilters is the whole SPD in order", setFilters},
		{"SetFilters refuses and keeps", setFiltersRefuses},
		{"overlays stand above their parents", overlays},
		{"overlays end with their parents", overlaysEnd},
		{"overlays expire", overlaysExpire},
		{"an overlay needs a parent or an end", overlaysRefused},
		{"reserved SPIs are unique", reservedSPIs},
		{"associations come and go", associations},
		{"unusable associations are refused", associationsRefused},
		{"State tells no key", noKeys},
		{"Acquire is raised once", acquireOnce},
		{"Abandon allows a new Acquire", abandonRearms},
		{"an association ends the question", associationRearms},
		{"only a fitting association ends the question", othersDoNotAnswer},
		{"Acquire names the filter below the overlay", acquireThroughOverlay},
		{"Acquire says what went in clear", acquireClear},
		{"blocked and permitted traffic asks nothing", noAcquire},
		{"lifetimes in time", lifetimes},
		{"Close leaves everything in force", closeLeaves},
	}
}

func setFilters(r *rig) {
	a, to := r.alice, r.bob.V4
	one, two, three := a.filter("one", to, 1, require()), a.filter("two", to, 2, sadb.Action{}), a.filter("three", to, 3, sadb.Action{Kind: sadb.Permit})
	a.wantOrder()
	a.set(one, two, three)
	a.wantOrder("one", "two", "three")
	a.set(one, two, three)
	a.wantOrder("one", "two", "three")
	a.set(three, one)
	a.wantOrder("three", "one")
	for i, want := range []sadb.Filter{three, one} {
		if got := a.state().Filters[i].Filter; got != want {
			r.Errorf("filter %+v came back as %+v", want, got)
		}
	}
	a.set()
	a.wantOrder()
}

func setFiltersRefuses(r *rig) {
	a, to := r.alice, r.bob.V4
	one, two := a.filter("one", to, 1, require()), a.filter("two", to, 2, require())
	a.set(one)
	nameless, aimless, overlay := two, two, two
	nameless.ID, aimless.Dir, overlay.Parent = "", 0, "one"
	for what, filters := range map[string][]sadb.Filter{
		"one ID twice": {two, two}, "no ID": {two, nameless}, "no direction": {aimless}, "an overlay": {one, overlay},
	} {
		if a.Driver.SetFilters(r.ctx(), filters) == nil {
			r.Errorf("%s was accepted", what)
		}
		a.wantOrder("one")
	}
}

func overlays(r *rig) {
	a, to := r.alice, r.bob.V4
	one, two := a.filter("one", to, 1, require()), a.filter("two", to, 2, require())
	a.set(one, two)
	a.put(above(a.filter("over two", to, 2, sadb.Action{Kind: sadb.Permit}), "two"))
	a.wantOrder("one", "over two", "two")
	a.put(above(a.filter("newer", to, 2, sadb.Action{}), "two"))
	a.wantOrder("one", "newer", "over two", "two")
	bottom := a.filter("bottom", to, 9, require())
	bottom.Expires = r.Now().Add(time.Hour)
	a.put(bottom)
	a.wantOrder("one", "newer", "over two", "two", "bottom")
	a.put(above(a.filter("over two", to, 2, sadb.Action{}), "two")) // replaced, so now the newer
	a.wantOrder("one", "over two", "newer", "two", "bottom")
	for range 2 { // one that is gone is no error
		r.must(a.Driver.RemoveFilter(r.ctx(), "over two"))
		a.wantOrder("one", "newer", "two", "bottom")
	}
	a.set(one, two)
	a.wantOrder("one", "newer", "two", "bottom")
}

func above(f sadb.Filter, parent sadb.FilterID) sadb.Filter {
	f.Parent = parent
	return f
}

func overlaysEnd(r *rig) {
	a, to := r.alice, r.bob.V4
	one, two, three := a.filter("one", to, 1, require()), a.filter("two", to, 2, require()), a.filter("three", to, 3, require())
	a.set(one, two, three)
	for _, parent := range []sadb.FilterID{"one", "two", "three"} {
		a.put(above(a.filter("over "+parent, to, 7, sadb.Action{}), parent))
	}
	changed := three
	changed.Selector.RemotePorts = sadb.Port(4)
	a.set(changed, two)
	a.wantOrder("three", "over two", "two")
	for _, gone := range []sadb.FilterID{"over one", "over three"} {
		await(a, "FilterEnded", func(e driver.FilterEnded) bool { return e.ID == gone })
	}
	refuse(a, "an overlay ended that stays", func(e driver.FilterEnded) bool { return true })
}

func overlaysExpire(r *rig) {
	a, to := r.alice, r.bob.V4
	a.set(a.filter("one", to, 1, require()))
	short, long := above(a.filter("short", to, 1, sadb.Action{}), "one"), above(a.filter("long", to, 1, sadb.Action{}), "one")
	short.Expires, long.Expires = r.Now().Add(time.Second), r.Now().Add(time.Hour)
	a.put(long)
	a.put(short)
	a.wantOrder("short", "long", "one")
	r.Pass(1100 * time.Millisecond)
	await(a, "FilterEnded", func(e driver.FilterEnded) bool { return e.ID == "short" })
	a.wantOrder("long", "one")
	refuse(a, "an overlay ended before its time", func(e driver.FilterEnded) bool { return e.ID == "long" })
}

func overlaysRefused(r *rig) {
	a, to := r.alice, r.bob.V4
	one := a.filter("one", to, 1, require())
	a.set(one)
	for what, o := range map[string]sadb.Filter{
		"no parent and no end": a.filter("x", to, 1, require()),
		"a parent not there":   above(a.filter("x", to, 1, require()), "nobody"),
		"no direction":         above(sadb.Filter{ID: "x"}, "one"),
	} {
		if a.Driver.PutFilter(r.ctx(), o) == nil {
			r.Errorf("%s was accepted", what)
		}
	}
	a.wantOrder("one")
}

func reservedSPIs(r *rig) {
	seen := map[sadb.SPI]bool{}
	for range 200 {
		spi, err := r.alice.Driver.AllocSPI(r.ctx(), r.bob.V4, r.alice.V4, sadb.ESP)
		r.must(err)
		if spi < 256 || seen[spi] {
			r.Fatalf("SPI %s is reserved by the RFC or was given before", spi)
		}
		seen[spi] = true
	}
}

func associations(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 1, require()))
	spi, err := a.Driver.AllocSPI(r.ctx(), r.bob.V4, a.V4, sadb.ESP)
	r.must(err)
	in, out := r.sa(r.bob, r.alice, "one", spi), r.sa(r.alice, r.bob, "one", 5001)
	in.Dir = sadb.In
	for range 2 { // the second time replaces
		a.add(in)
		a.add(out)
		if n := len(a.state().SAs); n != 2 {
			r.Fatalf("%d associations, want 2", n)
		}
	}
	got, ok := a.sa(in.ID)
	in.EncKey, in.AuthKey = sadb.Secret{}, sadb.Secret{}
	if !ok || got.SA.Dir != sadb.In || got.SA.Src != in.Src || got.SA.Selector != in.Selector || got.SA.Filter != in.Filter ||
		got.SA.Pair != in.Pair || got.SA.Suite != in.Suite || got.SA.Replay != in.Replay || got.SA.Lifetime != in.Lifetime {
		r.Errorf("association %+v came back as %+v", in, got.SA)
	}
	if age := r.Now().Sub(got.Added); age < -time.Second || age > time.Minute {
		r.Errorf("added %s ago", age)
	}
	for range 2 { // one that is gone is no error
		a.remove(in.ID)
		if _, ok := a.sa(in.ID); ok {
			r.Error("a deleted association is still there")
		}
	}
	if _, ok := a.sa(out.ID); !ok {
		r.Error("another association went with it")
	}
}

func associationsRefused(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 1, require()))
	for what, change := range map[string]func(*sadb.SA){
		"a short key":               func(s *sadb.SA) { s.EncKey = sadb.NewSecret(make([]byte, 3)) },
		"no key":                    func(s *sadb.SA) { s.EncKey = sadb.Secret{} },
		"no suite":                  func(s *sadb.SA) { s.Suite = sadb.Suite{} },
		"no integrity":              func(s *sadb.SA) { s.Suite.Encryption, s.Suite.KeyBits = sadb.Null, 0; s.EncKey = sadb.Secret{} },
		"no direction":              func(s *sadb.SA) { s.Dir = 0 },
		"both directions":           func(s *sadb.SA) { s.Dir = sadb.Both },
		"inbound, no replay window": func(s *sadb.SA) { s.Dir, s.Replay = sadb.In, 0 },
	} {
		sa := r.sa(r.alice, r.bob, "one", 5001)
		change(&sa)
		if a.Driver.AddSA(r.ctx(), sa) == nil {
			r.Errorf("%s was accepted", what)
		}
	}
	if n := len(a.state().SAs); n != 0 {
		r.Errorf("%d associations are in force", n)
	}
}

func noKeys(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 1, require()))
	sa := r.sa(r.alice, r.bob, "one", 5001)
	a.add(sa)
	for _, s := range a.state().SAs {
		if s.SA.EncKey.Len()+s.SA.AuthKey.Len() != 0 {
			r.Error("State returns keys")
		}
	}
}

// asked awaits an Acquire of a filter towards the other end.
func (e *end) asked(id sadb.FilterID, to *end) driver.Acquire {
	e.r.Helper()
	return await(e, "Acquire", func(q driver.Acquire) bool { return q.Filter == id && q.Flow.Remote == to.addr() })
}

func (e *end) askedNothing() {
	e.r.Helper()
	refuse(e, "an Acquire was raised", func(driver.Acquire) bool { return true })
}

func acquireOnce(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 7000, require()), a.filter("two", r.bob.V4, 7001, require()))
	a.send(r.bob, 7000, "x")
	q := a.asked("one", r.bob)
	want := sadb.Flow{Local: a.V4, Remote: r.bob.V4, LocalMe: true, Proto: sadb.UDP, LocalPort: sourcePort, RemotePort: 7000}
	if q.Flow != want || q.Clear {
		r.Errorf("Acquire %+v, want flow %+v and not in clear", q, want)
	}
	a.send(r.bob, 7000, "x")
	a.askedNothing()
	a.send(r.bob, 7001, "x")
	a.asked("two", r.bob)
}

func abandonRearms(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 7000, require()))
	a.send(r.bob, 7000, "x")
	q := a.asked("one", r.bob)
	r.must(a.Driver.Abandon(r.ctx(), q))
	a.askedNothing()
	if n := a.state().Counters.Queued; n != 0 {
		r.Errorf("%d packets still wait", n)
	}
	a.send(r.bob, 7000, "x")
	a.asked("one", r.bob)
}

func associationRearms(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 7000, require()))
	a.send(r.bob, 7000, "x")
	a.asked("one", r.bob)
	sa := r.sa(r.alice, r.bob, "one", 5001)
	a.add(sa)
	a.send(r.bob, 7000, "x")
	a.askedNothing()
	a.remove(sa.ID)
	a.send(r.bob, 7000, "x")
	a.asked("one", r.bob)
}

// othersDoNotAnswer: an association of the other direction, of another filter,
// with another peer or for other traffic does not serve a packet.
func othersDoNotAnswer(r *rig) {
	a := r.alice
	a.set(a.filter("one", netip.Addr{}, 7000, require()), a.filter("two", r.bob.V4, 7001, require()))
	inbound, peer, traffic := r.sa(r.bob, r.alice, "one", 5001), r.sa(r.alice, r.bob, "one", 5003), r.sa(r.alice, r.bob, "one", 5004)
	inbound.Dir = sadb.In
	peer.ID.Dst = r.bob.V4.Next()
	traffic.Selector.RemotePorts = sadb.Port(7009)
	for _, sa := range []sadb.SA{inbound, r.sa(r.alice, r.bob, "two", 5002), peer, traffic} {
		a.add(sa)
	}
	a.send(r.bob, 7000, "x")
	a.asked("one", r.bob)
}

func acquireThroughOverlay(r *rig) {
	a := r.alice
	a.set(a.filter("one", netip.Addr{}, 7000, request()))
	a.put(above(a.filter("secured", r.bob.V4, 7000, require()), "one"))
	a.send(r.bob, 7000, "x")
	if q := a.asked("one", r.bob); q.Clear {
		r.Error("the overlay requires, the packet went in clear")
	}
}

func acquireClear(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 7000, request()))
	a.send(r.bob, 7000, "x")
	if q := a.asked("one", r.bob); !q.Clear {
		r.Error("a packet that may go in clear waits")
	}
	a.until("in the list of peers in clear", func(s driver.State) bool {
		return slices.ContainsFunc(s.Clear, func(p driver.ClearPeer) bool {
			return p.Filter == "one" && p.Remote == r.bob.V4 && !p.Inbound && !p.Since.IsZero()
		})
	})
}

func noAcquire(r *rig) {
	a := r.alice
	a.set(a.filter("block", r.bob.V4, 7000, sadb.Action{}), a.filter("permit", r.bob.V4, 7001, sadb.Action{Kind: sadb.Permit}))
	for _, port := range []uint16{7000, 7001, 7002} {
		a.send(r.bob, port, "x")
	}
	a.askedNothing()
}

func lifetimes(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 7000, require()))
	sa := r.sa(r.alice, r.bob, "one", 5001)
	sa.Lifetime = sadb.Lifetime{Soft: sadb.Limits{Time: time.Second}, Hard: sadb.Limits{Time: 3 * time.Second}}
	a.add(sa)
	r.Pass(1200 * time.Millisecond)
	await(a, "soft Expire", func(e driver.Expire) bool { return e.ID == sa.ID && !e.Hard })
	if _, ok := a.sa(sa.ID); !ok {
		r.Fatal("the association ended at its soft lifetime")
	}
	r.Pass(2 * time.Second)
	await(a, "hard Expire", func(e driver.Expire) bool { return e.ID == sa.ID && e.Hard })
	if _, ok := a.sa(sa.ID); ok {
		r.Error("the association outlived its hard lifetime")
	}
}

func closeLeaves(r *rig) {
	a := r.alice
	a.set(a.filter("one", r.bob.V4, 1, require()))
	a.put(above(a.filter("over", r.bob.V4, 1, sadb.Action{}), "one"))
	sa := r.sa(r.alice, r.bob, "one", 5001)
	sa.Record = `what the agent "wrote down"`
	a.add(sa)
	a.Driver = a.Reopen(r.T)
	a.wantOrder("over", "one")
	if got, ok := a.sa(sa.ID); !ok || got.SA.Record != sa.Record {
		r.Errorf("the association is gone, or what is written down of it: %t, %q", ok, got.SA.Record)
	}
}

// sa returns an outbound association for UDP of two ends, made for a filter.
func (r *rig) sa(from, to *end, id sadb.FilterID, spi sadb.SPI) sadb.SA {
	r.Helper()
	return r.suiteSA(from, to, id, spi, "esp-aes128gcm")
}

func (r *rig) suiteSA(from, to *end, id sadb.FilterID, spi sadb.SPI, name string) sadb.SA {
	r.Helper()
	suite, err := sadb.ParseSuite(name)
	r.must(err)
	s := sadb.SA{ID: sadb.SAID{Dst: to.addr(), Proto: suite.Proto, SPI: spi}, Src: from.addr(), Dir: sadb.Out, Suite: suite,
		EncKey: keyFor(spi, suite.EncKeyLen()), AuthKey: keyFor(spi+1, suite.Integrity.KeyLen()),
		Replay: 1024, Filter: id, Pair: 77, Lifetime: sadb.Lifetime{Hard: sadb.Limits{Time: time.Hour}}}
	s.Selector = sadb.Selector{Proto: sadb.UDP}.Narrow(from.addr(), to.addr())
	return s
}

// keyFor returns a key of n bytes that depends on an SPI: both ends make the
// same.
func keyFor(spi sadb.SPI, n int) sadb.Secret {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(int(spi)*31 + i*17)
	}
	return sadb.NewSecret(b)
}
