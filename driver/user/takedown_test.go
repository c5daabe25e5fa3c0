package user

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
