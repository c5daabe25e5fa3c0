package directory

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"ipsecagent/policy"
)

// When a directory is asked.
const (
	// DefaultRefresh is how often group policy is looked at, as on Windows; up
	// to a third of it is added at random.
	DefaultRefresh = 90 * time.Minute
	// DefaultJitter is over how long hosts spread what all of them do because
	// of the same change.
	DefaultJitter = time.Minute
	// confirmNone is how long after "none is assigned" the same must be said
	// again before it counts.
	confirmNone = time.Minute
	// defaultPolling is the polling interval of a policy that does not say.
	defaultPolling = 3 * time.Hour
	// attempt bounds one attempt to connect and read.
	attempt = 3 * time.Minute
	// changeRetry is how soon a policy that was being changed is read again.
	changeRetry = 10 * time.Second
	// renewAfter is how old a connection becomes: another server may be nearer now,
	// the site of this host another one, and of what a policy refers to something
	// may be gone, of which no server tells.
	renewAfter = 10 * time.Hour
	// renewRetry is how much longer it does while there is no other.
	renewRetry = time.Hour
	// gather is how long after a hint it is looked, so that the changes that
	// belong together are seen together.
	gather = 500 * time.Millisecond
	// steady is how long a connection lasts at the least with a server that does
	// not end them again and again.
	steady = time.Hour
)

// SourceConfig is what a Source works with.
type SourceConfig struct {
	Config
	// Refresh is how often it is looked whether anything has changed, if the
	// policy does not ask for more; 0: DefaultRefresh.
	Refresh time.Duration
	// Jitter is over how long hosts spread; 0: they do not.
	Jitter time.Duration
	// NoWatch: the server is not asked to tell of changes.
	NoWatch bool
}

// Source is the policy source of a host in a directory: it asks, notices changes
// and keeps the last answer. Make it with NewSource, run it with Run; its other
// methods may be called from any goroutine and never wait for the network,
// except Refresh.
type Source struct {
	cfg     SourceConfig
	connect func(context.Context, Config) (server, error)
	changed chan struct{}
	now     chan chan struct{} // Refresh
	status  atomic.Pointer[Status]

	// All below is owned by Run's goroutine.
	session  server
	bound    time.Time       // when it was connected
	hints    <-chan struct{} // of the session; nil: it is not asked for any
	read     *Answer         // by this session; nil: nothing
	failures int             // in a row
	cut      int             // connections in a row that the server ended soon
	none     time.Time       // when "none is assigned" was first said; zero: it was not
}

// server is a Session, which the tests play.
type server interface {
	Server() string
	Site() string
	Fetch(context.Context) (*Answer, error)
	Changed(context.Context, *Answer) (bool, error)
	Watch(context.Context, *Answer) (hints <-chan struct{}, began, all bool)
	Deaf() error
	Ended() <-chan struct{}
	Close()
}

// Status is what a Source knows, at one moment.
type Status struct {
	// Answer is the last one that counts; nil: there was none since the start.
	Answer *Answer
	// Since is when it was first given, Confirmed when it was last found to
	// hold.
	Since, Confirmed time.Time
	// Err is why the last attempt gave none: ErrUnreachable, ErrUnreadable,
	// ErrChanging or errPending; nil: it did.
	Err error
	// Server and Site are those of the connection; "": there is none.
	Server, Site string
	// Deaf is why the server does not tell of changes though it was asked to;
	// nil: it does, or was not asked.
	Deaf error
	// Next is when the directory is asked next, unless it tells of a change.
	Next time.Time
}

// ErrPending: the directory has not said yet what is assigned, or its "none" is
// not yet confirmed.
var ErrPending = errors.New("the directory has not been heard yet")

// NewSource returns a source that has not asked yet.
func NewSource(cfg SourceConfig) (*Source, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = DefaultRefresh
	}
	cfg.Config = cfg.withDefaults()
	s := &Source{cfg: cfg, changed: make(chan struct{}, 1), now: make(chan chan struct{}),
		connect: func(ctx context.Context, c Config) (server, error) {
			session, err := Connect(ctx, c)
			if err != nil {
				return nil, err
			}
			return session, nil
		}}
	s.status.Store(&Status{Err: ErrPending})
	return s, nil
}

// Status returns what is known now.
func (s *Source) Status() Status { return *s.status.Load() }

