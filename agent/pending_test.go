package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// strict requires security with bob's network alone and blocks carol.
const strict = `apiVersion: ipsecagent/v1
kind: Policy
name: strict
filterLists:
  web: [{from: me, to: any, protocol: tcp, destinationPort: 80}]
  carol: [{from: me, to: 192.0.2.3}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
rules:
  - {name: web, filterList: web, filterAction: require, authentication: [psk]}
  - {name: carol, filterList: carol, filterAction: block}
`

// What is probably not meant is said by the names of the document, not by places
// in it.
func TestApplySaysWhatIsProbablyNotMeant(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		got := r.mustApply(strings.Replace(strict, "filterLists:\n", "filterLists:\n  spare: [{from: me, to: 192.0.2.9}]\n", 1), 0).Warnings
		if len(got) != 1 || got[0] != `no rule uses filter list "spare"` {
			t.Errorf("it says %q", got)
		}
	})
}

// apply applies a document, to be confirmed within wait unless that is 0.
func (r *rig) apply(document string, wait time.Duration) (control.ApplyResult, error) {
	r.t.Helper()
	result, err := r.agent.Apply(r.t.Context(), control.ApplyRequest{Document: document, Confirm: int(wait / time.Second)})
	synctest.Wait()
	return result, err
}

func (r *rig) mustApply(document string, wait time.Duration) control.ApplyResult {
	r.t.Helper()
	result, err := r.apply(document, wait)
	if err != nil {
		r.t.Fatalf("apply: %v", err)
	}
	return result
}

// confirm confirms by a connection made now.
func (r *rig) confirm() error {
	r.t.Helper()
	time.Sleep(time.Millisecond)
	_, err := r.agent.Confirm(r.t.Context(), time.Now())
	synctest.Wait()
	return err
}

func (r *rig) rollback() error {
	r.t.Helper()
	_, err := r.agent.Rollback(r.t.Context())
	synctest.Wait()
	return err
}

func (r *rig) inForce(want string) {
	r.t.Helper()
	if s := r.status(); s.Policy.Name != want {
		r.t.Errorf("policy %q is in force, want %q", s.Policy.Name, want)
	}
}

func codeOf(err error) control.Code {
	var e *control.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return control.OK
}

// TestApplyRollsBackUnlessConfirmed is the promise to who may be cut off: what
// was in force is in force again, with its associations.
func TestApplyRollsBackUnlessConfirmed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.secure(tcp(bob(), 443))
		result := r.mustApply(strict, time.Minute)
		if result.Pending == nil || result.Pending.Before != "secure-server" || result.Policy != "strict" {
			t.Fatalf("applied: %+v, %+v", result, result.Pending)
		}
		if got := r.send(tcp(carol(), 22)); got != drivertest.Dropped {
			t.Errorf("the applied policy blocks carol, her packet is %v", got)
		}
		if got := r.send(tcp(bob(), 443)); got != drivertest.Passed {
			t.Errorf("the applied policy says nothing of the packet, which is %v", got)
		}
		if s := r.status(); s.Pending == nil || !s.Pending.Until.Equal(s.Pending.Applied.Add(time.Minute)) || len(s.Secured) != 1 {
			t.Errorf("status: pending %+v, secured %+v", s.Pending, s.Secured)
		}
		none[ike.Gone](r)
		r.pass(59 * time.Second)
		r.inForce("strict")
		r.pass(2 * time.Second)
		r.inForce("secure-server")
		if got := r.send(tcp(bob(), 443)); got != drivertest.Secured {
			t.Errorf("rolled back, the packet of the former association is %v", got)
		}
		if got := r.events(control.EventRolledBack); len(got) != 1 || !strings.Contains(got[0], "not confirmed in time") {
			t.Errorf("events %q", got)
		}
		if s := r.status(); s.Pending != nil || len(s.Problems) != 0 {
			t.Errorf("afterwards: %+v, %q", s.Pending, s.Problems)
		}
		if err := r.confirm(); codeOf(err) != control.NotFound {
			t.Errorf("confirmed too late: %v", err)
		}
	})
}

// TestRollbackKeepsWhatWasSecuredSecured: the temporary filter of a pair under a
// policy that allows clear is there again.
func TestRollbackKeepsWhatWasSecuredSecured(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.secure(tcp(bob(), 80))
		r.mustApply(strict, time.Minute)
		if err := r.rollback(); err != nil {
			t.Fatal(err)
		}
		in := tcp(bob(), 80)
		if got := r.fake.Receive(in, 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("in clear from a secured peer: %v", got)
		}
	})
}

