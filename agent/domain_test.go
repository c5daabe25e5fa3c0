package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"ipsecagent/agent/control"
	"ipsecagent/driver/drivertest"
	"ipsecagent/policy"
)

// domain is a directory that a test plays.
type domain struct {
	mu      sync.Mutex
	got     policy.Assignment
	err     error
	status  control.DirectoryStatus
	changed chan struct{}
}

func newDomain() *domain {
	return &domain{err: errors.New("not heard yet"), status: control.DirectoryStatus{State: control.DirectoryPending}}
}

// Fetch is what the directory says.
func (d *domain) Fetch(context.Context) (policy.Assignment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.got, d.err
}

// Changed hints.
func (d *domain) Changed() <-chan struct{} { return d.changed }

// config gives it to an agent. The channel is of the agent's bubble.
func (d *domain) config(c *Config) {
	d.changed = make(chan struct{}, 1)
	c.Directory = d
	c.DirectoryStatus = func() control.DirectoryStatus {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.status
	}
}

// says has the directory assign a predefined policy; "": none.
func (d *domain) says(name string) {
	got := policy.Assignment{State: policy.None, Fetched: time.Now()}
	if name != "" {
		p, _ := policy.Predefined(name)
		p = policy.WithAuthentication(p, []policy.AuthMethod{{Kind: policy.PresharedKey}})
		p.Name = "domain " + name
		got = policy.Assignment{State: policy.Assigned, Policy: p, Origin: "GPO " + name, Fetched: time.Now()}
	}
	d.put(got, nil, control.DirectoryStatus{State: control.DirectoryFresh, Server: "dc1"})
}

func (d *domain) put(got policy.Assignment, err error, s control.DirectoryStatus) {
	d.mu.Lock()
	d.got, d.err, d.status = got, err, s
	d.mu.Unlock()
	d.changed <- struct{}{}
	synctest.Wait()
}

// holds checks the policy that is in force, and who assigned it.
func (r *rig) holds(name, from string) {
	r.t.Helper()
	if s := r.status().Policy; s.Name != name || s.From != from {
		r.t.Errorf("in force is %q (%s) from %q, not %q from %q; %s", s.Name, s.State, s.From, name, from, s.Error)
	}
}

func TestTheDirectoryOverridesTheHostAndGivesBack(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		r.holds("client", "")
		d.says("secure-server")
		r.holds("domain secure-server", "directory")
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("a packet is %v", got)
		}
		// What is assigned on the host meanwhile waits.
		result := r.assign("server")
		if len(result.Warnings) == 0 || !strings.Contains(strings.Join(result.Warnings, " "), "overrides") {
			t.Errorf("%+v", result)
		}
		r.holds("domain secure-server", "directory")
		_, err := r.agent.Apply(t.Context(), control.ApplyRequest{Document: "x", Confirm: 60})
		if err == nil || !strings.Contains(err.Error(), "overrides") {
			t.Errorf("apply: %v", err)
		}
		d.says("")
		r.holds("server", "")
	}, d.config)
}

func TestWithdrawnByTheDirectoryAndNothingAssignedHere(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		d.says("secure-server")
		r.holds("domain secure-server", "directory")
		d.says("")
		r.holds("", "")
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Errorf("a packet is %v", got)
		}
	}, d.config)
}

// TestADirectoryThatIsAwayOpensNothing: neither while the agent runs, nor when it
// is started while the directory is away, for as long as that takes.
func TestADirectoryThatIsAwayOpensNothing(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		d.says("secure-server")
		d.put(policy.Assignment{}, errors.New("away"), control.DirectoryStatus{State: control.DirectoryUnreachable, Problem: "the directory is away"})
		r.holds("domain secure-server", "directory")
		r.restart(nil)
		r.holds("domain secure-server", "directory")
		s := r.status()
		if !s.Policy.Cached || s.Directory == nil || s.Directory.Copied.IsZero() {
			t.Errorf("it is not said to be a copy: %+v %+v", s.Policy, s.Directory)
		}
		r.pass(30 * 24 * time.Hour)
		r.restart(drivertest.New(time.Now)) // the host was started anew
		r.holds("domain secure-server", "directory")
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("a packet is %v", got)
		}
		d.says("secure-server")
		r.holds("domain secure-server", "directory")
		if s := r.status().Policy; s.Cached {
			t.Errorf("it is still said to be a copy: %+v", s)
		}
		d.says("")
		d.put(policy.Assignment{}, errors.New("away"), control.DirectoryStatus{State: control.DirectoryUnreachable})
		r.restart(nil)
		r.holds("client", "") // the copy is forgotten with its assignment
	}, d.config)
}

