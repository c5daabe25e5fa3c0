package user

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// translated is a lab with a translator before alice: she is 10.66.0.1 behind
// it, and bob sees 10.77.0.1 and a port of the translator's choice.
func translated(t *testing.T) (l *lab, nat string) {
	t.Helper()
	l = newLab(t)
	nat = l.alice.ns + "n"
	run(t, "", "ip", "netns", "add", nat)
	t.Cleanup(func() { _, _ = try("", "", "ip", "netns", "del", nat) })
	// Alice's end of the wire becomes the translator's.
	run(t, l.alice.ns, "ip", "link", "set", "eth0", "netns", nat)
	run(t, nat, "ip", "link", "set", "lo", "up")
	run(t, nat, "ip", "link", "set", "eth0", "up")
	run(t, nat, "ip", "addr", "add", "10.77.0.1/24", "dev", "eth0")
	run(t, nat, "ip", "link", "add", "inner", "type", "veth", "peer", "name", "eth0", "netns", l.alice.ns)
	run(t, nat, "ip", "addr", "add", "10.66.0.254/24", "dev", "inner")
	run(t, nat, "ip", "link", "set", "inner", "up")
	run(t, nat, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	run(t, l.alice.ns, "ip", "link", "set", "eth0", "up")
	run(t, l.alice.ns, "ip", "addr", "add", "10.66.0.1/24", "dev", "eth0")
	run(t, l.alice.ns, "ip", "route", "add", "default", "via", "10.66.0.254")
	masquerade(t, nat, 20000)
	l.alice.v4 = netip.MustParseAddr("10.66.0.1")
	return l, nat
}

// masquerade gives what alice sends a port from there on, and forgets what it
// had.
func masquerade(t *testing.T, nat string, port int) {
	t.Helper()
	feed(t, nat, fmt.Sprintf(`table ip own
	delete table ip own
	table ip own { chain out { type filter hook output priority 0
		meta l4proto icmp drop # the translator's own words would count as clear
	}
	}
	table ip nat
	delete table ip nat
	table ip nat { chain post { type nat hook postrouting priority 100
		oifname eth0 udp sport 4500 masquerade to :%d-%d
		oifname eth0 masquerade
	}
	}`, port, port+9), "nft", "-f", "-")
	run(t, nat, "conntrack", "-F")
}

// natted installs associations in UDP both ways between alice and bob, who sees
// her at seen.
func (l *lab) natted(mode sadb.Mode, base sadb.SPI, seen netip.AddrPort) {
	l.t.Helper()
	a, b := netip.AddrPortFrom(l.alice.v4, natPort), netip.AddrPortFrom(l.bob.v4, natPort)
	inner := func(h *host) sadb.Selector {
		if mode == sadb.Transport {
			return sadb.Selector{Local: sadb.Addr(a.Addr()), Remote: sadb.Addr(b.Addr())}
		}
		return sadb.Selector{Local: sadb.Addr(l.alice.v4), Remote: sadb.Addr(netip.MustParseAddr("10.99.9.9"))}
	}
	there, arrives := oneWay(suite(l.t, "esp-aes256gcm"), "f", a.Addr(), b.Addr(), base)
	there.Mode, arrives.Mode = mode, mode
	there.Encap = sadb.Encap{Local: a, Remote: b, KeepAlive: true}
	there.Selector = inner(l.alice)
	arrives.Encap, arrives.Src = sadb.Encap{Local: b, Remote: seen}, seen.Addr()
	arrives.Selector = inner(l.alice).Mirror()
	back, returns := oneWay(suite(l.t, "esp-aes256gcm"), "f", b.Addr(), seen.Addr(), base+1)
	back.Mode, returns.Mode = mode, mode
	back.Encap = sadb.Encap{Local: b, Remote: seen}
	back.Selector = inner(l.alice).Mirror()
	returns.ID.Dst, returns.Encap = a.Addr(), sadb.Encap{Local: a, Remote: b}
	returns.Selector = inner(l.alice)
	if mode == sadb.Transport { // bob knows her by the translator's address
		arrives.Selector.Remote, back.Selector.Remote = sadb.Addr(seen.Addr()), sadb.Addr(seen.Addr())
	}
	for _, sa := range []sadb.SA{arrives, back} {
		sa.Pair = 7
		l.add(l.bob, sa)
	}
	for _, sa := range []sadb.SA{returns, there} {
		sa.Pair = 8
		l.add(l.alice, sa)
	}
}

// natFilters puts filter "f" in force on both.
func (l *lab) natFilters(mode sadb.Mode, seen netip.Addr) {
	l.t.Helper()
	at := netip.MustParseAddr("10.99.9.9")
	alice, bob := require("f", l.bob.v4), require("f", seen)
	if mode == sadb.Tunnel {
		alice, bob = require("f", at), require("f", l.alice.v4)
		bob.Selector.Local = sadb.Addr(at)
		alice.Mode, alice.TunnelLocal, alice.TunnelRemote = mode, l.alice.v4, l.bob.v4
		bob.Mode, bob.TunnelLocal, bob.TunnelRemote = mode, l.bob.v4, seen
	}
	for _, c := range []struct {
		h *host
		f sadb.Filter
	}{{l.alice, alice}, {l.bob, bob}} {
		if err := c.h.c.SetFilters(l.t.Context(), []sadb.Filter{c.f}); err != nil {
			l.t.Fatal(err)
		}
	}
}

// TestThroughATranslator: ESP in UDP through masquerade, in both modes; the
// translator's port is not the one bob was told, and it changes under way.
func TestThroughATranslator(t *testing.T) {
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		t.Run(mode.String(), func(t *testing.T) {
			l, nat := translated(t)
			seen := netip.MustParseAddrPort("10.77.0.1:4500")
			l.alice.start()
			l.bob.start()
			l.natFilters(mode, seen.Addr())
			l.natted(mode, 0x4000, seen)
			to := l.bob.v4
			if mode == sadb.Tunnel {
				to = netip.MustParseAddr("10.99.9.9")
				run(t, l.bob.ns, "ip", "addr", "add", to.String()+"/32", "dev", "lo")
				run(t, l.bob.ns, "ip", "route", "add", l.alice.v4.String()+"/32", "via", "10.77.0.1")
			}
			l.crosses(to)
			m := expect[driver.Moved](l.bob)
			if m.ID.SPI != 0x4000 || m.From.Addr() != seen.Addr() || m.From.Port() < 20000 || m.From.Port() > 20009 {
				t.Errorf("%+v", m)
			}
			masquerade(t, nat, 30000)
			eventually(t, "traffic follows the new port", func() bool { return l.alice.ping(to, "-W", "1") == nil })
			if m := expect[driver.Moved](l.bob); m.From.Port() < 30000 {
				t.Errorf("%+v", m)
			}
			l.crosses(to)
			none[driver.Moved](l.alice, 100*time.Millisecond)
			l.noClear()
			if n := l.wireCounter("secured", l.bob); n < 10 {
				t.Errorf("%d packets in UDP", n)
			}
		})
	}
}

