package user

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// inside is a host behind a gateway.
type inside struct {
	ns     string
	v4, v6 netip.Addr
}

// gateways is a lab whose hosts forward for one more host each: carol is behind
// alice, dave behind bob. Routes lead in clear over the wire.
type gateways struct {
	*lab
	carol, dave *inside
}

func newGateways(t *testing.T) *gateways {
	t.Helper()
	l := newLab(t)
	g := &gateways{lab: l, carol: l.behind(l.alice, 1), dave: l.behind(l.bob, 2)}
	for _, h := range []struct {
		h    *host
		via  *host
		nets []string
	}{{l.alice, l.bob, []string{"10.88.2.0/24", "fd88:2::/64"}}, {l.bob, l.alice, []string{"10.88.1.0/24", "fd88:1::/64"}}} {
		run(t, h.h.ns, "ip", "route", "add", h.nets[0], "via", h.via.v4.String())
		run(t, h.h.ns, "ip", "route", "add", h.nets[1], "via", h.via.v6.String())
	}
	if out, err := g.carolPings(g.dave.v4); err != nil {
		t.Fatalf("the way is not open before there is a policy: %s", out)
	}
	run(t, l.wire, "nft", "reset", "counters")
	return g
}

// behind puts a host behind a gateway: network n.
func (l *lab) behind(gw *host, n int) *inside {
	l.t.Helper()
	in := &inside{ns: gw.ns + "i", v4: netip.AddrFrom4([4]byte{10, 88, byte(n), 2}), v6: netip.MustParseAddr(fmt.Sprintf("fd88:%d::2", n))}
	run(l.t, "", "ip", "netns", "add", in.ns)
	l.t.Cleanup(func() { _, _ = try("", "", "ip", "netns", "del", in.ns) })
	run(l.t, gw.ns, "ip", "link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", in.ns)
	run(l.t, gw.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=1")
	for _, end := range []struct{ ns, dev, v4, v6 string }{
		{gw.ns, "inside", fmt.Sprintf("10.88.%d.1/24", n), fmt.Sprintf("fd88:%d::1/64", n)},
		{in.ns, "eth0", in.v4.String() + "/24", in.v6.String() + "/64"},
	} {
		run(l.t, end.ns, "ip", "link", "set", "lo", "up")
		run(l.t, end.ns, "ip", "link", "set", end.dev, "up")
		run(l.t, end.ns, "ip", "addr", "add", end.v4, "dev", end.dev)
		run(l.t, end.ns, "ip", "addr", "add", end.v6, "dev", end.dev, "nodad")
	}
	run(l.t, in.ns, "ip", "route", "add", "default", "via", fmt.Sprintf("10.88.%d.1", n))
	run(l.t, in.ns, "ip", "route", "add", "default", "via", fmt.Sprintf("fd88:%d::1", n))
	return in
}

func (g *gateways) carolPings(to netip.Addr, extra ...string) (string, error) {
	args := append([]string{"ping", "-c", "3", "-i", "0.05", "-W", "2"}, extra...)
	return try(g.carol.ns, "", append(args, to.String())...)
}

// tunnel is the shape of a tunnel's associations.
type tunnel struct {
	name   string
	suites []string
	v6     bool // inner
	outer6 bool
}

// filters puts the tunnel's filter, "t", in force on both gateways.
func (g *gateways) filters(c tunnel) {
	g.t.Helper()
	for _, h := range []*host{g.alice, g.bob} {
		if err := h.c.SetFilters(g.t.Context(), []sadb.Filter{g.filter(c, h)}); err != nil {
			g.t.Fatal(err)
		}
	}
}

func (g *gateways) filter(c tunnel, h *host) sadb.Filter {
	a, b := netip.MustParsePrefix("10.88.1.0/24"), netip.MustParsePrefix("10.88.2.0/24")
	if c.v6 {
		a, b = netip.MustParsePrefix("fd88:1::/64"), netip.MustParsePrefix("fd88:2::/64")
	}
	local, remote := h.v4, g.peer(h).v4
	if c.outer6 {
		local, remote = h.v6, g.peer(h).v6
	}
	f := sadb.Filter{ID: "t", Name: "tunnel", Dir: sadb.Both, Mode: sadb.Tunnel, TunnelLocal: local, TunnelRemote: remote,
		Selector: sadb.Selector{Local: sadb.Prefix(a), Remote: sadb.Prefix(b)}, Action: sadb.Action{Kind: sadb.Negotiate}}
	if h == g.bob {
		f.Selector = f.Selector.Mirror()
	}
	return f
}

// associations returns the tunnel's associations from one gateway to the other,
// for the sender and for the receiver.
func (g *gateways) associations(c tunnel, from *host, spi sadb.SPI) (out, in []sadb.SA) {
	g.t.Helper()
	f := g.filter(c, from)
	for i, name := range c.suites {
		s := suite(g.t, name)
		o, n := oneWay(s, "t", f.TunnelLocal, f.TunnelRemote, spi+sadb.SPI(i))
		o.Mode, o.ID.Proto, o.Selector = sadb.Tunnel, s.Proto, f.Selector
		n.Mode, n.ID.Proto, n.Selector = sadb.Tunnel, s.Proto, f.Selector.Mirror()
		out, in = append(out, o), append(in, n)
	}
	if len(out) == 2 {
		for i := range out {
			out[i].Bundle, in[i].Bundle = out[1-i].ID, in[1-i].ID
		}
	}
	return out, in
}

// connect installs the tunnel both ways.
func (g *gateways) connect(c tunnel, base sadb.SPI) {
	g.t.Helper()
	for i, h := range []*host{g.alice, g.bob} {
		out, in := g.associations(c, h, base+sadb.SPI(2*i))
		for _, sa := range in {
			g.add(g.peer(h), sa)
		}
		for _, sa := range out {
			g.add(h, sa)
		}
	}
}

func tunnelCases() []tunnel {
	return []tunnel{
		{"ESP, 4 in 4", []string{"esp-aes256gcm"}, false, false},
		{"ESP, 6 in 6", []string{"esp-aes128-sha256"}, true, true},
		{"ESP, 6 in 4", []string{"esp-3des-sha1"}, true, false},
		{"ESP, 4 in 6", []string{"esp-aes256gcm"}, false, true},
		{"AH, 4 in 4", []string{"ah-sha256"}, false, false},
		{"AH, 6 in 6", []string{"ah-sha1"}, true, true},
		{"AH and ESP, 4 in 4", []string{"ah-sha512", "esp-aes128-sha1"}, false, false},
		{"AH and ESP, 6 in 6", []string{"esp-aes256gcm", "ah-sha256"}, true, true},
	}
}

// TestTunnelsCarryForwardedTraffic: with reverse-path filtering as strict as it
// goes.
func TestTunnelsCarryForwardedTraffic(t *testing.T) {
	g := newGateways(t)
	g.alice.start()
	g.bob.start()
	for i, c := range tunnelCases() {
		t.Run(c.name, func(t *testing.T) {
			g.t = t
			g.filters(c)
			g.connect(c, sadb.SPI(0x2000+16*i))
			to, gw := g.dave.v4, "10.88.1.1"
			if c.v6 {
				to, gw = g.dave.v6, "fd88:1::1"
			}
			for _, size := range []string{"56", "1400", "4000"} {
				if out, err := g.carolPings(to, "-s", size); err != nil {
					t.Errorf("ping of %s bytes: %s", size, out)
				}
			}
			if out, err := try(g.alice.ns, "", "ping", "-c", "2", "-i", "0.05", "-W", "2", "-q", "-I", gw, to.String()); err != nil {
				t.Errorf("the gateway's own ping from its inner address: %s", out)
			}
			g.streams(to)
			g.noClear()
			if n := g.wireCounter("secured", g.alice); n < 20 {
				t.Errorf("%d secured packets", n)
			}
		})
	}
}

// streams sends a megabyte by TCP from carol to dave: segments that do not fit
// the tunnel must find their way.
func (g *gateways) streams(to netip.Addr) {
	g.t.Helper()
	dave := &host{t: g.t, ns: g.dave.ns}
	l := in(dave, func() (net.Listener, error) { return net.Listen("tcp", netip.AddrPortFrom(to, 0).String()) })
	defer l.Close()
	got := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer c.Close()
		n, buf := 0, make([]byte, 65536)
		for {
			m, err := c.Read(buf)
			n += m
			if err != nil {
				got <- n
				return
			}
		}
	}()
	carol := &host{t: g.t, ns: g.carol.ns}
	c := in(carol, func() (net.Conn, error) { return net.DialTimeout("tcp", l.Addr().String(), patience) })
	c.SetDeadline(time.Now().Add(patience))
	n, err := c.Write(make([]byte, 1<<20))
	c.Close()
	if err != nil {
		g.t.Fatalf("TCP to %s: %d bytes, %v", to, n, err)
	}
	if m := <-got; m != n {
		g.t.Errorf("TCP to %s: %d of %d bytes arrived", to, m, n)
	}
}

