package iketest

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	a     = netip.MustParseAddrPort("192.0.2.1:500")
	b     = netip.MustParseAddrPort("192.0.2.2:500")
	epoch = time.Unix(1000, 0)
)

// network returns a network with a, b and a path.
func network(seed uint64, p Path) *Net {
	n := New(seed)
	n.Attach(a, b)
	n.SetPath(p)
	return n
}

// flood sends count numbered datagrams from a to b, one each millisecond.
func flood(n *Net, count int) {
	for i := range count {
		n.Send(epoch.Add(time.Duration(i)*time.Millisecond), a, b, number(i))
	}
}

func number(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

// arrival is a numbered datagram and when it came, since the epoch.
type arrival struct {
	after  time.Duration
	number int
}

func drain(n *Net) (all []arrival) {
	for {
		at, d, ok := n.Next()
		if !ok {
			return all
		}
		all = append(all, arrival{at.Sub(epoch), int(binary.BigEndian.Uint32(d.Data))})
	}
}

func rough() Path {
	return Path{Loss: 0.2, Duplicate: 0.1, Reorder: 0.1, Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Late: 30 * time.Millisecond}
}

func TestSameSeedSameFate(t *testing.T) {
	run := func(seed uint64) []arrival {
		n := network(seed, rough())
		flood(n, 500)
		return drain(n)
	}
	if !slices.Equal(run(1), run(1)) {
		t.Error("two runs with one seed differ")
	}
	if slices.Equal(run(1), run(2)) {
		t.Error("runs with different seeds do not differ")
	}
}

func TestDirectionsDoNotDisturbEachOther(t *testing.T) {
	alone := network(1, rough())
	flood(alone, 200)
	busy := network(1, rough())
	for range 50 {
		busy.Send(epoch, b, a, number(0))
	}
	flood(busy, 200)
	drain(alone)
	drain(busy)
	if alone.Counts(a, b) != busy.Counts(a, b) {
		t.Errorf("alone %+v, with traffic the other way %+v", alone.Counts(a, b), busy.Counts(a, b))
	}
}

func TestRatesAreThoseAskedFor(t *testing.T) {
	const sent = 20000
	for _, rate := range []float64{0, 0.05, 0.3, 0.5, 1} {
		n := network(7, Path{Loss: rate})
		flood(n, sent)
		drain(n)
		near(t, fmt.Sprintf("loss %v", rate), n.Counts(a, b).Lost, rate*sent)
		n = network(7, Path{Duplicate: rate})
		flood(n, sent)
		near(t, fmt.Sprintf("duplicates %v", rate), len(drain(n))-sent, rate*sent)
		n = network(7, Path{Reorder: rate, Late: time.Second})
		flood(n, sent)
		drain(n)
		near(t, fmt.Sprintf("reordered %v", rate), n.Counts(a, b).Reordered, rate*sent)
	}
}

// near allows four standard deviations of 20000 draws.
func near(t *testing.T, what string, got int, want float64) {
	t.Helper()
	if allowed := 4 * math.Sqrt(want*(1-want/20000)); math.Abs(float64(got)-want) > allowed {
		t.Errorf("%s: %d of 20000, want %.0f ± %.0f", what, got, want, allowed)
	}
}

func TestJitterDelaysWithoutReordering(t *testing.T) {
	n := network(3, Path{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond})
	flood(n, 1000)
	late := 0
	for i, got := range drain(n) {
		if got.number != i {
			t.Fatalf("datagram %d came as number %d", got.number, i)
		}
		took := got.after - time.Duration(i)*time.Millisecond
		if took < 20*time.Millisecond || took > 30*time.Millisecond {
			t.Errorf("datagram %d took %v", i, took)
		}
		if took > 25*time.Millisecond {
			late++
		}
	}
	if late < 100 {
		t.Errorf("jitter used its upper half %d times only", late)
	}
}

func TestReorderedIsOvertaken(t *testing.T) {
	n := network(1, Path{})
	n.SetPath(Path{Reorder: 1, Late: 10 * time.Millisecond})
	n.Send(epoch, a, b, number(1))
	n.SetPath(Path{})
	n.Send(epoch.Add(time.Millisecond), a, b, number(2))
	want := []arrival{{time.Millisecond, 2}, {10 * time.Millisecond, 1}}
	if got := drain(n); !slices.Equal(got, want) {
		t.Errorf("arrivals %v, want %v", got, want)
	}
}

func TestSameTimeKeepsOrder(t *testing.T) {
	n := network(1, Path{})
	for i := range 100 {
		n.Send(epoch, a, b, number(i))
	}
	for i, got := range drain(n) {
		if got.number != i {
			t.Fatalf("number %d came in place %d", got.number, i)
		}
	}
}

func TestPathOfOneDirection(t *testing.T) {
	n := network(1, Path{})
	n.SetDirection(a.Addr(), b.Addr(), Path{Loss: 1})
	n.Send(epoch, a, b, number(1))
	n.Send(epoch, b, a, number(2))
	if got := drain(n); len(got) != 1 || got[0].number != 2 {
		t.Errorf("arrivals %v, want number 2 alone", got)
	}
}

func TestHooks(t *testing.T) {
	n := network(1, Path{})
	n.DropNth(a, b, 1, 3)
	n.OnNth(a, b, 2, func(data []byte) []byte { data[3] ^= 0xff; return data })
	flood(n, 4) // numbers 0 to 3
	want := []int{1 ^ 0xff, 3}
	got := drain(n)
	if len(got) != 2 || got[0].number != want[0] || got[1].number != want[1] {
		t.Errorf("arrivals %v, want numbers %v", got, want)
	}
	if c := n.Counts(a, b); c.Dropped != 2 || c.Sent != 4 || c.Delivered != 2 {
		t.Errorf("counts %+v", c)
	}
}

func TestDataIsCopied(t *testing.T) {
	n := network(1, Path{Duplicate: 1})
	data := []byte("original")
	n.Send(epoch, a, b, data)
	copy(data, "OVERWROT")
	_, first, _ := n.Next()
	copy(first.Data, "changed!")
	_, second, _ := n.Next()
	if string(second.Data) != "original" {
		t.Errorf("the copy holds %q", second.Data)
	}
}

func TestEndpointsComeAndGo(t *testing.T) {
	n := network(1, Path{Delay: time.Second})
	n.Send(epoch, a, b, number(1))
	n.Detach(b)
	if at, ok := n.NextTime(); ok {
		t.Errorf("a delivery to a detached endpoint is due at %v", at)
	}
	n.Attach(b)
	n.Send(epoch, a, b, number(2))
	if at, ok := n.NextTime(); !ok || !at.Equal(epoch.Add(time.Second)) {
		t.Errorf("next delivery %v, %v", at, ok)
	}
	if got := drain(n); len(got) != 1 || got[0].number != 2 {
		t.Errorf("arrivals %v, want number 2 alone", got)
	}
	if c := n.Counts(a, b); c.Nowhere != 1 {
		t.Errorf("counts %+v, want one to nowhere", c)
	}
}

func TestTimeDoesNotRunBack(t *testing.T) {
	n := network(1, Path{})
	n.Send(epoch.Add(time.Hour), a, b, number(1))
	n.Next()
	n.Send(epoch, b, a, number(2))
	if at, _, ok := n.Next(); !ok || at.Before(epoch.Add(time.Hour)) {
		t.Errorf("a delivery at %v after one an hour later", at)
	}
}
