package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

const (
	eventRoom = 4096
	// tick is how often new inbound associations are asked whether they have
	// been used, later ones less often, and overlays whether they have expired.
	tick = 100 * time.Millisecond
	// retryAfter is how soon what is due and has failed is tried again.
	retryAfter = time.Second
)

// engine owns all state. Its methods run in one goroutine.
type engine struct {
	cfg     Config
	link    link
	book    book
	stat    *os.File // /proc/net/xfrm_stat of the namespace
	started time.Time
	kernel  chan any // events of the kernel
	feed    *feed
	table   guard
	facts   *facts
	out     chan driver.Event
	lost    bool // events found no room

	filters, overlays []sadb.Filter
	own               []netip.Addr // of a host that forwards, ascending; nil: it does not
	looked            time.Time    // when own was last read
	list              *list
	places            map[string]standing // where items stand, by name
	have              map[key]wire.Policy // ours, as the kernel has them
	exempt            []wire.Policy
	reqids            *requestIDs

	sas      *associations
	carried  map[sadb.FilterID]tally // by associations that have ended
	reserved map[sadb.SAID]time.Time
	asked    map[question]pending
	suites   []sadb.Suite // the kernel's; nil: not asked yet
	swept    bool         // states nobody knows were looked for
	suspect  bool         // something else has changed XFRM
	astray   bool         // a change failed: the table, the book and policies may not be what filters and overlays say; suspect, too
	tampered bool         // it has, and that is not put right yet
	blind    bool         // the book could not be read: what it does not say stays in force until the first list
	edition  uint64       // of the book
	marks    []uint32     // by which policies of ours are known besides Config.Exempt's
	retry    time.Time    // not before, after what failed
	closing  bool
}

// guard is the table of package nft that stands beside the policies.
type guard interface {
	Apply([]sadb.Filter) error
	Stats() (nft.Stats, error)
	ClearPeers() (peers []driver.ClearPeer, full bool, err error)
	Tampered() <-chan driver.Tampered
	Close() error
}

// standing is where an item stands among the kernel's policies.
type standing struct {
	Priority uint32
	Variant  int
}

func newEngine(c Config) (*engine, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	e := &engine{cfg: c, link: link{conn}, book: book{c.Dir}, started: now(), kernel: make(chan any, eventRoom), out: make(chan driver.Event, eventRoom),
		places: map[string]standing{}, have: map[key]wire.Policy{}, reqids: newRequestIDs(nil),
		reserved: map[sadb.SAID]time.Time{}, asked: map[question]pending{}, sas: newAssociations(), carried: map[sadb.FilterID]tally{}, exempt: exemptPolicies(c.Exempt)}
	if err := e.prepare(); err != nil {
		return nil, errors.Join(err, e.release())
	}
	return e, nil
}

// prepare takes up what is there.
func (e *engine) prepare() (err error) {
	if e.stat, err = os.Open("/proc/thread-self/net/xfrm_stat"); err != nil {
		return fmt.Errorf("this kernel has no counters of XFRM (CONFIG_XFRM_STATISTICS): %w", err)
	}
	e.holdPackets()
	table, err := nft.Open(nft.Config{Table: e.cfg.Table, Steer: e.cfg.steer(), Exempt: e.cfg.Exempt, LogGroup: e.cfg.LogGroup,
		RemoteAccess: e.cfg.RemoteAccess, Socket: e.cfg.TableSocket})
	if err != nil {
		return err
	}
	e.table = table
	if e.facts, err = openFacts(e.cfg.RemoteAccess); err != nil {
		return err
	}
	if e.feed, err = listen(e.kernel); err != nil {
		return err
	}
	return e.adopt()
}

// holdPackets makes the kernel keep packets that wait for an association, a
// hundred for each policy, instead of dropping them. Without the right to say
// so they are lost and applications send again.
func (e *engine) holdPackets() {
	if err := os.WriteFile("/proc/sys/net/core/xfrm_larval_drop", []byte("0"), 0); err != nil {
		e.cfg.Log.Warn("packets that wait for an association are dropped, not held", "error", err)
	}
}

// run serves requests and events until the driver is closed.
func (e *engine) run(requests chan func(*engine)) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	tampered := e.table.Tampered()
	for !e.closing {
		select {
		case f := <-requests:
			f(e)
		case ev := <-e.kernel:
			e.handle(ev)
		case t, open := <-tampered:
			if !open {
				tampered = nil
				continue
			}
			e.emit(t)
		case <-timer.C:
			e.tick(now())
		}
	}
	if err := e.release(); err != nil {
		e.cfg.Log.Warn("close the kernel driver", "error", err)
	}
	close(e.out)
}

func (e *engine) release() error {
	var errs []error
	if e.feed != nil {
		errs = append(errs, e.feed.close())
	}
	if e.table != nil {
		errs = append(errs, e.table.Close())
	}
	if e.facts != nil {
		errs = append(errs, e.facts.close())
	}
	if e.stat != nil {
		errs = append(errs, e.stat.Close())
	}
	return errors.Join(append(errs, e.link.c.Close())...)
}

// emit delivers an event and reports whether it did. What finds no room is lost.
func (e *engine) emit(ev driver.Event) bool {
	e.lost = !e.regain() || !e.deliver(ev)
	return !e.lost
}

// regain says that events were lost, when there is room for that again, and has
// what was lost found; false: there is no room yet.
func (e *engine) regain() bool {
	if e.lost && e.deliver(driver.Resync{Reason: "events were lost"}) {
		e.lost, e.suspect = false, true
	}
	return !e.lost
}

func (e *engine) deliver(ev driver.Event) bool {
	select {
	case e.out <- ev:
		return true
	default:
		return false
	}
}

// tick does what is due.
func (e *engine) tick(at time.Time) {
	e.regain()
	if !at.Before(e.retry) {
		if e.suspect {
			e.repair()
		}
		e.expire(at)
		e.follow(at)
	}
	e.pollUse(at)
	e.forget(at)
}
