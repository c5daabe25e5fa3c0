package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"ipsecagent/agent/control"
)

// live is a combination whose life is looked at.
func live() combination {
	return combinations()[0]
}

// associations reads "sa list".
func (h *host) associations() control.SAList {
	h.t.Helper()
	var l control.SAList
	if err := json.Unmarshal([]byte(h.mustCtl("sa", "list", "-o", "json")), &l); err != nil {
		h.t.Fatal(err)
	}
	return l
}

// note adds what there is now to the pairs and main modes seen.
func (h *host) note(pairs, mains map[string]bool) {
	l := h.associations()
	for _, s := range l.Pairs {
		pairs[s.SPIOut] = true
	}
	for _, m := range l.MainMode {
		mains[m.Cookies] = true
	}
}

// begin makes the two hosts of c and has strongSwan ask first.
func begin(t *testing.T, tag string, c combination) (us *host, d *charon) {
	t.Helper()
	us, d = meet(t, shim(t), tag, c, nil)
	d.mustSwanctl("--initiate", "--child", "net", "--timeout", "30")
	eventually(t, 60*time.Second, "an association is established", us.established)
	return us, d
}

// TestStrongSwanRenewsUnderTraffic: strongSwan renews both phases several
// times, while echo requests pass both ways: none is lost, none in clear.
func TestStrongSwanRenewsUnderTraffic(t *testing.T) {
	t.Parallel()
	c := live()
	us, d := begin(t, "swrk", c)
	wire := us.capture("wire")
	p := d.plane(d.h.v4, us.v4, "300", "0.05")
	ours := make(chan int, 1)
	go func() { ours <- us.ping(d.h.v4, 75) }()
	pairs, mains := map[string]bool{}, map[string]bool{}
	us.note(pairs, mains)
	for round := range 6 {
		what, seen := []string{"--rekey", "--child", "net"}, pairs
		if round%3 == 2 { // the pairs stay: a new main mode takes them over
			what, seen = []string{"--rekey", "--ike", "peer"}, mains
		}
		before := len(seen)
		d.mustSwanctl(what...)
		eventually(t, 20*time.Second, fmt.Sprintf("renewal %d (%v)", round, what), func() bool {
			us.note(pairs, mains)
			return len(seen) > before
		})
	}
	if got := answers(t, p, 90*time.Second); got != 300 {
		t.Errorf("we answered %d of the peer's 300 echo requests", got)
	}
	if got := <-ours; got != 75 {
		t.Errorf("the peer answered %d of our 75 echo requests", got)
	}
	c.judge(t, wire)
	t.Logf("figure: renewed by strongSwan under traffic: %d pairs, %d main modes", len(pairs), len(mains))
}

// TestWeRenewWithStrongSwan: our lifetimes are shorter, so that we renew main
// and quick mode, under traffic both ways.
func TestWeRenewWithStrongSwan(t *testing.T) {
	t.Parallel()
	c := live()
	c.method, c.ours = "{esp: aes256gcm, lifetime: 1m}", "lifetime: 1m"
	us, d := begin(t, "swro", c)
	wire := us.capture("wire")
	p := d.plane(d.h.v4, us.v4, "800", "0.1")
	ours := make(chan int, 1)
	go func() { ours <- us.ping(d.h.v4, 350) }()
	pairs, mains := map[string]bool{}, map[string]bool{}
	eventually(t, 90*time.Second, "both phases are renewed", func() bool {
		us.note(pairs, mains)
		return len(pairs) > 1 && len(mains) > 1
	})
	if got := <-ours; got != 350 {
		t.Errorf("the peer answered %d of our 350 echo requests", got)
	}
	if got := answers(t, p, 120*time.Second); got != 800 {
		t.Errorf("we answered %d of the peer's 800 echo requests", got)
	}
	c.judge(t, wire)
}

// TestStrongSwanDeletes: what strongSwan ends, we end: the pair alone, then
// the main mode. Afterwards traffic brings both back.
func TestStrongSwanDeletes(t *testing.T) {
	t.Parallel()
	us, d := begin(t, "swd", live())
	d.mustSwanctl("--terminate", "--child", "net")
	eventually(t, 20*time.Second, "the pair is gone, the main mode is not", func() bool {
		l := us.associations()
		return len(l.Pairs) == 0 && len(l.MainMode) == 1
	})
	d.mustSwanctl("--terminate", "--ike", "peer")
	eventually(t, 20*time.Second, "the main mode is gone", func() bool { return len(us.associations().MainMode) == 0 })
	us.ping(d.h.v4, 1)
	eventually(t, 60*time.Second, "an association is established again", us.established)
	carries(t, us, d, live())
}

// TestWeDelete: what we end, strongSwan ends.
func TestWeDelete(t *testing.T) {
	t.Parallel()
	us, d := begin(t, "swe", live())
	us.mustCtl("unassign")
	eventually(t, 20*time.Second, "strongSwan has heard of it", func() bool {
		out := d.mustSwanctl("--list-sas")
		return !strings.Contains(out, "INSTALLED") && !strings.Contains(out, "ESTABLISHED")
	})
	for _, want := range []string{"received DELETE for ESP CHILD_SA", "received DELETE for IKE_SA"} {
		if !strings.Contains(d.out.output(), want) {
			t.Errorf("strongSwan does not say %q", want)
		}
	}
}

// TestStrongSwanInFragments: strongSwan cuts what is larger than its first
// message, which comes before our cookie has been seen and is never taken in
// fragments.
func TestStrongSwanInFragments(t *testing.T) {
	t.Parallel()
	c := combinations()[3]
	c.conn, c.charon = "fragmentation = force", "fragment_size = 250"
	us, d := begin(t, "swf", c)
	carries(t, us, d, c)
	if out := d.out.output(); strings.Count(out, "splitting IKE message") < 2 {
		t.Error("strongSwan has not cut main mode and quick mode")
	}
}

// TestStrongSwanAsksWhetherWeLive: dead peer detection of strongSwan is
// answered, many times over; once we are gone, it finds that out.
func TestStrongSwanAsksWhetherWeLive(t *testing.T) {
	t.Parallel()
	c := live()
	c.conn, c.childConf = "dpd_delay = 1s\n  dpd_timeout = 4s", "dpd_action = clear"
	us, d := begin(t, "swl", c)
	eventually(t, 40*time.Second, "five answers", func() bool {
		return strings.Count(d.out.output(), "parsed INFORMATIONAL_V1") >= 5 && strings.Contains(d.out.output(), "N(DPD_ACK)")
	})
	if out := d.mustSwanctl("--list-sas"); !strings.Contains(out, "INSTALLED") {
		t.Errorf("strongSwan has given us up:\n%s", out)
	}
	us.agent.signal(t, syscall.SIGKILL)
	eventually(t, 40*time.Second, "strongSwan gives us up", func() bool {
		return strings.Contains(d.out.output(), "DPD check timed out")
	})
}

// TestWeCutForStrongSwan: our message with the certificate is larger than what
// passes every path, so that it goes in fragments.
func TestWeCutForStrongSwan(t *testing.T) {
	t.Parallel()
	c := certificateRows()[0]
	us, d := meet(t, shim(t), "swg", c, newIdentities(t))
	us.ping(d.h.v4, 1)
	eventually(t, 60*time.Second, "an association is established", us.established)
	carries(t, us, d, c)
	if out := d.out.output(); !strings.Contains(out, "received fragment #") {
		t.Error("strongSwan has received no fragment")
	}
}
