package test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
)

// translator is a namespace that gives what an inner host sends its own address
// and other ports.
type translator struct {
	t  *testing.T
	ns string
}

// newTranslated makes two hosts, of which only the inner one can begin: what
// stands between them translates. Their devices are called "wire".
func newTranslated(t *testing.T, tag string) (inner, outer *host, nat *translator) {
	t.Helper()
	nat = &translator{t, tag + "-n"}
	inner = &host{t: t, ns: tag + "-a", v4: "10.76.0.1", seen: "10.77.0.254"}
	outer = &host{t: t, ns: tag + "-b", v4: "10.77.0.2"}
	for _, h := range []*host{inner, outer, {t: t, ns: nat.ns}} {
		exec.Command("ip", "netns", "del", h.ns).Run()
		h.dir = t.TempDir()
		must(t, "ip", "netns", "add", h.ns)
		t.Cleanup(h.remove)
	}
	for side, h := range map[string]*host{"inside": inner, "outside": outer} {
		must(t, "ip", "link", "add", side, "netns", nat.ns, "type", "veth", "peer", "name", "wire", "netns", h.ns)
		must(t, "ip", "-n", nat.ns, "link", "set", side, "up")
		must(t, "ip", "-n", h.ns, "link", "set", "lo", "up")
		must(t, "ip", "-n", h.ns, "addr", "add", h.v4+"/24", "dev", "wire")
		must(t, "ip", "-n", h.ns, "link", "set", "wire", "up")
	}
	must(t, "ip", "-n", nat.ns, "addr", "add", "10.76.0.254/24", "dev", "inside")
	must(t, "ip", "-n", nat.ns, "addr", "add", inner.seen+"/24", "dev", "outside")
	must(t, "ip", "-n", inner.ns, "route", "add", "default", "via", "10.76.0.254")
	must(t, "ip", "netns", "exec", nat.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	nat.ports(20000)
	return inner, outer, nat
}

// ports gives the inner host's UDP ports from there on, and forgets those it
// has had.
func (n *translator) ports(from int) {
	n.t.Helper()
	exec.Command("ip", "netns", "exec", n.ns, "nft", "delete", "table", "ip", "translator").Run()
	rules := exec.Command("ip", "netns", "exec", n.ns, "nft", "-f", "-")
	rules.Stdin = strings.NewReader(fmt.Sprintf(`table ip translator {
	chain post { type nat hook postrouting priority 100
		oifname outside meta l4proto udp masquerade to :%d-%d
		oifname outside masquerade
	}
	chain own { type filter hook output priority 0
		meta l4proto icmp drop
	}
}`, from, from+9))
	if out, err := rules.CombinedOutput(); err != nil {
		n.t.Fatalf("nft: %v\n%s", err, out)
	}
	must(n.t, "ip", "netns", "exec", n.ns, "conntrack", "-F")
}

// translated reports what IKE and ESP look like outside a translator.
func translated(from int) func(packet) bool {
	return func(p packet) bool {
		port := func(v uint16) bool { return int(v) >= from && int(v) < from+10 }
		ours := func(v uint16) bool { return v == 500 || v == 4500 }
		return p.proto == 17 && (port(p.sport) && ours(p.dport) || ours(p.sport) && port(p.dport))
	}
}

// TestTwoHostsWithATranslatorBetween: preshared keys, both directions, TCP and
// echo requests; then the translator forgets everything and gives other ports.
// The inner host's traffic goes on at once and the outer one follows it. On the
// wire outside there is UDP of the two ports and nothing else.
func TestTwoHostsWithATranslatorBetween(t *testing.T) {
	inner, outer, nat := newTranslated(t, "nat")
	wire := translatorBetween(t, inner, outer)
	nat.ports(30000)
	eventually(t, 20*time.Second, "the inner host is heard from its new port", func() bool { return inner.ping(outer.v4, 1) == 1 })
	pingsThroughTranslator(t, inner, outer)
	all := wire.end()
	allowed := func(p packet) bool { return translated(20000)(p) || translated(30000)(p) }
	if found := leaks(all, allowed); len(found) > 0 {
		t.Errorf("outside: %v", found)
	}
	if n := count(all, packet.esp); n > 0 {
		t.Errorf("%d ESP packets outside UDP", n)
	}
	if pairs := outer.associations().Pairs; len(pairs) != 1 || !behind(pairs, inner.seen) {
		t.Errorf("the outer host has %v", pairs)
	}
}

// translatorBetween has two hosts secure what passes the translator, sends both
// ways and returns the capture outside, which goes on.
func translatorBetween(t *testing.T, inner, outer *host) *capture {
	t.Helper()
	key := aKey("nat")
	for h, far := range map[*host]*host{inner: outer, outer: inner} {
		c := hostile()
		h.startAgent(map[string]string{"peer.yaml": c.policy(h, far, identity{})})
		h.assign("peer", key)
	}
	wire := outer.capture("wire")
	inner.ping(outer.v4, 1) // asks for the association
	eventually(t, 60*time.Second, "an association is established", func() bool { return inner.established() && outer.established() })
	pingsThroughTranslator(t, inner, outer)
	outer.serve(1)
	if !inner.fetch(outer.v4, 20*time.Second) {
		t.Error("TCP from the inner host does not pass")
	}
	inner.serve(1)
	if !outer.fetch(inner.seen, 20*time.Second) {
		t.Error("TCP from the outer host does not pass")
	}
	return wire
}

// pingsThroughTranslator sends echo requests both ways.
func pingsThroughTranslator(t *testing.T, inner, outer *host) {
	t.Helper()
	if got := inner.ping(outer.v4, 5); got != 5 {
		t.Errorf("%d of the inner host's 5 echo requests answered", got)
	}
	if got := outer.ping(inner.seen, 5); got != 5 {
		t.Errorf("%d of the outer host's 5 echo requests answered", got)
	}
}

// behind reports whether all pairs are with one address.
func behind(pairs []control.SecuredPeer, addr string) bool {
	for _, p := range pairs {
		if a, err := netip.ParseAddr(p.Peer); err != nil || a.String() != addr {
			return false
		}
	}
	return true
}

// TestStrongSwanThroughATranslator: either end behind it, both modes; the keys
// of both ends are equal and traffic passes both ways, in UDP.
func TestStrongSwanThroughATranslator(t *testing.T) {
	lib, ids := shim(t), newIdentities(t)
	rows := []combination{combinations()[0], presharedRows()[3], tunnelRows()[0], certificateRows()[0], certificateRows()[3]}
	for i, c := range rows {
		for _, behindIt := range []string{"us", "strongSwan"} {
			t.Run(c.name+"/"+behindIt, func(t *testing.T) {
				t.Parallel()
				throughTranslator(t, lib, fmt.Sprintf("nats%d%c", i, behindIt[0]), c, ids, behindIt == "us")
			})
		}
	}
}

func throughTranslator(t *testing.T, lib, tag string, c combination, ids identities, weBehind bool) {
	inner, outer, _ := newTranslated(t, tag)
	us, peer := inner, outer
	if !weBehind {
		us, peer = outer, inner
	}
	c.addInner(us, peer)
	ours, theirs := ids.pair(t, c.auth)
	d := startCharon(t, lib, peer, us, c, theirs)
	startOurs(us, peer, c, ours)
	us.logKeys(c.address(peer))
	wire := outer.capture("wire")
	if weBehind {
		us.ping(c.inner(peer), 1)
	} else {
		d.mustSwanctl("--initiate", "--child", "net", "--timeout", "30")
	}
	eventually(t, 60*time.Second, "an association is established", us.established)
	carries(t, us, d, c)
	all := wire.end()
	if found := leaks(all, translated(20000)); len(found) > 0 {
		t.Errorf("outside: %v", found)
	}
	if n := count(all, translated(20000)); n < 20 {
		t.Errorf("%d datagrams outside", n)
	}
}
