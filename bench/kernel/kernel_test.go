package main

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// Both ends of an association have the same keys and SPI, opposite directions
// and each its own side of the selector.
func TestBothEndsOfAnAssociation(t *testing.T) {
	seen := map[sadb.SAID]bool{}
	for pair := range 300 {
		for generation := range 2 {
			for _, leavesAlice := range []bool{true, false} {
				a, b := association(pair, generation, leavesAlice, false), association(pair, generation, leavesAlice, true)
				if seen[a.ID] {
					t.Fatalf("%s is there twice", a.ID)
				}
				seen[a.ID] = true
				if a.ID != b.ID || a.Src != b.Src || !a.EncKey.Equal(b.EncKey) || a.EncKey.Len() != 36 {
					t.Fatalf("pair %d: the ends differ", pair)
				}
				if (a.Dir == sadb.Out) != leavesAlice || a.Dir == b.Dir || a.Selector != b.Selector.Mirror() {
					t.Fatalf("pair %d: directions %s and %s, selectors %s and %s", pair, a.Dir, b.Dir, a.Selector, b.Selector)
				}
				if mine := filtersOf(listAll, 300)[pair]; a.Filter != mine.ID || !mine.Selector.Matches(sadb.Flow{LocalMe: true, Local: alice(),
					Remote: peerAddr(pair), Proto: sadb.UDP, LocalPort: 9, RemotePort: port}) {
					t.Fatalf("pair %d belongs to %s", pair, a.Filter)
				}
			}
		}
	}
}

func TestLists(t *testing.T) {
	all, changed, shorter := filtersOf(listAll, 10), filtersOf(listChanged, 10), filtersOf(listShorter, 10)
	differ := 0
	for i := range all {
		if changed[i] != all[i] {
			differ++
		}
	}
	if len(all) != 10 || differ != 1 || len(shorter) != 9 || slices.Contains(shorter, all[5]) {
		t.Errorf("%d filters, %d changed, %d in the shorter list", len(all), differ, len(shorter))
	}
}

func TestCommandsOfIP(t *testing.T) {
	p := wire.Policy{Dir: wire.Out, Priority: 7, Mark: wire.Mark{Mask: 0x2000000},
		Selector:  wire.Selector{Src: wire.IPv4.Any(), Dst: netip.MustParsePrefix("10.81.0.1/32"), Proto: sadb.UDP, DstPort: wire.PortMask{Port: 4242, Mask: 0xffff}},
		Templates: []wire.Template{{Proto: sadb.ESP, ReqID: 5}}}
	want := "xfrm policy add src 0.0.0.0/0 dst 10.81.0.1/32 proto 17 dport 4242 dir out priority 7 mark 0 mask 0x2000000 tmpl proto esp reqid 5 mode transport\n"
	if got := policyBatch([]wire.Policy{p}); got != want {
		t.Errorf("policy:\n%s, want\n%s", got, want)
	}
	var b strings.Builder
	stateCommand(&b, association(0, 0, false, false))
	for _, want := range []string{"add src 10.81.0.1 dst 10.80.0.1 proto esp spi 0x10001 ", " 128 replay-window ", " sel src 10.81.0.1 dst 10.80.0.1 proto udp sport 4242\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("state %q lacks %q", b.String(), want)
		}
	}
}

func TestRatios(t *testing.T) {
	middle, words := ratios([]time.Duration{1, 6, 4}, []time.Duration{1, 2, 2})
	if middle != 2 || words != "2.00 (1.00–3.00)" {
		t.Errorf("%v, %s", middle, words)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range [][]string{{"-only", "nothing"}, {"-rounds", "0"}, {"-pairs", "20000"}, {"-storm", "6000"}, {"-filters", "60001"}, {"-peers", "251"}} {
		if _, err := parse(c); err == nil {
			t.Errorf("%v is taken", c)
		}
	}
	if _, err := parse([]string{"-only", "storm,filters"}); err != nil {
		t.Error(err)
	}
}

func TestKilobytes(t *testing.T) {
	if got := kilobytes("VmHWM:\t  20 kB\nVmRSS:\t  12 kB\n", "VmRSS:"); got != 12<<10 {
		t.Errorf("%d bytes", got)
	}
	if got := kilobytes("", "VmRSS:"); got != 0 {
		t.Errorf("%d bytes of nothing", got)
	}
}

// netlinkMessage is one as it is captured.
func netlinkMessage(typ, flags uint16, seq uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 77)
	b = append(b, body...)
	return append(b, make([]byte, -len(b)&3)...)
}

func TestSplit(t *testing.T) {
	packet := slices.Concat(netlinkMessage(0x13, unix.NLM_F_REQUEST, 1, []byte("abc")), netlinkMessage(2, 0, 2, nil))
	all := split(packet, message{family: unix.NETLINK_XFRM})
	if len(all) != 2 || !all[0].request || all[1].request || string(all[0].body) != "abc" || all[1].seq != 2 || all[0].pid != 77 || all[1].family != unix.NETLINK_XFRM {
		t.Errorf("%+v", all)
	}
	for n := range packet {
		if got := split(packet[:n], message{}); len(got) > 1 || n < 19 && len(got) > 0 {
			t.Errorf("%d bytes are %d messages", n, len(got))
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(netlinkMessage(0x13, 1, 1, []byte("abc")))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for _, m := range split(b, message{}) {
			n += unix.NLMSG_HDRLEN + len(m.body)
		}
		if n > len(b) {
			t.Errorf("%d bytes of messages in %d", n, len(b))
		}
	})
}

// The time is that from the question to the answer to the request for the
// outbound association, whatever else is said meanwhile.
func TestWatch(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, int64(ms)*int64(time.Millisecond)) }
	sa := association(3, 0, true, false)
	state := func(dst netip.Addr) []byte {
		id := sa.ID
		id.Dst = dst
		body, err := wire.State{ID: id, Src: sa.Src, Suite: sa.Suite, EncKey: sa.EncKey}.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	w := watch{peer: peerAddr(3), asked: at(0)}
	for i, m := range []message{
		{typ: wire.MsgNewSA, request: true, seq: 1, body: state(peerAddr(4))}, // another's
		{typ: unix.NLMSG_ERROR, seq: 1},
		{typ: wire.MsgNewSA, seq: 9, body: state(peerAddr(3))}, // the kernel's own
		{typ: wire.MsgNewSA, request: true, seq: 2, body: state(peerAddr(3))},
		{typ: unix.NLMSG_ERROR, seq: 1},
		{typ: unix.NLMSG_ERROR, seq: 2, at: at(80)},
	} {
		if over := w.see(m); over != (i == 5) {
			t.Fatalf("message %d: over: %t", i, over)
		}
	}
	if w.took != 80*time.Millisecond {
		t.Errorf("%s", w.took)
	}
}
