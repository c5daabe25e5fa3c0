package xfrm

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// taken returns the events that an engine has raised.
func taken(e *engine) []driver.Event {
	var out []driver.Event
	for {
		select {
		case ev := <-e.out:
			out = append(out, ev)
		default:
			return out
		}
	}
}

// waiting is the state that a kernel makes when a packet asks for an association.
func waiting(e *engine, id sadb.FilterID) wire.State {
	local, remote := exampleAddr(1), netip.MustParseAddr("10.0.0.2")
	return wire.State{ID: sadb.SAID{Dst: remote, Proto: sadb.ESP}, Src: local, Seq: 7, ReqID: e.reqids.id(id), Selector: wire.Selector{
		Src: netip.PrefixFrom(local, 32), Dst: netip.PrefixFrom(remote, 32), Proto: sadb.UDP, DstPort: wire.PortMask{Port: 9, Mask: 0xffff}}}
}

// Everything of ours has gone from the kernel (another's flush, the modules
// unloaded): the policies are back at once, and each association's end is said.
func TestWhatVanishedIsPutBackOrReported(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	e := s.begin(t, k, t.TempDir())
	taken(e)
	var want []wire.Policy
	for _, p := range k.policies {
		if p.Selector.Proto != 0 || len(p.Templates) == 0 || p.Templates[0].Proto != sadb.AH { // that shape goes with its association
			want = append(want, p)
		}
	}
	foreign := wire.Policy{Selector: want[0].Selector, Dir: wire.Out, Priority: 9}
	clear(k.states)
	clear(k.policies)
	k.policies[keyOf(foreign)] = foreign
	for _, ev := range []changed{{by: 99}, {by: 99}} { // both flushed
		e.handle(ev)
	}
	e.tick(now())
	for _, p := range want {
		if got, ok := k.policies[keyOf(p)]; !ok || !same(got, p) {
			t.Errorf("the policy %s is not back", describe(p))
		}
	}
	events := taken(e)
	if !slices.Contains(events, driver.Event(driver.Tampered{What: "policies of XFRM", Restored: true})) {
		t.Errorf("events %v", events)
	}
	for _, sa := range s.sas {
		if !slices.Contains(events, driver.Event(driver.Expire{ID: sa.ID, Hard: true})) {
			t.Errorf("nothing says that %s is gone: %v", sa.ID, events)
		}
	}
	if len(e.sas.byID) != 0 || k.policies[keyOf(foreign)].Priority != 9 {
		t.Errorf("%d associations count as in force; another's policy is %v", len(e.sas.byID), k.policies[keyOf(foreign)])
	}
}

// A change that the kernel refuses for now is tried again.
func TestAFailedRepairIsTriedAgain(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	e := s.begin(t, k, t.TempDir())
	was := maps.Clone(k.policies)
	clear(k.policies)
	e.handle(changed{by: 99})
	k.fail = k.messages + 3 // the first policy of all
	at := now()
	e.tick(at)
	if alike(k.policies, was) || !e.suspect {
		t.Fatal("the kernel has refused nothing")
	}
	e.tick(at.Add(2 * retryAfter))
	if !alike(k.policies, was) || e.suspect {
		t.Errorf("%d policies are back, want %d", len(k.policies), len(was))
	}
}

// When the kernel had more to say than fits, all that was missed is found by
// listing: what is gone, and what waits.
func TestAfterAnOverrunAllIsCompared(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	s.overlays, s.sas = nil, s.sas[:1] // the filter itself decides
	e := s.begin(t, k, t.TempDir())
	taken(e)
	was := maps.Clone(k.policies)
	for id, p := range k.policies {
		if len(p.Templates) > 0 {
			delete(k.policies, id)
		}
	}
	delete(k.states, s.sas[0].ID)
	w := waiting(e, "lab")
	k.states[w.ID] = w

	heard := heardAfter(unix.ENOBUFS)
	n := 0
	for ev := range heard {
		n++
		e.handle(ev)
	}
	if n != 1 {
		t.Fatalf("%d events, want one of the overrun", n)
	}
	e.tick(now())
	if !alike(k.policies, was) {
		t.Errorf("%d policies, want %d", len(k.policies), len(was))
	}
	events := taken(e)
	resync := slices.ContainsFunc(events, func(ev driver.Event) bool { _, ok := ev.(driver.Resync); return ok })
	gone := slices.Contains(events, driver.Event(driver.Expire{ID: s.sas[0].ID, Hard: true}))
	asks := slices.ContainsFunc(events, func(ev driver.Event) bool {
		a, ok := ev.(driver.Acquire)
		return ok && a.Filter == "lab" && a.Flow.Remote == w.ID.Dst && a.Flow.RemotePort == 9 && a.Clear
	})
	if !resync || !gone || !asks {
		t.Errorf("events %v: resync %v, the association's end %v, the question %v", events, resync, gone, asks)
	}
	e.handle(overrun{})
	e.tick(now().Add(2 * retryAfter))
	if again := taken(e); len(again) != 1 {
		t.Errorf("a second time: %v, want the resync alone", again)
	}
}

// heardAfter returns what a feed passes on whose socket fails so, one after the
// other, and is then closed.
func heardAfter(failures ...error) chan any {
	var f *feed
	f = &feed{c: nltest.Dial(func([]netlink.Message) ([]netlink.Message, error) {
		if len(failures) == 0 {
			close(f.done)
			return nil, os.ErrClosed
		}
		err := failures[0]
		failures = failures[1:]
		return nil, os.NewSyscallError("recvmsg", err)
	}), done: make(chan struct{})}
	heard := make(chan any, 10)
	f.read(heard)
	close(heard)
	return heard
}

