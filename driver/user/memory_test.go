package user

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

// capture is a raw socket in memory.
type capture struct{ sent [][]byte }

func (c *capture) ReadBatch([]ipv4.Message, int) (int, error) { return 0, nil }
func (c *capture) Close() error                               { return nil }
func (c *capture) WriteBatch(ms []ipv4.Message, _ int) (int, error) {
	for _, m := range ms {
		c.sent = append(c.sent, bytes.Clone(m.Buffers[0]))
	}
	return len(ms), nil
}

// memory is the way out of one host and the way in of another, without sockets:
// what is written to a TUN goes nowhere.
type memory struct {
	wire *capture
	out  *sealer
	in   *opener
	sa   *assoc // outbound
}

const (
	here  = "192.0.2.1"
	there = "192.0.2.2"
)

func newMemory(t testing.TB, mtu uint32) *memory {
	t.Helper()
	local, remote := netip.MustParseAddr(here), netip.MustParseAddr(there)
	s, err := sadb.ParseSuite("esp-aes128gcm")
	if err != nil {
		t.Fatal(err)
	}
	outSA, inSA := oneWay(s, "f", local, remote, 0x1000)
	out, err := newAssoc(outSA, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := newAssoc(inSA, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	out.root, in.root, out.path = "f", "f", &path{}
	out.path.mtu.Store(mtu)
	closed := &queue{fd: -1}
	m := &memory{wire: &capture{}, sa: out}
	sender, receiver := newShared(), newShared()
	sender.snap.Store(&snapshot{spd: newSPD([]sadb.Filter{require("f", remote)}), out: map[pairKey][]*assoc{out.pairKey(): {out}}, local: map[netip.Addr]bool{local: true}})
	receiver.snap.Store(&snapshot{spd: newSPD([]sadb.Filter{require("f", local)}), in: map[sadb.SAID]*assoc{inSA.ID: in}})
	m.out = &sealer{sh: sender, tun: closed, v4: newOutbox(m.wire, 2*batch), v6: newOutbox(m.wire, 2*batch), arena: make([]byte, arenaSize)}
	m.in = &opener{sh: receiver, tun: &tun{queues: []*queue{closed}}}
	return m
}

// send gives a packet to the data path as if it came from the TUN.
func (m *memory) send(packet []byte) {
	buf := make([]byte, bufSize)
	n := copy(buf[headRoom:headRoom+tunMTU], packet)
	m.out.one(buf, n, time.Unix(1, 0))
	m.out.flush()
}

// datagram returns a UDP datagram of n bytes of data.
func datagram(n int) []byte {
	b := make([]byte, 28+n)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	src, dst := netip.MustParseAddr(here).As4(), netip.MustParseAddr(there).As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], esp.Checksum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], 1000)
	binary.BigEndian.PutUint16(b[22:], 2000)
	binary.BigEndian.PutUint16(b[24:], uint16(8+n))
	return b
}

