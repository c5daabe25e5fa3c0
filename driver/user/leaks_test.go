package user

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// flood sends UDP datagrams from h to every address, small and long ones, as
// fast as they go, until the returned function is called; it returns how many
// sends were tried.
func (h *host) flood(to ...netip.Addr) (stop func() int) {
	h.t.Helper()
	done := make(chan struct{})
	counts := make(chan int, len(to))
	for _, a := range to {
		c := in(h, func() (net.Conn, error) { return net.Dial("udp", netip.AddrPortFrom(a, 9).String()) })
		go func() {
			defer c.Close()
			n := 0
			for ; ; n++ {
				select {
				case <-done:
					counts <- n
					return
				default:
				}
				size := 64
				if n%16 == 0 {
					size = 4000
				}
				_, _ = c.Write(make([]byte, size)) // refusals are the point
			}
		}()
	}
	return sync.OnceValue(func() int {
		close(done)
		sum := 0
		for range to {
			sum += <-counts
		}
		return sum
	})
}

// underFlood runs f while both hosts send to each other, and fails if anything
// went in clear, or if nothing was tried.
func (l *lab) underFlood(f func()) {
	l.t.Helper()
	alice := l.alice.flood(l.bob.v4, l.bob.v6)
	bob := l.bob.flood(l.alice.v4, l.alice.v6)
	f()
	if n := alice() + bob(); n < 100 {
		l.t.Errorf("only %d datagrams were tried", n)
	}
	l.noClear()
}

// flows waits until traffic goes both ways and both families again.
func (l *lab) flows() {
	l.t.Helper()
	for _, a := range []netip.Addr{l.bob.v4, l.bob.v6} {
		eventually(l.t, fmt.Sprintf("ping %s", a), func() bool { return l.alice.ping(a, "-W", "1") == nil })
	}
}

func TestNothingLeaksWhenTheDataPathIsKilled(t *testing.T) {
	l := secured(t)
	l.flows()
	l.underFlood(func() {
		l.alice.kill()
		pause(t.Context(), 300*time.Millisecond)
		if err := l.alice.ping(l.bob.v4, "-W", "1"); err == nil {
			t.Error("traffic passes without a data path")
		}
		l.alice.start()
		pause(t.Context(), 300*time.Millisecond)
	})
	s := l.alice.state()
	if len(s.SAs) != 0 {
		t.Errorf("associations came back from the dead: %+v", s.SAs)
	}
	l.requireAll()
	l.connect(suite(t, "esp-aes256gcm"), 0x8000)
	l.flows()
	l.noClear()
}

func TestWhatOthersRemoveIsRestored(t *testing.T) {
	l := secured(t)
	l.flows()
	for _, c := range []struct{ what, command string }{
		{"ip rule 900 (IPv4)", "ip rule del pref 900"},
		{"ip rule 900 (IPv6)", "ip -6 rule del pref 900"},
		{"routing table 900 (IPv4)", "ip route flush table 900"},
		{"routing table 900 (IPv6)", "ip -6 route flush table 900"},
		{"link ipsec0", "ip link set ipsec0 down"},
		{"link ipsec0", "ip link set ipsec0 mtu 1400"},
		{"link ipsec0", "ip link del ipsec0"},
	} {
		t.Run(c.command, func(t *testing.T) {
			l.underFlood(func() {
				run(t, l.alice.ns, strings.Fields(c.command)...)
				at := time.Now()
				for e := expect[driver.Tampered](l.alice); ; e = expect[driver.Tampered](l.alice) {
					if !e.Restored {
						t.Errorf("%s is not restored", e.What)
					}
					if e.What == c.what {
						break
					}
				}
				if d := time.Since(at); d > time.Second {
					t.Errorf("restored after %s: %s", d, l.alice.stderr)
				}
			})
			l.flows()
		})
	}
}

func TestFlushRulesetOpensNothing(t *testing.T) {
	l := secured(t)
	l.flows()
	l.underFlood(func() {
		for range 20 {
			_, _ = try(l.alice.ns, "", "nft", "flush", "ruleset") // refused, or undone
			_, _ = try(l.alice.ns, "", "nft", "delete", "table", "inet", DefaultTable)
		}
	})
	l.flows()
	l.noClear()
}

