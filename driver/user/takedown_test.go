package user

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// TestTakeDownLeavesNothing: the data path removes what it has in force where
// it runs, says so to whoever asked from outside, and ends.
func TestTakeDownLeavesNothing(t *testing.T) {
	l := newLab(t)
	h := l.alice
	h.start()
	err := h.c.SetFilters(t.Context(), []sadb.Filter{{ID: "f", Dir: sadb.Out | sadb.In,
		Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(l.bob.v4)}, Action: sadb.Action{Kind: sadb.Block}}})
	if err != nil {
		t.Fatal(err)
	}
	removed, err := TakeDown(t.Context(), h.socket)
	if err != nil {
		t.Fatal(err)
	}
	want := "1 filter, 0 associations, nftables table ipsecagent, TUN device ipsec0, ip rule 900 (IPv4)"
	if got := strings.Join(removed, ", "); !strings.HasPrefix(got, want) {
		t.Errorf("it says %q", got)
	}
	if err := h.proc.Wait(); err != nil {
		t.Errorf("the data path ends with %v: %s", err, h.stderr)
	}
	h.proc = nil
	left := run(t, h.ns, "nft", "list", "tables") + run(t, h.ns, "ip", "rule", "list", "pref", "900") + run(t, h.ns, "ip", "-6", "rule", "list", "pref", "899") +
		run(t, h.ns, "ip", "-o", "link", "show", "type", "tun") + run(t, h.ns, "ip", "route", "show", "table", "all", "type", "blackhole")
	if strings.TrimSpace(left) != "" {
		t.Errorf("left in force:\n%s", left)
	}
	if _, err := TakeDown(t.Context(), h.socket); err == nil {
		t.Error("one that has ended answers")
	}
}

// TestTakeDownOfADataPathThatHangs ends with its context.
func TestTakeDownOfADataPathThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dp.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := TakeDown(ctx, path); err == nil || !strings.Contains(err.Error(), "does not say that it ends") {
		t.Errorf("got %v", err)
	}
}

// TestRoutingOfADataPathThatIsGone: for the driver that has taken over its rules
// and routes are removed, those of others and everything that enforces stay.
func TestRoutingOfADataPathThatIsGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		for _, line := range []string{
			"ip rule add pref 900 fwmark 0x1000000/0x1000000 lookup 900",
			"ip -6 rule add pref 900 fwmark 0x1000000/0x1000000 lookup 900",
			"ip rule add pref 899 iif ipsec0 lookup main",
			"ip rule add pref 901 fwmark 0x1000000/0x1000000 lookup 900",
			"ip route add blackhole default table 900 metric 4000",
			"ip route add blackhole 10.0.0.0/8 table 900 metric 5",
			"nft add table inet ipsecagent",
		} {
			if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", line, err, out)
			}
		}
		for _, want := range []int{4, 0} {
			removed, err := RemoveRouting(Config{})
			if err != nil || len(removed) != want {
				t.Errorf("removed %q, %v; want %d", removed, err, want)
			}
		}
		out, err := exec.Command("sh", "-c", "ip rule; ip -6 rule; ip route show table 900; nft list tables").CombinedOutput()
		text := string(out)
		if err != nil || strings.Contains(text, "899:") || strings.Contains(text, "900:") || !strings.Contains(text, "901:") ||
			strings.Contains(text, "blackhole default") || !strings.Contains(text, "blackhole 10.0.0.0/8") || !strings.Contains(text, "inet ipsecagent") {
			t.Errorf("%v: left are\n%s", err, text)
		}
	}()
	<-done
}

// TestRulesThatTheKernelHasNot: a family for which the kernel has no ip rules has
// none to be removed, which is no error.
func TestRulesThatTheKernelHasNot(t *testing.T) {
	s, err := openSystem(Config{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	none := s.steering(unix.AF_APPLETALK)
	if rules, err := s.nl.RuleList(none.Family); err == nil {
		t.Fatalf("the kernel lists %d rules of a family without any", len(rules))
	}
	if was, err := s.removeRule(none); was || err != nil {
		t.Errorf("removed %v, error %v", was, err)
	}
}
