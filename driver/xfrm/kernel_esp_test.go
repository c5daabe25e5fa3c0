//go:build esp

package xfrm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("%s: not within %s", what, patience)
}

// event waits for an event that fits and drops those before it.
func event(t *testing.T, d *Driver, what string, fits func(driver.Event) bool) driver.Event {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case ev := <-d.Events():
			if fits(ev) {
				return ev
			}
		case <-end:
			t.Fatalf("no event within %s: %s", patience, what)
		}
	}
}

func asksFor(id sadb.FilterID) func(driver.Event) bool {
	return func(ev driver.Event) bool {
		a, ok := ev.(driver.Acquire)
		return ok && a.Filter == id
	}
}

// linkLocal returns the address that the kernel has given eth0, when it may be
// used.
func (h *host) linkLocal() (a netip.Addr) {
	h.t.Helper()
	eventually(h.t, "a link-local address", func() bool {
		var links []struct {
			IfIndex  int `json:"ifindex"`
			AddrInfo []struct {
				Local     string
				Tentative bool
			} `json:"addr_info"`
		}
		if err := json.Unmarshal([]byte(run(h.t, h.ns, "ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "link")), &links); err != nil {
			h.t.Fatal(err)
		}
		for _, l := range links {
			for _, i := range l.AddrInfo {
				if i.Local != "" && !i.Tentative { // those of other scopes are empty
					a = netip.MustParseAddr(i.Local).WithZone("eth0")
				}
			}
		}
		return a.IsValid()
	})
	return a
}

// connect puts an association from one host to another in force, the receiving
// half first, its SPI reserved as the key exchange does.
func connect(t *testing.T, from, to *Driver, src, dst netip.Addr) sadb.SA {
	t.Helper()
	ctx := context.Background()
	spi, err := to.AllocSPI(ctx, src, dst, sadb.ESP)
	if err != nil {
		t.Fatal(err)
	}
	sa := testSA(sadb.Out, sadb.ESP, spi)
	sa.Src, sa.ID.Dst, sa.Filter, sa.Selector = src, dst, "f", sadb.Selector{Proto: sadb.UDP}.Narrow(src, dst)
	in := sa
	in.Dir, in.Selector = sadb.In, sa.Selector.Mirror()
	if err := to.AddSA(ctx, in); err != nil {
		t.Fatal(err)
	}
	if err := from.AddSA(ctx, sa); err != nil {
		t.Fatal(err)
	}
	return sa
}

func setAll(t *testing.T, d *Driver, filters ...sadb.Filter) {
	t.Helper()
	if err := d.SetFilters(context.Background(), filters); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, ch <-chan []byte, want string) {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case got := <-ch:
			if string(got) == want {
				return
			}
		case <-end:
			t.Fatalf("%q did not arrive within %s", want, patience)
		}
	}
}

// Link-local addresses are secured like others; the key exchange names them with
// their zone.
func TestKernelLinkLocalAddresses(t *testing.T) {
	l := newLab(t)
	a, b := l.alice.linkLocal(), l.bob.linkLocal()
	alice, bob := l.alice.open(), l.bob.open()
	setAll(t, alice, between("f", b))
	setAll(t, bob, between("f", a))
	at := netip.AddrPortFrom(b, 7000)
	ch := l.bob.listen(t, at)
	send := func() { l.alice.send(netip.AddrPortFrom(a, 7001), at, []byte("hello")) }
	send()
	event(t, alice, "the question", asksFor("f"))
	sa := connect(t, alice, bob, a, b)
	receive(t, ch, "hello")
	event(t, bob, "the first use", func(ev driver.Event) bool { u, ok := ev.(driver.Used); return ok && u.ID.SPI == sa.ID.SPI })
	if n := l.wireCounter("clear", l.alice); n != 0 {
		t.Errorf("%d packets in clear", n)
	}
	if err := alice.DeleteSA(context.Background(), sa.ID); err != nil {
		t.Fatal(err)
	}
	if out := run(t, l.alice.ns, "ip", "xfrm", "state"); strings.Contains(out, fmt.Sprintf("spi 0x%08x", uint32(sa.ID.SPI))) {
		t.Errorf("the deleted association is there:\n%s", out)
	}
}

// An association in the place of its namesake has its own keys: the kernel keeps
// those of a state that is only updated, and says nothing.
func TestKernelNamesakesHaveTheirOwnKeys(t *testing.T) {
	l := newLab(t)
	alice, bob := l.alice.open(), l.bob.open()
	setAll(t, alice, between("f", l.bob.v4))
	setAll(t, bob, between("f", l.alice.v4))
	at := netip.AddrPortFrom(l.bob.v4, 7000)
	ch := l.bob.listen(t, at)
	sa := connect(t, alice, bob, l.alice.v4, l.bob.v4)
	key := sampleKey(sa.Suite.EncKeyLen()).Bytes()
	for i := range key {
		key[i] ^= 0x5a
	}
	sa.EncKey = sadb.NewSecret(key)
	if err := alice.AddSA(context.Background(), sa); err != nil {
		t.Fatal(err)
	}
	// The other end has it for the first time.
	in := sa
	in.Dir, in.Selector = sadb.In, sa.Selector.Mirror()
	if err := bob.DeleteSA(context.Background(), in.ID); err != nil {
		t.Fatal(err)
	}
	if err := bob.AddSA(context.Background(), in); err != nil {
		t.Fatal(err)
	}
	l.alice.send(netip.AddrPortFrom(l.alice.v4, 7001), at, []byte("hello"))
	receive(t, ch, "hello")
}

