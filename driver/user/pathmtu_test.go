package user

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

// router sends ICMP messages from an address on the wire.
type router struct{ v4, v6 net.PacketConn }

func (l *lab) router() *router {
	l.t.Helper()
	run(l.t, l.wire, "ip", "addr", "add", "10.77.0.3/24", "dev", "br0")
	run(l.t, l.wire, "ip", "addr", "add", "fd77::3/64", "dev", "br0", "nodad")
	on := &host{t: l.t, ns: l.wire}
	r := &router{
		v4: in(on, func() (net.PacketConn, error) { return net.ListenPacket("ip4:icmp", "10.77.0.3") }),
		v6: in(on, func() (net.PacketConn, error) { return net.ListenPacket("ip6:ipv6-icmp", "fd77::3") }),
	}
	l.t.Cleanup(func() { r.v4.Close(); r.v6.Close() })
	return r
}

// tooBig tells src that its ESP packet to dst was longer than mtu.
func (r *router) tooBig(t *testing.T, src, dst netip.Addr, spi sadb.SPI, mtu int) {
	t.Helper()
	conn, msg := r.v4, []byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}
	quoted := make([]byte, 20, 64)
	if src.Is6() {
		conn, msg = r.v6, []byte{2, 0, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}
		quoted = make([]byte, 40, 64)
		esp.OuterHeader{Src: src, Dst: dst, Proto: 50, Hops: 64}.Put(quoted, 1440)
	} else {
		s, d := src.As4(), dst.As4()
		quoted[0], quoted[8], quoted[9] = 0x45, 64, 50
		binary.BigEndian.PutUint16(quoted[2:], 1500)
		copy(quoted[12:], s[:])
		copy(quoted[16:], d[:])
		binary.BigEndian.PutUint16(quoted[10:], esp.Checksum(quoted))
	}
	quoted = binary.BigEndian.AppendUint32(quoted, uint32(spi))
	quoted = binary.BigEndian.AppendUint32(quoted, 1)
	msg = append(msg, quoted...)
	if !src.Is6() {
		binary.BigEndian.PutUint16(msg[2:], esp.Checksum(msg)) // ICMPv6: the kernel's work
	}
	if _, err := conn.WriteTo(msg, &net.IPAddr{IP: src.AsSlice()}); err != nil {
		t.Fatal(err)
	}
}

// answersTooBig says whether a ping with that many bytes of data, not to be
// fragmented, is answered "too big" by the data path.
func (h *host) answersTooBig(to netip.Addr, size string) bool {
	out, _ := try(h.ns, "", "ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, to.String())
	return strings.Contains(out, "mtu")
}

func TestRoutersAreBelievedForLiveAssociationsOnly(t *testing.T) {
	l := secured(t)
	l.flows()
	r := l.router()
	r.tooBig(t, l.alice.v4, l.bob.v4, 0xdeadbeef, 1300) // no such association
	pause(t.Context(), 100*time.Millisecond)
	if l.alice.answersTooBig(l.bob.v4, "1200") {
		t.Fatal("a forged message narrowed the path")
	}
	eventually(t, "the path of 1300 bytes is learned", func() bool {
		r.tooBig(t, l.alice.v4, l.bob.v4, 0x1000, 1300)
		return l.alice.answersTooBig(l.bob.v4, "1260")
	})
	if l.alice.answersTooBig(l.bob.v4, "1100") {
		t.Error("1128 bytes do not fit a path of 1300")
	}
	l.flows()
	if err := l.alice.exchange(l.bob.echo(l.bob.v4), 1<<20); err != nil {
		t.Errorf("TCP over the narrow path: %v", err)
	}
	l.noClear()
}

func TestLongIPv6PacketsFitTheNarrowPath(t *testing.T) {
	l := secured(t)
	l.flows()
	r := l.router()
	long := func() int {
		before := l.counter("long6")
		if err := l.alice.ping(l.bob.v6, "-c", "1", "-s", "1350"); err != nil {
			t.Error(err)
		}
		return l.counter("long6") - before
	}
	if long() == 0 {
		t.Fatal("no long packet on the wire: the test sees nothing")
	}
	eventually(t, "both hosts fragment to 1280", func() bool {
		r.tooBig(t, l.alice.v6, l.bob.v6, 0x1002, 1280)
		r.tooBig(t, l.bob.v6, l.alice.v6, 0x1003, 1280)
		return long() == 0
	})
	l.noClear()
}

func TestPathsHaveAFloor(t *testing.T) {
	e := newEngine(Config{}.withDefaults(), newShared(), time.Now())
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		peer      netip.Addr
		say, want uint32
	}{{v4, 1400, 1400}, {v4, 68, floor4}, {v4, 1499, floor4}, {v6, 1400, 1400}, {v6, 0, floor6}} {
		id := sadb.SAID{Dst: c.peer, Proto: sadb.ESP, SPI: 0x1000}
		if e.sas[id] == nil {
			e.sas[id] = &assoc{path: &path{remote: c.peer, device: 1500}}
			e.paths[c.peer] = e.sas[id].path
			e.sas[id].path.set()
		}
		e.narrower(tooBig{sadb.SAID{Dst: c.peer, Proto: sadb.ESP, SPI: 0x1000}, c.say}, now)
		if got := e.paths[c.peer].mtu.Load(); got != c.want {
			t.Errorf("%s, told %d: %d, want %d", c.peer, c.say, got, c.want)
		}
	}
	e.agePaths(now.Add(learnedTime - 1))
	if got := e.paths[v4].mtu.Load(); got != floor4 {
		t.Errorf("forgotten early: %d", got)
	}
	e.agePaths(now.Add(learnedTime))
	if got := e.paths[v4].mtu.Load(); got != 1500 {
		t.Errorf("after %s: %d, want 1500", learnedTime, got)
	}
}
