package drivertest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fakeHost is a host around a fake that keeps the present one.
func fakeHost(f *Fake, v4, v6 string) *Host {
	h := &Host{Driver: f, V4: netip.MustParseAddr(v4), V6: netip.MustParseAddr(v6)}
	h.Send = func(src, dst netip.AddrPort, payload []byte) {
		f.Send(sadb.Flow{Local: src.Addr(), Remote: dst.Addr(), LocalMe: true, Proto: sadb.UDP,
			LocalPort: src.Port(), RemotePort: dst.Port()}, len(payload))
	}
	h.Reopen = func(t *testing.T) driver.Driver {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = f.Reopen()
		return f
	}
	return h
}

func TestFakeConforms(t *testing.T) {
	c := &clock{now: time.Unix(1_000_000, 0)}
	var fakes []*Fake
	Run(t, Harness{
		Now: c.Now,
		Pass: func(d time.Duration) {
			c.pass(d)
			for _, f := range fakes {
				f.Tick()
			}
		},
		Patience: 0, Silence: 0, // what the fake tells it has told already
		Hosts: func(*testing.T) (*Host, *Host) {
			fakes = []*Fake{New(c.Now), New(c.Now)}
			return fakeHost(fakes[0], "192.0.2.1", "2001:db8::1"), fakeHost(fakes[1], "192.0.2.2", "2001:db8::2")
		},
	})
}

func background() context.Context { return context.Background() }

func newFake(t *testing.T, filters ...sadb.Filter) (*Fake, *clock) {
	t.Helper()
	c := &clock{now: time.Unix(1_000_000, 0)}
	f := New(c.Now)
	if err := f.SetFilters(background(), filters); err != nil {
		t.Fatal(err)
	}
	return f, c
}

var (
	me, peer = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	flow     = sadb.Flow{Local: me, Remote: peer, LocalMe: true, Proto: sadb.UDP, LocalPort: 1, RemotePort: 2}
)

func every(id sadb.FilterID, a sadb.Action) sadb.Filter {
	return sadb.Filter{ID: id, Dir: sadb.Both, Action: a, Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(peer)}}
}

func add(t *testing.T, f *Fake, d sadb.Directions, id sadb.FilterID, change func(*sadb.SA)) sadb.SA {
	t.Helper()
	suite, err := sadb.ParseSuite("esp-null-sha1")
	if err != nil {
		t.Fatal(err)
	}
	sa := sadb.SA{ID: sadb.SAID{Dst: peer, Proto: sadb.ESP, SPI: 4096}, Src: me, Dir: d, Suite: suite, AuthKey: keyFor(1, 20),
		Replay: 64, Filter: id, Selector: sadb.Selector{}.Narrow(me, peer)}
	if d == sadb.In {
		sa.ID.Dst, sa.Src = me, peer
	}
	if change != nil {
		change(&sa)
	}
	if err := f.AddSA(background(), sa); err != nil {
		t.Fatal(err)
	}
	return sa
}

func events(f *Fake) []driver.Event {
	var all []driver.Event
	for {
		select {
		case e := <-f.Events():
			all = append(all, e)
		default:
			return all
		}
	}
}

func TestFakeDecides(t *testing.T) {
	for name, c := range map[string]struct {
		filters []sadb.Filter
		out, in Outcome
	}{
		"nothing":      {nil, Passed, Passed},
		"permit":       {[]sadb.Filter{every("f", sadb.Action{Kind: sadb.Permit})}, Passed, Passed},
		"block":        {[]sadb.Filter{every("f", sadb.Action{})}, Dropped, Dropped},
		"require":      {[]sadb.Filter{every("f", require())}, Held, Dropped},
		"request":      {[]sadb.Filter{every("f", request())}, Clear, Clear},
		"pass-through": {[]sadb.Filter{every("f", sadb.Action{Kind: sadb.Negotiate, PassThrough: true})}, Held, Clear},
		"delay":        {[]sadb.Filter{every("f", sadb.Action{Kind: sadb.Negotiate, AllowClear: true, ClearDelay: 1})}, Held, Dropped},
	} {
		f, _ := newFake(t, c.filters...)
		if out, _ := f.Send(flow, 100); out != c.out {
			t.Errorf("%s: sent: %s, want %s", name, out, c.out)
		}
		if in := f.Receive(flow, 100, sadb.SAID{}); in != c.in {
			t.Errorf("%s: received: %s, want %s", name, in, c.in)
		}
	}
}

