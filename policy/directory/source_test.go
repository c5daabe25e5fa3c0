package directory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/auth/gss"
	"ipsecagent/policy"
)

// play is a directory that a test plays.
type play struct {
	sync.Mutex
	answer  *Answer
	err     error // of Fetch
	down    error // of Connect, and of what is asked over a connection
	refuses error // of Connect alone
	changed bool
	begins  bool // to watch something, at the next Watch
	hints   chan struct{}
	ended   chan struct{}
	lasts   time.Duration // how long a connection does, if the server ends them; 0: it does not
	over    error         // the connection has ended so

	fetches, polls int
	connects       []time.Time
}

// set changes what the directory does.
func (p *play) set(f func()) {
	p.Lock()
	defer p.Unlock()
	f()
}

func (p *play) Server() string { return "dc1" }
func (p *play) Site() string   { return "here" }
func (p *play) Close()         {}

func (p *play) Ended() <-chan struct{} {
	p.Lock()
	defer p.Unlock()
	return p.ended
}

func (p *play) Fetch(context.Context) (*Answer, error) {
	p.Lock()
	defer p.Unlock()
	p.fetches++
	p.changed = false
	if p.down != nil {
		return nil, p.down
	}
	return p.answer, p.err
}

func (p *play) Changed(context.Context, *Answer) (bool, error) {
	p.Lock()
	defer p.Unlock()
	p.polls++
	return p.changed, cmp.Or(p.down, p.over)
}

func (p *play) Watch(context.Context, *Answer) (hints <-chan struct{}, began, all bool) {
	p.Lock()
	defer p.Unlock()
	began, p.begins = p.begins, false
	return p.hints, began, true
}

func (p *play) Deaf() error { return nil }

// A policy that whoever may write it made to be polled without pause, or that is
// too large, does not have the hosts ask without pause.
func TestNoPolicyHasHostsAskWithoutPause(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		greedy := assigned("greedy")
		greedy.Policy.PollingInterval = 1
		p.set(func() { p.answer, p.changed = greedy, true })
		pass(3 * time.Hour)
		before := p.polls
		pass(time.Hour)
		if n := p.polls - before; n < 1 || n > 60 {
			t.Errorf("asked %d times an hour", n)
		}
		p.set(func() { p.err, p.changed = fmt.Errorf("%w: %w", ErrUnreadable, ErrTooLarge), true })
		pass(5 * time.Minute)
		if err := s.Status().Err; !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%v", err)
		}
		fetches := p.fetches
		pass(time.Hour)
		if n := p.fetches - fetches; n > 4 {
			t.Errorf("read %d times an hour", n)
		}
		holds(t, s, "greedy", true)
	})
}

// assigned is an answer that assigns a policy.
func assigned(name string) *Answer {
	r := &Result{Considered: []Candidate{{Scope: "OU", At: "OU=x", GPO: "CN=g", Name: "the GPO", Applies: true}}, Server: "dc1"}
	return &Answer{Result: r, State: policy.Assigned, Policy: &policy.Policy{Name: name}}
}

func noneAssigned() *Answer { return &Answer{Result: &Result{Winner: -1}, State: policy.None} }

// played starts a source against a played directory, in a bubble.
func played(t *testing.T, edit func(*SourceConfig), test func(t *testing.T, s *Source, p *play)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &play{answer: assigned("first"), hints: make(chan struct{}, 1), ended: make(chan struct{})}
		cfg := SourceConfig{Config: Config{Domain: "example.test", Tickets: func(context.Context, string, bool) (*gss.Credential, error) { return nil, nil }}}
		if edit != nil {
			edit(&cfg)
		}
		s, err := NewSource(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.connect = func(context.Context, Config) (server, error) {
			p.Lock()
			defer p.Unlock()
			p.connects = append(p.connects, time.Now())
			if err := cmp.Or(p.down, p.refuses); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
			}
			if p.lasts > 0 {
				ended := make(chan struct{})
				p.ended, p.begins, p.over = ended, true, nil
				time.AfterFunc(p.lasts, func() {
					p.set(func() { p.over = io.EOF })
					close(ended)
				})
			}
			return p, nil
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		if _, err := s.Fetch(ctx); !errors.Is(err, ErrPending) {
			t.Errorf("before anything was asked: %v", err)
		}
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		test(t, s, p)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// holds checks what a source answers; "": none is assigned.
func holds(t *testing.T, s *Source, name string, cached bool) {
	t.Helper()
	got, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatalf("not %q: %v", name, err)
	}
	have := ""
	if got.State == policy.Assigned {
		have = got.Policy.Name
	}
	if have != name || got.Cached != cached {
		t.Errorf("it holds %q, cached %v, not %q, %v; %v", have, got.Cached, name, cached, s.Status().Err)
	}
}

func TestAnAnswerIsHeldAndChangesAreFollowed(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		holds(t, s, "first", false)
		<-s.Changed()
		pass(9 * time.Hour)
		if p.fetches != 1 || len(p.connects) != 1 || p.polls < 4 || p.polls > 6 {
			t.Errorf("nine hours: read %d times, connected %d times, polled %d times", p.fetches, len(p.connects), p.polls)
		}
		select {
		case <-s.Changed():
			t.Error("a change is hinted at, and there was none")
		default:
		}
		p.set(func() { p.answer, p.changed = assigned("second"), true })
		pass(2 * time.Hour)
		holds(t, s, "second", false)
		<-s.Changed()
	})
}

