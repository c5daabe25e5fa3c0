package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver/drivertest"
	"ipsecagent/host"
	"ipsecagent/ike"
)

func TestRefusedFiltersAreTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.fake.FailNext(errors.New("no room"))
		if _, err := r.agent.Reload(t.Context()); err == nil {
			t.Fatal("a reload that the driver refused succeeds")
		}
		if s := r.status(); !strings.Contains(s.Policy.Error, "no room") || len(s.Problems) != 1 {
			t.Errorf("status %+v, problems %q", s.Policy, s.Problems)
		}
		r.pass(2 * retryDriver)
		if s := r.status(); s.Policy.Error != "" || len(s.Problems) != 0 {
			t.Errorf("later the status is %+v, problems %q", s.Policy, s.Problems)
		}
	})
}

func TestSourceIsPolled(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", strings.Replace(delayed, "name: delayed", "name: delayed\npollingInterval: 10m", 1))
		r.write(dir, "delayed", strings.Replace(delayed, "request, authentication: [psk]", "block", 1))
		r.pass(9 * time.Minute)
		if got := r.send(tcp(bob(), 80)); got == drivertest.Dropped {
			t.Fatal("the change is in force before the poll")
		}
		r.pass(2 * time.Minute)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Dropped {
			t.Errorf("after the poll the packet is %v", got)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestHostFactsThatCannotBeReadAreAProblem(t *testing.T) {
	var fail error
	inBubble(t, func(t *testing.T, r *rig) {
		fail = errors.New("netlink is gone")
		r.move(alice())
		if s := r.status(); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "netlink is gone") {
			t.Errorf("problems %q", s.Problems)
		}
		fail = nil
		r.move(alice())
		if s := r.status(); len(s.Problems) != 0 {
			t.Errorf("problems %q", s.Problems)
		}
		close(r.facts.changed)
		r.pass(time.Second)
		if s := r.status(); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "not watched") {
			t.Errorf("problems %q", s.Problems)
		}
	}, func(c *Config) {
		read := c.Host
		c.Host = func() (host.Facts, error) {
			if fail != nil {
				return host.Facts{}, fail
			}
			return read()
		}
	})
}

func TestEndOfTheKeyExchangeEndsTheAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		close(r.outputs)
		synctest.Wait()
		if _, err := r.agent.Status(t.Context()); err == nil {
			t.Error("it answers")
		}
		if err := r.stop(); err == nil || !strings.Contains(err.Error(), "restart") {
			t.Errorf("Run: %v", err)
		}
		r.stop = func() error { return nil }
	})
}

func TestCallersThatGiveUpAreLetGo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		release := make(chan struct{})
		go ask(t.Context(), r.agent, func(time.Time) (int, error) { <-release; return 0, nil })
		synctest.Wait()
		_, err := r.agent.Status(ctx)
		wantCode(t, err, control.TimedOut)
		close(release)
	})
}

func TestWhatReturnsToClearIsListedForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		offer, err := r.asked(80)
		if err != nil {
			t.Fatal(err)
		}
		p := pairFor(offer, bob())
		r.establish(0, p)
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		r.pass(time.Minute)
		if s := r.status(); len(s.InClear) != 1 {
			t.Errorf("in clear %+v", s.InClear)
		}
		r.pass(returnedFor)
		if s := r.status(); len(s.InClear) != 0 {
			t.Errorf("an hour later %+v", s.InClear)
		}
	})
}

func TestTrafficOfAKnownFailureDoesNotWaitAgain(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", delayed)
		for range 3 { // then the next attempt is half an hour away
			r.send(tcp(bob(), 80))
			r.out(noAnswer(one[ike.Initiate](r)))
			r.pass(softLifetime + time.Minute)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Fatalf("the packet is %v", got)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Errorf("and again it is %v", got)
		}
		none[ike.Initiate](r)
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestStateThatCannotBeWrittenIsAProblem(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		if err := r.agent.store.close(); err != nil {
			t.Fatal(err)
		}
		r.secure(tcp(bob(), 80))
		if s := r.status(); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "write state") || len(s.Secured) != 1 {
			t.Errorf("problems %q, secured %v", s.Problems, s.Secured)
		}
		result, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "client", Auth: "psk-file", Keys: "a key"})
		if err != nil || result.Policy != "client" {
			t.Errorf("assign: %+v, %v", result, err)
		}
		if s := r.status(); len(s.Problems) != 2 {
			t.Errorf("problems %q", s.Problems)
		}
	})
}
