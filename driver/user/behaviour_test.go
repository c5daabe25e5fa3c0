package user

import (
	"context"
	"errors"

	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// patience is how long what should happen may take on a busy machine.
const patience = 20 * time.Second

// eventually polls until ok or patience is over.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		if ctx.Err() != nil {
			t.Fatalf("not within %s: %s", patience, what)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// datagrams sends n datagrams of size bytes over UDP and returns how many came
// back from an echo server.
func (l *lab) datagrams(to netip.Addr, size, n int) (int, error) {
	server := in(l.bob, func() (net.PacketConn, error) { return net.ListenPacket("udp", netip.AddrPortFrom(to, 0).String()) })
	defer server.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			k, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:k], from)
		}
	}()
	c := in(l.alice, func() (net.Conn, error) { return net.Dial("udp", server.LocalAddr().String()) })
	defer c.Close()
	buf, got := make([]byte, 65536), 0
	for range n {
		if _, err := c.Write(make([]byte, size)); err != nil {
			return got, err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if k, err := c.Read(buf); err == nil && k == size {
			got++
		}
	}
	return got, nil
}

func TestDatagramsLongerThanTheWire(t *testing.T) {
	l := secured(t)
	for _, to := range []netip.Addr{l.bob.v4, l.bob.v6} {
		for _, size := range []int{1, 8000, 60_000, 65_400} {
			if got, err := l.datagrams(to, size, 3); err != nil || got != 3 {
				t.Errorf("%d bytes to %s: %d of 3 came back, error %v", size, to, got, err)
			}
		}
	}
	l.noClear()
}

func TestTooBigIsAnsweredWhereFragmentsAreForbidden(t *testing.T) {
	l := secured(t)
	c := in(l.alice, func() (*net.UDPConn, error) {
		c, err := net.Dial("udp", netip.AddrPortFrom(l.bob.v4, 9).String())
		if err != nil {
			return nil, err
		}
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return nil, err
		}
		var set error
		err = raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		})
		return c.(*net.UDPConn), errors.Join(err, set)
	})
	defer c.Close()
	eventually(t, "a datagram of 1472 bytes is refused", func() bool {
		_, err := c.Write(make([]byte, 1472))
		return errors.Is(err, syscall.EMSGSIZE)
	})
	eventually(t, "a datagram of 1300 bytes goes", func() bool {
		_, err := c.Write(make([]byte, 1300)) // the first may report the last answer
		return err == nil
	})
	l.noClear()
}

func TestLifetimesEndAssociations(t *testing.T) {
	l := secured(t)
	out, _ := oneWay(suite(t, "esp-aes128gcm"), "v4", l.alice.v4, l.bob.v4, 0x5000)
	out.Lifetime = sadb.Lifetime{Soft: sadb.Limits{Packets: 2}, Hard: sadb.Limits{Packets: 4}}
	l.add(l.alice, out)
	_ = l.alice.ping(l.bob.v4, "-c", "6", "-W", "1")
	if e := expect[driver.Expire](l.alice); e.ID != out.ID || e.Hard {
		t.Errorf("first: %+v", e)
	}
	if e := expect[driver.Expire](l.alice); e.ID != out.ID || !e.Hard {
		t.Errorf("second: %+v", e)
	}
	timed, _ := oneWay(suite(t, "esp-aes128gcm"), "v4", l.alice.v4, l.bob.v4, 0x5001)
	timed.Lifetime = sadb.Lifetime{Soft: sadb.Limits{Time: 50 * time.Millisecond}, Hard: sadb.Limits{Time: 150 * time.Millisecond}}
	l.add(l.alice, timed)
	if e := expect[driver.Expire](l.alice); e.ID != timed.ID || e.Hard {
		t.Errorf("third: %+v", e)
	}
	if e := expect[driver.Expire](l.alice); e.ID != timed.ID || !e.Hard {
		t.Errorf("fourth: %+v", e)
	}
	for _, s := range l.alice.state().SAs {
		if s.SA.ID == out.ID || s.SA.ID == timed.ID {
			t.Errorf("%s is still there", s.SA.ID)
		}
		if s.SA.EncKey.Len()+s.SA.AuthKey.Len() != 0 {
			t.Errorf("%s: State holds keys", s.SA.ID)
		}
	}
	if err := l.alice.ping(l.bob.v4); err != nil {
		t.Errorf("the association before those does not carry again: %v", err)
	}
}

