package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"ipsecagent/auth"
)

// server is the address of the end that answers, gateway that of the namespace
// of the peers on the same link.
func server() netip.Addr  { return netip.AddrFrom4([4]byte{10, 78, 0, 1}) }
func gateway() netip.Addr { return netip.AddrFrom4([4]byte{10, 78, 0, 2}) }

// peerAddr is the address of the nth peer, counted from 0.
func peerAddr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 79, byte(1 + n/250), byte(1 + n%250)})
}

// lab is two network namespaces joined by a veth pair: one has the server's
// address, the other one an address for each peer. The peers are behind a
// gateway, or the kernel's table of neighbours would be measured too.
type lab struct {
	dir       string
	shim      string // compiled
	one, many string // namespaces
	peers     int
	pkis      map[string]*pki // by the scenario's name
}

func newLab(o options) (*lab, error) {
	dir, err := os.MkdirTemp("", "handshakes-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, shim: filepath.Join(dir, "xfrmnull.so"), peers: o.peers, pkis: map[string]*pki{},
		one: fmt.Sprintf("bench-%d-one", os.Getpid()), many: fmt.Sprintf("bench-%d-many", os.Getpid())}
	if err := l.build(o); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) build(o options) error {
	if o.only != "ours" {
		if err := command("gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-O2", "-o", l.shim, o.shim, "-ldl"); err != nil {
			return err
		}
	}
	steps := []string{
		"netns add " + l.one, "netns add " + l.many,
		"-n " + l.many + " link add veth0 type veth peer name veth0 netns " + l.one,
		fmt.Sprintf("-n %s addr add %s/30 dev veth0", l.one, server()),
		fmt.Sprintf("-n %s addr add %s/30 dev veth0", l.many, gateway()),
		"-n " + l.one + " link set lo up", "-n " + l.many + " link set lo up",
		"-n " + l.one + " link set veth0 up", "-n " + l.many + " link set veth0 up",
		fmt.Sprintf("-n %s route add 10.79.0.0/16 via %s", l.one, gateway()),
	}
	for _, s := range steps {
		if err := command("ip", strings.Fields(s)...); err != nil {
			return err
		}
	}
	return l.addAddresses()
}

func (l *lab) addAddresses() error {
	var batch strings.Builder
	for n := range l.peers {
		fmt.Fprintf(&batch, "addr add %s/32 dev lo\n", peerAddr(n))
	}
	cmd := exec.Command("ip", "-n", l.many, "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("add addresses: %w: %s", err, out)
	}
	return nil
}

// certify makes the certificates of a scenario, if it takes any.
func (l *lab) certify(s scenario) error {
	if s.method == auth.PSK {
		return nil
	}
	p, err := newPKI(s.method)
	if err != nil {
		return err
	}
	l.pkis[s.name] = p
	return p.write(l.certificates(s))
}

func (l *lab) certificates(s scenario) string { return filepath.Join(l.dir, "pki-"+s.name) }

// close takes everything down again. What was never made is no error.
func (l *lab) close() {
	for _, ns := range []string{l.one, l.many} {
		endProcesses(ns)
		_ = command("ip", "netns", "del", ns)
	}
	_ = os.RemoveAll(l.dir)
}

// endProcesses ends what is left in a namespace.
func endProcesses(ns string) {
	out, err := exec.Command("ip", "netns", "pids", ns).Output()
	if err != nil {
		return // there is no such namespace
	}
	for _, field := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