func TestFakeReceivesByAssociation(t *testing.T) {
	f, _ := newFake(t, every("f", require()))
	sa := add(t, f, sadb.In, "f", nil)
	stranger := flow
	stranger.Remote = netip.MustParseAddr("192.0.2.3")
	if got := f.Receive(flow, 10, sa.ID); got != Secured {
		t.Errorf("its own traffic: %s", got)
	}
	if got := events(f); len(got) != 1 || got[0] != (driver.Used{ID: sa.ID}) {
		t.Errorf("events %+v, want Used", got)
	}
	for _, c := range []struct {
		name string
		flow sadb.Flow
		via  sadb.SAID
		want Outcome
	}{
		{"again", flow, sa.ID, Secured},
		{"what it may not carry", stranger, sa.ID, Dropped},
		{"an unknown SPI", flow, sadb.SAID{Dst: me, Proto: sadb.ESP, SPI: 9}, Dropped},
	} {
		if got := f.Receive(c.flow, 10, c.via); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := events(f); len(got) != 0 {
		t.Errorf("events %+v after the first packet", got)
	}
	s, err := f.State(background())
	if err != nil || s.Counters.NoSA != 1 || s.Counters.BadSelector != 1 || s.Counters.InPackets != 2 {
		t.Errorf("counters %+v, %v", s.Counters, err)
	}
	if err := f.SetFilters(background(), []sadb.Filter{every("g", require())}); err != nil {
		t.Fatal(err)
	}
	if got := f.Receive(flow, 10, sa.ID); got != Dropped {
		t.Errorf("an association of another filter: %s", got)
	}
}

// An association carries nothing that policy blocks or leaves in clear, even
// if its selector would.
func TestFakeReceivesOnlyWhatPolicySecures(t *testing.T) {
	for _, k := range []sadb.ActionKind{sadb.Block, sadb.Permit} {
		f, _ := newFake(t, every("f", sadb.Action{Kind: k}))
		sa := add(t, f, sadb.In, "f", nil)
		if got := f.Receive(flow, 10, sa.ID); got != Dropped {
			t.Errorf("%s: %s", k, got)
		}
	}
}

func TestFakeListsPeersInClear(t *testing.T) {
	f, c := newFake(t, sadb.Filter{ID: "f", Dir: sadb.Both, Action: request()})
	other := flow
	other.Remote = netip.MustParseAddr("192.0.2.3")
	elsewhere := flow
	elsewhere.Local = netip.MustParseAddr("192.0.2.9")
	start := c.Now()
	f.Send(flow, 1)
	c.pass(time.Minute)
	f.Send(flow, 1)
	f.Send(other, 1)
	f.Send(elsewhere, 1)
	f.Receive(flow, 1, sadb.SAID{})
	s, err := f.State(background())
	if err != nil {
		t.Fatal(err)
	}
	entry := func(fl sadb.Flow, since time.Time, n uint64, in bool) driver.ClearPeer {
		return driver.ClearPeer{Filter: "f", Local: fl.Local, Remote: fl.Remote, Since: since, Last: c.Now(), Packets: n, Inbound: in}
	}
	want := []driver.ClearPeer{entry(flow, start, 2, false), entry(other, c.Now(), 1, false),
		entry(elsewhere, c.Now(), 1, false), entry(flow, c.Now(), 1, true)}
	if !slices.Equal(s.Clear, want) {
		t.Errorf("in clear:\n got %+v\nwant %+v", s.Clear, want)
	}
}

func TestFakeBoundsReservations(t *testing.T) {
	f, _ := newFake(t)
	for i := range maxReservations + 1 {
		if _, err := f.AllocSPI(background(), peer, me, sadb.ESP); (err == nil) != (i < maxReservations) {
			t.Fatalf("reservation %d: %v", i+1, err)
		}
	}
}

func TestFakeLimits(t *testing.T) {
	f, _ := newFake(t, every("f", require()))
	sa := add(t, f, sadb.Out, "f", func(s *sadb.SA) {
		s.Lifetime = sadb.Lifetime{Soft: sadb.Limits{Bytes: 150}, Hard: sadb.Limits{Packets: 3}}
	})
	var got []Outcome
	for range 4 {
		o, id := f.Send(flow, 100)
		if o == Secured && id != sa.ID {
			t.Errorf("by %s", id)
		}
		got = append(got, o)
	}
	if want := []Outcome{Secured, Secured, Secured, Held}; !slices.Equal(got, want) {
		t.Errorf("outcomes %v", got)
	}
	want := []driver.Event{driver.Expire{ID: sa.ID}, driver.Expire{ID: sa.ID, Hard: true}, driver.Acquire{Filter: "f", Flow: flow}}
	if got := events(f); !slices.Equal(got, want) {
		t.Errorf("events %+v", got)
	}
}

// Invariant 9: events that are lost lead to Resync.
func TestFakeLosesEventsLoudly(t *testing.T) {
	f, _ := newFake(t)
	for range eventRoom + 5 {
		f.Inject(driver.Used{})
	}
	if got := events(f); len(got) != eventRoom {
		t.Fatalf("%d events", len(got))
	}
	f.Inject(driver.Used{})
	f.Inject(driver.Used{})
	got := events(f)
	if len(got) != 2 || got[1] != (driver.Used{}) {
		t.Fatalf("events after the loss: %+v", got)
	}
	if _, ok := got[0].(driver.Resync); !ok {
		t.Errorf("first event after the loss: %+v", got[0])
	}
}

func TestFakeFailsOnDemand(t *testing.T) {
	f, _ := newFake(t, every("f", require()))
	broken := errors.New("broken")
	f.FailNext(broken)
	if err := f.SetFilters(background(), nil); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if got := f.Filters(); len(got) != 1 {
		t.Errorf("a failed call changed the filters: %v", got)
	}
	if err := f.SetFilters(background(), nil); err != nil {
		t.Errorf("the call after: %v", err)
	}
	if want := []string{"SetFilters 1", "SetFilters 0", "SetFilters 0"}; !slices.Equal(f.Calls(), want) {
		t.Errorf("calls %q", f.Calls())
	}
}

func TestFakeRefusesWhenClosedOrCancelled(t *testing.T) {
	f, _ := newFake(t)
	ctx, cancel := context.WithCancel(background())
	cancel()
	if err := f.RemoveFilter(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.State(background()); err == nil {
		t.Error("a closed driver answers")
	}
	f.Inject(driver.Used{})
	if _, open := <-f.Events(); open {
		t.Error("a closed driver has events")
	}
}

func TestFakeKeepsKeysForTests(t *testing.T) {
	f, _ := newFake(t, every("f", require()))
	sa := add(t, f, sadb.Out, "f", nil)
	if all := f.SAs(); len(all) != 1 || !all[0].AuthKey.Equal(sa.AuthKey) {
		t.Errorf("%d associations or another key", len(all))
	}
}

func TestFakeTellsConnectionsApart(t *testing.T) {
	dial := every("dial", sadb.Action{})
	dial.Connections = sadb.RemoteAccess
	f, _ := newFake(t, dial, every("rest", sadb.Action{Kind: sadb.Permit}))
	for connection, want := range map[sadb.ConnectionType]Outcome{sadb.LAN: Passed, sadb.AllConnections: Passed, sadb.RemoteAccess: Dropped} {
		flow := sadb.Flow{Remote: peer, LocalMe: true, Connection: connection}
		if got, _ := f.Send(flow, 1); got != want {
			t.Errorf("out over %s: %s", connection, got)
		}
		if got := f.Receive(flow, 1, sadb.SAID{}); got != want {
			t.Errorf("in over %s: %s", connection, got)
		}
	}
}
