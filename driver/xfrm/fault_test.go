package xfrm

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// alike reports whether two sets of policies do the same.
func alike(a, b map[key]wire.Policy) bool {
	return maps.EqualFunc(a, b, same)
}

// An error at any message leaves what was in force before in force.
func TestAChangeThatFailsIsTakenBack(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var before []sadb.Filter
	for i := range 12 {
		before = append(before, randomFilter(r, i))
	}
	before = distinct(before)
	after := distinct(changedList(r, before, 5))
	for fail := 1; ; fail++ {
		k := newKernel()
		e := k.engine(t.TempDir())
		first, err := e.compose(before, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.apply(first); err != nil {
			t.Fatal(err)
		}
		was := maps.Clone(k.policies)
		second, err := e.compose(after, nil)
		if err != nil {
			t.Fatal(err)
		}
		k.fail = k.messages + fail
		err = e.apply(second)
		if err == nil {
			if fail < 10 {
				t.Errorf("the change takes %d messages only", fail-1)
			}
			return
		}
		if !errors.Is(err, unix.ENOMEM) {
			t.Fatalf("message %d: %v", fail, err)
		}
		if !alike(k.policies, was) || !alike(e.have, was) {
			t.Fatalf("message %d refused: %d policies are in force, not the %d of before", fail, len(k.policies), len(was))
		}
		if e.list != first {
			t.Fatalf("message %d refused: the new list counts as in force", fail)
		}
	}
}

// An overlay whose end is put off is written again: the kernel would end it at
// its former time.
func TestARenewedOverlayHasItsNewEnd(t *testing.T) {
	base := sadb.Filter{ID: "f", Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(exampleAddr(2))}, Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate, AllowClear: true}}
	o := base
	o.ID, o.Parent, o.Action, o.Expires = "o", "f", sadb.Action{Kind: sadb.Negotiate}, time.Now().Add(10*time.Second)
	k := newKernel()
	e := k.engine(t.TempDir())
	for _, end := range []time.Duration{10 * time.Second, time.Hour} {
		o.Expires = time.Now().Add(end)
		l, err := e.compose([]sadb.Filter{base}, []sadb.Filter{o})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.apply(l); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, p := range k.policies {
			if left := p.Lifetime.Hard.Time; left > end-2*time.Second && left <= end+time.Second {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%d policies end in %s, want 2", n, end)
		}
	}
}

// A policy of another program is named, and not overwritten.
func TestPoliciesOfOthersAreNotOverwritten(t *testing.T) {
	f := sadb.Filter{ID: "f", Selector: sadb.Selector{Local: sadb.Me(), Proto: sadb.TCP}, Dir: sadb.Out, Action: sadb.Action{Kind: sadb.Negotiate}}
	k := newKernel()
	e := k.engine(t.TempDir())
	l, err := e.compose([]sadb.Filter{f}, nil)
	if err != nil {
		t.Fatal(err)
	}
	foreign := l.items[0].policies[0]
	foreign.Action, foreign.Priority = wire.Block, 7
	k.policies[keyOf(foreign)] = foreign
	err = e.apply(l)
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "another program") {
		t.Errorf("error %v", err)
	}
	if got := k.policies[keyOf(foreign)]; !same(got, foreign) || len(k.policies) != 1 {
		t.Errorf("%d policies, the other program's is %+v", len(k.policies), got)
	}
}

func TestBookKeepsWhatItIsGivenButKeys(t *testing.T) {
	b := book{filepath.Join(t.TempDir(), "book")}
	r := rand.New(rand.NewPCG(9, 9))
	want := page{Places: map[string]standing{"f": {7, 1}}, ReqIDs: map[sadb.FilterID]uint32{"f": reqidFirst + 3}}
	for i := range 20 {
		want.Filters = append(want.Filters, randomFilter(r, i))
	}
	if err := b.saveFilters(want); err != nil {
		t.Fatal(err)
	}
	got, err := b.loadFilters()
	if err != nil || !slices.Equal(got.Filters, want.Filters) || !maps.Equal(got.Places, want.Places) || !maps.Equal(got.ReqIDs, want.ReqIDs) {
		t.Errorf("got %+v, %v", got, err)
	}
	a := &association{SA: sampleSA(), Added: time.Unix(1000, 0), stamp: 1001}
	if err := b.saveSA(a); err != nil {
		t.Fatal(err)
	}
	all, err := b.loadSAs()
	if err != nil || len(all) != 1 || all[0].SA.ID != a.SA.ID || all[0].SA.Selector != a.SA.Selector || all[0].stamp != a.stamp {
		t.Fatalf("%d associations, %v", len(all), err)
	}
	text, err := os.ReadFile(filepath.Join(b.dir, saFile(a.SA.ID)))
	if err != nil || strings.Contains(string(text), "secret") || strings.Contains(string(text), "EncKey") {
		t.Errorf("the book says of keys: %s, %v", text, err)
	}
}

func sampleSA() sadb.SA {
	src, dst := exampleAddr(1), exampleAddr(2)
	return sadb.SA{ID: sadb.SAID{Dst: dst, Proto: sadb.ESP, SPI: 4096}, Src: src, Dir: sadb.Out, Filter: "f",
		EncKey: sadb.NewSecret([]byte("the key of it")), Selector: sadb.Selector{Proto: sadb.UDP}.Narrow(src, dst)}
}

func TestADamagedBookIsNamed(t *testing.T) {
	b := book{t.TempDir()}
	if p, err := b.loadFilters(); err != nil || len(p.Filters) != 0 {
		t.Errorf("no book: %+v, %v", p, err)
	}
	good := &association{SA: sampleSA()}
	if err := b.saveSA(good); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filtersFile, saPrefix + "50-00000001-192.0.2.9.json"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.loadFilters(); err == nil || !strings.Contains(err.Error(), filtersFile) {
		t.Errorf("error %v", err)
	}
	if all, err := b.loadSAs(); err == nil || len(all) != 1 {
		t.Errorf("%d associations, %v", len(all), err)
	}
}

func TestRequestIDsAreOfOneFilterEach(t *testing.T) {
	r := newRequestIDs(map[sadb.FilterID]uint32{"old": reqidLast - 1, "foreign": 7})
	old, a, b := r.id("old"), r.id("a"), r.id("b")
	if old != reqidLast-1 || a == old || a == b || r.id("a") != a {
		t.Errorf("request IDs %#x, %#x, %#x", old, a, b)
	}
	for _, n := range []uint32{a, b, r.id("foreign")} {
		if n <= reqidFirst || n >= reqidLast {
			t.Errorf("request ID %#x is not ours", n)
		}
	}
	r.keep(func(id sadb.FilterID) bool { return id == "b" })
	if r.id("b") != b || len(r.taken) != 1 {
		t.Error("what stays has another request ID, or what goes keeps its own")
	}
}
