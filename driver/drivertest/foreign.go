package drivertest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"
)

// flushRuleset does what the first line of Debian's nftables.conf does.
func flushRuleset(r *rig) {
	ns := r.alice.ns()
	r.underFlood(func() {
		for range 5 {
			_, _ = ns.try("nft flush ruleset") // refused, without effect on what is ours, or undone
			_, _ = ns.try("nft delete table inet ipsecagent")
		}
		ns.feed(r.T, "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; policy accept; }; }", "nft -f -")
		r.carries()
	})
	ns.run(r.T, "nft list table inet ipsecagent")
}

func boundToDevice(r *rig) {
	for _, to := range []netip.Addr{r.bob.V4, r.bob.V6} {
		for _, size := range []int{56, 4000} {
			out, err := r.alice.ns().try(fmt.Sprintf("ping -n -c 2 -i 0.1 -W 1 -I eth0 -s %d %s", size, to))
			if err != nil && r.alice.state().Counters.LastChain == 0 {
				r.Errorf("nothing came back, and no counter says why: %s", out)
			}
		}
	}
	r.noClear()
}

func linkLocal(r *rig) {
	shown := r.bob.ns().run(r.T, "ip -6 -o addr show dev eth0 scope link")
	peer, _, _ := strings.Cut(strings.Fields(shown)[3], "/")
	if out, err := r.alice.ns().try("ping -n -c 3 -i 0.1 -W 1 " + peer + "%eth0"); err == nil {
		r.Errorf("an answer came without an association: %s", out)
	}
	r.noClear()
}

// destinationNAT: what is sent to another address and translated to the peer's
// is the peer's traffic.
func destinationNAT(r *rig) {
	ns := r.alice.ns()
	r.alice.set(r.alice.everything()[:2]...) // "rest" would take it before it is translated
	ns.run(r.T, "ip route add 10.99.0.0/24 dev eth0")
	ns.feed(r.T, "table ip nat { chain out { type nat hook output priority -100; ip daddr 10.99.0.1 dnat to "+r.bob.V4.String()+"; }; }", "nft -f -")
	r.underFlood(func() {
		r.eventually("what is translated is carried", func() bool { return r.alice.pings(netip.MustParseAddr("10.99.0.1")) })
	})
}

