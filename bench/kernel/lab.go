package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// maxPeers is how many peerAddr can tell apart.
const maxPeers = 60_000

// The addresses of the lab: alice has one, bob many behind one on the wire.
func alice() netip.Addr   { return netip.AddrFrom4([4]byte{10, 80, 0, 1}) }
func gateway() netip.Addr { return netip.AddrFrom4([4]byte{10, 80, 0, 2}) }
func peerAddr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 81, byte(n / 250), byte(1 + n%250)})
}

// prefix begins the names of all namespaces of this run.
func prefix() string { return fmt.Sprintf("bench-%d-", os.Getpid()) }

// namespace makes a network namespace and returns its name.
func namespace(name string) (string, error) {
	ns := prefix() + name
	if err := command("ip", "netns", "add", ns); err != nil {
		return "", err
	}
	return ns, command("ip", "-n", ns, "link", "set", "lo", "up")
}

// removeNamespace ends what runs in a namespace, then the namespace. The kernel
// takes its policies and states down behind our back: that is awaited, or it
// would be measured with what comes next.
func removeNamespace(ns string) {
	endProcesses(ns)
	_ = command("ip", "netns", "del", ns)
	time.Sleep(settle)
}

const settle = 500 * time.Millisecond

// removeNamespaces removes all that this run has left.
func removeNamespaces() {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(out)) {
		if strings.HasPrefix(field, prefix()) {
			endProcesses(field)
			_ = command("ip", "netns", "del", field)
		}
	}
}

func endProcesses(ns string) {
	out, err := exec.Command("ip", "netns", "pids", ns).Output()
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// join makes a wire between two namespaces: alice's and that of so many peers.
func join(alices, bobs string, peers int) error {
	for _, s := range []string{
		"-n " + alices + " link add wire type veth peer name wire netns " + bobs,
		fmt.Sprintf("-n %s addr add %s/30 dev wire", alices, alice()),
		fmt.Sprintf("-n %s addr add %s/30 dev wire", bobs, gateway()),
		"-n " + alices + " link set wire up", "-n " + bobs + " link set wire up",
		fmt.Sprintf("-n %s route add 10.81.0.0/16 via %s", alices, gateway()),
	} {
		if err := command("ip", strings.Fields(s)...); err != nil {
			return err
		}
	}
	var batch strings.Builder
	for n := range peers {
		fmt.Fprintf(&batch, "addr add %s/32 dev lo\n", peerAddr(n))
	}
	return piped(batch.String(), "ip", "-n", bobs, "-batch", "-")
}

// in calls f on a thread in a namespace: sockets that it opens stay there.
func in[T any](ns string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	go func() {
		var r result
		r.value, r.err = visit(ns, f)
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// visit calls f in a namespace and takes the thread back to its own. One that
// cannot go back is not used any more.
func visit[T any](ns string, f func() (T, error)) (value T, err error) {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		return value, err
	}
	defer own.Close()
	there, err := netns.GetFromName(ns)
	if err != nil {
		return value, err
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return value, err
	}
	value, err = f()
	if netns.Set(own) == nil {
		runtime.UnlockOSThread()
	}
	return value, err
}

func command(name string, args ...string) error { return piped("", name, args...) }

func piped(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// protocols is the table in which ip looks up every protocol that a command names.
const protocols = "/etc/protocols"

// timed runs ip in a namespace and returns how long it took. Where the files of
// the machine are another's (9P), opening protocols takes longer than everything
// else that a command does: it sees a copy in memory.
func (b *bench) timed(ns, stdin string, args ...string) (time.Duration, error) {
	table, err := os.ReadFile(protocols)
	if err != nil {
		return 0, err
	}
	there := filepath.Join(b.dir, "protocols")
	if err := os.WriteFile(there, table, 0o644); err != nil {
		return 0, err
	}
	in := []string{"netns", "exec", ns, "sh", "-c", `mount --bind "$0" ` + protocols + ` && exec ip "$@"`, there}
	began := time.Now()
	err = piped(stdin, "ip", append(in, args...)...)
	return time.Since(began), err
}
