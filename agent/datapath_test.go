package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// reconnecting makes an agent ask the test for a new data path.
func reconnecting(connect chan driver.Driver) func(*Config) {
	return func(c *Config) {
		c.Reconnect = func(ctx context.Context) (driver.Driver, error) {
			select {
			case f := <-connect:
				if f == nil {
					return nil, errors.New("no such socket")
				}
				return f, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
}

func TestNewDataPathKeepsWhatWasSecuredOnceRequired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connect := make(chan driver.Driver)
		r := newRig(t, reconnecting(connect))
		defer r.stop()
		r.assign("client")
		offer, err := r.asked(80)
		if err != nil {
			t.Fatal(err)
		}
		p := pairFor(offer, bob())
		r.establish(0, p)
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"}) // the grace has begun
		r.fake.Close()
		r.fake = drivertest.New(time.Now)
		connect <- r.fake
		synctest.Wait()
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("on the new data path the packet is %v", got)
		}
	})
}

// watched is a driver that lets the test look after each change of filters.
type watched struct {
	*drivertest.Fake
	look func()
}

func (w watched) SetFilters(ctx context.Context, f []sadb.Filter) error {
	defer w.look()
	return w.Fake.SetFilters(ctx, f)
}

func (w watched) PutFilter(ctx context.Context, f sadb.Filter) error {
	defer w.look()
	return w.Fake.PutFilter(ctx, f)
}

func TestNewDataPathIsNeverOpenInBetween(t *testing.T) {
	for _, policy := range []string{"client", "server"} {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				connect := make(chan driver.Driver)
				r := newRig(t, reconnecting(connect))
				defer r.stop()
				r.assign(policy)
				offer, err := r.asked(80)
				if err != nil {
					t.Fatal(err)
				}
				r.establish(0, pairFor(offer, bob()))
				r.fake.Close()
				fresh := drivertest.New(time.Now)
				changes := 0
				connect <- watched{fresh, func() {
					changes++
					if got, _ := fresh.Send(tcp(bob(), 80), 100); got != drivertest.Held {
						t.Errorf("after change %d the packet is %v", changes, got)
					}
				}}
				synctest.Wait()
				if changes < 3 {
					t.Errorf("%d changes of filters", changes)
				}
			})
		})
	}
}

func TestLostDataPathIsReportedAndJoinedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connect := make(chan driver.Driver)
		r := newRig(t, reconnecting(connect))
		defer r.stop()
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.fake.Close()
		if s := r.status(); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "data path") {
			t.Fatalf("problems %q", s.Problems)
		}
		if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "server", Auth: "psk-file", Keys: "key"}); err == nil {
			t.Error("a policy was assigned without a data path")
		}
		r.move(alice(), carol()) // a TUN device has vanished
		connect <- nil
		r.pass(3 * time.Second)
		if s := r.status(); !strings.Contains(s.Problems[0], "no such socket") {
			t.Errorf("problems %q", s.Problems)
		}
		fresh := drivertest.New(time.Now)
		connect <- fresh
		r.fake = fresh
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		if s := r.status(); len(s.Problems) != 0 || len(s.Secured) != 0 {
			t.Errorf("problems %q, secured %v", s.Problems, s.Secured)
		}
		if in := one[ike.Initiate](r); in.Remote != bob() {
			t.Errorf("made anew with %s", in.Remote)
		}
		if rejected := r.events(control.EventPolicyRejected); len(rejected) != 0 {
			t.Errorf("rejected: %q", rejected)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("on the new data path the packet is %v", got)
		}
	})
}

func TestLostDataPathEndsAnAgentThatCannotReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.fake.Close()
		if err := r.stop(); err == nil || !strings.Contains(err.Error(), "data path") {
			t.Errorf("Run: %v", err)
		}
		if _, err := r.agent.Status(t.Context()); err == nil {
			t.Error("an ended agent answers")
		}
		r.stop = func() error { return nil }
	})
}

func TestResyncReconciles(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		q := r.secure(tcp(carol(), 80))
		if err := r.fake.DeleteSA(t.Context(), p.Out[0]); err != nil {
			t.Fatal(err)
		}
		r.inject(driver.Resync{Reason: "events were lost"})
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		if s := r.status(); len(s.Secured) != 1 || s.Secured[0].Peer != q.Remote.String() {
			t.Errorf("secured %+v", s.Secured)
		}
		if len(r.fake.SAs()) != 2 {
			t.Errorf("in force %v", r.fake.SAs())
		}
	})
}
