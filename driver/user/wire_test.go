package user

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// over sends v through a frame into a new T.
func over[T any](t *testing.T, v T) T {
	t.Helper()
	var b bytes.Buffer
	if err := writeFrame(&b, v); err != nil {
		t.Fatal(err)
	}
	var got T
	if err := readFrame(&b, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

func compare(t *testing.T, want, got any) {
	t.Helper()
	exporter := cmp.Exporter(func(typ reflect.Type) bool { return strings.HasPrefix(typ.PkgPath(), "ipsecagent/") })
	secrets := cmp.Comparer(func(a, b sadb.Secret) bool { return a.Equal(b) })
	addrs := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	ports := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(want, got, exporter, secrets, addrs, ports); d != "" {
		t.Errorf("changed on the way (-sent +received):\n%s", d)
	}
}

func sampleFilters() []sadb.Filter {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
	return []sadb.Filter{
		{ID: "zero"},
		{ID: "any", Name: "everything", Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Permit}},
		{ID: "full", Name: "rule 1, list 2", Dir: sadb.Out,
			Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Range(a, b), Proto: sadb.TCP,
				LocalPorts: sadb.Port(80), RemotePorts: sadb.Ports{From: 1, To: 9}},
			Action: sadb.Action{Kind: sadb.Negotiate, PassThrough: true, AllowClear: true, ClearDelay: time.Second},
			Mode:   sadb.Tunnel, TunnelLocal: a, TunnelRemote: b},
		{ID: "overlay", Parent: "full", Dir: sadb.In, Expires: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC),
			Selector: sadb.Selector{Remote: sadb.Prefix(netip.MustParsePrefix("2001:db8::/32")), Proto: sadb.ICMPv6,
				ICMPType: sadb.Octets{From: 128, To: 129, Set: true}, ICMPCode: sadb.Octets{Set: true}}},
	}
}

func sampleSA() sadb.SA {
	suite := sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESCBC, KeyBits: 128, Integrity: sadb.HMACSHA256}
	return sadb.SA{
		ID:  sadb.SAID{Dst: netip.MustParseAddr("2001:db8::1"), Proto: sadb.ESP, SPI: 0xfedcba98},
		Src: netip.MustParseAddr("2001:db8::2"), Dir: sadb.In, Mode: sadb.Tunnel, Suite: suite,
		EncKey: sadb.NewSecret([]byte("0123456789abcdef")), AuthKey: sadb.NewSecret([]byte("0123456789abcdef0123456789abcdef")),
		ESN: true, Replay: 1024,
		Lifetime: sadb.Lifetime{Soft: sadb.Limits{Time: time.Hour, Bytes: 1 << 60}, Hard: sadb.Limits{Packets: 1<<64 - 1}},
		Selector: sampleFilters()[2].Selector, Filter: "full", Pair: 7,
		Replaces: sadb.SAID{Dst: netip.MustParseAddr("2001:db8::1"), Proto: sadb.ESP, SPI: 300},
		Encap:    sadb.Encap{Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500")},
	}
}

func TestFiltersSurviveTheSocket(t *testing.T) {
	var sent request
	for _, f := range sampleFilters() {
		sent.Filters = append(sent.Filters, toWireFilter(f))
	}
	got, err := toFilters(over(t, sent).Filters)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, sampleFilters(), got)
}

func TestAssociationSurvivesTheSocketWithItsKeys(t *testing.T) {
	w := toWireSA(sampleSA())
	got, err := over(t, request{SA: &w}).SA.sa()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, sampleSA(), got)
}

func TestStateSurvivesTheSocketWithoutKeys(t *testing.T) {
	sa := sampleSA()
	sa.EncKey, sa.AuthKey = sadb.Secret{}, sadb.Secret{}
	at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	peer := driver.ClearPeer{Filter: "full", Local: sa.Src, Remote: sa.ID.Dst, Since: at, Last: at, Packets: 3, Inbound: true}
	want := driver.State{
		Name: "user", Started: at,
		SAs:     []driver.SAState{{SA: sa, Added: at, LastUsed: at, Bytes: 1, Packets: 2, Seq: 3, Replayed: 4, BadICV: 5}},
		Filters: []driver.FilterStat{{Filter: sampleFilters()[2], Packets: 1, Bytes: 2, Dropped: 3}},
		Clear:   []driver.ClearPeer{peer}, ClearLost: true,
		Counters: driver.Counters{OutPackets: 1, InClear: 2}, Exempt: []string{"a"}, Suites: sadb.Suites(), ModeTunnel: true,
	}
	got, err := over(t, reply{State: toWireState(want)}).State.state()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, want, got)
}