// crosses sends pings, TCP and datagrams with checksums: addresses were changed
// on the way, so they must be mended.
func (l *lab) crosses(to netip.Addr) {
	l.t.Helper()
	for _, size := range []string{"56", "4000"} {
		if err := l.alice.ping(to, "-s", size); err != nil {
			l.t.Errorf("ping of %s bytes: %v", size, err)
		}
	}
	addr := l.bob.echo(to)
	c := in(l.alice, func() (net.Conn, error) { return net.DialTimeout("tcp", addr, patience) })
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	sent := strings.Repeat("segment ", 30000)
	go c.Write([]byte(sent))
	buf := make([]byte, len(sent))
	for n := 0; n < len(buf); {
		m, err := c.Read(buf[n:])
		if err != nil {
			l.t.Fatalf("TCP: %v after %d bytes", err, n)
		}
		n += m
	}
	if string(buf) != sent {
		l.t.Error("TCP: other bytes came back")
	}
	got, err := l.datagrams(to, 1000, 5)
	if err != nil || got == 0 {
		l.t.Errorf("%d datagrams, %v", got, err)
	}
}

// TestESPInUDPGoesOnWithoutAnAgent: the agent that borrowed the port is gone,
// and so are its sockets; another one gets them again.
func TestESPInUDPGoesOnWithoutAnAgent(t *testing.T) {
	l, _ := translated(t)
	seen := netip.MustParseAddrPort("10.77.0.1:4500")
	l.alice.start()
	l.bob.start()
	l.natFilters(sadb.Transport, seen.Addr())
	l.natted(sadb.Transport, 0x4000, seen)
	first := l.borrow(l.bob)
	l.crosses(l.bob.v4)
	closeFiles(first)
	l.bob.c.Close()
	l.crosses(l.bob.v4)
	if out := run(t, l.bob.ns, "ss", "-Hlunp", "sport = :4500"); strings.Count(out, ":4500") < 2 {
		t.Errorf("the port is not held: %s", out)
	}
	second := l.borrow(l.bob)
	defer closeFiles(second)
	conn, err := net.FilePacketConn(second[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	l.alice.sendFrom(t, netip.AddrPortFrom(l.bob.v4, natPort), "\x00\x00\x00\x00IKE")
	buf := make([]byte, 100)
	n, _, err := conn.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "\x00\x00\x00\x00IKE" {
		t.Errorf("the borrowed socket got %q, %v", buf[:n], err)
	}
	l.crosses(l.bob.v4)
	if n := l.bob.attached().Counters.Malformed; n != 0 {
		t.Errorf("%d malformed packets", n)
	}
}

// attached attaches anew and reads the state.
func (h *host) attached() driver.State {
	h.t.Helper()
	h.attach()
	return h.state()
}

func (l *lab) borrow(h *host) []*os.File {
	l.t.Helper()
	files, err := NATSockets(l.t.Context(), h.socket)
	if err != nil {
		l.t.Fatal(err)
	}
	if len(files) != 2 {
		l.t.Fatalf("%d sockets", len(files))
	}
	return files
}

// sendFrom sends one datagram as the IKE socket of h would: borrowed from its
// data path.
func (h *host) sendFrom(t *testing.T, to netip.AddrPort, data string) {
	t.Helper()
	files, err := NATSockets(t.Context(), h.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	conn, err := net.FilePacketConn(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteTo([]byte(data), net.UDPAddrFromAddrPort(to)); err != nil {
		t.Fatal(err)
	}
}

// TestUDPIsPartOfTheAssociation: ESP in UDP by an association without it, and
// plain ESP by one with it, are refused.
func TestUDPIsPartOfTheAssociation(t *testing.T) {
	l := secured(t)
	out, in := oneWay(suite(t, "esp-aes256gcm"), "v4", l.alice.v4, l.bob.v4, 0x5000)
	out.Encap = sadb.Encap{Local: netip.AddrPortFrom(l.alice.v4, natPort), Remote: netip.AddrPortFrom(l.bob.v4, natPort)}
	l.add(l.bob, in)
	l.add(l.alice, out)
	if err := l.alice.ping(l.bob.v4, "-W", "1"); err == nil {
		t.Error("ESP in UDP was accepted by an association without it")
	}
	for _, sa := range []sadb.SA{in, out} { // the same keys, with UDP or without
		sa.Encap.Local, sa.Encap.Remote = out.Encap.Remote, out.Encap.Local
		if sa.Dir == sadb.Out {
			sa.Encap = sadb.Encap{}
		}
		h := map[sadb.Directions]*host{sadb.In: l.bob, sadb.Out: l.alice}[sa.Dir]
		if err := h.c.AddSA(t.Context(), sa); err == nil {
			t.Errorf("%s: sequence numbers begin again", sa.Dir)
		}
	}
	out, in = oneWay(suite(t, "esp-aes256gcm"), "v4", l.alice.v4, l.bob.v4, 0x5001)
	out.Encap = sadb.Encap{Local: netip.AddrPortFrom(l.alice.v4, natPort), Remote: netip.AddrPortFrom(l.bob.v4, natPort)}
	in.Encap = sadb.Encap{Local: out.Encap.Remote, Remote: out.Encap.Local}
	l.add(l.bob, in)
	l.add(l.alice, out)
	if err := l.alice.ping(l.bob.v4); err != nil {
		t.Error(err)
	}
	out, in = oneWay(suite(t, "esp-aes256gcm"), "v4", l.alice.v4, l.bob.v4, 0x5002)
	in.Encap = sadb.Encap{Local: netip.AddrPortFrom(l.bob.v4, natPort), Remote: netip.AddrPortFrom(l.alice.v4, natPort)}
	l.add(l.bob, in)
	l.add(l.alice, out)
	if err := l.alice.ping(l.bob.v4, "-W", "1"); err == nil {
		t.Error("plain ESP was accepted by an association in UDP")
	}
	if n := l.bob.state().Counters.NoSA; n == 0 {
		t.Error("nothing was counted")
	}
	l.noClear()
}

// TestPortIsHeldByOne: a second data path, or another IKE daemon, is told who
// has to go; and the port is free once the data path and who borrowed from it
// have gone.
func TestPortIsHeldByOne(t *testing.T) {
	l := newLab(t)
	conn := in(l.alice, func() (*net.UDPConn, error) {
		return net.ListenUDP("udp4", &net.UDPAddr{Port: natPort})
	})
	l.alice.launch()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if c, err := Dial(ctx, l.alice.socket); err == nil {
		c.Close()
		t.Error("the data path runs without its port")
	}
	conn.Close() // as an agent does that sees its data path end
	l.alice.attach()
	l.alice.stop()
	_ = in(l.alice, func() (*net.UDPConn, error) {
		return net.ListenUDP("udp4", &net.UDPAddr{Port: natPort})
	}).Close()
}
