package nft

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// world draws filters and packets from few values, so that filters overlap in
// every way and packets meet them.
type world struct{ *rand.Rand }

func pick[T any](w world, from ...T) T { return from[w.IntN(len(from))] }

func (w world) selector() sadb.Selector {
	s := sadb.Selector{Local: w.addrs(), Remote: w.addrs(), Proto: pick(w, 0, 0, sadb.TCP, sadb.UDP, sadb.SCTP, sadb.ICMP, sadb.ICMPv6, 47)}
	if s.Proto == 0 && w.IntN(3) == 0 || sadb.HasPorts(s.Proto) {
		s.LocalPorts, s.RemotePorts = w.ports(), w.ports()
	}
	if s.Proto == 0 && w.IntN(3) == 0 || sadb.HasICMP(s.Proto) {
		s.ICMPType, s.ICMPCode = w.octets(), w.octets()
	}
	return s
}

func (w world) addrs() sadb.Addrs {
	switch w.IntN(6) {
	case 0:
		return sadb.AnyAddrs()
	case 1:
		return sadb.Me()
	case 2:
		return sadb.Prefix(netip.MustParsePrefix(pick(w, "10.9.0.0/24", "10.9.0.0/30", "10.0.0.0/8", "fd09::/16", "fd09::/126")))
	case 3:
		from, to := w.addr(false), w.addr(false)
		if to.Less(from) {
			from, to = to, from
		}
		return sadb.Range(from, to)
	}
	return sadb.Addr(w.addr(w.IntN(2) == 0))
}

func (w world) addr(v6 bool) netip.Addr {
	n := 1 + w.IntN(12)
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd09::%x", n))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.9.0.%d", n))
}

func (w world) ports() sadb.Ports {
	switch w.IntN(3) {
	case 0:
		return sadb.Ports{}
	case 1:
		return sadb.Port(uint16(1000 + w.IntN(5)))
	}
	from := uint16(1000 + w.IntN(5))
	return sadb.Ports{From: from, To: from + uint16(w.IntN(4))}
}

func (w world) octets() sadb.Octets {
	if w.IntN(2) == 0 {
		return sadb.Octets{}
	}
	from := uint8(w.IntN(5))
	return sadb.Octets{From: from, To: from + uint8(w.IntN(3)), Set: true}
}

func (w world) filters() []sadb.Filter {
	var list []sadb.Filter
	for i := range 1 + w.IntN(25) {
		list = append(list, sadb.Filter{ID: sadb.FilterID(fmt.Sprintf("f%d", i)), Selector: w.selector(),
			Dir: pick(w, sadb.Out, sadb.In, sadb.Both), Action: pick(w, block, permit, require, request)})
	}
	return list
}

// flow draws a packet from own to others or, inbound, the other way round.
func (w world) flow(local func(netip.Addr) bool) sadb.Flow {
	v6 := w.IntN(2) == 0
	f := sadb.Flow{Local: w.addr(v6), Remote: w.addr(v6), Proto: pick(w, sadb.TCP, sadb.UDP, sadb.SCTP, sadb.ICMP, sadb.ICMPv6, 47, 33)}
	f.LocalMe, f.RemoteMe = local(f.Local), local(f.Remote)
	if sadb.HasPorts(f.Proto) {
		f.LocalPort, f.RemotePort = uint16(1000+w.IntN(8)), uint16(1000+w.IntN(8))
	}
	if sadb.HasICMP(f.Proto) {
		f.ICMPType, f.ICMPCode = uint8(w.IntN(8)), uint8(w.IntN(8))
	}
	return f
}

// packet makes the packet of a flow.
func packet(f sadb.Flow, dir sadb.Directions) []byte {
	src, dst, sport, dport := f.Local, f.Remote, f.LocalPort, f.RemotePort
	if dir == sadb.In {
		src, dst, sport, dport = dst, src, dport, sport
	}
	rest := make([]byte, 24)
	if sadb.HasPorts(f.Proto) {
		binary.BigEndian.PutUint16(rest, sport)
		binary.BigEndian.PutUint16(rest[2:], dport)
	}
	if sadb.HasICMP(f.Proto) {
		rest[0], rest[1] = f.ICMPType, f.ICMPCode
	}
	if src.Is4() {
		return ipv4(src.String(), dst.String(), f.Proto, rest)
	}
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(rest)), f.Proto, 64}, src.AsSlice(), dst.AsSlice(), rest)
}

// sender returns a function that sends packets with their headers.
func (l *lab) sender(host string) func(p []byte) error {
	l.t.Helper()
	var fd4, fd6 int
	var err4, err6 error
	in(l.t, host, func() {
		fd4, err4 = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		fd6, err6 = unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
	})
	if err4 != nil || err6 != nil {
		l.t.Fatal(err4, err6)
	}
	l.t.Cleanup(func() { unix.Close(fd4); unix.Close(fd6) })
	return func(p []byte) error {
		if p[0]>>4 == 4 {
			return unix.Sendto(fd4, p, 0, &unix.SockaddrInet4{Addr: [4]byte(p[16:])})
		}
		return unix.Sendto(fd6, p, 0, &unix.SockaddrInet6{Addr: [16]byte(p[24:])})
	}
}

