package host

import (
	"context"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inNamespace runs the test on a thread of its own in a fresh network
// namespace that ends with it.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	// Never unlocked: the thread ends with the test's goroutine, and the
	// nameless namespace with the thread.
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
}

func addDummy(t *testing.T, name string) netlink.Link {
	t.Helper()
	peer := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
	if err := netlink.LinkAdd(peer); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func address(t *testing.T, s string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestReadListsAddressesAndInterfaces(t *testing.T) {
	inNamespace(t)
	link := addDummy(t, "host0")
	for _, a := range []string{"192.0.2.7/24", "192.0.2.1/24", "10.9.8.7/32"} {
		if err := netlink.AddrAdd(link, address(t, a)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"10.9.8.7", "192.0.2.1", "192.0.2.7"}
	if len(f.Addresses) != len(want) {
		t.Fatalf("addresses %v, want %v", f.Addresses, want)
	}
	for i, w := range want {
		if f.Addresses[i] != netip.MustParseAddr(w) {
			t.Errorf("address %d is %v, want %v", i, f.Addresses[i], w)
		}
	}
	if !f.Owns(netip.MustParseAddr("::ffff:192.0.2.1")) || f.Owns(netip.MustParseAddr("192.0.2.2")) {
		t.Error("Owns is wrong")
	}
	checkInterfaces(t, f.Interfaces)
}

func checkInterfaces(t *testing.T, interfaces []Interface) {
	t.Helper()
	kinds := map[string]Kind{}
	for i, in := range interfaces {
		kinds[in.Name] = in.Kind
		if i > 0 && in.Index <= interfaces[i-1].Index {
			t.Error("interfaces are not sorted by index")
		}
	}
	if kinds["lo"] != Loopback || kinds["host0"] != LAN {
		t.Errorf("kinds %v", kinds)
	}
}

func TestZoneOfLinkLocalAddresses(t *testing.T) {
	ll := netip.MustParseAddr("fe80::1")
	f := Facts{Interfaces: []Interface{
		{Name: "down0", Addresses: []netip.Addr{ll}},
		{Name: "eth0", Up: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), ll}},
	}}
	for address, want := range map[string]string{"fe80::1": "eth0", "fe80::1%x": "eth0", "fe80::2": "", "192.0.2.1": "", "169.254.0.1": ""} {
		if got := f.Zone(netip.MustParseAddr(address)); got != want {
			t.Errorf("zone of %s is %q, want %q", address, got, want)
		}
	}
}

func TestKindOfPointToPoint(t *testing.T) {
	if k := kindOf(&netlink.LinkAttrs{EncapType: "ppp"}); k != RemoteAccess {
		t.Errorf("ppp is %s", k)
	}
}

func TestWatchHintsAtAddresses(t *testing.T) {
	inNamespace(t)
	link := addDummy(t, "host0")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hints, err := Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, address(t, "192.0.2.1/24")); err != nil {
		t.Fatal(err)
	}
	expectHint(t, hints)
	if f, err := Read(); err != nil || !f.Owns(netip.MustParseAddr("192.0.2.1")) {
		t.Fatalf("after the hint: %v, %v", f.Addresses, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	expectHint(t, hints)
	cancel()
	expectClosed(t, hints)
}

func expectHint(t *testing.T, hints <-chan struct{}) {
	t.Helper()
	select {
	case <-hints:
	case <-time.After(5 * time.Second):
		t.Fatal("no hint within 5 s")
	}
}

func expectClosed(t *testing.T, hints <-chan struct{}) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case _, ok := <-hints:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the channel does not close with the context")
		}
	}
}