// No error but its own end makes the feed deaf, and each is said.
func TestTheFeedGoesOnAfterAnyError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		e := situation{}.begin(t, k, t.TempDir())
		n := 0
		for ev := range heardAfter(unix.ENOMEM, errors.New("a short message"), unix.ENOBUFS) {
			n++
			e.handle(ev)
		}
		events := taken(e)
		if n != 3 || !e.suspect || len(events) != 3 || !strings.Contains(fmt.Sprint(events[0]), "cannot allocate") {
			t.Errorf("%d losses, events %v", n, events)
		}
	})
}

// What an earlier process was asked for is asked for again by the next, when it
// has a policy.
func TestQuestionsOutliveAProcess(t *testing.T) {
	k, dir := newKernel(), t.TempDir()
	s := situationOf(2)
	s.overlays, s.sas = nil, nil
	e := s.begin(t, k, dir)
	w := waiting(e, "lab")
	k.states[w.ID] = w
	e = k.open(t, dir)
	if err := e.setFilters(s.filters); err != nil {
		t.Fatal(err)
	}
	events := taken(e)
	if len(events) != 1 || events[0].(driver.Acquire).Filter != "lab" {
		t.Errorf("events %v", events)
	}
}

// An event that found no room is lost; a question is then not taken for asked.
func TestAFullQueueOfEvents(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	s.overlays, s.sas = nil, nil
	e := s.begin(t, k, t.TempDir())
	e.out = make(chan driver.Event, 2)
	e.emit(driver.Used{})
	e.emit(driver.Used{})
	w := waiting(e, "lab")
	e.resume([]wire.State{w})
	if len(e.asked) != 0 {
		t.Error("a lost question counts as asked")
	}
	taken(e)
	e.resume([]wire.State{w})
	events := taken(e)
	if len(events) != 2 || len(e.asked) != 1 {
		t.Fatalf("events %v", events)
	}
	if _, ok := events[0].(driver.Resync); !ok {
		t.Errorf("events %v: nothing says that some were lost", events)
	}
}

// What the kernel refuses is said in words that help.
func TestRefusalsSayWhatToDo(t *testing.T) {
	for what, c := range map[string]struct {
		number unix.Errno
		want   string
		do     func(*engine) error
	}{
		"no ESP":          {unix.EPROTONOSUPPORT, "modules esp4", func(e *engine) error { return e.addSA(testSA(sadb.Out, sadb.ESP, 0x9001)) }},
		"no algorithm":    {unix.ENOSYS, "choose another security method", func(e *engine) error { return e.addSA(testSA(sadb.Out, sadb.ESP, 0x9001)) }},
		"another's state": {unix.EEXIST, "ip xfrm state", func(e *engine) error { return e.addSA(testSA(sadb.In, sadb.ESP, 0x9001)) }},
		"no privilege":    {unix.EPERM, "CAP_NET_ADMIN", func(e *engine) error { return e.addSA(testSA(sadb.In, sadb.ESP, 0x9001)) }},
	} {
		k, s := newKernel(), situationOf(2)
		s.sas = s.sas[:1]
		e := s.begin(t, k, t.TempDir())
		states, policies, sas := len(k.states), maps.Clone(k.policies), len(e.sas.byID)
		k.fail, k.number = k.messages+1, c.number
		err := c.do(e)
		if !errors.Is(err, c.number) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", what, err)
		}
		if len(k.states) != states || len(e.sas.byID) != sas || !alike(k.policies, policies) {
			t.Errorf("%s: something has changed", what)
		}
	}
	k := newKernel()
	e := situationOf(2).begin(t, k, t.TempDir())
	k.fail, k.number = k.messages+2, unix.EPERM
	if err := e.setFilters(nil); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("SetFilters without privilege: %v", err)
	}
	if err := withoutXFRM(os.NewSyscallError("socket", unix.EPROTONOSUPPORT)); !strings.Contains(err.Error(), "driver: user") {
		t.Errorf("without XFRM: %v", err)
	}
}

// With its book lost or damaged a process knows nothing of what is in force: it
// takes none of it away before it is given a policy.
func TestWithoutItsBookNothingGoesBeforeTheFirstPolicy(t *testing.T) {
	for _, text := range []string{"{", "", "gone"} {
		k, dir := newKernel(), t.TempDir()
		s := situationOf(2)
		s.begin(t, k, dir)
		was, filters := maps.Clone(k.policies), k.filters
		file := filepath.Join(dir, filtersFile)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == "gone" {
			os.Remove(file)
		}
		e := k.open(t, dir)
		e.handle(changed{by: 99})
		e.tick(now())
		response := sadb.Filter{ID: "response", Selector: sadb.Selector{}.Narrow(exampleAddr(1), exampleAddr(9)), Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate}, Expires: now().Add(1e12)}
		if err := e.putFilter(response); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("error %v", err)
		}
		for id, p := range was {
			if got, ok := k.policies[id]; !ok || !same(got, p) {
				t.Fatalf("the policy %s is gone", describe(p))
			}
		}
		if len(filters) != len(k.filters) {
			t.Errorf("the table has %d filters, not %d", len(k.filters), len(filters))
		}
		if err := e.setFilters(s.after); err != nil {
			t.Fatal(err)
		}
		(&watch{t: t, k: k, where: "the first policy"}).exact(e)
	}
}
