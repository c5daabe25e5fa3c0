package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

var (
	require = sadb.Action{Kind: sadb.Negotiate}
	request = sadb.Action{Kind: sadb.Negotiate, AllowClear: true, PassThrough: true}
	block   = sadb.Action{}
	permit  = sadb.Action{Kind: sadb.Permit}
)

// filter covers what goes between this host and any other.
func filter(id string, a sadb.Action) sadb.Filter {
	return sadb.Filter{ID: sadb.FilterID(id), Name: id, Dir: sadb.Both,
		Selector: sadb.Selector{Local: sadb.Me()}, Action: a}
}

// udpFilter covers UDP to or from one port of the others.
func udpFilter(id string, port uint16, a sadb.Action) sadb.Filter {
	f := filter(id, a)
	f.Selector.Proto, f.Selector.RemotePorts = sadb.UDP, sadb.Port(port)
	return f
}

func oneWay(f sadb.Filter, dir sadb.Directions) sadb.Filter {
	f.Dir = dir
	return f
}

func TestActionsOutbound(t *testing.T) {
	for _, c := range []struct {
		name    string
		action  sadb.Action
		arrives uint64
		want    Stats
	}{
		{"permit", permit, 1, Stats{}},
		{"block", block, 0, Stats{}},
		// The TUN of the test is a wire that carries nothing back: what is
		// steered never reaches b by the first wire.
		{"require", require, 0, Stats{LastChain: 1}},
		{"request", request, 1, Stats{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, to := range []string{"10.9.0.2:7000", "[fd09::2]:7000"} {
				l := newLab(t)
				l.warm()
				l.watchWire()
				table := l.open()
				apply(t, table, oneWay(filter(c.name, c.action), sadb.Out))
				err := udp(t, l.a, "", to, 10, nil)
				if c.arrives == 1 && err != nil || c.arrives == 0 && !errors.Is(err, unix.EPERM) {
					t.Errorf("%s: send: %v", to, err)
				}
				if got := l.arrived(); got != c.arrives {
					t.Errorf("%s: %d packets arrived, want %d", to, got, c.arrives)
				}
				s := stats(t, table)
				if s.LastChain != c.want.LastChain || s.Filters[0].Packets != 1 {
					t.Errorf("%s: counters %+v", to, s)
				}
				if drops := s.Filters[0].Dropped; drops != 1-c.arrives {
					t.Errorf("%s: filter dropped %d", to, drops)
				}
			}
		})
	}
}

func TestActionsInbound(t *testing.T) {
	for _, c := range []struct {
		name     string
		action   sadb.Action
		delivers bool
		inClear  uint64
	}{
		{"permit", permit, true, 0},
		{"block", block, false, 0},
		{"require", require, false, 1},
		{"require, accept unsecured", sadb.Action{Kind: sadb.Negotiate, PassThrough: true}, true, 0},
		{"request, accept unsecured", request, true, 0},
		{"request", sadb.Action{Kind: sadb.Negotiate, AllowClear: true}, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, to := range []string{"10.9.0.1:7000", "[fd09::1]:7000"} {
				l := newLab(t)
				l.warm()
				table := l.open()
				apply(t, table, oneWay(filter(c.name, c.action), sadb.In))
				got := l.receiver(to)
				if err := udp(t, l.b, "", to, 10, nil); err != nil {
					t.Fatal(err)
				}
				if d := got(); d != c.delivers {
					t.Errorf("%s: delivered %t, want %t", to, d, c.delivers)
				}
				s := stats(t, table)
				if s.InClear != c.inClear || s.Filters[0].Packets != 1 {
					t.Errorf("%s: counters %+v", to, s)
				}
			}
		})
	}
}

func TestFirstFilterDecides(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.watchWire()
	table := l.open()
	apply(t, table, udpFilter("dns", 53, permit), udpFilter("secret", 99, block), oneWay(filter("rest", require), sadb.Out))
	udp(t, l.a, "", "10.9.0.2:53", 10, nil)
	udp(t, l.a, "", "10.9.0.2:99", 10, nil)
	udp(t, l.a, "", "10.9.0.2:54", 10, nil)
	if got := l.arrived(); got != 1 {
		t.Errorf("%d packets arrived, want the permitted one", got)
	}
	s := stats(t, table)
	for i, want := range []uint64{0, 1, 1} {
		if f := s.Filters[i]; f.Packets != 1 || f.Dropped != want {
			t.Errorf("%s: %d packets, %d dropped", f.Filter.ID, f.Packets, f.Dropped)
		}
	}
	apply(t, table, oneWay(filter("rest", require), sadb.Out), udpFilter("dns", 53, permit))
	udp(t, l.a, "", "10.9.0.2:53", 10, nil)
	if got := l.arrived(); got != 1 {
		t.Errorf("after the order changed %d packets arrived", got)
	}
	if s := stats(t, table); s.Filters[0].Packets != 2 || s.Filters[1].Packets != 1 {
		t.Errorf("counters did not survive: %+v", s.Filters)
	}
}

