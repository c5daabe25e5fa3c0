package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ipsecagent/policy/gpipsec"
)

// What another administrator is just publishing is not taken for left behind.
func TestRepairBesidePublishing(t *testing.T) {
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := newShelf()
	mine := plan(t, s, webPolicy())
	for _, step := range mine.Steps[:mine.Commit] {
		if err := step.do(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range s.entries {
		e.set(attrCreated, made.Format("20060102150405.0Z"))
	}
	state := s.clone()
	findings := func(now time.Time) []Finding {
		c := s.contents()
		c.now = now
		return c.check(nil, "")
	}
	during := findings(made.Add(time.Minute))
	if len(during) == 0 || !strings.Contains(fmt.Sprint(during), "somebody may be publishing") {
		t.Errorf("nothing is said: %v", during)
	}
	if _, err := apply(t.Context(), s, RepairPlan(during)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(entryTexts(state), entryTexts(s)); d != "" {
		t.Errorf("what is being published is touched: %s", d)
	}
	for _, step := range mine.Steps[mine.Commit:] {
		if err := step.do(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	s.sound(t)
	if found := findings(made.Add(time.Minute)); len(found) > 0 {
		t.Errorf("published, and still: %v", found)
	}

	s = state // the other one has been interrupted
	if _, err := apply(t.Context(), s, RepairPlan(findings(made.Add(time.Hour)))); err != nil {
		t.Fatal(err)
	}
	if left := findings(made.Add(time.Hour)); len(left) > 0 {
		t.Errorf("an hour later it is not repaired: %v", left)
	}
}

// meddler is a shelf from which somebody removes an object before the commit.
type meddler struct {
	*shelf
	remove string // a part of its DN
}

func (m *meddler) names(ctx context.Context) (map[gpipsec.Ref]bool, error) {
	for key, e := range m.entries {
		if strings.Contains(e.DN, m.remove) {
			delete(m.entries, key)
			break
		}
	}
	return m.shelf.names(ctx)
}

// A policy is not put in force if part of it has been removed meanwhile, which
// some servers would let it refer to.
func TestWhatIsRemovedMeanwhileIsMissed(t *testing.T) {
	for _, class := range []gpipsec.Class{gpipsec.ClassNFA, gpipsec.ClassISAKMP, gpipsec.ClassFilter, gpipsec.ClassNegotiation} {
		s := newShelf()
		mine := plan(t, s, webPolicy())
		applied, err := apply(t.Context(), &meddler{s, string(class)}, mine)
		if !errors.Is(err, ErrNotFound) || applied || !strings.Contains(err.Error(), "somebody has removed it") {
			t.Errorf("%s removed: %v, %v", class, applied, err)
		}
		if len(s.entries) > 0 {
			t.Errorf("%s removed: not taken back: %v", class, entryTexts(s))
		}
	}
	// The same goes for what was there before and is shared.
	for _, class := range []gpipsec.Class{gpipsec.ClassFilter, gpipsec.ClassNegotiation} {
		s := newShelf()
		publish(t, s, webPolicy())
		other := webPolicy()
		other.Name = "other"
		applied, err := apply(t.Context(), &meddler{s, string(class)}, plan(t, s, other))
		if !errors.Is(err, ErrNotFound) || applied || read(t, s, "other") != nil {
			t.Errorf("shared %s removed: %v, %v", class, applied, err)
		}
	}
}

// What hosts could not read is never written: they could not read anything else
// of the container either.
func TestOversizedObjectsAreRefused(t *testing.T) {
	p := webPolicy()
	p.Description = strings.Repeat("x", maxObject)
	if _, err := planPublish(newShelf().contents(), p, PublishOptions{}); !errors.Is(err, ErrOversized) || !strings.Contains(err.Error(), `policy "web"`) {
		t.Errorf("%.300v", err)
	}
	s := newShelf()
	publish(t, s, webPolicy())
	if _, err := planPublish(s.contents(), p, PublishOptions{}); !errors.Is(err, ErrOversized) {
		t.Errorf("a change: %.300v", err)
	}
	p.Description = p.Description[:maxObject-4096]
	if _, err := planPublish(newShelf().contents(), p, PublishOptions{}); err != nil {
		t.Errorf("%.300v", err)
	}
}
