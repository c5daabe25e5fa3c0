// Package agent is the loop that holds the parts together: it fetches the
// assigned policy, compiles and enforces it, answers what the driver asks for
// with negotiations, books associations, keeps what must outlive the process,
// and tells the administrator.
//
// One goroutine, Run's, owns all of it; everything else sends it values. It
// does not speak IKE (ike does), does not touch packets (a driver does), and
// does not read documents or sockets (cmd wires both).
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/driver"
	"ipsecagent/host"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// driverTimeout bounds one call to the driver.
const driverTimeout = 20 * time.Second

// maxCalls is how many requests of the control socket may wait for the loop.
const maxCalls = 64

// IKE is the agent's side of the key exchange, an ike.Server as a rule.
type IKE struct {
	// Submit hands over an input and does not wait for what comes of it.
	Submit func(ike.Input)
	// Outputs are those that are the agent's: all but Send and Work. It
	// closes when the key exchange has ended.
	Outputs <-chan ike.Output
	// SAs lists the ISAKMP SAs.
	SAs func(ctx context.Context) ([]ike.ISAKMPSA, error)
}

// Config is what an Agent works with. Driver, IKE, StateFile, Host and Log are
// required.
type Config struct {
	Driver driver.Driver
	// DriverWhy says in words why this driver; shown in the status.
	DriverWhy string
	// Reconnect returns a driver after the data path of the last one was
	// lost; it may take its time and is tried again after an error. nil: a
	// lost data path ends Run.
	Reconnect func(ctx context.Context) (driver.Driver, error)
	IKE       IKE
	Library   Library
	// Directory says what a directory assigns to this host, which overrides what
	// is assigned on the host itself. Its Fetch must not wait. nil: this host
	// takes no policy from a directory.
	Directory PolicySource
	// DirectoryStatus says how it stands with the directory; nil: there is none.
	DirectoryStatus func() control.DirectoryStatus
	// Persistent names the policy that is in force where nothing else is
	// assigned; "": none.
	Persistent string
	// StateFile is the path of the state (bbolt), made if it is not there.
	StateFile string
	// Source returns the address of this host that packets to a tunnel endpoint
	// come from; nil: no tunnel can be made.
	Source func(endpoint netip.Addr) (netip.Addr, error)
	// NoUplift: offer what policies list and nothing else.
	NoUplift bool
	// RefuseDowngrade: a peer whose identity was once met with modern methods
	// is refused with old ones; else it is reported.
	RefuseDowngrade bool
	// Unusable says why this host cannot satisfy a requirement now; "": it can.
	// It is asked for each requirement of a policy that is put in force, and
	// again after IdentitiesChanged. nil: it can satisfy every one.
	Unusable func(auth.Requirement) string
	// NoKey says why there is no preshared key of that name ("": of any) on this
	// host now; "": there is. A policy may be assigned before its keys are there,
	// which is a problem until they are. nil: there always is.
	NoKey func(name string) string
	// IdentitiesChanged hints that Unusable may answer differently now; may be
	// nil.
	IdentitiesChanged <-chan struct{}
	// IdleTime is how long a pair of associations may carry nothing before it
	// is ended; 0: for ever.
	IdleTime time.Duration
	// SilentTime is how long a peer that is sent to may send nothing before it
	// is asked whether it lives; 0: it is not asked.
	SilentTime time.Duration
	// Exempt lists which connections of this process no filter touches, in
	// words; may be nil.
	Exempt func() []string
	// Exemptions are what passes before the policy is asked.
	Exemptions policy.Exemptions
	// Enforced is told what the driver has put in force, each time, from the
	// loop: it must not wait. nil: nobody wants to know.
	Enforced func(Enforcement)
	// Remembered is the policy that was in force last as something beside
	// StateFile knows it; "": none. Where the state file knows of nothing
	// assigned, that is then a loss, and opens nothing.
	Remembered string
	// Names resolves DNS names; the zero value: none resolves.
	Names Names
	// Host reads the facts of this machine; HostChanged hints that they may
	// have changed.
	Host        func() (host.Facts, error)
	HostChanged <-chan struct{}
	// SetKeys checks, keeps and puts in force the text of a preshared-key
	// file. Its error names no key. nil: this agent takes no keys.
	SetKeys func(text string) (warnings []string, err error)
	Log     *slog.Logger
	// Version and Hostname are shown in the status.
	Version, Hostname string
}

