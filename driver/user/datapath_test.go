package user

import (
	"net/netip"
	"testing"
	"time"

	"ipsecagent/driver"
)

func TestSecuredTrafficOfEverySort(t *testing.T) {
	l := secured(t)
	for _, to := range []netip.Addr{l.bob.v4, l.bob.v6} {
		if err := l.alice.ping(to); err != nil {
			t.Errorf("ping %s: %v", to, err)
		}
		if err := l.alice.ping(to, "-s", "8000", "-M", "dont"); err != nil {
			t.Errorf("ping %s with 8000 bytes: %v", to, err)
		}
		if err := l.alice.exchange(l.bob.echo(to), 1<<20); err != nil {
			t.Errorf("TCP to %s: %v", to, err)
		}
	}
	if l.wireCounter("secured", l.alice) == 0 || l.wireCounter("secured", l.bob) == 0 {
		t.Error("no ESP on the wire")
	}
	l.noClear()
	s := l.alice.state()
	if s.Counters.OutPackets == 0 || s.Counters.InPackets == 0 || s.Counters.BadICV+s.Counters.Replayed+s.Counters.BadSelector != 0 {
		t.Errorf("counters: %+v", s.Counters)
	}
	expect[driver.Used](l.alice)
}

func TestPacketsWaitForTheirAssociation(t *testing.T) {
	l := newLab(t)
	l.alice.start()
	l.bob.start()
	l.requireAll()
	pinged := make(chan error)
	go func() { pinged <- l.alice.ping(l.bob.v4, "-c", "3", "-W", "10") }()
	a := expect[driver.Acquire](l.alice)
	if a.Filter != "v4" || a.Clear || a.Flow.Remote != l.bob.v4 || a.Flow.Local != l.alice.v4 || !a.Flow.LocalMe {
		t.Errorf("acquire: %+v", a)
	}
	none[driver.Acquire](l.alice, 200*time.Millisecond)
	if q := l.alice.state().Counters.Queued; q == 0 {
		t.Error("nothing waits")
	}
	l.connect(suite(t, "esp-aes128-sha256"), 0x2000)
	if err := <-pinged; err != nil {
		t.Errorf("the packets that waited were lost: %v", err)
	}
	l.noClear()
}