func TestSteeredByMark(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.watchWire()
	l.inA("ip rule add fwmark 0x01000000/0x01000000 lookup 900 pref 900")
	l.inA("ip route add default dev tun9 table 900")
	l.inA("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:01 dev tun9")
	table := l.open()
	apply(t, table, filter("all", require))
	for range 3 {
		if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); err != nil {
			t.Fatal(err)
		}
	}
	var packets, bytes uint64
	out := l.inB("cat /sys/class/net/tun8/statistics/rx_packets")
	if fmt.Sscan(out, &packets, &bytes); packets < 3 {
		t.Errorf("%d packets came to the TUN", packets)
	}
	if s := stats(t, table); l.arrived() != 0 || s.LastChain != 0 || s.Filters[0].Packets != 3 {
		t.Errorf("arrived in clear %d, %+v", l.arrived(), s)
	}
}

func TestSameListChangesNothing(t *testing.T) {
	l := newLab(t)
	table := l.open()
	list := []sadb.Filter{udpFilter("dns", 53, permit), filter("rest", require)}
	apply(t, table, list...)
	before := l.inA("nft -s -a list ruleset")
	apply(t, table, list...)
	list[0].Name = "renamed"
	apply(t, table, list...)
	if after := l.inA("nft -s -a list ruleset"); before != after {
		t.Errorf("the kernel's rules changed\n%s\n%s", before, after)
	}
	if s := stats(t, table); s.Filters[0].Filter.Name != "renamed" {
		t.Error("the new name is not shown")
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	l := newLab(t)
	table := l.open()
	list := []sadb.Filter{filter("rest", request)}
	apply(t, table, list...)
	before := strings.Count(l.inA("nft list ruleset"), "\n")
	if !strings.Contains(l.inA("nft list ruleset"), `comment "rest"`) {
		t.Error("a listing does not name the filter")
	}
	for i := range 20 {
		apply(t, table, udpFilter(fmt.Sprint(i), uint16(i+1), request), list[0])
		apply(t, table, oneWay(list[0], sadb.Out)) // nothing for some chains
	}
	apply(t, table, list...)
	if after := strings.Count(l.inA("nft list ruleset"), "\n"); before != after {
		t.Errorf("%d lines of rules, %d before", after, before)
	}
}

func TestErrorLeavesInForce(t *testing.T) {
	l := newLab(t)
	l.watchWire()
	table := l.open()
	apply(t, table, filter("all", block))
	for _, bad := range [][]sadb.Filter{
		{filter("", permit)}, {filter("x", permit), filter("x", block)},
		{filter(strings.Repeat("x", 65), permit)},
	} {
		if err := table.Apply(bad); err == nil {
			t.Error("accepted", bad)
		}
	}
	udp(t, l.a, "", "10.9.0.2:7000", 10, nil)
	if l.arrived() != 0 {
		t.Error("a packet left after a refused list")
	}
}

func TestOwnedTable(t *testing.T) {
	l := newLab(t)
	l.watchWire()
	table := l.open()
	apply(t, table, filter("all", block))
	exec.Command("ip", "netns", "exec", l.a, "nft", "flush", "ruleset").Run()
	for _, c := range []string{"delete table inet ipsecagent", "flush table inet ipsecagent",
		"add rule inet ipsecagent last accept", "flush chain inet ipsecagent last4", "add table inet ipsecagent"} {
		args := append([]string{"netns", "exec", l.a, "nft"}, strings.Fields(c)...)
		if out, err := exec.Command("ip", args...).CombinedOutput(); err == nil && !strings.HasPrefix(c, "add table") {
			t.Errorf("nft %s was allowed: %s", c, out)
		}
	}
	if _, err := l.tryOpen(); err == nil || !strings.Contains(err.Error(), "another data path holds it") {
		t.Errorf("second open: %v", err)
	}
	udp(t, l.a, "", "10.9.0.2:7000", 10, nil)
	if s := stats(t, table); l.arrived() != 0 || s.Filters[0].Dropped != 1 {
		t.Errorf("not in force: %+v", s)
	}
}

func TestForeignTableIsRefused(t *testing.T) {
	l := newLab(t)
	l.inA("nft add table inet ipsecagent")
	if _, err := l.tryOpen(); err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("open: %v", err)
	}
}

