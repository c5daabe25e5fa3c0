package user

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/esp"
	"ipsecagent/driver/nft"
	"ipsecagent/sadb"
)

// A look at what is missing comes lookDelay after a change of routes or links,
// so that a burst passes first; where routes change all the time and a look is
// long, looks take a tenth of the time, but never come later than lookMax.
const (
	lookDelay = 50 * time.Millisecond
	lookMax   = 800 * time.Millisecond
)

// retryDelay is how long the engine waits after the kernel refused something
// that must be.
const retryDelay = 200 * time.Millisecond

// engine owns all state of the data path. One goroutine (run) calls its
// methods; workers see what it publishes.
type engine struct {
	cfg     Config
	log     *slog.Logger
	sh      *shared
	table   *nft.Table
	sys     *system
	out     *sealer
	buf     []byte // of out
	started time.Time

	calls   chan call
	tooBigs chan tooBig
	nat     []int // sockets of IKE to lend; they do not change

	client    *session // nil: no agent is attached
	leaving   *session // who has had everything taken out of force; nil: nobody
	filters   []sadb.Filter
	base      uint64        // how many lists the agent has set; 0: those in force are not its own
	overlays  []sadb.Filter // in order of coming
	spd       *spd          // of both together
	sas       map[sadb.SAID]*assoc
	installed uint64 // associations so far
	reserved  map[sadb.SAID]time.Time
	paths     map[netip.Addr]*path
	wait      *waiting
	unwanted  uint64        // packets of the TUN that no filter wants secured
	learned   time.Time     // when the addresses of this host were last read
	next      time.Time     // when something is due; zero: nothing
	look      time.Time     // when rules, routes and links are to be looked at; zero: not
	lookGap   time.Duration // before the next look
}

func newEngine(cfg Config, sh *shared, now time.Time) *engine {
	return &engine{
		cfg: cfg, log: cfg.Log, sh: sh, started: now, buf: make([]byte, bufSize),
		calls: make(chan call), tooBigs: make(chan tooBig, 64),
		spd: newSPD(nil), sas: map[sadb.SAID]*assoc{}, reserved: map[sadb.SAID]time.Time{},
		paths: map[netip.Addr]*path{}, wait: newWaiting(),
	}
}

// run owns the state until ctx ends or everything is taken out of force.
func (e *engine) run(ctx context.Context, changed <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil && e.leaving == nil {
		e.arm(timer)
		select {
		case <-ctx.Done():
		case c := <-e.calls:
			c.reply <- e.answer(c)
		case p := <-e.sh.misses:
			e.missed(p, time.Now())
		case n := <-e.sh.notices:
			e.noticed(n)
		case t := <-e.tooBigs:
			e.narrower(t, time.Now())
		case <-e.sh.paths:
			e.lookSoon(time.Now())
		case <-changed:
			e.lookSoon(time.Now())
		case a := <-e.table.Asked():
			e.asked(a)
		case t := <-e.table.Tampered():
			e.tampered(t)
		case <-timer.C:
			e.tick(time.Now())
		}
	}
}

// arm sets the timer to what is due first.
func (e *engine) arm(timer *time.Timer) {
	at := earlier(e.next, e.look)
	if at.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(max(0, time.Until(at)))
}

// earlier returns the earlier of two times where zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// due makes the engine wake at t at the latest.
func (e *engine) due(t time.Time) { e.next = earlier(e.next, t) }

func (e *engine) lookSoon(now time.Time) {
	e.look = earlier(e.look, now.Add(min(max(lookDelay, e.lookGap), lookMax)))
}

// tick does what is due and finds out what is next.
func (e *engine) tick(now time.Time) {
	if !e.look.IsZero() && !now.Before(e.look) {
		e.look = time.Time{}
		e.lookAround(now)
	}
	if e.next.IsZero() || now.Before(e.next) {
		return
	}
	e.next = time.Time{}
	e.endOverlays(now)
	e.ageAll(now)
	e.endReservations(now)
	e.agePaths(now)
	e.keepAlive(now)
}

// lookAround restores rule, routes and link, asks the routes for the MTU, and
// learns addresses and interfaces.
func (e *engine) lookAround(now time.Time) {
	missing, err := e.sys.ensure()
	if err != nil {
		e.log.Error("cannot restore what steers traffic; it stays blocked", "error", err)
		e.look = now.Add(retryDelay)
	}
	for _, what := range missing {
		e.log.Warn("something else changed what this driver owns", "what", what, "restored", err == nil)
		e.emit(driver.Tampered{What: what, Restored: err == nil})
	}
	for _, p := range e.paths {
		e.measure(p)
	}
	e.learnAddresses(now)
	e.learnLinks()
	e.lookGap = 10 * time.Since(now)
}