// framer returns a function that sends packets from b to a's wire.
func (l *lab) framer() func(p []byte) error {
	l.t.Helper()
	var mac net.HardwareAddr
	in(l.t, l.a, func() {
		if ifi, err := net.InterfaceByName("va"); err == nil {
			mac = ifi.HardwareAddr
		}
	})
	fd, index := -1, 0
	var err error
	in(l.t, l.b, func() {
		var ifi *net.Interface
		if ifi, err = net.InterfaceByName("vb"); err != nil {
			return
		}
		index = ifi.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { unix.Close(fd) })
	return func(p []byte) error {
		kind := []byte{8, 0}
		if p[0]>>4 == 6 {
			kind = []byte{0x86, 0xdd}
		}
		frame := slices.Concat(mac, make([]byte, 6), kind, p)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
	}
}

// TestKernelDecidesAsTheModel sends random packets through random filters and
// compares which filter the kernel counted with what sadb.Decide says: in a list
// that was put in force at once, and after changes of it.
func TestKernelDecidesAsTheModel(t *testing.T) {
	m := newModel(t)
	rounds := uint64(200)
	if n, err := strconv.ParseUint(os.Getenv("NFT_TEST_ROUNDS"), 10, 32); err == nil {
		rounds = n
	}
	for seed := range rounds {
		w := world{rand.New(rand.NewPCG(seed, 2))}
		filters := w.filters()
		for _, dir := range []sadb.Directions{sadb.Out, sadb.In} {
			list := inForce(filters, dir, fmt.Sprint(seed, dir))
			want := make(map[sadb.FilterID]uint64)
			for round := range 4 {
				apply(t, m.table, list...)
				m.compare(w, list, dir, want, fmt.Sprintf("seed %d, round %d", seed, round))
				list = inForce(w.edit(list, round), dir, "")
			}
		}
	}
}

// model is a lab whose host a has addresses of its own and neighbours, and a
// way to send packets in each direction.
type model struct {
	t     *testing.T
	table *Table
	send  map[sadb.Directions]func([]byte) error
}

func newModel(t *testing.T) *model {
	l := newLab(t)
	for _, c := range []string{"ip addr add 10.9.0.5/24 dev va", "ip addr add fd09::5/64 dev va nodad"} {
		l.inA(c)
	}
	m := &model{t: t, table: l.open(), send: map[sadb.Directions]func([]byte) error{sadb.Out: l.sender(l.a), sadb.In: l.framer()}}
	// Neighbours that are never asked for, so that none is missed.
	for i := 1; i <= 12; i++ {
		for _, a := range []string{fmt.Sprintf("10.9.0.%d", i), fmt.Sprintf("fd09::%x", i)} {
			l.inA("ip neigh replace " + a + " lladdr 02:00:00:00:00:01 nud permanent dev va")
		}
	}
	// b answers nothing: only the packets of the test are counted.
	run(t, "echo 'table ip d { chain c { type filter hook prerouting priority -400; policy drop; }; }; table ip6 d { chain c { type filter hook prerouting priority -400; policy drop; }; };' | ip netns exec "+l.b+" nft -f -")
	return m
}

func (m *model) local(a netip.Addr) bool {
	return slices.Contains([]string{"10.9.0.1", "10.9.0.5", "fd09::1", "fd09::5"}, a.String())
}

// compare sends packets and adds to want what the model says; what was counted
// must be the same.
func (m *model) compare(w world, list []sadb.Filter, dir sadb.Directions, want map[sadb.FilterID]uint64, at string) {
	m.t.Helper()
	for range 100 {
		f := w.flow(m.local)
		if dir == sadb.Out && f.RemoteMe {
			continue // never leaves
		}
		if dir == sadb.Out {
			f.LocalMe = true // a sends it: it is a's, whatever address it names
		}
		if d, ok := sadb.Decide(list, f, dir); ok {
			want[d.ID]++
		}
		m.send[dir](packet(f, dir)) // an error says that it was dropped
	}
	for i, f := range stats(m.t, m.table).Filters {
		if f.Packets != want[f.Filter.ID] {
			m.t.Fatalf("%s, %s: filter %d (%s, %s) decided %d packets, the model says %d",
				at, dir, i, f.Filter.Selector, f.Filter.Action, f.Packets, want[f.Filter.ID])
		}
	}
}

// inForce returns the filters of a direction, their IDs behind a prefix, so that
// only packets of that direction are counted, from zero.
func inForce(filters []sadb.Filter, dir sadb.Directions, prefix string) []sadb.Filter {
	var list []sadb.Filter
	for _, f := range filters {
		if f.Dir&dir != 0 {
			f.Dir, f.ID = dir, sadb.FilterID(prefix)+f.ID
			list = append(list, f)
		}
	}
	return list
}