// dockerRules are those of Docker with one container that publishes a port.
const dockerRules = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
`

// docker: a container behind the host sends as the host itself, and the peer
// asks for the port it publishes.
func docker(r *rig) {
	ns := r.alice.ns()
	c := r.container()
	ns.feed(r.T, dockerRules, "iptables-restore")
	stop := (&end{Host: &Host{NS: string(c)}, r: r}).flood(r.bob.V4)
	defer stop()
	r.underFlood(func() {
		_, _ = r.bob.ns().try("curl -s -m 1 http://" + r.alice.V4.String() + ":8080/") // carried, or dropped
		_, _ = c.try("ping -n -c 5 -i 0.2 -W 1 " + r.bob.V4.String())
		r.carries()
	})
	if n := stop(); n == 0 {
		r.Error("the container sent nothing")
	}
}

// container makes a namespace behind alice, with a server on port 80.
func (r *rig) container() namespace {
	ns, c := r.alice.ns(), namespace(r.alice.NS+"-c")
	if out, err := exec.Command("ip", "netns", "add", string(c)).CombinedOutput(); err != nil {
		r.Fatalf("%v: %s", err, out)
	}
	r.Cleanup(func() { _ = exec.Command("ip", "netns", "del", string(c)).Run() })
	for _, line := range []string{
		"ip link add docker0 type bridge", "ip addr add 172.17.0.1/16 dev docker0", "ip link set docker0 up",
		"ip link add veth0 type veth peer name eth0 netns " + string(c), "ip link set veth0 master docker0 up",
		"sysctl -qw net.ipv4.ip_forward=1",
	} {
		ns.run(r.T, line)
	}
	for _, line := range []string{"ip addr add 172.17.0.2/16 dev eth0", "ip link set eth0 up", "ip route add default via 172.17.0.1"} {
		c.run(r.T, line)
	}
	l := inside(r.T, c, func() (net.Listener, error) { return net.Listen("tcp", "172.17.0.2:80") })
	r.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.0 200 OK\r\n\r\nhello"))
			conn.Close()
		}
	}()
	return c
}

// networkdSetup starts systemd-networkd, which needs its own /run, and a /sys
// that it may not write: else it waits for udev.
const networkdSetup = `set -e
mount -o remount,ro,bind /sys
mount -t tmpfs none /run
mkdir -p /run/systemd/network
cat >/run/systemd/network/10-eth0.network <<END
[Match]
Name=eth0
[Network]
KeepConfiguration=yes
IPv6AcceptRA=no
[RoutingPolicyRule]
From=10.9.9.9
Table=55
END
cat >/run/systemd/network/20-late.network <<END
[Match]
Name=late0
[Network]
LinkLocalAddressing=no
IPv6AcceptRA=no
END
exec /lib/systemd/systemd-networkd
`

// networkd deletes the routing rules and routes it does not know when a link
// comes that it configures.
func networkd(r *rig) {
	ns := r.alice.ns()
	const canary = "10.8.8.8"
	ns.run(r.T, "ip rule add pref 1234 from "+canary+" lookup 77")
	cmd := ns.command("sh", "-c", networkdSetup)
	said := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = said, said
	r.must(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	end := func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := <-ended; r.Failed() {
			r.Logf("systemd-networkd: %v: %s", err, said)
		}
	}
	r.underFlood(func() {
		defer end()
		r.eventually("systemd-networkd configures eth0", func() bool {
			return strings.Contains(ns.run(r.T, "ip rule"), "10.9.9.9")
		})
		ns.run(r.T, "ip link add late0 type veth peer name late1")
		ns.run(r.T, "ip link set late1 up")
		r.eventually("systemd-networkd deletes a rule it does not know", func() bool {
			return !strings.Contains(ns.run(r.T, "ip rule"), canary)
		})
		if r.Steering != "" {
			r.restored(r.Steering)
		}
		r.carries()
	})
}

// addressReturns does what NetworkManager does when a connection is activated
// again: every address goes, then comes.
func addressReturns(r *rig) {
	n := len(r.alice.state().SAs)
	r.underFlood(func() {
		r.alice.address("del", r.alice.V4, r.alice.V6)
		time.Sleep(r.Silence) // the flood goes on without
		r.alice.address("add", r.alice.V4, r.alice.V6)
		r.carries()
		r.alice.ns().run(r.T, "ip addr flush dev eth0 scope global")
		r.alice.address("add", r.alice.V4, r.alice.V6)
		r.carries()
	})
	if m := len(r.alice.state().SAs); m != n {
		r.Errorf("%d associations, there were %d", m, n)
	}
}

// anotherAddress: the host gets other addresses, for which there is no
// association, and loses the ones before.
func anotherAddress(r *rig) {
	r.alice.ns().run(r.T, "sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1")
	v4, v6 := netip.MustParseAddr("10.77.0.99"), netip.MustParseAddr("fd77::99")
	r.underFlood(func() {
		r.alice.address("add", v4, v6)
		r.alice.address("del", r.alice.V4, r.alice.V6)
		stop := r.alice.flood(r.bob.V4, r.bob.V6) // by sockets that know the new ones alone
		defer stop()
		for _, to := range []netip.Addr{r.bob.V4, r.bob.V6} {
			if r.alice.pings(to) {
				r.Errorf("%s answers an address without an association", to)
			}
		}
		r.alice.address("add", r.alice.V4, r.alice.V6)
		r.alice.address("del", v4, v6)
		r.carries()
	})
}

// address adds or deletes addresses of eth0.
func (e *end) address(verb string, v4, v6 netip.Addr) {
	e.r.Helper()
	e.ns().run(e.r.T, "ip addr "+verb+" "+v4.String()+"/24 dev eth0")
	nodad := ""
	if verb == "add" {
		nodad = " nodad"
	}
	e.ns().run(e.r.T, "ip addr "+verb+" "+v6.String()+"/64 dev eth0"+nodad)
}

// addressesAtOnce: an application sends from an address as soon as it is there.
func addressesAtOnce(r *rig) {
	for i := range 50 {
		a := netip.AddrFrom4([4]byte{10, 77, 0, byte(100 + i)})
		r.alice.ns().run(r.T, "ip addr add "+a.String()+"/24 dev eth0")
		r.alice.Send(netip.AddrPortFrom(a, sourcePort), netip.AddrPortFrom(r.bob.V4, discard), []byte("in clear"))
	}
	r.noClear()
	r.carries()
}

// anotherMTU: what was secured in one piece no longer fits, then does again.
func anotherMTU(r *rig) {
	r.underFlood(func() {
		for _, mtu := range []int{1280, 1500, 1400, 1500} {
			r.alice.ns().run(r.T, fmt.Sprintf("ip link set eth0 mtu %d", mtu))
			r.carries()
		}
	})
}

// linkDown: the kernel takes the IPv6 addresses with the link.
func linkDown(r *rig) {
	r.underFlood(func() {
		for range 3 {
			r.alice.ns().run(r.T, "ip link set eth0 down")
			r.alice.ns().run(r.T, "ip link set eth0 up")
			_, _ = r.alice.ns().try("ip addr add " + r.alice.V6.String() + "/64 dev eth0 nodad")
			r.carries()
		}
	})
}
