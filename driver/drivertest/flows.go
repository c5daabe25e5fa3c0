package drivertest

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// Outcome is what a driver does with a packet.
type Outcome uint8

// The outcomes. Dropped is the zero value.
const (
	Dropped Outcome = iota // as policy says, or for want of policy's consent
	Passed                 // unmodified: permitted, or no filter matches
	Clear                  // in clear although the filter asks for security
	Held                   // waits for an association
	Secured                // by an association
)

// String returns the outcome's name.
func (o Outcome) String() string {
	switch o {
	case Dropped:
		return "dropped"
	case Passed:
		return "passed"
	case Clear:
		return "clear"
	case Held:
		return "held"
	case Secured:
		return "secured"
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Reopen returns a Fake with what a closed one left in force, as a fresh agent
// finds it.
func (f *Fake) Reopen() *Fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &Fake{now: f.now, started: f.started, filters: f.filters, overlays: f.overlays, stats: f.stats,
		reserved: f.reserved, sas: f.sas, asked: f.asked, clear: f.clear, counters: f.counters,
		events: make(chan driver.Event, eventRoom)}
}

// Inject delivers an event as if the driver had noticed something itself.
func (f *Fake) Inject(e driver.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.emit(e)
}

// FailNext makes the next call of the Driver interface fail with err.
func (f *Fake) FailNext(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// Calls returns the calls of the Driver interface so far, in order, such as
// "AddSA in ESP 0x00001000 to 192.0.2.1".
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// SAs returns the associations in force, oldest first, with their keys: a test
// compares those of two hosts.
func (f *Fake) SAs() []sadb.SA {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tick()
	var all []sadb.SA
	for _, a := range f.sas {
		sa := a.SA
		sa.EncKey, sa.AuthKey = a.enc, a.auth
		all = append(all, sa)
	}
	return all
}

// Filters returns what decides, in order, overlays in their places.
func (f *Fake) Filters() []sadb.Filter {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tick()
	return f.spd()
}

// Tick lets time pass: overlays and associations end, events are raised.
func (f *Fake) Tick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tick()
}

// Send says what becomes of an outbound packet of n bytes, and by which
// association. It may raise an Acquire.
func (f *Fake) Send(flow sadb.Flow, n int) (Outcome, sadb.SAID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tick()
	e, ok := f.decide(flow, sadb.Out, n)
	if !ok || e.Action.Kind == sadb.Permit {
		return Passed, sadb.SAID{}
	}
	if e.Action.Kind == sadb.Block {
		f.stat(e).Dropped++
		return Dropped, sadb.SAID{}
	}
	if a := f.outbound(root(e), flow); a != nil {
		f.counters.OutPackets++
		f.use(a, n)
		return Secured, a.SA.ID
	}
	f.ask(e, flow)
	if e.Action.AllowClear && e.Action.ClearDelay == 0 {
		f.inClear(e, flow, false)
		return Clear, sadb.SAID{}
	}
	return Held, sadb.SAID{}
}

// Receive says what becomes of an inbound packet of n bytes that arrived by the
// association via; the zero SAID: in clear.
func (f *Fake) Receive(flow sadb.Flow, n int, via sadb.SAID) Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tick()
	e, ok := f.decide(flow, sadb.In, n)
	if via != (sadb.SAID{}) {
		return f.receiveSecured(e, flow, n, via)
	}
	switch {
	case !ok || e.Action.Kind == sadb.Permit:
		return Passed
	case e.Action.Kind == sadb.Negotiate && e.Action.PassThrough:
		f.inClear(e, flow, true)
		return Clear
	}
	f.stat(e).Dropped++
	f.counters.InClear++
	return Dropped
}