func TestConfirmedPolicyStaysAndIsFound(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 443))
		r.mustApply(strict, time.Minute)
		if err := r.confirm(); err != nil {
			t.Fatal(err)
		}
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("ended: %v, want the pair that the policy has no place for", gone)
		}
		r.pass(2 * time.Minute)
		r.inForce("strict")
		text, err := os.ReadFile(filepath.Join(dir, "strict.yaml"))
		if err != nil || string(text) != strict {
			t.Errorf("in the folder: %v\n%s", err, text)
		}
		if len(r.events(control.EventConfirmed)) != 1 {
			t.Error("no event")
		}
		r.restart(nil)
		r.inForce("strict")
		if err := r.rollback(); err != nil { // one step, also after a restart
			t.Fatal(err)
		}
		r.inForce("secure-server")
		if err := r.rollback(); codeOf(err) != control.NotFound {
			t.Errorf("a second step back: %v", err)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

// TestPendingApplyIsTheFormerPolicyAfterACrash: nobody is there to keep the time.
func TestPendingApplyIsTheFormerPolicyAfterACrash(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.secure(tcp(bob(), 443))
		r.mustApply(strict, time.Hour)
		r.restart(nil)
		r.inForce("secure-server")
		if s := r.status(); s.Pending != nil {
			t.Errorf("pending %+v", s.Pending)
		}
		if got := r.send(tcp(bob(), 443)); got != drivertest.Secured {
			t.Errorf("the packet is %v", got)
		}
		if got := r.events(control.EventRolledBack); len(got) != 1 || !strings.Contains(got[0], "started anew") {
			t.Errorf("events %q", got)
		}
		r.restart(nil)
		if got := r.events(control.EventRolledBack); len(got) != 0 {
			t.Errorf("said again: %q", got)
		}
	})
}

func TestConfirmNeedsANewConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		before := time.Now()
		r.mustApply(strict, time.Minute)
		for _, began := range []time.Time{before, before.Add(-time.Hour), {}} {
			if _, err := r.agent.Confirm(t.Context(), began); codeOf(err) != control.NotPermitted {
				t.Errorf("a connection of %v: %v", began, err)
			}
		}
		r.pass(time.Minute)
		r.inForce("server")
	})
}

// TestNothingDecidesOverAPendingApplyButItsOwnCommands and time.
func TestNothingElseDecidesOverAPendingApply(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.mustApply(strict, time.Minute)
		_, again := r.apply(strings.Replace(strict, "name: strict", "name: other", 1), time.Minute)
		_, assigned := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "client", Auth: "psk-file", Keys: "a key for tests"})
		_, unassigned := r.agent.Unassign(t.Context())
		for what, err := range map[string]error{"apply": again, "assign": assigned, "unassign": unassigned} {
			if err == nil || !strings.Contains(err.Error(), `"strict" is applied and waits`) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := r.agent.Reload(t.Context()); err != nil {
			t.Errorf("reload: %v", err)
		}
		r.move(alice(), carol())
		r.inForce("strict")
		r.pass(time.Minute)
		r.inForce("server")
	}, func(c *Config) { c.Library = folder(dir) })
}

// TestRollbackThatFailsStaysClosed: the applied policy stays enforced, it is
// said, and tried again.
func TestRollbackThatFailsStaysClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.mustApply(strict, time.Minute)
		r.fake.FailNext(errors.New("no room"))
		if err := r.rollback(); err == nil {
			t.Fatal("rolled back")
		}
		if got := r.send(tcp(carol(), 80)); got != drivertest.Dropped {
			t.Errorf("carol's packet is %v", got)
		}
		s := r.status()
		if s.Pending == nil || !strings.Contains(s.Pending.Problem, "no room") || len(s.Problems) == 0 || s.Policy.Name != "strict" {
			t.Errorf("status %+v, %q", s.Pending, s.Problems)
		}
		r.pass(time.Minute + time.Second)
		r.inForce("server")
		if s := r.status(); len(s.Problems) != 0 {
			t.Errorf("problems %q", s.Problems)
		}
	})
}