// TestTunnelLeaksNothing: forwarded traffic without an association, one half of
// a bundle, the wrong half, a dead data path.
func TestTunnelLeaksNothing(t *testing.T) {
	g := newGateways(t)
	g.alice.start()
	g.bob.start()
	c := tunnel{"", []string{"ah-sha256", "esp-aes256gcm"}, false, false}
	g.filters(c)
	g.carolFails("there is no association")
	if a := expect[driver.Acquire](g.alice); a.Filter != "t" || a.Flow.Remote != g.dave.v4 || a.Flow.Local != g.carol.v4 {
		t.Errorf("%+v", a)
	}
	none[driver.Acquire](g.alice, 100*time.Millisecond)
	out, in := g.associations(c, g.alice, 0x3000)
	for _, sa := range in {
		g.add(g.bob, sa)
	}
	g.add(g.alice, out[0])
	g.carolFails("ESP of the bundle is missing")
	if n := g.wireCounter("secured", g.alice); n != 0 {
		t.Errorf("%d packets left by half a bundle", n)
	}
	if err := g.alice.c.DeleteSA(t.Context(), out[0].ID); err != nil {
		t.Fatal(err)
	}
	g.add(g.alice, out[1])
	g.carolFails("AH of the bundle is missing")
	g.add(g.alice, out[0])
	back, ahead := g.associations(c, g.bob, 0x3002)
	for i := range back {
		g.add(g.alice, ahead[i])
		g.add(g.bob, back[i])
	}
	if out, err := g.carolPings(g.dave.v4); err != nil {
		t.Fatal(out)
	}
	if err := g.alice.c.DeleteSA(t.Context(), out[0].ID); err != nil {
		t.Fatal(err)
	}
	g.carolFails("AH of the bundle is deleted")
	g.noClear()
	g.alice.kill()
	g.carolFails("the data path is dead")
	g.noClear()
}

