package nft

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// heldConfig is the configuration of a kernel without persistent tables.
func heldConfig() Config {
	cfg := testConfig()
	cfg.held = true
	return cfg
}

// TestHeldTable: the table is in force as long as somebody has the socket, is
// protected between two data paths as well, and ends with the socket.
func TestHeldTable(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.watchWire()
	table, err := l.openWith(heldConfig())
	if err != nil {
		t.Fatal(err)
	}
	apply(t, table, filter("all", block))
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if out := l.inA("nft list table inet ipsecagent"); !strings.Contains(out, "owner") || strings.Contains(out, "persist") {
		t.Errorf("flags of the table:\n%.200s", out)
	}
	l.inA("nft flush ruleset")
	if out, err := exec.Command("ip", "netns", "exec", l.a, "nft", "delete", "table", "inet", "ipsecagent").CombinedOutput(); err == nil {
		t.Errorf("nobody works with the table, and another may delete it: %s", out)
	}
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("not in force after Close: %v", err)
	}
	l.leaveUnread()
	if table, err = l.openWith(heldConfig()); err != nil {
		t.Fatal(err)
	}
	apply(t, table, filter("all", block), udpFilter("x", 1, permit))
	if s := stats(t, table); s.Filters[0].Dropped != 1 || l.arrived() != 0 {
		t.Errorf("%+v, %d arrived", s, l.arrived())
	}
	table.Close()
	l.kept.Close()
	if out := l.inA("nft list tables"); strings.Contains(out, "ipsecagent") {
		t.Errorf("the table outlives its socket:\n%s", out)
	}
}

// leaveUnread asks for a listing over the table's socket and leaves it there,
// as a data path that is killed does.
func (l *lab) leaveUnread() {
	l.t.Helper()
	fd, err := l.socket()
	if err != nil {
		l.t.Fatal(err)
	}
	var c *conn
	in(l.t, l.a, func() { c, err = adopt(fd) })
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.nl.Close()
	data, err := encode(unix.NFPROTO_INET, func(attrs) {})
	if err != nil {
		l.t.Fatal(err)
	}
	m := envelope(subsystem | unix.NFT_MSG_GETRULE)
	m.Header.Flags |= 0x300 // NLM_F_DUMP
	m.Data = data
	if _, err := c.nl.Send(m); err != nil {
		l.t.Fatal(err)
	}
}

// TestHeldTableIsRestored: what its owner loses comes back as an owned table.
func TestHeldTableIsRestored(t *testing.T) {
	l := newLab(t)
	table, err := l.openWith(heldConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	apply(t, table, filter("all", block))
	err = table.do(func(e *engine) error {
		var b batch
		e.deleteTable(&b)
		if err := e.conn.commit(&b); err != nil {
			return err
		}
		table.check(e)
		return nil
	})
	if r := <-table.Tampered(); err != nil || !r.Restored {
		t.Errorf("%+v, %v", r, err)
	}
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("not in force again: %v", err)
	}
}

func TestHeldTableNeedsTheRightSocket(t *testing.T) {
	l := newLab(t)
	socket := func(family, protocol int, bind unix.Sockaddr) func() (int, error) {
		return func() (int, error) {
			fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
			if err == nil && bind != nil {
				err = unix.Bind(fd, bind)
			}
			return fd, err
		}
	}
	bound := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	elsewhere, err := socket(unix.AF_NETLINK, unix.NETLINK_NETFILTER, bound)() // not in host a
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		socket func() (int, error)
		want   string
	}{
		"none to be had":    {func() (int, error) { return -1, errors.New("no holder") }, "no holder"},
		"of routing":        {socket(unix.AF_NETLINK, unix.NETLINK_ROUTE, bound), "no bound netfilter"},
		"without a port":    {socket(unix.AF_NETLINK, unix.NETLINK_NETFILTER, nil), "no bound netfilter"},
		"no netlink":        {socket(unix.AF_INET, unix.IPPROTO_ICMP, nil), "no bound netfilter"},
		"another namespace": {func() (int, error) { return elsewhere, nil }, "another network namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := heldConfig()
			cfg.Socket = c.socket
			in(t, l.a, func() {
				if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("open: %v", err)
				}
			})
		})
	}
	if out := l.inA("nft list tables"); out != "" {
		t.Errorf("left: %s", out)
	}
}

// TestHeldTableOfAnother: a table whose owner has another socket stays theirs.
func TestHeldTableOfAnother(t *testing.T) {
	l := newLab(t)
	first, err := l.openWith(heldConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	other := &lab{t: t, a: l.a, b: l.b}
	if _, err := other.openWith(heldConfig()); err == nil || !strings.Contains(err.Error(), "another process owns") {
		t.Errorf("open: %v", err)
	}
	if _, err := other.openWith(testConfig()); err == nil {
		t.Error("a table that is owned and not persistent was taken")
	}
}
