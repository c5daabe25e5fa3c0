package directory_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth/kerberos"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
)

// start runs a source for the host of the scene until the test ends.
func (s *scene) start(jitter time.Duration) *directory.Source {
	s.t.Helper()
	source, err := directory.NewSource(directory.SourceConfig{Config: s.config, Jitter: jitter})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	return source
}

// awaits waits until a source holds a policy, by the name of its GPO.
func awaits(t *testing.T, source *directory.Source, gpo string, within time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		now := source.Status()
		if now.Answer != nil && now.Err == nil && now.Answer.State == policy.Assigned && now.Answer.Result.Won().Name == gpo {
			t.Logf("held after %v", time.Since(began))
			return
		}
		if time.Since(began) > within {
			t.Fatalf("%q is not held: %+v", gpo, now)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestASourceFollowsADomain: a change is held within seconds, the end of the
// controller changes nothing, and one that is back is found.
func TestASourceFollowsADomain(t *testing.T) {
	s := newScene(t)
	source := s.start(0)
	first := s.gpo("first", client)
	s.link(s.inner, first, "0")
	awaits(t, source, "first", time.Minute)
	// What it is to be told of is something else now.
	s.set("CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,"+first, "ipsecOwnersReference", server)
	for began := time.Now(); source.Status().Answer.Policy.Name != "Server (Request Security)"; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("the assignment is not followed: %+v", source.Status())
		}
	}
	s.link(s.inner, s.gpo("second", secureServer), "0")
	awaits(t, source, "second", 20*time.Second) // seconds, on an idle machine one

	s.ad.Stop()
	if err := source.Refresh(deadline(t)); err != nil {
		t.Fatal(err)
	}
	got, err := source.Fetch(t.Context())
	if err != nil || got.State != policy.Assigned || !got.Cached || !errors.Is(source.Status().Err, directory.ErrUnreachable) {
		t.Errorf("without a controller: %+v, %v, %v", got, err, source.Status().Err)
	}
	if err := s.ad.Start(); err != nil {
		t.Fatal(err)
	}
	if s.admin, err = directory.Connect(deadline(t), config(t, s.ad, s.ad.Administrator())); err != nil { // the cleanups need it
		t.Fatal(err)
	}
	if err := source.Refresh(deadline(t)); err != nil {
		t.Fatal(err)
	}
	awaits(t, source, "second", time.Minute)
}

func TestKeysThatDoNotFitAreSaid(t *testing.T) {
	s := newScene(t)
	if err := s.ad.Do("password", s.name); err != nil { // the key table is of before
		t.Fatal(err)
	}
	_, err := directory.Connect(deadline(t), s.config)
	if !errors.Is(err, directory.ErrUnreachable) || !strings.Contains(err.Error(), "cannot log in") {
		t.Errorf("an old key table: %v", err)
	}
}

func TestAClockThatIsWrongIsSaid(t *testing.T) {
	s := newScene(t)
	k, err := kerberos.New(kerberos.Config{Keytab: s.ad.Dir + "/" + s.name + ".keytab", Krb5Conf: s.ad.Conf, Dial: s.ad.Net.Dial,
		Clock: func() time.Time { return time.Now().Add(20 * time.Minute) }})
	if err != nil {
		t.Fatal(err)
	}
	c := s.config
	c.Tickets = k.Ticket
	_, err = directory.Connect(deadline(t), c)
	if !errors.Is(err, directory.ErrUnreachable) || !strings.Contains(err.Error(), "SKEW") && !strings.Contains(err.Error(), "clock") {
		t.Errorf("%v", err)
	}
}
