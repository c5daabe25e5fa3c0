// Package dirtest runs directories for tests: a domain controller of Samba, and
// OpenLDAP, each in a network namespace of its own with nothing but a loopback
// interface. It is imported by tests and benchmarks alone and knows nothing of this
// project.
package dirtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
)

// Namespace is a network namespace with a loopback interface.
type Namespace struct {
	name   string
	handle netns.NsHandle
}

// NewNamespace makes one. It needs root.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{name: fmt.Sprintf("dir-%08x", rand.Uint32())}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w: %s", err, out)
	}
	if out, err := exec.Command("ip", "-n", n.name, "link", "set", "lo", "up").CombinedOutput(); err != nil {
		n.Close()
		return nil, fmt.Errorf("set up a network namespace: %w: %s", err, out)
	}
	var err error
	n.handle, err = netns.GetFromName(n.name)
	return n, err
}

// Name returns the name that ip netns knows it by.
func (n *Namespace) Name() string { return n.name }

// Command runs a program in the namespace.
func (n *Namespace) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.name, name}, args...)...)
}

// Close removes it.
func (n *Namespace) Close() {
	n.handle.Close()
	_ = exec.Command("ip", "netns", "delete", n.name).Run() // it may be gone already
}

// Dial connects within the namespace, where every name is its loopback address.
func (n *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		host = "127.0.0.1"
	}
	type dialed struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialed, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := netns.Set(n.handle); err != nil {
			done <- dialed{nil, err}
			return
		}
		// An address alone is dialed on this very thread.
		conn, err := (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, net.JoinHostPort(host, port))
		done <- dialed{conn, err}
	}()
	got := <-done
	return got.conn, got.err
}

// dialAlways dials one address, whatever is asked for.
func (n *Namespace) dialAlways(address string) func(ctx context.Context, network, _ string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) { return n.Dial(ctx, network, address) }
}

// Await waits until something listens at TCP addresses: on an emulated machine
// a domain controller takes minutes to come up.
func (n *Namespace) Await(addresses ...string) error {
	deadline := time.Now().Add(5 * time.Minute)
	for _, a := range addresses {
		for {
			conn, err := n.Dial(context.Background(), "tcp", a)
			if err == nil {
				conn.Close()
				break
			}
			if time.Now().After(deadline) {
				return errors.Join(fmt.Errorf("nothing listens at %s", a), err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}