func TestHowItStandsWithTheDirectoryIsSaid(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		d.says("client")
		d.put(policy.Assignment{}, errors.New("x"), control.DirectoryStatus{State: control.DirectoryUnreadable, Problem: "no right to read it"})
		if s := r.status(); len(s.Problems) == 0 || !strings.Contains(strings.Join(s.Problems, " "), "no right to read it") {
			t.Errorf("%q", s.Problems)
		}
		d.says("client")
		for _, p := range r.status().Problems {
			if strings.Contains(p, "read it") {
				t.Errorf("it is still a problem: %s", p)
			}
		}
		if got := r.events(control.EventDirectory); len(got) != 2 || !strings.Contains(got[1], "answers again") {
			t.Errorf("events: %q", got)
		}
	}, d.config)
}

func TestAPolicyOfTheDirectoryThatIsNotValidChangesNothing(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		d.says("secure-server")
		d.put(policy.Assignment{State: policy.Assigned, Policy: &policy.Policy{Name: "broken", Rules: []policy.Rule{{Name: "x", FilterList: "missing"}}}, Origin: "GPO"},
			nil, control.DirectoryStatus{State: control.DirectoryFresh})
		r.holds("domain secure-server", "directory")
		if s := r.status(); !strings.Contains(strings.Join(s.Problems, " "), "broken") {
			t.Errorf("%q", s.Problems)
		}
		r.restart(nil)
		r.holds("domain secure-server", "directory")
	}, d.config)
}

func TestThePersistentPolicyIsUnderAll(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		r.holds("secure-server", "persistent")
		r.assign("client")
		r.holds("client", "")
		d.says("server")
		r.holds("domain server", "directory")
		d.says("")
		r.holds("client", "")
		if _, err := r.agent.Unassign(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.holds("secure-server", "persistent")
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("a packet is %v", got)
		}
		r.restart(nil)
		r.holds("secure-server", "persistent")
	}, d.config, func(c *Config) { c.Persistent = "secure-server" })
}

// TestWhatWasHeardOnceIsKept: the directory has answered once and is away again
// before its policy could be put in force. It is the last good one all the same.
func TestWhatWasHeardOnceIsKept(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		d.says("secure-server")
		d.mu.Lock()
		got := d.got
		d.mu.Unlock()
		p, _ := policy.Predefined("server")
		p = policy.WithAuthentication(p, []policy.AuthMethod{{Kind: policy.PresharedKey}})
		p.Name, got.Policy, got.Cached = "domain server", p, true
		d.put(got, nil, control.DirectoryStatus{State: control.DirectoryUnreachable, Problem: "away"})
		r.holds("domain server", "directory")
		d.mu.Lock()
		d.got, d.err = policy.Assignment{}, errors.New("away")
		d.mu.Unlock()
		r.restart(nil)
		r.holds("domain server", "directory")
	}, d.config)
}

// TestWhatStaysInForceIsKept: the directory assigns none, and what is assigned on
// the host does not load, so that the directory's policy stays in force. When the
// directory assigns it again it is kept again.
func TestWhatStaysInForceIsKept(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		d.says("secure-server")
		r.loop(func(a *Agent) { a.assigned.Name = "gone" })
		d.says("")
		r.holds("domain secure-server", "directory")
		d.says("secure-server")
		d.mu.Lock()
		d.got, d.err = policy.Assignment{}, errors.New("away")
		d.mu.Unlock()
		r.restart(drivertest.New(time.Now)) // the host was started anew
		r.holds("domain secure-server", "directory")
	}, d.config)
}

// TestTheCopyIsForgottenThoughTheDiskWasFull: what the directory has withdrawn
// does not come back, and what is assigned on the host is not written for it.
func TestTheCopyIsForgottenThoughTheDiskWasFull(t *testing.T) {
	d := newDomain()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		d.says("secure-server")
		var disk *bbolt.DB
		r.loop(func(a *Agent) { disk, a.store.db = a.store.db, &bbolt.DB{} })
		d.says("")
		r.holds("client", "")
		r.expectProblem("what the directory assigned could not be written")
		r.loop(func(a *Agent) { a.store.db = disk })
		d.says("")
		r.expectNoProblem("what the directory assigned could not be written")
		d.mu.Lock()
		d.got, d.err = policy.Assignment{}, errors.New("away")
		d.mu.Unlock()
		r.restart(drivertest.New(time.Now))
		r.holds("client", "")
	}, d.config)
}