func TestKilledOwner(t *testing.T) { killedOwner(t, "TestKilledOwner", testConfig()) }

// TestKilledOwnerHeld: the same where the table goes with its socket, and a
// process keeps that socket.
func TestKilledOwnerHeld(t *testing.T) {
	cfg := testConfig()
	cfg.held = true
	killedOwner(t, "TestKilledOwnerHeld", cfg)
}

// killedOwner is its own helper process: with NFT_TEST_NAMESPACE it applies a
// filter there and waits to be killed.
func killedOwner(t *testing.T, name string, cfg Config) {
	if ns := os.Getenv("NFT_TEST_NAMESPACE"); ns != "" {
		cfg.Socket = func() (int, error) { return 3, nil }
		in(t, ns, func() {
			table, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			apply(t, table, filter("all", block), udpFilter("x", 1, permit))
			fmt.Println("in force")
			select {}
		})
	}
	l := newLab(t)
	l.warm()
	l.watchWire()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+name+"$")
	kept, err := l.socket()
	if err != nil {
		t.Fatal(err)
	}
	child.ExtraFiles = []*os.File{os.NewFile(uintptr(kept), "table")} // 3
	defer child.ExtraFiles[0].Close()
	child.Env = append(os.Environ(), "NFT_TEST_NAMESPACE="+l.a)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	child.Process.Signal(syscall.SIGKILL)
	child.Wait()
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); !errors.Is(err, unix.EPERM) || l.arrived() != 0 {
		t.Fatalf("a packet left after the owner was killed: %v", err)
	}
	table, err := l.openWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("adopting the table opened it: %v", err)
	}
	apply(t, table, filter("all", block))
	if s := stats(t, table); s.Filters[0].Dropped != 2 {
		t.Errorf("counters did not survive: %+v", s)
	}
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); err != nil || l.arrived() != 1 {
		t.Errorf("after Remove: %v, %d arrived", err, l.arrived())
	}
}

func TestRequestReportsAndLists(t *testing.T) {
	l := newLab(t)
	l.warm()
	table := l.open()
	apply(t, table, filter("ask", request))
	for range 5 {
		if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case a := <-table.Asked():
		f := a.Flow
		if a.Filter != "ask" || f.Remote != netip.MustParseAddr("10.9.0.2") || f.RemotePort != 7000 || f.Proto != sadb.UDP || !f.LocalMe {
			t.Errorf("asked %+v", a)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no report of the first packet in clear")
	}
	if n := len(table.Asked()); n != 0 {
		t.Errorf("%d more reports of one peer", n)
	}
	udp(t, l.b, "", "[fd09::1]:7000", 10, nil)
	peers, full, err := table.ClearPeers()
	if err != nil || full || len(peers) == 0 {
		t.Fatal(peers, full, err)
	}
	var out, inbound bool
	for _, p := range peers {
		if p.Filter != "ask" || time.Since(p.Since) > time.Minute || p.Last.Before(p.Since) {
			t.Errorf("peer %+v", p)
		}
		out = out || !p.Inbound && p.Remote == netip.MustParseAddr("10.9.0.2") && p.Local == netip.MustParseAddr("10.9.0.1") && p.Packets == 5
		inbound = inbound || p.Inbound && p.Remote == netip.MustParseAddr("fd09::2") && p.Local == netip.MustParseAddr("fd09::1")
	}
	if !out || !inbound {
		t.Errorf("peers %+v", peers)
	}
}

func TestClearPeersAreBounded(t *testing.T) {
	l := newLab(t)
	cfg := testConfig()
	cfg.ClearPeersMax = 8
	table, err := l.openWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	apply(t, table, filter("ask", request))
	l.inA("ip neigh add 10.9.0.40 lladdr 02:00:00:00:00:01 dev va")
	for i := range 20 {
		l.inA(fmt.Sprintf("ip neigh replace 10.9.0.%d lladdr 02:00:00:00:00:01 dev va", 100+i))
		if err := udp(t, l.a, "", fmt.Sprintf("10.9.0.%d:7000", 100+i), 10, nil); err != nil {
			t.Fatalf("a full set stopped traffic: %v", err)
		}
	}
	peers, full, err := table.ClearPeers()
	if err != nil || !full || len(peers) > 8 {
		t.Errorf("%d peers, full %t, %v", len(peers), full, err)
	}
}