func TestEventsSurviveTheSocket(t *testing.T) {
	id := sampleSA().ID
	flow := sadb.Flow{Local: id.Dst, Remote: id.Dst, LocalMe: true, Proto: sadb.UDP, LocalPort: 1, RemotePort: 2, ICMPType: 3, ICMPCode: 4}
	for _, e := range []driver.Event{
		driver.Acquire{Filter: "f", Flow: flow, Clear: true}, driver.Expire{ID: id, Hard: true}, driver.Used{ID: id},
		driver.Moved{ID: id, From: netip.MustParseAddrPort("[2001:db8::1]:4500")}, driver.FilterEnded{ID: "f"},
		driver.Tampered{What: "rule", Restored: true}, driver.Resync{Reason: "r"},
	} {
		got, err := over(t, message{Event: toWireEvent(e)}).Event.event()
		if err != nil {
			t.Fatal(err)
		}
		compare(t, e, got)
	}
	if _, err := (wireEvent{}).event(); err == nil {
		t.Error("an empty event passed")
	}
}

func TestMalformedSelectorsAreRefused(t *testing.T) {
	for _, s := range []string{
		`{"Kind":""}`, `{"Kind":"us"}`, `{"Kind":"range"}`,
		`{"Kind":"range","From":"192.0.2.2","To":"192.0.2.1"}`,
		`{"Kind":"range","From":"192.0.2.2","To":"2001:db8::1"}`,
		`{"Kind":"range","From":"192.0.2.2"}`,
		`{"Kind":"range","From":"::ffff:192.0.2.2","To":"::ffff:192.0.2.3"}`,
	} {
		var w wireAddrs
		if err := json.Unmarshal([]byte(s), &w); err != nil {
			continue
		}
		if a, err := w.addrs(); err == nil {
			t.Errorf("%s passed as %v", s, a)
		}
	}
}

func TestEveryPrefixOfAFrameIsRefused(t *testing.T) {
	var b bytes.Buffer
	w := toWireSA(sampleSA())
	if err := writeFrame(&b, request{ID: 1, Verb: verbAddSA, SA: &w}); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	for n := range len(whole) {
		var r request
		if err := readFrame(bytes.NewReader(whole[:n]), &r); err == nil {
			t.Fatalf("%d of %d bytes passed", n, len(whole))
		}
	}
}

func TestOversizedFrameIsRefusedBeforeItIsRead(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, maxFrame+1)
	var r request
	err := readFrame(io.MultiReader(bytes.NewReader(head), failingReader{t}), &r)
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

type failingReader struct{ t *testing.T }

func (f failingReader) Read([]byte) (int, error) {
	f.t.Error("the body was read")
	return 0, io.EOF
}

// FuzzRequest: what a client may send never panics, and what is accepted
// survives another round.
func FuzzRequest(f *testing.F) {
	w := toWireSA(sampleSA())
	for _, r := range []request{
		{ID: 1, Verb: verbAddSA, SA: &w},
		{ID: 2, Verb: verbSetFilters, Base: 3, Runs: []stretch{{From: 1, N: 2, Filters: []wireFilter{toWireFilter(sampleFilters()[2])}}}},
		{ID: 3, Verb: verbAbandon, Acquire: &driver.Acquire{Filter: "f"}},
	} {
		b, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r request
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		if readFrame(bytes.NewReader(frame), &r) != nil {
			return
		}
		if filters, err := toFilters(r.Filters); err == nil {
			for i, flt := range filters {
				compare(t, toWireFilter(flt).Selector, r.Filters[i].Selector)
			}
		}
		if filters, err := compose(sampleFilters(), r.Runs); err == nil && len(filters) > maxFilters {
			t.Errorf("%d filters", len(filters))
		}
		if r.SA != nil {
			_, _ = r.SA.sa()
		}
	})
}