func TestSocketsBoundToTheDeviceLeakNothing(t *testing.T) {
	l := secured(t)
	for _, a := range []netip.Addr{l.bob.v4, l.bob.v6} {
		for _, size := range []string{"56", "4000"} {
			if err := l.alice.ping(a, "-I", "eth0", "-s", size, "-W", "1"); err == nil {
				t.Errorf("ping of %s bytes to %s bound to eth0 came back", size, a)
			}
		}
	}
	l.noClear()
	if n := l.alice.state().Counters.LastChain; n == 0 {
		t.Error("the last chain counted nothing")
	}
}

func TestLinkLocalLeaksNothing(t *testing.T) {
	l := newLab(t)
	l.alice.start()
	all := require("all", l.bob.v4)
	all.Selector.Remote = sadb.AnyAddrs()
	if err := l.alice.c.SetFilters(t.Context(), []sadb.Filter{all}); err != nil {
		t.Fatal(err)
	}
	out := run(t, l.bob.ns, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link")
	peer := strings.Split(strings.Fields(out)[3], "/")[0]
	if o, err := try(l.alice.ns, "", "ping", "-c", "2", "-i", "0.1", "-W", "1", peer+"%eth0"); err == nil {
		t.Errorf("link-local ping came back: %s", o)
	}
	l.noClear()
}

func TestDestinationNATLeaksNothing(t *testing.T) {
	l := secured(t)
	run(t, l.alice.ns, "ip", "route", "add", "10.99.0.0/24", "dev", "eth0")
	feed(t, l.alice.ns, `table ip nat { chain out { type nat hook output priority -100
		ip daddr 10.99.0.1 dnat to 10.77.0.2
	}
	}`, "nft", "-f", "-")
	if err := l.alice.ping(netip.MustParseAddr("10.99.0.1")); err != nil {
		t.Errorf("traffic translated to the peer is not secured but lost: %v", err)
	}
	l.noClear()
}

func TestForwardedTrafficMasqueradedAsOurOwnLeaksNothing(t *testing.T) {
	l := secured(t)
	carol := l.alice.ns + "c"
	run(t, "", "ip", "netns", "add", carol)
	t.Cleanup(func() { _, _ = try("", "", "ip", "netns", "del", carol) })
	run(t, l.alice.ns, "ip", "link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", carol)
	run(t, l.alice.ns, "ip", "addr", "add", "10.88.0.1/24", "dev", "inside")
	run(t, l.alice.ns, "ip", "link", "set", "inside", "up")
	run(t, carol, "ip", "addr", "add", "10.88.0.2/24", "dev", "eth0")
	run(t, carol, "ip", "link", "set", "eth0", "up")
	run(t, carol, "ip", "route", "add", "default", "via", "10.88.0.1")
	run(t, l.alice.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	feed(t, l.alice.ns, `table ip nat { chain post { type nat hook postrouting priority 100
		oifname eth0 masquerade
	}
	}`, "nft", "-f", "-")
	run(t, carol, "ping", "-c", "1", "-W", "2", "10.88.0.1") // the way to alice is open
	if out, err := try(carol, "", "ping", "-c", "3", "-i", "0.1", "-W", "1", l.bob.v4.String()); err == nil {
		t.Errorf("forwarded traffic came back: %s", out)
	}
	l.noClear()
	if n := l.alice.state().Counters.LastChain; n == 0 {
		t.Error("the last chain counted nothing")
	}
}

func TestReloadsUnderTrafficLeakAndLoseNothing(t *testing.T) {
	l := secured(t)
	l.flows()
	other := func(i int) []sadb.Filter {
		peer := l.bob
		filters := []sadb.Filter{require("v4", peer.v4), require("v6", peer.v6)}
		extra := require(sadb.FilterID(fmt.Sprint("extra", i%7)), netip.AddrFrom4([4]byte{10, 77, 1, byte(i)}))
		if i%2 == 0 {
			return append([]sadb.Filter{extra}, filters...)
		}
		return append(filters, extra)
	}
	l.underFlood(func() {
		for i := range 200 {
			if err := l.alice.c.SetFilters(t.Context(), other(i)); err != nil {
				t.Fatal(err)
			}
		}
	})
	l.flows()
}