func TestThePolicyMayAskForShorterPolling(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		often := assigned("often")
		often.Policy.PollingInterval = 10 * time.Minute
		p.set(func() { p.answer, p.changed = often, true })
		pass(2 * time.Hour)
		p.set(func() { p.polls = 0 })
		pass(time.Hour)
		if p.polls != 6 {
			t.Errorf("polled %d times in an hour", p.polls)
		}
	})
}

func TestAHintIsFollowedWithinTheJitter(t *testing.T) {
	for _, c := range []struct{ jitter, within time.Duration }{{0, time.Second}, {time.Minute, time.Minute + time.Second}} {
		played(t, func(cfg *SourceConfig) { cfg.Jitter = c.jitter }, func(t *testing.T, s *Source, p *play) {
			p.set(func() { p.answer, p.changed = assigned("second"), true })
			p.hints <- struct{}{}
			pass(c.within)
			holds(t, s, "second", false)
			// One that comes while the first is acted on is not lost.
			p.set(func() { p.answer, p.changed = assigned("third"), true })
			p.hints <- struct{}{}
			pass(c.within)
			holds(t, s, "third", false)
		})
	}
}

// Between what was read and the moment from which the server watches nobody
// tells of changes.
func TestAChangeBeforeTheServerWatchesIsSeen(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		p.set(func() { p.begins = true })
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.set(func() { p.answer, p.changed = assigned("second"), true })
		pass(time.Second)
		holds(t, s, "second", false)
		p.set(func() { p.polls = 0 })
		pass(time.Hour)
		if p.polls > 1 {
			t.Errorf("polled %d times more", p.polls)
		}
	})
}

// The same goes for a policy that could not be read: what mends it must not wait
// for the next attempt.
func TestARepairBeforeTheServerWatchesIsSeen(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		p.set(func() {
			p.err, p.changed, p.begins = fmt.Errorf("%w: broken", ErrUnreadable), true, true
		})
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(s.Status().Err, ErrUnreadable) {
			t.Fatal(s.Status().Err)
		}
		p.set(func() { p.answer, p.err = assigned("mended"), nil })
		pass(time.Second)
		holds(t, s, "mended", false)
	})
}

// TestAConnectionIsRenewed: of what is only found out by a new one, a host learns
// within hours.
func TestAConnectionIsRenewed(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		pass(9 * time.Hour)
		if len(p.connects) != 1 || p.fetches != 1 {
			t.Errorf("connected %d times, read %d times", len(p.connects), p.fetches)
		}
		p.set(func() { p.answer = assigned("second") }) // of which nobody tells
		pass(3 * time.Hour)
		holds(t, s, "second", false)
		if len(p.connects) != 2 {
			t.Errorf("connected %d times", len(p.connects))
		}
	})
}

// TestAConnectionDoesWhileThereIsNoOther: that a KDC is away when it is time for a
// new one is nobody's concern.
func TestAConnectionDoesWhileThereIsNoOther(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		p.set(func() { p.refuses = errors.New("no ticket") })
		pass(13 * time.Hour)
		holds(t, s, "first", false)
		p.set(func() {
			if n := len(p.connects); n < 2 || n > 5 {
				t.Errorf("connected %d times", n)
			}
			p.refuses, p.answer = nil, assigned("second") // of which nobody tells
		})
		pass(4 * time.Hour)
		holds(t, s, "second", false)
	})
}