// receiveSecured applies RFC 4301 §5.2: the association carries the packet, and
// the filter that decides is the one it was made for.
func (f *Fake) receiveSecured(e sadb.Filter, flow sadb.Flow, n int, via sadb.SAID) Outcome {
	a := f.sa(via)
	if a == nil || a.SA.Dir != sadb.In {
		f.counters.NoSA++
		return Dropped
	}
	if !a.SA.Selector.Matches(flow) || e.Action.Kind != sadb.Negotiate || root(e) != a.root {
		f.counters.BadSelector++
		return Dropped
	}
	if a.Packets == 0 {
		f.emit(driver.Used{ID: via})
	}
	f.counters.InPackets++
	f.use(a, n)
	return Secured
}

// root returns the filter an association is bound to: an overlay stands for
// its parent.
func root(e sadb.Filter) sadb.FilterID {
	if e.Overlay() {
		return e.Parent
	}
	return e.ID
}

func (f *Fake) spd() []sadb.Filter { return sadb.Splice(f.filters, f.overlays) }

func (f *Fake) decide(flow sadb.Flow, d sadb.Directions, n int) (sadb.Filter, bool) {
	e, ok := sadb.Decide(f.spd(), flow, d)
	if ok {
		s := f.stat(e)
		s.Packets++
		s.Bytes += uint64(n)
	}
	return e, ok
}

func (f *Fake) stat(e sadb.Filter) *driver.FilterStat {
	s := f.stats[e.ID]
	if s == nil {
		s = &driver.FilterStat{}
		f.stats[e.ID] = s
	}
	s.Filter = e
	return s
}

// outbound returns the newest association of a filter for a packet.
func (f *Fake) outbound(id sadb.FilterID, flow sadb.Flow) *association {
	for _, a := range slices.Backward(f.sas) {
		s := a.SA
		peers := s.Mode == sadb.Tunnel || s.Src == flow.Local && s.ID.Dst == flow.Remote
		if s.Dir == sadb.Out && a.root == id && peers && s.Selector.Matches(flow) {
			return a
		}
	}
	return nil
}

// ask raises an Acquire once.
func (f *Fake) ask(e sadb.Filter, flow sadb.Flow) {
	q := question{root(e), flow.Local, flow.Remote}
	if f.asked[q] {
		return
	}
	f.asked[q] = true
	f.emit(driver.Acquire{Filter: q.filter, Flow: flow, Clear: e.Action.AllowClear && e.Action.ClearDelay == 0})
}

func (f *Fake) inClear(e sadb.Filter, flow sadb.Flow, inbound bool) {
	for i := range f.clear {
		p := &f.clear[i]
		if p.Filter == root(e) && p.Local == flow.Local && p.Remote == flow.Remote && p.Inbound == inbound {
			p.Last = f.now()
			p.Packets++
			return
		}
	}
	f.clear = append(f.clear, driver.ClearPeer{Filter: root(e), Local: flow.Local, Remote: flow.Remote,
		Since: f.now(), Last: f.now(), Packets: 1, Inbound: inbound})
}

// use counts a packet and applies the limits by bytes and packets.
func (f *Fake) use(a *association, n int) {
	a.Packets++
	a.Seq++
	a.Bytes += uint64(n)
	a.LastUsed = f.now()
	f.limit(a)
}

// limit raises Expire and ends an association at its hard limit.
func (f *Fake) limit(a *association) {
	age := f.now().Sub(a.Added)
	if a.SA.Lifetime.Hard.Reached(age, a.Bytes, a.Packets) {
		f.dropSA(a.SA.ID)
		f.emit(driver.Expire{ID: a.SA.ID, Hard: true})
		return
	}
	if !a.soft && a.SA.Lifetime.Soft.Reached(age, a.Bytes, a.Packets) {
		a.soft = true
		f.emit(driver.Expire{ID: a.SA.ID})
	}
}

func (f *Fake) tick() {
	now := f.now()
	f.overlays = slices.DeleteFunc(f.overlays, func(o sadb.Filter) bool { return f.ended(o, now) })
	for _, a := range slices.Clone(f.sas) {
		f.limit(a)
	}
}

func (f *Fake) ended(o sadb.Filter, now time.Time) bool {
	if o.Expires.IsZero() || o.Expires.After(now) {
		return false
	}
	f.emit(driver.FilterEnded{ID: o.ID})
	return true
}