// Agent enforces the assigned policy on this host. Make it with New, run it
// with Run; its exported methods may be called from any goroutine.
type Agent struct {
	cfg   Config
	calls chan func(now time.Time)
	done  chan struct{} // closed when Run has ended

	// All below is owned by Run's goroutine.
	ctx      context.Context // Run's
	started  time.Time
	store    *store
	source   *localSource
	assigned *assignment // nil: never said
	last     *lastGood
	domain   *lastGood // what the directory assigned last; nil: nothing
	// copyFailed: domain could not be written, and is written again.
	copyFailed bool
	// directoryState is how it stood with the directory when last looked.
	directoryState string
	pending        *pending  // nil: nothing waits to be confirmed
	previous       *previous // one step back from what was applied; nil: none
	// unconfirmed is what an earlier process had applied and nobody has
	// confirmed; said at the start.
	unconfirmed *pendingMark
	held        string // why the driver's former filters are left as they are; "": they are not
	inForce     inForce
	facts       host.Facts
	lookups     lookups
	following   map[string]host.Answer // the names asked for; nil: not said yet
	timers      timers
	journal     *journal
	book        *sadb.Book
	talks       talks
	proven      proven
	halves      map[sadb.PairID]half
	overlays    map[sadb.FilterID]overlay
	lastEnds    lastEnds
	returned    map[sadb.FilterID]returned
	failures    failures
	adopted     map[sadb.PairID]bool
	rekeying    map[sadb.PairID]bool
	tracers     map[*tracer]bool
	lastTracer  uint64
	modern      modern
	moves       lineLimit
	idle        map[sadb.PairID]bool     // as last looked: they carry nothing
	asked       map[netip.Addr]time.Time // when silent peers were last asked
	carries     abilities
	reports     reports
	earlier     *keptReports // counts of an earlier process; nil: taken over, or none
	lost        string       // why the data path cannot be used; "": it can
	behind      bool         // a reload waits for the data path
	joined      chan joined
	problems    map[string]string // by kind, in words
	broken      []string          // documents of the library that do not load, in words
	ikeDropped  uint64            // datagrams that the key exchange did not act on
	// ikeInternal are the panics caught in the key exchange.
	ikeInternal uint64
	unwritten   bool      // the pairs in the store are behind the book
	written     time.Time // when the pairs were last written
	hostDue     bool      // the facts of the host are about to be read
	settled     bool      // the pairs of an earlier process are adopted or gone
	retrying    bool      // a reload is already to be tried again
}

// inForce is the policy that is enforced now.
type inForce struct {
	state    policy.State // zero: nothing has been put in force yet
	name     string
	auth     string
	compat   string
	from     string // as of assignment
	cached   bool   // it is a kept copy: its source could not be asked
	origin   string
	applied  time.Time
	policy   *policy.Policy
	compiled *policy.Compiled
	host     policy.Host // that it is compiled for
	snapshot *snapshot
	// warnings are what the policy's author should know.
	warnings []string
	// rejected is why the last reload did not take; "": it did.
	rejected string
	// reloads counts, so that a poll of an earlier policy finds itself late.
	reloads int
}

// joined is the answer of Reconnect.
type joined struct {
	driver driver.Driver
	err    error
}

// New opens the state and returns an agent that has done nothing yet.
func New(cfg Config) (*Agent, error) {
	if cfg.Driver == nil || cfg.IKE.Submit == nil || cfg.Host == nil || cfg.Log == nil || cfg.StateFile == "" {
		return nil, errors.New("agent: new: Driver, IKE, Host, Log and StateFile are required")
	}
	now := time.Now()
	st, kept, damaged, err := openStore(cfg.StateFile, now)
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, calls: make(chan func(time.Time), maxCalls), done: make(chan struct{}),
		started: now, store: st, source: &localSource{library: cfg.Library}, assigned: kept.Assigned, last: kept.Last, domain: kept.Domain,
		previous: kept.Previous, unconfirmed: kept.Pending, earlier: kept.Reports,
		journal: newJournal(cfg.Log), book: sadb.NewBook(), talks: newTalks(), proven: proven{},
		halves: map[sadb.PairID]half{}, overlays: map[sadb.FilterID]overlay{}, lastEnds: lastEnds{}, returned: map[sadb.FilterID]returned{},
		failures: newFailures(), adopted: map[sadb.PairID]bool{}, rekeying: map[sadb.PairID]bool{},
		joined: make(chan joined, 1), tracers: map[*tracer]bool{}, modern: newModern(kept.Modern), idle: map[sadb.PairID]bool{}, asked: map[netip.Addr]time.Time{}, problems: map[string]string{},
		lookups: newLookups(kept.Lookups)}
	a.inForce.snapshot = newSnapshot(&policy.Compiled{}, nil)
	for _, p := range kept.Pairs {
		a.book.Put(p)
		a.proven.put(plain(p.Remote), now)
	}
	if damaged != "" {
		a.reportDamage(now, damaged)
	}
	return a, nil
}