// Changed hints that Fetch may answer differently now.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Fetch returns what the directory last said: what is assigned, with Cached if
// the last attempt to ask gave no answer. An error says that nothing is known:
// ErrPending, ErrUnreachable, ErrUnreadable or ErrChanging.
func (s *Source) Fetch(context.Context) (policy.Assignment, error) {
	now := s.Status()
	if now.Answer == nil {
		return policy.Assignment{}, now.Err
	}
	return policy.Assignment{State: now.Answer.State, Policy: now.Answer.Policy, Origin: now.Answer.Origin(),
		Fetched: now.Confirmed, Cached: now.Err != nil && !errors.Is(now.Err, ErrPending)}, nil
}

// Refresh has the directory asked at once and returns when that is done, or ctx
// ends.
func (s *Source) Refresh(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case s.now <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run asks the directory until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	defer s.drop()
	var waiting chan struct{} // who wants to know that it was asked
	for ctx.Err() == nil {
		in := s.ask(ctx)
		s.publish(func(now *Status) { now.Next = s.cfg.Clock().Add(in) })
		if waiting != nil {
			close(waiting)
		}
		waiting = s.wait(ctx, in)
	}
	return nil
}

// wait waits for the time to ask again, which a hint and the end of the
// connection bring near, or for a Refresh, which it returns.
func (s *Source) wait(ctx context.Context, in time.Duration) chan struct{} {
	due := time.Now().Add(in)
	timer := time.NewTimer(in)
	defer timer.Stop()
	hints, ended := s.hints, s.ended()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			return nil
		case done := <-s.now:
			s.failures, s.cut = 0, 0
			return done
		case <-hints:
		case <-ended:
			if pause := s.pause(); pause > 0 {
				return s.wait(ctx, pause)
			}
			ended = nil
		}
		hints = nil // one is enough
		timer.Reset(min(s.soon(), time.Until(due)))
	}
}

// pause is how long to do without a connection that has ended: not at all, unless
// the server ends one soon after the other, as one with too many does. Every host
// that it took back would cost another one its connection.
func (s *Source) pause() time.Duration {
	if s.cfg.Clock().Sub(s.bound) >= steady {
		s.cut = 0
		return 0
	}
	pause := min(backOff(s.cut), s.cfg.Refresh)
	s.cut++
	if pause == 0 {
		return 0
	}
	pause += spread(s.cfg.Jitter)
	s.drop()
	s.publish(func(now *Status) { now.Next = s.cfg.Clock().Add(pause) })
	return pause
}

// ended returns what closes when the connection ends; nil: there is none, or
// nothing is told over it. Servers end connections that are idle: a fleet that
// bound again each time would cost them more than all that it asks.
func (s *Source) ended() <-chan struct{} {
	if s.session == nil || s.cfg.NoWatch {
		return nil
	}
	return s.session.Ended()
}

