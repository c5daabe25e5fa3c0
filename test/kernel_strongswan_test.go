//go:build esp

package test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// meetKernel makes two hosts whose kernels carry the associations of c: ours by
// the kernel driver, strongSwan's by kernel-netlink.
func meetKernel(t *testing.T, us, peer *host, c combination, ids identities) *charon {
	t.Helper()
	us.driver = byKernel
	c.addInner(us, peer)
	if c.tunnel {
		c.addInner(peer, us)
	}
	ours, theirs := ids.pair(t, c.auth)
	d := startCharon(t, "", peer, us, c, theirs)
	if c.v6 {
		peer.exemptDiscovery()
	}
	startOurs(us, peer, c, ours)
	us.serve(100_000)
	peer.serve(100_000)
	return d
}

// exemptDiscovery keeps strongSwan's policies, which hold for all protocols, from
// neighbour discovery.
func (h *host) exemptDiscovery() {
	for _, kind := range []string{"135", "136"} {
		for _, dir := range []string{"in", "out"} {
			h.must("ip", "xfrm", "policy", "add", "src", "::/0", "dst", "::/0", "proto", "ipv6-icmp", "type", kind, "dir", dir, "priority", "1", "action", "allow")
		}
	}
}

// kernelRows are what strongSwan is met with; everyday ones have both modes, both
// families, ESP and AH, the others the algorithms and what goes with what. How the
// two prove who they are is no matter of the kernel.
func kernelRows() []combination {
	if full() {
		return slices.DeleteFunc(combinations(), func(c combination) bool { return c.auth != "psk" })
	}
	return []combination{tunnelRows()[2], headerRows()[0]}
}

// TestKernelStrongSwan: first we begin, then strongSwan does; each time both
// send, by echo requests and by TCP. Nothing else leaves either host.
func TestKernelStrongSwan(t *testing.T) {
	ids := newIdentities(t)
	for i, c := range kernelRows() {
		t.Run(c.name, func(t *testing.T) {
			us, peer := newPair(t, fmt.Sprintf("ksw%d", i))
			d := meetKernel(t, us, peer, c, ids)
			wire := us.captureSent("wire")
			us.ping(c.inner(peer), 1) // asks for the association
			eventually(t, 60*time.Second, "an association is established", us.established)
			passesBothWays(t, us, peer, c)
			if out, _ := d.swanctl("--list-sas"); !strings.Contains(out, "INSTALLED, "+strings.ToUpper(c.mode())) {
				t.Errorf("strongSwan says:\n%s", out)
			}
			d.mustSwanctl("--terminate", "--ike", "peer")
			eventually(t, 60*time.Second, "the associations are gone", func() bool { return len(us.associations().Pairs) == 0 })
			d.mustSwanctl("--initiate", "--child", "net", "--timeout", "60")
			eventually(t, 60*time.Second, "an association is established", us.established)
			passesBothWays(t, us, peer, c)
			c.judge(t, wire)
			us.explain(t)
			if t.Failed() {
				peer.explainKernel(t)
			}
		})
	}
}

// explain prints what the host says, if the test has failed.
func (h *host) explain(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	for _, args := range [][]string{{"status"}, {"sa", "list"}} {
		out, _ := h.ctl(args...)
		t.Logf("%s: ipsecctl %s:\n%s", h.ns, strings.Join(args, " "), out)
	}
	h.explainKernel(t)
}

// explainKernel prints what the host's kernel says.
func (h *host) explainKernel(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"ip", "-s", "xfrm", "state"}, {"ip", "xfrm", "policy"}, {"grep", "-v", "\t0$", "/proc/net/xfrm_stat"}} {
		out, _ := h.run(10*time.Second, args[0], args[1:]...)
		t.Logf("%s: %s:\n%s", h.ns, strings.Join(args, " "), out)
	}
}

// TestKernelStrongSwanThroughATranslator: one of the two stands behind it and
// begins. Outside there is UDP of the two ports and nothing else.
func TestKernelStrongSwanThroughATranslator(t *testing.T) {
	ids := newIdentities(t)
	rows := []combination{combinations()[0]}
	if full() {
		rows = append(rows, presharedRows()[3], tunnelRows()[0], certificateRows()[0])
	}
	for i, c := range rows {
		for _, behindIt := range []string{"us", "strongSwan"} {
			t.Run(c.name+"/"+behindIt, func(t *testing.T) {
				kernelThroughTranslator(t, fmt.Sprintf("knt%d%c", i, behindIt[0]), c, ids, behindIt == "us")
			})
		}
	}
}

func kernelThroughTranslator(t *testing.T, tag string, c combination, ids identities, weBehind bool) {
	t.Helper()
	inner, outer, _ := newTranslated(t, tag)
	us, peer := inner, outer
	if !weBehind {
		us, peer = outer, inner
	}
	d := meetKernel(t, us, peer, c, ids)
	wire := outer.captureSent("wire")
	if weBehind {
		us.ping(c.inner(peer), 1)
	} else {
		d.mustSwanctl("--initiate", "--child", "net", "--timeout", "60")
	}
	eventually(t, 60*time.Second, "an association is established", us.established)
	passesBothWays(t, us, peer, c)
	all := wire.end()
	if found := leaks(all, translated(20000)); len(found) > 0 {
		t.Errorf("outside: %v", found)
	}
	if n := count(all, translated(20000)); n < 10 {
		t.Errorf("%d datagrams outside", n)
	}
	us.explain(t)
}