func TestApplyForGood(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		result := r.mustApply(strict, 0)
		if result.Pending != nil || result.Origin != filepath.Join(dir, "strict.yaml") {
			t.Errorf("applied %+v", result)
		}
		r.restart(nil)
		r.inForce("strict")
		// Changed, it takes the place of itself only when told so.
		changed := strings.Replace(strict, "filterAction: block", "filterAction: permit", 1)
		if _, err := r.apply(changed, 0); codeOf(err) != control.Invalid || !strings.Contains(err.Error(), "--replace") {
			t.Errorf("another of the same name: %v", err)
		}
		if _, err := r.agent.Apply(t.Context(), control.ApplyRequest{Document: changed, Replace: true}); err != nil {
			t.Fatal(err)
		}
		if got := r.send(tcp(carol(), 22)); got != drivertest.Passed {
			t.Errorf("carol's packet is %v", got)
		}
		if err := r.rollback(); err != nil {
			t.Fatal(err)
		}
		if got := r.send(tcp(carol(), 22)); got != drivertest.Dropped {
			t.Errorf("rolled back, carol's packet is %v", got)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "strict.yaml")); err != nil || string(text) != strict {
			t.Errorf("in the folder after the rollback: %v\n%s", err, text)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestApplyThatCannotBeKeptIsRolledBack(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		if _, err := r.apply(strict, 0); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("applied: %v", err)
		}
		r.inForce("server")
		r.mustApply(strict, time.Minute)
		if err := r.confirm(); err == nil || !strings.Contains(err.Error(), "not confirmed") {
			t.Errorf("confirmed: %v", err)
		}
		r.pass(time.Minute)
		r.inForce("server")
	}, func(c *Config) {
		c.Library = folder(dir)
		c.Library.Save = func(string, []byte) (string, error) { return "", errors.New("disk full") }
	})
}

// TestSourceHasItsTurnAfterARollback: what changed in the folder while a policy
// waited is not forgotten.
func TestSourceHasItsTurnAfterARollback(t *testing.T) {
	dir := t.TempDir()
	other := strings.Replace(strict, "name: strict", "name: other", 1)
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "other", other)
		r.mustApply(strict, time.Minute)
		r.write(dir, "other", strings.Replace(other, "filterAction: block", "filterAction: permit", 1))
		if _, err := r.agent.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.inForce("strict")
		r.pass(time.Minute)
		r.inForce("other")
		if got := r.send(tcp(carol(), 22)); got != drivertest.Passed {
			t.Errorf("carol's packet is %v", got)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestRollbackOfTheFirstPolicyLeavesNone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.mustApply(strict, time.Minute)
		r.pass(time.Minute)
		if s := r.status(); s.Policy.State != "none" {
			t.Errorf("in force: %+v", s.Policy)
		}
		r.mustApply(strict, 0)
		if err := r.rollback(); err != nil {
			t.Fatal(err)
		}
		if s := r.status(); s.Policy.State != "none" {
			t.Errorf("in force: %+v", s.Policy)
		}
	})
}

func TestAssignmentLeavesNothingToRollBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.mustApply(strict, 0)
		r.assign("secure-server")
		if err := r.rollback(); codeOf(err) != control.NotFound {
			t.Errorf("rolled back: %v", err)
		}
		r.inForce("secure-server")
	})
}

func TestDryRunChangesNothing(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		calls := len(r.fake.Calls())
		result, err := r.agent.Apply(t.Context(), control.ApplyRequest{Document: strict, DryRun: true})
		if err != nil || !result.DryRun || result.Pending != nil {
			t.Fatalf("%+v, %v", result, err)
		}
		text := strings.Join(result.Changes, "\n")
		for _, want := range []string{`block`, `require security`, "192.0.2.3"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
		for _, c := range r.fake.Calls()[calls:] {
			if c != "State" {
				t.Errorf("the data path was told %s", c)
			}
		}
		r.inForce("server")
		if _, err := os.Stat(filepath.Join(dir, "strict.yaml")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("in the folder: %v", err)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestApplyRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		for name, tt := range map[string]struct {
			r    control.ApplyRequest
			want string
		}{
			"nothing":          {control.ApplyRequest{}, "missing"},
			"no policy":        {control.ApplyRequest{Document: "kind: Policy", Source: "/root/x.yaml"}, "/root/x.yaml:1:1"},
			"predefined":       {control.ApplyRequest{Document: strings.Replace(strict, "name: strict", "name: server", 1)}, "predefined"},
			"outside":          {control.ApplyRequest{Document: strings.Replace(strict, "name: strict", "name: ../strict", 1)}, "no /"},
			"too short":        {control.ApplyRequest{Document: strict, Confirm: 1}, "between"},
			"too long":         {control.ApplyRequest{Document: strict, Confirm: 1 << 40}, "between"},
			"keys to confirm":  {control.ApplyRequest{Document: strict, Auth: "psk-file", Keys: "k", Confirm: 60}, "not taken back"},
			"bad key":          {control.ApplyRequest{Document: strict, Auth: "psk-file", Keys: "bad"}, "too short"},
			"unknown method":   {control.ApplyRequest{Document: strict, Auth: "smoke"}, "smoke"},
			"report mode past": {control.ApplyRequest{Document: strings.Replace(strict, "name: strict", "name: strict\nmode: report\nreportUntil: 1999-12-31T23:59:59Z", 1)}, "neither a date"},
		} {
			if _, err := r.agent.Apply(t.Context(), tt.r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		r.inForce("server")
		if s := r.status(); s.Pending != nil || len(s.Problems) != 0 {
			t.Errorf("status %+v, %q", s.Pending, s.Problems)
		}
	})
}