func TestSnapshotsChangeWithoutTouchingEarlierOnes(t *testing.T) {
	local, remote := netip.MustParseAddr(here), netip.MustParseAddr(there)
	s := suite(t, "esp-aes128gcm")
	var outs, ins []*assoc
	for i := range 3 {
		outSA, inSA := oneWay(s, "f", local, remote, sadb.SPI(0x1000+i))
		out, err := newAssoc(outSA, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		in, err := newAssoc(inSA, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		out.root, out.order = "f", uint64(i+1)
		outs, ins = append(outs, out), append(ins, in)
	}
	flow := sadb.Flow{Local: local, Remote: remote}
	empty := newSnapshot(newSPD(nil))
	one := empty.with(nil, outs[0]).with(nil, ins[0])
	three := one.with(nil, outs[2]).with(nil, outs[1]).with(nil, ins[1])
	two := three.with(outs[2], nil).with(ins[0], ins[2])
	none := one.with(outs[0], nil).with(ins[0], nil)
	for i, c := range []struct {
		snap *snapshot
		want *assoc
		in   int
	}{{empty, nil, 0}, {one, outs[0], 1}, {three, outs[2], 2}, {two, outs[1], 2}, {none, nil, 0}} {
		if got := c.snap.outbound("f", flow, netip.AddrPort{}); got != c.want || len(c.snap.in) != c.in {
			t.Errorf("snapshot %d: outbound %p, want %p; %d inbound, want %d", i, got, c.want, len(c.snap.in), c.in)
		}
	}
	if len(none.out) != 0 {
		t.Error("an empty list stays behind")
	}
	outs[1].use.dead.Store(true)
	if two.outbound("f", flow, netip.AddrPort{}) != outs[0] {
		t.Error("a dead association carries traffic")
	}
}

func TestUsedUpSequenceNumbersEndTheAssociation(t *testing.T) {
	m := newMemory(t, 1500)
	if _, err := m.sa.out.Reserve(math.MaxUint32 - 1); err != nil {
		t.Fatal(err)
	}
	m.send(datagram(10))
	if len(m.wire.sent) != 1 {
		t.Fatalf("the last number: %d packets sent", len(m.wire.sent))
	}
	m.send(datagram(10))
	if len(m.wire.sent) != 1 {
		t.Fatal("a packet went out beyond the last sequence number")
	}
	if n := <-m.out.sh.notices; n.a != m.sa || n.kind != hardReached {
		t.Errorf("notice %+v", n)
	}
	if p := <-m.out.sh.misses; !bytes.Equal(p, datagram(10)) {
		t.Error("the packet does not wait for the next association")
	}
}

// nowhere is a raw socket that forgets.
type nowhere struct{ capture }

func (n *nowhere) WriteBatch(ms []ipv4.Message, _ int) (int, error) { return len(ms), nil }

func TestPacketsCostNoAllocation(t *testing.T) {
	m := newMemory(t, 1500)
	m.out.v4 = newOutbox(&nowhere{}, 2*batch)
	now := time.Unix(1, 0)
	for _, size := range []int{100, 8000} {
		packet, buf := datagram(size), make([]byte, bufSize)
		if n := testing.AllocsPerRun(100, func() {
			copy(buf[headRoom:], packet)
			m.out.one(buf, len(packet), now)
			m.out.flush()
		}); n != 0 {
			t.Errorf("%.1f allocations to seal %d bytes", n, size)
		}
	}
	m = newMemory(t, 1500)
	for range 102 {
		m.send(datagram(100))
	}
	i := 0
	if n := testing.AllocsPerRun(100, func() {
		m.in.open(m.wire.sent[i], origin{}, now)
		i++
	}); n != 0 {
		t.Errorf("%.1f allocations to open a packet", n)
	}
	if got := m.in.sh.count.in.Load(); got != 101 {
		t.Errorf("%d packets opened", got)
	}
}

func TestFragmentsOfADatagramFitTheWire(t *testing.T) {
	m := newMemory(t, 1500)
	m.send(datagram(65_000))
	if len(m.wire.sent) != 44 { // of 1480 bytes
		t.Errorf("%d fragments", len(m.wire.sent))
	}
	id := m.wire.sent[0][4:6]
	for i, p := range m.wire.sent {
		if len(p) > 1500 || !bytes.Equal(p[4:6], id) || id[0]|id[1] == 0 || p[6]&0x40 != 0 {
			t.Errorf("fragment %d: %d bytes, header %x", i, len(p), p[:20])
		}
	}
}

func TestPacketsNobodyWantsSecuredGoNowhere(t *testing.T) {
	m := newMemory(t, 1500)
	m.out.sh.snap.Store(&snapshot{spd: newSPD([]sadb.Filter{{ID: "f", Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Permit}}})})
	m.send(datagram(10))
	if len(m.wire.sent) != 0 || len(m.out.sh.misses) != 1 {
		t.Errorf("%d sent, %d left to the engine", len(m.wire.sent), len(m.out.sh.misses))
	}
}

func TestReplayAndForgeryAreCountedAndRememberNothing(t *testing.T) {
	m := newMemory(t, 1500)
	m.send(datagram(100))
	sealed, count := m.wire.sent[0], &m.in.sh.count
	now := time.Unix(1, 0)
	forged := bytes.Clone(sealed)
	forged[len(forged)-1] ^= 1
	m.in.open(forged, origin{}, now)
	if count.badICV.Load() != 1 || len(m.in.sh.notices) != 0 {
		t.Error("a forged packet left a trace beyond its counter")
	}
	m.in.open(bytes.Clone(sealed), origin{}, now)
	m.in.open(bytes.Clone(sealed), origin{}, now)
	if count.in.Load() != 1 || count.replayed.Load() != 1 {
		t.Errorf("%d delivered, %d replayed", count.in.Load(), count.replayed.Load())
	}
	if n := <-m.in.sh.notices; n.kind != firstUse {
		t.Errorf("notice %+v", n)
	}
}

// FuzzWire: no packet from the network harms, and none but the sealed one is
// delivered.
func FuzzWire(f *testing.F) {
	m := newMemory(f, 1500)
	m.send(datagram(100))
	sealed := m.wire.sent[0]
	f.Add(sealed)
	f.Add(datagram(100))
	f.Add(sealed[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMemory(t, 1500)
		known := bytes.HasPrefix(b, sealed)
		m.in.open(bytes.Clone(b), origin{}, time.Unix(1, 0))
		if n := m.in.sh.count.in.Load(); n != 0 && !known {
			// Fields of the IP header that routers change are not covered.
			if len(b) < len(sealed) || !bytes.Equal(b[20:len(sealed)], sealed[20:]) {
				t.Errorf("delivered %x", b)
			}
		}
	})
}

// FuzzTUN: no packet from the local stack harms, and nothing leaves unsealed.
func FuzzTUN(f *testing.F) {
	f.Add(datagram(0), uint16(1500))
	f.Add(datagram(4000), uint16(576))
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16) {
		m := newMemory(t, uint32(mtu))
		m.send(b)
		for _, p := range m.wire.sent {
			if p[9] != 50 {
				t.Errorf("not ESP: %x", p)
			}
		}
	})
}