// TestKernelRestartAgainstStrongSwan: strongSwan asks every two seconds whether
// we live and clears its associations when it hears nothing for fifteen. Our agent
// is killed (with the full figures it is then stopped as well) and comes back: not
// one echo request is lost until strongSwan would long have given us up, and
// nothing is in clear.
func TestKernelRestartAgainstStrongSwan(t *testing.T) {
	c := live()
	c.conn, c.childConf = "dpd_delay = 2s\n  dpd_timeout = 15s", "dpd_action = clear"
	us, peer := newPair(t, "krs")
	d := meetKernel(t, us, peer, c, newIdentities(t))
	us.ping(peer.v4, 1)
	eventually(t, 60*time.Second, "an association is established", us.established)
	eventually(t, 60*time.Second, "traffic is secured", func() bool { return us.ping(peer.v4, 1) == 1 })
	wire := us.captureSent("wire")
	sent := peer.captureSent("wire")
	pings := us.start("ping", "-n", "-D", "-O", "-i", "0.2", peer.v4)
	eventually(t, 20*time.Second, "echo requests are answered", func() bool { return strings.Contains(pings.output(), "bytes from") })
	signals := []syscall.Signal{syscall.SIGKILL}
	if full() {
		signals = append(signals, syscall.SIGTERM)
	}
	for _, s := range signals {
		before, now := map[string]bool{}, map[string]bool{}
		us.note(before, map[string]bool{})
		us.agent.signal(t, s)
		us.startAgent(nil)
		eventually(t, 60*time.Second, "the pair is renewed", func() bool {
			us.note(now, map[string]bool{})
			maps.DeleteFunc(now, func(spi string, _ bool) bool { return before[spi] })
			return len(now) > 0
		})
		time.Sleep(25 * time.Second) // what strongSwan would do, it does by then
		if out := d.mustSwanctl("--list-sas"); !strings.Contains(out, "INSTALLED") {
			t.Errorf("after %v strongSwan has given us up:\n%s", s, out)
		}
	}
	pings.endPing(t, us)
	us.explain(t)
	if t.Failed() {
		peer.explainKernel(t)
	}
	c.judge(t, wire)
	c.judge(t, sent)
}

// endPing ends a ping, of whose echo requests none may be lost. The last one may still
// be under way.
func (p *process) endPing(t *testing.T, us *host) {
	t.Helper()
	p.signal(t, syscall.SIGINT)
	sent, answered := p.figures(t)
	lost := sent - answered
	if !strings.Contains(p.output(), fmt.Sprintf(" icmp_seq=%d ttl=", sent)) {
		lost--
	}
	if lost > 0 {
		t.Errorf("%d of %d echo requests were lost\n%s", lost, sent, lossReport(p.output(), us))
	}
}

// captureSent captures what leaves the host alone: of what comes out of a tunnel
// the kernel shows the secured packet, and then what was in it.
func (h *host) captureSent(name string) *capture {
	h.t.Helper()
	return h.captureBy(name, 0, "-Q", "out")
}

// TestKernelStrongSwanRenews: strongSwan renews both phases when it is told to, we
// do because our lifetimes are short, while echo requests pass both ways: none is
// lost, nothing is in clear.
func TestKernelStrongSwanRenews(t *testing.T) {
	ids, short := newIdentities(t), live()
	short.method, short.ours = "{esp: aes256gcm, lifetime: 1m}", "lifetime: 1m"
	t.Run("strongSwan", func(t *testing.T) {
		kernelRenews(t, "krna", live(), ids, func(us *host, d *charon, pairs, mains map[string]bool) {
			for round, what := range [][]string{{"--rekey", "--child", "net"}, {"--rekey", "--child", "net"}, {"--rekey", "--ike", "peer"}} {
				seen := []map[string]bool{pairs, pairs, mains}[round]
				before := len(seen)
				d.mustSwanctl(what...)
				eventually(t, 30*time.Second, fmt.Sprintf("renewal %d (%v)", round, what), func() bool {
					us.note(pairs, mains)
					return len(seen) > before
				})
			}
		})
	})
	t.Run("we", func(t *testing.T) {
		kernelRenews(t, "krnb", short, ids, func(us *host, _ *charon, pairs, mains map[string]bool) {
			eventually(t, 90*time.Second, "both phases are renewed", func() bool {
				us.note(pairs, mains)
				return len(pairs) > 2 && len(mains) > 1
			})
		})
	})
}

// kernelRenews secures traffic with strongSwan by c and holds it against the
// promise while both phases are renewed.
func kernelRenews(t *testing.T, tag string, c combination, ids identities, renew func(us *host, d *charon, pairs, mains map[string]bool)) {
	t.Helper()
	us, peer := newPair(t, tag)
	d := meetKernel(t, us, peer, c, ids)
	eventually(t, 60*time.Second, "traffic is secured", func() bool { return us.ping(peer.v4, 1) == 1 })
	pairs, mains := map[string]bool{}, map[string]bool{}
	us.note(pairs, mains)
	wires := []*capture{us.captureSent("ours"), peer.captureSent("theirs")}
	pings := []*process{us.start("ping", "-n", "-D", "-O", "-i", "0.2", peer.v4), peer.start("ping", "-n", "-D", "-O", "-i", "0.2", us.v4)}
	for _, p := range pings {
		eventually(t, 20*time.Second, "echo requests are answered", func() bool { return strings.Contains(p.output(), "bytes from") })
	}
	renew(us, d, pairs, mains)
	for _, p := range pings {
		p.endPing(t, us)
	}
	for _, wire := range wires {
		c.judge(t, wire)
	}
	t.Logf("figure: renewed with strongSwan under traffic: %d pairs, %d main modes", len(pairs), len(mains))
	us.explain(t)
}