func TestReplacementTakesTheTrafficAndLosesNothing(t *testing.T) {
	l := secured(t)
	ping := exec.Command("ip", "netns", "exec", l.alice.ns, "ping", "-c", "200", "-i", "0.005", "-W", "2", "-q", l.bob.v4.String())
	outText := &strings.Builder{}
	ping.Stdout = outText
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ping.Wait() }()
	for spi := sadb.SPI(0x6000); ; spi += 0x10 {
		l.connect(suite(t, "esp-aes128-sha1"), spi)
		select {
		case err := <-done:
			if err != nil || !strings.Contains(outText.String(), " 0% packet loss") {
				t.Errorf("ping: %v\n%s", err, outText)
			}
			carried := 0
			for _, s := range l.alice.state().SAs {
				if s.SA.Dir == sadb.Out && s.Packets > 0 {
					carried++
				}
			}
			if carried < 3 {
				t.Errorf("only %d associations carried traffic: nothing was replaced", carried)
			}
			l.noClear()
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestSameAssociationAgainGoesOnWithItsNumbers(t *testing.T) {
	l := secured(t)
	seq := func() (n uint64) {
		for _, s := range l.alice.state().SAs {
			if s.SA.ID.SPI == 0x1000 {
				n = s.Seq
			}
		}
		return n
	}
	if err := l.alice.ping(l.bob.v4); err != nil {
		t.Fatal(err)
	}
	before := seq()
	out, _ := oneWay(suite(t, "esp-aes256gcm"), "v4", l.alice.v4, l.bob.v4, 0x1000)
	l.add(l.alice, out)
	if now := seq(); now < before || before == 0 {
		t.Errorf("sequence number %d after %d: the same key would use it twice", now, before)
	}
	if err := l.alice.ping(l.bob.v4); err != nil {
		t.Errorf("traffic stopped: %v", err)
	}
}

func TestAgentMayDieAndComeBack(t *testing.T) {
	l := secured(t)
	if err := l.alice.ping(l.bob.v4); err != nil {
		t.Fatal(err)
	}
	before := l.alice.state()
	l.alice.c.Close()
	if err := l.alice.ping(l.bob.v4); err != nil {
		t.Errorf("traffic stopped with the agent: %v", err)
	}
	l.alice.attach()
	after := l.alice.state()
	if len(after.SAs) != len(before.SAs) || len(after.Filters) != len(before.Filters) || !after.Started.Equal(before.Started) {
		t.Errorf("before %d associations, %d filters; after %d, %d", len(before.SAs), len(before.Filters), len(after.SAs), len(after.Filters))
	}
	l.noClear()
}

func TestUnansweredAcquireComesAgainToAFreshAgent(t *testing.T) {
	l := newLab(t)
	l.alice.start()
	if err := l.alice.c.SetFilters(t.Context(), []sadb.Filter{require("v4", l.bob.v4)}); err != nil {
		t.Fatal(err)
	}
	_ = l.alice.ping(l.bob.v4, "-c", "1", "-W", "1")
	a := expect[driver.Acquire](l.alice)
	old := l.alice.c
	l.alice.attach() // takes over from the first
	if _, err := old.State(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the first agent still controls: %v", err)
	}
	l.alice.state()
	if b := expect[driver.Acquire](l.alice); b != a {
		t.Errorf("got %+v, not %+v", b, a)
	}
	if err := l.alice.c.Abandon(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if c := l.alice.state().Counters; c.Queued != 0 || c.QueueDrops == 0 {
		t.Errorf("after Abandon: %+v", c)
	}
	_ = l.alice.ping(l.bob.v4, "-c", "1", "-W", "1")
	expect[driver.Acquire](l.alice)
}

func TestInboundThatItsAssociationMayNotCarryIsDropped(t *testing.T) {
	l := secured(t)
	out, in := oneWay(suite(t, "esp-aes256gcm"), "v4", l.alice.v4, l.bob.v4, 0x7000)
	in.Selector.Proto = sadb.TCP // alice may send anything by it, bob takes TCP alone
	l.add(l.bob, in)
	l.add(l.alice, out)
	if err := l.alice.ping(l.bob.v4, "-W", "1"); err == nil {
		t.Error("ICMP passed an association for TCP")
	}
	if c := l.bob.state().Counters; c.BadSelector == 0 {
		t.Errorf("counters: %+v", c)
	}
	in.Selector.Proto = 0
	in.Filter = "v6" // of another filter than the one that decides
	l.add(l.bob, in)
	if err := l.alice.ping(l.bob.v4, "-W", "1"); err == nil {
		t.Error("an association of another filter carried the packet")
	}
}

func TestOverlayEndsByItselfWithoutAnAgent(t *testing.T) {
	l := newLab(t)
	l.alice.start()
	if err := l.alice.c.SetFilters(t.Context(), []sadb.Filter{require("v4", l.bob.v4)}); err != nil {
		t.Fatal(err)
	}
	overlay := require("soft", l.bob.v4)
	overlay.Parent, overlay.Action = "v4", sadb.Action{Kind: sadb.Block}
	overlay.Expires = time.Now().Add(300 * time.Millisecond)
	if err := l.alice.c.PutFilter(t.Context(), overlay); err != nil {
		t.Fatal(err)
	}
	if f := l.alice.state().Filters; len(f) != 2 || f[0].Filter.ID != "soft" {
		t.Errorf("filters: %+v", f)
	}
	l.alice.c.Close()
	l.alice.attach()
	eventually(t, "the overlay ends", func() bool { return len(l.alice.state().Filters) == 1 })
}

func TestOverlayEndsWithItsParent(t *testing.T) {
	l := newLab(t)
	l.alice.start()
	set := func(filters ...sadb.Filter) {
		t.Helper()
		if err := l.alice.c.SetFilters(t.Context(), filters); err != nil {
			t.Fatal(err)
		}
	}
	a, b := require("a", l.bob.v4), require("b", l.bob.v6)
	set(a, b)
	overlay := require("over", l.bob.v4)
	overlay.Parent = "a"
	if err := l.alice.c.PutFilter(t.Context(), overlay); err != nil {
		t.Fatal(err)
	}
	b.Name = "renamed"
	set(a, b)
	if f := l.alice.state().Filters; len(f) != 3 || f[0].Filter.ID != "over" || f[2].Filter.Name != "renamed" {
		t.Errorf("the overlay did not survive a change beside it: %+v", f)
	}
	a.Selector.Proto = sadb.TCP
	set(a, b)
	if e := expect[driver.FilterEnded](l.alice); e.ID != "over" {
		t.Errorf("ended: %+v", e)
	}
	if f := l.alice.state().Filters; len(f) != 2 {
		t.Errorf("filters: %+v", f)
	}
}

func TestWhatIsNotCarriedIsRefused(t *testing.T) {
	l := newLab(t)
	l.alice.start()
	c, ctx := l.alice.c, t.Context()
	f := require("a", l.bob.v4)
	if err := c.SetFilters(ctx, []sadb.Filter{f}); err != nil {
		t.Fatal(err)
	}
	delayed, tunnel, child := f, f, f
	delayed.Action.ClearDelay = time.Second
	tunnel.Mode, tunnel.Action.AllowClear = sadb.Tunnel, true
	child.ID, child.Parent = "child", "nobody"
	endless := f
	endless.ID = "endless"
	sa, _ := oneWay(suite(t, "esp-aes256gcm"), "a", l.alice.v4, l.bob.v4, 0x1000)
	twice, shortKey, noWindow := sa, sa, sa
	twice.Bundle = sa.ID
	shortKey.EncKey = sadb.NewSecret([]byte("short"))
	noWindow.Dir, noWindow.Replay = sadb.In, 0
	_, protoErr := c.AllocSPI(ctx, l.bob.v4, l.alice.v4, 7)
	_, mixErr := c.AllocSPI(ctx, l.bob.v6, l.alice.v4, sadb.ESP)
	for what, err := range map[string]error{
		"a filter twice":       c.SetFilters(ctx, []sadb.Filter{f, f}),
		"a delay before clear": c.SetFilters(ctx, []sadb.Filter{delayed}),
		"a tunnel in clear":    c.SetFilters(ctx, []sadb.Filter{tunnel}),
		"an orphan overlay":    c.PutFilter(ctx, child),
		"an endless overlay":   c.PutFilter(ctx, endless),
		"removal of a filter":  c.RemoveFilter(ctx, "a"),
		"ESP over ESP":         c.AddSA(ctx, twice),
		"a short key":          c.AddSA(ctx, shortKey),
		"no replay window":     c.AddSA(ctx, noWindow),
		"another protocol":     protoErr,
		"mixed families":       mixErr,
	} {
		if err == nil {
			t.Errorf("%s passed", what)
		} else if !strings.HasPrefix(err.Error(), "user: ") {
			t.Errorf("%s: error without its package: %v", what, err)
		}
	}
	s := l.alice.state()
	if len(s.Filters) != 1 || s.Filters[0].Filter != f || len(s.SAs) != 0 {
		t.Errorf("refusals changed what is in force: %+v", s)
	}
	if err := errors.Join(c.RemoveFilter(ctx, "gone"), c.DeleteSA(ctx, sa.ID), c.Abandon(ctx, driver.Acquire{})); err != nil {
		t.Errorf("what is gone is an error: %v", err)
	}
}

func TestStrictHostSettingsLoseNothing(t *testing.T) {
	l := newLab(t)
	for _, h := range []*host{l.alice, l.bob} {
		run(t, h.ns, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1",
			"net.ipv6.conf.default.disable_ipv6=1")
		h.start()
	}
	l.requireAll()
	l.connect(suite(t, "esp-aes256-sha256"), 0x9000)
	l.flows()
	l.noClear()
	if got := run(t, l.alice.ns, "cat", "/proc/sys/net/ipv4/conf/all/rp_filter"); got != "1\n" {
		t.Errorf("the setting for all interfaces was changed to %s", got)
	}
}

func TestKernelStatesAreRefused(t *testing.T) {
	l := newLab(t)
	run(t, l.alice.ns, "ip", "xfrm", "state", "allocspi", "src", l.bob.v4.String(), "dst", l.alice.v4.String(), "proto", "esp")
	l.alice.launch()
	err := l.alice.proc.Wait()
	l.alice.proc = nil
	if err == nil || !strings.Contains(l.alice.stderr.String(), "ip xfrm state flush") {
		t.Errorf("ended with %v: %s", err, l.alice.stderr)
	}
}

func TestMissingTUNIsRefused(t *testing.T) {
	l := newLab(t)
	// The mount namespace is that of "ip netns exec": it ends with the process.
	cmd := exec.Command("ip", "netns", "exec", l.alice.ns, "sh", "-c", `mount -t tmpfs none /dev/net && exec "$0"`, os.Args[0])
	cmd.Env = append(cmd.Environ(), datapathEnv+"="+t.TempDir()+"/dp.sock")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "modprobe tun") {
		t.Errorf("ended with %v: %s", err, out)
	}
}

func TestStartRefusesWithTheRemedy(t *testing.T) {
	l := newLab(t)
	l.alice.start()
	second := func(ns string, env ...string) string {
		cmd := exec.Command("ip", "netns", "exec", ns, os.Args[0])
		cmd.Env = append(cmd.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Error("a second data path started")
		}
		return string(out)
	}
	if out := second(l.alice.ns, datapathEnv+"="+l.alice.socket); !strings.Contains(out, "another data path") {
		t.Errorf("in the same namespace: %s", out)
	}
	if out := second(l.bob.ns, datapathEnv+"="+l.alice.socket); !strings.Contains(out, "another data path listens") {
		t.Errorf("on the same socket: %s", out)
	}
	if _, err := l.alice.c.State(t.Context()); err != nil {
		t.Errorf("the refused one cut the agent off: %v", err)
	}
	if err := l.alice.ping(l.bob.v4); err != nil {
		t.Errorf("the refused ones left traffic broken: %v", err)
	}
	if err := Serve(t.Context(), Config{Socket: "x", Steer: 3, Preference: 2000, RouteTable: 254, TUN: "a-name-that-is-too-long", Workers: 99}); err == nil {
		t.Error("a configuration full of errors passed")
	} else if n := strings.Count(err.Error(), "\n") + 1; n != 5 {
		t.Errorf("%d of 5 errors reported: %v", n, err)
	}
}
