package user

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

// TestHostsBehindOneTranslator: what came from one of two is answered to it,
// whichever association is newer; of the same flow, the newer wins.
func TestHostsBehindOneTranslator(t *testing.T) {
	local, remote := netip.MustParseAddr(here), netip.MustParseAddr(there)
	snap, sh := newSnapshot(newSPD(nil)), newShared()
	ends := []netip.AddrPort{netip.AddrPortFrom(remote, 20001), netip.AddrPortFrom(remote, 20002)}
	for i, end := range ends {
		sa, _ := oneWay(suite(t, "esp-aes128gcm"), "f", local, remote, sadb.SPI(0x1000+i))
		sa.Encap = sadb.Encap{Local: netip.AddrPortFrom(local, natPort), Remote: end}
		a, err := newAssoc(sa, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		a.root, a.order = "f", uint64(i+1)
		snap = snap.with(nil, a)
	}
	flow := func(port uint16) sadb.Flow {
		return sadb.Flow{Local: local, Remote: remote, Proto: sadb.TCP, LocalPort: 80, RemotePort: port}
	}
	goesTo := func(port uint16, want netip.AddrPort) {
		t.Helper()
		f := flow(port)
		f.LocalMe = true // what goes out is known to be ours
		if a := sh.outbound(snap, "f", f); a == nil || a.out.Peer() != want {
			t.Errorf("port %d goes to %+v, want %s", port, a, want)
		}
	}
	claim := func(port uint16, i int, want bool) {
		t.Helper()
		if got := sh.flows.claim(flow(port), owner{ends[i], uint64(i + 1)}); got != want {
			t.Errorf("port %d from %s: %v", port, ends[i], got)
		}
	}
	goesTo(1, ends[1]) // nobody has spoken: the newer
	claim(1, 0, true)
	claim(2, 1, true)
	goesTo(1, ends[0])
	goesTo(2, ends[1])
	claim(1, 1, true)
	goesTo(1, ends[1])
	claim(1, 0, false)
	claim(2, 0, false)
	claim(3, 0, true)
	moved := netip.AddrPortFrom(remote, 20003)
	snap.outbound("f", flow(3), ends[0]).out.Move(moved)
	sh.flows.move(ends[0], moved)
	goesTo(3, moved)
	sh.flows.move(moved, netip.AddrPort{})
	goesTo(3, ends[1])
	for i := range maxFlows {
		sh.flows.claim(sadb.Flow{Local: local, Remote: remote, Proto: 200, RemotePort: uint16(i)}, owner{ends[0], 1})
	}
	claim(4, 0, false)
	claim(2, 1, true)
}

// TestESPOfABundleDoesNotComeAlone: authentic as it is, without its AH it is
// not what was negotiated.
func TestESPOfABundleDoesNotComeAlone(t *testing.T) {
	local, remote := netip.MustParseAddr(here), netip.MustParseAddr(there)
	for _, bundle := range []sadb.SAID{{}, {Dst: remote, Proto: sadb.AH, SPI: 0x7000}} {
		m := newMemory(t, 1500)
		_, sa := oneWay(suite(t, "esp-aes128gcm"), "f", local, remote, 0x1000)
		sa.Bundle = bundle
		in, err := newAssoc(sa, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		in.root = "f"
		m.in.sh.snap.Store(&snapshot{spd: newSPD([]sadb.Filter{require("f", local)}), in: map[sadb.SAID]*assoc{sa.ID: in}})
		m.send(datagram(100))
		m.in.open(m.wire.sent[0], origin{}, time.Unix(1, 0))
		delivered, refused := m.in.sh.count.in.Load(), m.in.sh.count.badSelector.Load()
		if alone := bundle == (sadb.SAID{}); (delivered == 1) != alone || (refused == 1) == alone {
			t.Errorf("bundled with %s: %d delivered, %d refused", bundle, delivered, refused)
		}
	}
}

// TestForgedPacketsMoveNobody: that ESP in UDP comes from another endpoint counts
// once it is known to be authentic, and no packet that was there before; that it
// comes from another address never does.
func TestForgedPacketsMoveNobody(t *testing.T) {
	local, remote := netip.MustParseAddr(here), netip.MustParseAddr(there)
	known, other := netip.AddrPortFrom(local, natPort), netip.AddrPortFrom(local, 20001)
	m := newMemory(t, 1500)
	_, sa := oneWay(suite(t, "esp-aes128gcm"), "f", local, remote, 0x1000)
	sa.Encap = sadb.Encap{Local: netip.AddrPortFrom(remote, natPort), Remote: known}
	in, err := newAssoc(sa, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	m.in.sh.snap.Store(&snapshot{spd: newSPD([]sadb.Filter{require("f", local)}), in: map[sadb.SAID]*assoc{sa.ID: in}})
	for range 3 {
		m.send(datagram(100))
	}
	first, second, third := m.wire.sent[0], m.wire.sent[1], m.wire.sent[2]
	opens := func(packet []byte, from, want netip.AddrPort) {
		t.Helper()
		m.in.open(bytes.Clone(packet), origin{AddrPort: from}, time.Unix(1, 0))
		if at := in.use.from.Load(); (at == nil) != !want.IsValid() || at != nil && *at != want {
			t.Errorf("from %s: the peer is taken to be at %v, want %s", from, at, want)
		}
	}
	forged := bytes.Clone(second)
	forged[len(forged)-1] ^= 1
	opens(first, known, netip.AddrPort{})
	opens(forged, other, netip.AddrPort{})
	opens(first, other, netip.AddrPort{}) // replayed
	opens(second, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.66"), natPort), netip.AddrPort{})
	opens(third, other, other)
}

// TestKeepAlives: 0xff to each translator every 20 s in which nothing else went.
func TestKeepAlives(t *testing.T) {
	m := newMemory(t, 1500)
	now := time.Unix(100, 0)
	e := &engine{sas: map[sadb.SAID]*assoc{}, out: m.out, sh: m.out.sh}
	local, remote := netip.MustParseAddr(here), netip.MustParseAddr(there)
	for i, keep := range []bool{true, true, false} {
		sa, _ := oneWay(suite(t, "esp-aes128gcm"), "f", local, remote, sadb.SPI(0x2000+i))
		sa.Encap = sadb.Encap{Local: netip.AddrPortFrom(local, natPort), Remote: netip.AddrPortFrom(remote, 4500), KeepAlive: keep}
		a, err := newAssoc(sa, now)
		if err != nil {
			t.Fatal(err)
		}
		a.path, a.use.alive = m.sa.path, now
		e.sas[sa.ID] = a
	}
	sent := func(after time.Duration, want int) {
		t.Helper()
		m.wire.sent = nil
		e.keepAlive(now.Add(after))
		if len(m.wire.sent) != want {
			t.Fatalf("after %s: %d packets, want %d", after, len(m.wire.sent), want)
		}
	}
	sent(19*time.Second, 0)
	sent(20*time.Second, 1)
	p := m.wire.sent[0]
	h, err := esp.Parse(p)
	if err != nil || h.Proto != sadb.UDP || h.Src != local || h.Dst != remote || h.SrcPort != 4500 || h.DstPort != 4500 || len(p) != 29 || p[28] != 0xff {
		t.Errorf("keep-alive %x: %+v, %v", p, h, err)
	}
	sent(39*time.Second, 0)
	for _, a := range e.sas {
		a.count(1, now.Add(39*time.Second))
	}
	sent(58*time.Second, 0)
	sent(59*time.Second, 1)
}

// TestSmallBlocksHaveALimit: DES and 3DES protect 1 GiB at most, whatever was
// negotiated.
func TestSmallBlocksHaveALimit(t *testing.T) {
	for _, c := range []struct {
		suite string
		hard  uint64
		want  uint64
	}{
		{"esp-3des-sha1", 0, 1 << 30}, {"esp-des-md5", 1 << 40, 1 << 30}, {"esp-des-sha1", 1 << 20, 1 << 20},
		{"esp-aes128-sha1", 1 << 40, 1 << 40}, {"esp-aes128-sha1", 0, 0},
	} {
		for _, dir := range []sadb.Directions{sadb.In, sadb.Out} {
			sa := sadb.SA{Suite: suite(t, c.suite), Dir: dir}
			sa.Lifetime.Hard.Bytes = c.hard
			l := limitsOf(sa)
			if l.Hard.Bytes != c.want || c.want == 1<<30 && (l.Soft.Bytes == 0 || l.Soft.Bytes >= l.Hard.Bytes) {
				t.Errorf("%s, %d bytes: %+v", c.suite, c.hard, l)
			}
		}
	}
}

// TestSenderCountsNoLessThanReceiver: else an association would end at the
// receiver while the sender still uses it.
func TestSenderCountsNoLessThanReceiver(t *testing.T) {
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		for _, names := range [][]string{{"esp-aes128gcm"}, {"esp-null-sha512"}, {"ah-sha512"}, {"ah-sha256", "esp-aes128-sha256"}} {
			m := newMemory(t, 9000)
			m.setShape(t, mode, names)
			for _, n := range []int{0, 1, 100, 1400} {
				m.send(datagram(n))
			}
			if len(m.wire.sent) != 4 {
				t.Fatalf("%v %s: %d packets", names, mode, len(m.wire.sent))
			}
			for _, p := range m.wire.sent {
				m.in.open(p, origin{}, time.Unix(1, 0))
			}
			if n := m.in.sh.count.in.Load(); n != 4 {
				t.Fatalf("%v %s: %d packets arrived", names, mode, n)
			}
			for _, list := range m.out.sh.snap.Load().out {
				for a := list[0]; a != nil; a = a.outer {
					sent, got := a.use.bytes.Load(), m.in.sh.snap.Load().in[a.sa.ID].use.bytes.Load()
					if sent < got || got == 0 {
						t.Errorf("%v %s: %s counts %d bytes sent, %d received", names, mode, a.sa.ID, sent, got)
					}
				}
			}
		}
	}
}

// setShape replaces the associations of m.
func (m *memory) setShape(t *testing.T, mode sadb.Mode, names []string) {
	t.Helper()
	local, remote := netip.MustParseAddr(here), netip.MustParseAddr(there)
	there, back := require("f", remote), require("f", local)
	there.Mode, back.Mode = mode, mode
	out, in := newSnapshot(newSPD([]sadb.Filter{there})), newSnapshot(newSPD([]sadb.Filter{back}))
	out.local, in.local = map[netip.Addr]bool{local: true}, map[netip.Addr]bool{remote: true}
	e := &engine{sas: map[sadb.SAID]*assoc{}, sh: m.out.sh}
	m.out.sh.snap.Store(out)
	m.in.sh.snap.Store(in)
	for i, name := range names {
		o, n := oneWay(suite(t, name), "f", local, remote, sadb.SPI(0x7000+i))
		for _, sa := range []*sadb.SA{&o, &n} {
			sa.ID.Proto, sa.Mode = sa.Suite.Proto, mode
			if len(names) == 2 {
				sa.Bundle = sadb.SAID{Dst: remote, Proto: suite(t, names[1-i]).Proto, SPI: sadb.SPI(0x7000 + 1 - i)}
			}
		}
		a, err := newAssoc(o, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := newAssoc(n, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		a.root, b.root, a.path = "f", "f", m.sa.path
		e.sas[a.sa.ID] = a
		e.change(nil, a)
		e.joined(a)
		m.in.sh.snap.Store(m.in.sh.snap.Load().with(nil, b))
	}
}