// Run enforces until ctx ends, and returns nil then; what is in force stays in
// force. Any other return says why the agent cannot go on. Call it once.
func (a *Agent) Run(ctx context.Context) error {
	a.ctx = ctx
	defer a.end()
	a.start(time.Now())
	a.watchIdle(time.Now())
	a.watchSilent(time.Now())
	for ctx.Err() == nil {
		if err := a.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step waits for one thing that happens and handles it.
func (a *Agent) step(ctx context.Context) error {
	wake := time.NewTimer(a.untilNext())
	defer wake.Stop()
	select {
	case <-ctx.Done():
	case f := <-a.calls:
		f(time.Now())
	case e, ok := <-a.events():
		if !ok {
			return a.loseDriver(time.Now(), "the data path has ended")
		}
		a.driverEvent(time.Now(), e)
	case o, ok := <-a.cfg.IKE.Outputs:
		if !ok {
			return endedIKE(ctx)
		}
		a.ikeOutput(time.Now(), o)
	case j := <-a.joined:
		a.joinDriver(time.Now(), j)
	case _, ok := <-a.cfg.HostChanged:
		a.hostChanged(time.Now(), ok)
	case <-a.cfg.Names.Changed:
		a.namesChanged(time.Now())
	case _, ok := <-a.cfg.IdentitiesChanged:
		a.identitiesChanged(time.Now(), ok)
	case <-a.directoryChanged():
		a.followDirectory(time.Now())
	case <-a.source.Changed():
		a.reload(time.Now(), "the policies have changed")
	case <-wake.C:
		a.timers.run(time.Now())
	}
	return nil
}

// endedIKE is no error when both are told to end at once.
func endedIKE(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("agent: run: the key exchange has ended; nothing can be negotiated any more: restart the agent (what is in force stays)")
}

// untilNext returns how long until the next timer is due.
func (a *Agent) untilNext() time.Duration {
	at, ok := a.timers.next()
	if !ok {
		return time.Hour
	}
	return max(0, time.Until(at))
}

// events returns the driver's events; nil while there is no driver.
func (a *Agent) events() <-chan driver.Event {
	if a.lost != "" {
		return nil
	}
	return a.cfg.Driver.Events()
}

// end keeps what must outlive the process. It removes nothing that is in force.
func (a *Agent) end() {
	a.writePairs(time.Now())
	a.journal.add(time.Now(), control.Event{Kind: control.EventAgentEnded, Severity: "info",
		Message: "the agent has ended; filters and associations stay in force"})
	for t := range a.tracers {
		close(t.lines)
	}
	if !a.reports.since.IsZero() {
		a.keepReports(time.Now())
	}
	a.journal.close()
	close(a.done)
	if err := a.store.close(); err != nil {
		a.cfg.Log.Warn("closing the state file failed", "error", err.Error())
	}
}

// ask runs f in the loop and returns its answer.
func ask[T any](ctx context.Context, a *Agent, f func(now time.Time) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	answers := make(chan answer, 1)
	call := func(now time.Time) {
		v, err := f(now)
		answers <- answer{v, err}
	}
	var none T
	select {
	case a.calls <- call:
	case <-a.done:
		return none, errEnded()
	case <-ctx.Done():
		return none, tooSlow(ctx)
	}
	select {
	case got := <-answers:
		return got.v, got.err
	case <-a.done:
		return none, errEnded()
	case <-ctx.Done():
		return none, tooSlow(ctx)
	}
}

func errEnded() error {
	return &control.Error{Code: control.NotReachable, Message: "the agent is ending; what is in force stays in force"}
}

func tooSlow(ctx context.Context) error {
	return &control.Error{Code: control.TimedOut, Message: fmt.Sprintf("the agent did not answer in time: %v", ctx.Err())}
}

// event records that something happened.
func (a *Agent) event(now time.Time, kind, severity, message string, fields map[string]string) {
	a.journal.add(now, control.Event{Kind: kind, Severity: severity, Message: message, Peer: fields["peer"], Fields: fields})
}

// problem sets what makes the state degraded, by kind; "" ends it.
func (a *Agent) problem(kind, words string) {
	if words == "" {
		delete(a.problems, kind)
		return
	}
	a.problems[kind] = words
}

// driverContext bounds one call to the driver.
func (a *Agent) driverContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.ctx, driverTimeout)
}