func (g *gateways) carolFails(why string) {
	g.t.Helper()
	if out, err := g.carolPings(g.dave.v4, "-W", "1"); err == nil {
		g.t.Errorf("traffic passes though %s: %s", why, out)
	}
}

// TestInboundTunnelIsStrict: ESP of a bundle without its AH around it is refused,
// and so is clear text from the wire for the inside.
func TestInboundTunnelIsStrict(t *testing.T) {
	g := newGateways(t)
	g.bob.start()
	g.alice.start()
	c := tunnel{"", []string{"ah-sha256", "esp-aes256gcm"}, false, false}
	g.filters(c)
	out, in := g.associations(c, g.alice, 0x3000)
	for _, sa := range in {
		g.add(g.bob, sa)
	}
	naked := out[1]
	naked.Bundle = sadb.SAID{}
	g.add(g.alice, naked)
	g.carolFails("ESP came without its AH")
	if s := g.bob.state(); s.Counters.BadSelector == 0 || s.Counters.InPackets != 0 {
		t.Errorf("%+v", s.Counters)
	}
	for _, sa := range g.bob.state().SAs {
		if sa.Packets != 0 {
			t.Errorf("%s counts %d packets", sa.SA.ID, sa.Packets)
		}
	}
	g.alice.kill()
	run(t, g.alice.ns, "nft", "delete", "table", "inet", DefaultTable)
	run(t, g.alice.ns, "ip", "rule", "del", "pref", "900")
	before := g.bob.state().Counters.InClear
	g.carolFails("bob's policy wants a tunnel")
	if now := g.bob.state().Counters.InClear; now == before {
		t.Error("clear packets for the inside were not refused")
	}
}

// TestTunnelRefusesWhatItsSelectorDoesNotCover: the inner packet is judged.
func TestTunnelRefusesWhatItsSelectorDoesNotCover(t *testing.T) {
	g := newGateways(t)
	g.alice.start()
	g.bob.start()
	c := tunnel{"", []string{"esp-aes256gcm"}, false, false}
	g.filters(c)
	out, in := g.associations(c, g.alice, 0x3000)
	in[0].Selector.Local = sadb.Addr(netip.MustParseAddr("10.88.2.77"))
	g.add(g.bob, in[0])
	g.add(g.alice, out[0])
	g.carolFails("dave is not in the selector")
	if s := g.bob.state(); s.Counters.BadSelector < 3 || s.Counters.InPackets != 0 {
		t.Errorf("%+v", s.Counters)
	}
	g.noClear()
}

// TestTunnelSaysTooBig: to a forwarded packet that must not be fragmented.
func TestTunnelSaysTooBig(t *testing.T) {
	g := newGateways(t)
	g.alice.start()
	g.bob.start()
	c := tunnel{"", []string{"esp-aes256gcm"}, false, false}
	g.filters(c)
	g.connect(c, 0x3000)
	eventually(t, "too big", func() bool {
		out, _ := g.carolPings(g.dave.v4, "-M", "do", "-s", "1460")
		return strings.Contains(out, "mtu")
	})
	g.noClear()
}