// spread returns a random part of d.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// ask asks once and returns in how long to ask again.
func (s *Source) ask(ctx context.Context) time.Duration {
	if s.session != nil && s.cfg.Clock().Sub(s.bound) >= renewAfter {
		s.renew(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	kept := s.session != nil
	a, err := s.answer(bounded)
	if kept && errors.Is(err, ErrUnreachable) && s.session == nil && ctx.Err() == nil {
		a, err = s.answer(bounded) // servers end connections that are idle: that alone is no failure
	}
	began, all := s.watch(ctx, a)
	if !all { // over a new connection there is room
		s.drop()
		a, err = s.answer(bounded)
		began, _ = s.watch(ctx, a)
	}
	var in time.Duration
	if err != nil {
		in = s.fail(err)
	} else {
		s.failures, in = 0, s.take(a)
	}
	if began { // what has changed since it was read may not be told
		s.failures, in = 0, min(in, s.soon())
	}
	return in
}

// renew takes a new connection in the place of the one there is, which does while
// there is no other: that a server is away just then is no failure.
func (s *Source) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	session, err := s.connect(ctx, s.cfg.Config)
	if err != nil {
		s.bound = s.bound.Add(renewRetry)
		return
	}
	s.drop()
	s.session, s.bound = session, s.cfg.Clock()
}

// watch has the server tell of changes near an answer, if there is one. Began:
// of some only from now on. Not all: it cannot, over this connection.
func (s *Source) watch(ctx context.Context, a *Answer) (began, all bool) {
	if a == nil || s.session == nil || s.cfg.NoWatch {
		return false, true
	}
	s.hints, began, all = s.session.Watch(ctx, a)
	return began, all
}

// soon is when to look after a hint: when the changes that belong together are
// there, and not when every other host looks.
func (s *Source) soon() time.Duration { return gather + spread(s.cfg.Jitter) }

// answer returns what the directory says now, over the connection there is or a
// new one. While nothing has changed, that is the same answer as before. With
// an error there may be one too, to watch by.
func (s *Source) answer(ctx context.Context) (*Answer, error) {
	if s.session == nil {
		session, err := s.connect(ctx, s.cfg.Config)
		if err != nil {
			return nil, err
		}
		s.session, s.bound = session, s.cfg.Clock()
	}
	if s.read != nil {
		changed, err := s.session.Changed(ctx, s.read)
		if err != nil {
			return nil, s.lost(err)
		}
		if !changed {
			return s.read, nil
		}
	}
	a, err := s.session.Fetch(ctx)
	if err != nil {
		return a, s.lost(err)
	}
	s.read = a
	return a, nil
}

// lost drops a connection that has not answered, or not to the end; what the
// server has said of a policy is an answer.
func (s *Source) lost(err error) error {
	s.read = nil
	if cutOff(err) {
		s.drop() // what is left of the answer is not waited for
	}
	if errors.Is(err, ErrUnreadable) || errors.Is(err, ErrChanging) {
		return err
	}
	s.drop()
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// drop ends the connection.
func (s *Source) drop() {
	if s.session != nil {
		s.session.Close()
	}
	s.session, s.hints, s.read = nil, nil, nil
}

// fail says why there is no answer, and returns in how long to ask again: 1, 4,
// 25 and then 166 minutes, as on Windows ([MS-GPIPSEC] 3.2.2).
func (s *Source) fail(err error) time.Duration {
	s.failures++
	s.none = time.Time{}
	s.publish(func(now *Status) { now.Err = err })
	if errors.Is(err, ErrChanging) {
		return changeRetry + spread(s.cfg.Jitter)
	}
	return backOff(s.failures) + spread(s.cfg.Jitter)
}

// backOff is how long to wait after so many failures in a row.
func backOff(failures int) time.Duration {
	const longest = 166
	minutes := 0
	for range failures {
		minutes = min((minutes+1)*(minutes+1), longest)
	}
	return time.Duration(minutes) * time.Minute
}

// take makes an answer the one that counts, and returns in how long to ask
// again. That none is assigned counts when it was said twice, for it opens what
// the policy of before protects.
func (s *Source) take(a *Answer) time.Duration {
	now, at := s.Status(), s.cfg.Clock()
	news := a.State == policy.None && (now.Answer == nil || now.Answer.State != policy.None)
	if news && (s.none.IsZero() || at.Sub(s.none) < confirmNone) {
		if s.none.IsZero() {
			s.none = at
		}
		s.read = nil // asked in full again
		s.publish(func(now *Status) {
			now.Err = fmt.Errorf("%w: it says that none is assigned, and is asked once more", ErrPending)
		})
		return confirmNone - at.Sub(s.none)
	}
	s.none = time.Time{}
	s.publish(func(now *Status) {
		if !a.same(now.Answer) {
			now.Since = at
		}
		now.Answer, now.Confirmed, now.Err = a, at, nil
	})
	refresh := s.cfg.Refresh + spread(s.cfg.Refresh/3)
	if a.Policy == nil {
		return refresh
	}
	polling := a.Policy.PollingInterval
	if polling <= 0 {
		polling = defaultPolling
	}
	polling = max(polling, leastRefresh) // whoever may write a policy must not have all hosts ask without pause
	return min(polling+spread(min(s.cfg.Jitter, polling/3)), refresh)
}

// publish changes what is known and hints at it where it makes a difference.
func (s *Source) publish(change func(*Status)) {
	before := s.Status()
	after := before
	change(&after)
	after.Server, after.Site, after.Deaf = "", "", nil
	if s.session != nil {
		after.Server, after.Site, after.Deaf = s.session.Server(), s.session.Site(), s.session.Deaf()
	}
	s.status.Store(&after)
	if !after.Answer.same(before.Answer) || words(after.Err) != words(before.Err) {
		hint(s.changed)
	}
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