func (e *engine) tampered(t driver.Tampered) {
	e.log.Warn("something else changed what this driver owns", "what", t.What, "restored", t.Restored)
	e.emit(t)
}

// missed handles a packet for which a worker found no association: by now
// there may be one, or it waits and an Acquire is raised.
func (e *engine) missed(packet []byte, now time.Time) {
	h, err := esp.Parse(packet)
	if err != nil {
		return
	}
	e.learnSource(h.Src, now)
	e.learnRoute(h.Dst)
	if e.resend(packet, now) {
		return
	}
	flow, known := e.sh.snap.Load().flow(&h)
	i := e.spd.decide(flow, sadb.Out)
	if !known || i < 0 || !e.spd.filters[i].Action.Requires() || !negotiable(flow) {
		e.unwanted++ // policy changed while it was on its way: it is repeated, or not
		return
	}
	root := e.spd.roots[i]
	entry, first := e.wait.ask(e.spd.key(root, flow), driver.Acquire{Filter: root, Flow: flow})
	e.wait.hold(entry, packet, now)
	if first {
		e.emit(entry.acquire)
	}
}

// negotiable reports whether there is one peer to negotiate with: multicast and
// broadcast are never negotiated, and the kernel sends some on the TUN itself.
func negotiable(f sadb.Flow) bool {
	return !f.Remote.IsMulticast() && !f.Local.IsUnspecified() && f.Remote != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (e *engine) resend(packet []byte, now time.Time) bool {
	sent, err := e.out.resend(e.buf, packet, now)
	if err != nil {
		e.log.Debug("packet cannot be secured", "error", err)
	}
	return sent || err != nil
}

// asked handles the table's report of a packet that went in clear under a
// filter that asks for security.
func (e *engine) asked(a nft.Asked) {
	root := e.spd.root(a.Filter)
	e.learnRoute(a.Flow.Remote)
	a.Flow.Connection, _ = e.sh.snap.Load().leaves(a.Flow.Remote)
	if e.sh.outbound(e.sh.snap.Load(), root, a.Flow) != nil {
		return
	}
	entry, first := e.wait.ask(e.spd.key(root, a.Flow), driver.Acquire{Filter: root, Flow: a.Flow, Clear: true})
	if first {
		e.emit(entry.acquire)
	}
}

// noticed passes on what a packet has brought an association to.
func (e *engine) noticed(n notice) {
	if e.sh.lost.Swap(false) {
		e.emit(driver.Resync{Reason: "the data path's notices came faster than it took them"})
		e.due(time.Now()) // ageAll finds those whose limit was not noticed
	}
	if e.sas[n.a.sa.ID] == nil || e.sas[n.a.sa.ID].use != n.a.use {
		return // deleted or replaced meanwhile
	}
	switch n.kind {
	case firstUse:
		e.emit(driver.Used{ID: n.a.sa.ID})
	case softReached:
		e.emit(driver.Expire{ID: n.a.sa.ID})
	case hardReached:
		e.expire(n.a)
	case endpointMoved:
		e.moved(n.a)
	}
}

// answer carries out one request.
func (e *engine) answer(c call) reply {
	if c.req.Verb == verbAttach {
		e.attach(c.from)
		return reply{ID: c.req.ID}
	}
	if c.req.Verb == verbTakeDown {
		return e.takeDown(c)
	}
	if c.from != e.client {
		return reply{ID: c.req.ID, Error: "user: another agent has taken over the data path"}
	}
	r, err := e.serve(c.req, time.Now())
	r.ID = c.req.ID
	if err != nil {
		r.Error = "user: " + err.Error()
	}
	return r
}

func (e *engine) serve(r request, now time.Time) (reply, error) {
	switch r.Verb {
	case verbSetFilters:
		err := e.setFilters(r.Base, r.Runs)
		return reply{Base: e.base}, err
	case verbPutFilter:
		return reply{}, e.putFilter(r.Filters)
	case verbRemoveFilter:
		return reply{}, e.removeFilter(r.FilterID)
	case verbAllocSPI:
		spi, err := e.allocSPI(r, now)
		return reply{SPI: spi}, err
	case verbAddSA:
		return reply{}, e.addSA(r.SA, now)
	case verbDeleteSA:
		e.deleteSA(r.SAID)
		return reply{}, nil
	case verbAbandon:
		if r.Acquire == nil {
			return reply{}, errors.New("abandon: the acquire is missing")
		}
		e.wait.abandon(e.spd.key(r.Acquire.Filter, r.Acquire.Flow))
		return reply{}, nil
	case verbState:
		if r.Again {
			e.repeat()
		}
		s, err := e.state()
		return reply{State: s}, err
	}
	return reply{}, errors.New("unknown request " + string(r.Verb))
}