// A question that a process heard and did not live to answer is put to the next
// one.
func TestKernelQuestionsOutliveAProcess(t *testing.T) {
	l := newLab(t)
	alice := l.alice.open()
	setAll(t, alice, between("f", l.bob.v4))
	at := netip.AddrPortFrom(l.bob.v4, 7000)
	l.alice.send(netip.AddrPortFrom(l.alice.v4, 7001), at, []byte("held"))
	event(t, alice, "the question", asksFor("f"))
	if err := alice.Close(); err != nil {
		t.Fatal(err)
	}
	alice = l.alice.open()
	setAll(t, alice, between("f", l.bob.v4))
	event(t, alice, "the question again", asksFor("f"))
	bob := l.bob.open()
	setAll(t, bob, between("f", l.alice.v4))
	ch := l.bob.listen(t, at)
	connect(t, alice, bob, l.alice.v4, l.bob.v4)
	receive(t, ch, "held")
}

// What goes through associations counts for their filter, also when they have
// ended.
func TestKernelCountsSecuredPackets(t *testing.T) {
	l := newLab(t)
	alice, bob := l.alice.open(), l.bob.open()
	setAll(t, alice, between("f", l.bob.v4))
	setAll(t, bob, between("f", l.alice.v4))
	at := netip.AddrPortFrom(l.bob.v4, 7000)
	ch := l.bob.listen(t, at)
	sa := connect(t, alice, bob, l.alice.v4, l.bob.v4)
	const n = 10
	for range n {
		l.alice.send(netip.AddrPortFrom(l.alice.v4, 7001), at, []byte("hello"))
		receive(t, ch, "hello")
	}
	check := func(d *Driver, what string) {
		t.Helper()
		s, err := d.State(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(s.Filters, func(f driver.FilterStat) bool { return f.Filter.ID == "f" })
		if i < 0 || s.Filters[i].Packets != n || s.Filters[i].Bytes < n*5 || s.Filters[i].Dropped != 0 {
			t.Errorf("%s: %+v", what, s.Filters)
		}
	}
	check(alice, "sent")
	check(bob, "received")
	for _, d := range []*Driver{alice, bob} {
		if err := d.DeleteSA(context.Background(), sa.ID); err != nil {
			t.Fatal(err)
		}
		check(d, "after its end")
	}
}

// A process that opens the driver reads back from the kernel exactly what the
// one before had written: it would change nothing.
func TestKernelIsReadBackAsWritten(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	d := l.alice.open()
	var filters []sadb.Filter
	add := func(s sadb.Selector, a sadb.Action) *sadb.Filter {
		s.Local = sadb.Me()
		filters = append(filters, sadb.Filter{ID: sadb.FilterID(fmt.Sprint("f", len(filters))), Selector: s, Dir: sadb.Both, Action: a})
		return &filters[len(filters)-1]
	}
	negotiate := sadb.Action{Kind: sadb.Negotiate}
	for _, peer := range []netip.Addr{l.bob.v4, l.bob.v6} {
		tunnel := add(sadb.Selector{Remote: sadb.Prefix(netip.PrefixFrom(peer, peer.BitLen()-4).Masked()), Proto: sadb.TCP}, negotiate)
		tunnel.Mode, tunnel.TunnelLocal, tunnel.TunnelRemote = sadb.Tunnel, l.alice.v4, l.bob.v4
		if peer.Is6() {
			tunnel.TunnelLocal, tunnel.TunnelRemote = l.alice.v6, l.bob.v6
		}
		add(sadb.Selector{Remote: sadb.Addr(peer), Proto: sadb.UDP, RemotePorts: sadb.Ports{From: 1000, To: 1009}}, negotiate)
		add(sadb.Selector{Remote: sadb.Addr(peer)}, sadb.Action{Kind: sadb.Negotiate, AllowClear: true, PassThrough: true})
	}
	add(sadb.Selector{Proto: sadb.ICMP, ICMPType: sadb.Octets{Set: true, From: 8, To: 8}}, sadb.Action{Kind: sadb.Permit})
	add(sadb.Selector{}, sadb.Action{})
	setAll(t, d, filters...)
	if err := d.PutFilter(ctx, overlayOf(filters, "f2", "o", negotiate)); err != nil {
		t.Fatal(err)
	}
	sa := testSA(sadb.Out, sadb.AH, 0x9001)
	sa.Src, sa.ID.Dst, sa.Filter, sa.Selector = l.alice.v4, l.bob.v4, "f2", sadb.Selector{}.Narrow(l.alice.v4, l.bob.v4)
	if err := d.AddSA(ctx, sa); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = l.alice.open()
	if err := d.do(ctx, func(e *engine) error {
		for _, s := range plan(e.have, e.policiesOf(e.list)) {
			t.Errorf("message %#x for the policy %s", s.typ, describe(s.policy))
		}
		if len(e.have) < 20 || len(e.sas.byID) != 1 || len(e.overlays) != 1 {
			t.Errorf("%d policies, %d associations, %d overlays", len(e.have), len(e.sas.byID), len(e.overlays))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