func TestNoneAssignedCountsWhenItIsSaidTwice(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		p.set(func() { p.answer, p.changed = noneAssigned(), true })
		p.hints <- struct{}{}
		pass(time.Second)
		holds(t, s, "first", false)
		pass(30 * time.Second)
		if err := s.Refresh(t.Context()); err != nil { // however often within the minute
			t.Fatal(err)
		}
		holds(t, s, "first", false)
		pass(31 * time.Second)
		holds(t, s, "", false)
	})
}

func TestNoneAssignedDoesNotCountWhenItWasAMistake(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		p.set(func() { p.answer, p.changed = noneAssigned(), true })
		p.hints <- struct{}{}
		pass(time.Second)
		p.set(func() { p.answer = assigned("first") })
		pass(2 * time.Hour)
		holds(t, s, "first", false)
		// Nor does it when the second time there is no answer.
		p.set(func() { p.answer, p.changed = noneAssigned(), true })
		p.hints <- struct{}{}
		pass(time.Second)
		p.set(func() { p.down = errors.New("away") })
		pass(2 * time.Hour)
		holds(t, s, "first", true)
		p.set(func() { p.down = nil })
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		holds(t, s, "first", false)
		if err := s.Status().Err; !errors.Is(err, ErrPending) {
			t.Errorf("%v", err)
		}
		pass(time.Minute)
		holds(t, s, "", false)
	})
}

func TestADirectoryThatIsAwayIsAskedLessAndLess(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		p.set(func() { p.down = errors.New("refused") })
		close(p.ended)
		pass(time.Second)
		holds(t, s, "first", true)
		if !errors.Is(s.Status().Err, ErrUnreachable) {
			t.Errorf("%v", s.Status().Err)
		}
		pass(12 * time.Hour)
		var at []time.Time
		p.set(func() { at = slices.Clone(p.connects) })
		for i, minutes := range []time.Duration{1, 4, 25, 166, 166, 166} {
			if got := at[i+2].Sub(at[i+1]); got != minutes*time.Minute {
				t.Errorf("attempt %d came after %v, not %d minutes", i, got, minutes)
			}
		}
		pass(30 * 24 * time.Hour)
		holds(t, s, "first", true)
		p.set(func() { p.down, p.ended = nil, make(chan struct{}) })
		pass(3 * time.Hour)
		holds(t, s, "first", false)
	})
}

func TestAConnectionThatEndedIsNoFailure(t *testing.T) {
	played(t, func(c *SourceConfig) { c.Jitter = 0 }, func(t *testing.T, s *Source, p *play) {
		ended := p.ended
		p.set(func() { p.ended = make(chan struct{}) })
		close(ended)
		pass(time.Second)
		if len(p.connects) != 1 || p.polls != 1 {
			t.Errorf("connected %d times, polled %d times: the connection was asked whether it works", len(p.connects), p.polls)
		}
		holds(t, s, "first", false)
	})
}

func TestWhatCannotBeReadIsToldApart(t *testing.T) {
	played(t, nil, func(t *testing.T, s *Source, p *play) {
		p.set(func() { p.answer, p.err, p.changed = nil, fmt.Errorf("%w: broken", ErrUnreadable), true })
		p.hints <- struct{}{}
		pass(time.Second)
		holds(t, s, "first", true)
		if err := s.Status().Err; !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%v", err)
		}
		<-s.Changed()
		p.set(func() { p.answer, p.err = assigned("mended"), nil })
		p.hints <- struct{}{}
		pass(time.Second)
		holds(t, s, "mended", false)
	})
}

func TestNothingIsKnownUntilTheDirectoryHasAnswered(t *testing.T) {
	played(t, func(c *SourceConfig) { c.Domain = "example.test" }, func(t *testing.T, s *Source, p *play) {})
	synctest.Test(t, func(t *testing.T) {
		s, err := NewSource(SourceConfig{Config: Config{Domain: "x.test", Tickets: func(context.Context, string, bool) (*gss.Credential, error) { return nil, nil }}})
		if err != nil {
			t.Fatal(err)
		}
		s.connect = func(context.Context, Config) (server, error) { return nil, ErrUnreachable }
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if _, err := s.Fetch(ctx); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%v", err)
		}
		stop()
		<-done
	})
}
