package directory

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
)

// Whatever operation fails, hosts have the policy of before or the new one,
// whole; and publishing again makes all of it right.
func TestPublishingIsInterrupted(t *testing.T) {
	for name, edit := range edits() {
		for _, dead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, dead %v", name, dead), func(t *testing.T) { interrupt(t, edit, dead) })
		}
	}
}

func interrupt(t *testing.T, edit func(*policy.Policy), dead bool) {
	base := newShelf()
	publish(t, base, webPolicy())
	before, after := normal(t, webPolicy()), normal(t, edited(edit))
	made := plan(t, base, edited(edit))
	for at := 1; at <= len(made.Steps); at++ {
		s := base.clone()
		s.failAt, s.dead = at, dead
		applied, err := apply(t.Context(), s, made)
		if err == nil {
			t.Fatalf("operation %d fails and nobody says so", at)
		}
		now := read(t, s, "web")
		switch {
		case now == nil:
			t.Fatalf("operation %d: no policy is left", at)
		case applied && differs(after, now) != "":
			t.Errorf("operation %d: applied, but\n%s", at, differs(after, now))
		case differs(before, now) != "" && differs(after, now) != "":
			t.Errorf("operation %d: neither the old policy nor the new one:\n%s", at, differs(before, now))
		case !dead && !applied:
			if d := cmp.Diff(entryTexts(base), entryTexts(s)); d != "" {
				t.Errorf("operation %d: not taken back: %s", at, d)
			}
		}
		s.failAt, s.dead = 0, false
		publish(t, s, edited(edit))
		s.sound(t)
		if d := differs(after, read(t, s, "web")); d != "" {
			t.Errorf("operation %d, repaired: %s", at, d)
		}
	}
}

// entryTexts are entries as texts with their values sorted.
func entryTexts(s *shelf) []string {
	var all []string
	for _, e := range s.all() {
		var lines []string
		for _, a := range e.Attributes {
			for _, v := range a.Values {
				lines = append(lines, fmt.Sprintf("%s: %q", a.Name, v))
			}
		}
		slices.Sort(lines)
		all = append(all, e.DN+"\n"+strings.Join(lines, "\n"))
	}
	return all
}

// A second writer between the reading and the writing is noticed.
func TestTwoWriters(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	mine := plan(t, s, edited(edits()["both lists changed"]))
	publish(t, s, edited(edits()["a rule added"]))
	state := s.clone()
	if applied, err := apply(t.Context(), s, mine); err == nil || applied {
		t.Fatal("what the other wrote is overwritten")
	}
	if d := cmp.Diff(entryTexts(state), entryTexts(s)); d != "" {
		t.Error(d)
	}
}

// What somebody has begun to use since the plan was made is not deleted.
func TestWhatIsUsedMeanwhileStays(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	list := s.objectOf(t, gpipsec.ClassFilter, "http").DN
	mine := plan(t, s, edited(edits()["an address added"]))
	other := webPolicy()
	other.Name = "other"
	publish(t, s, other) // it shares the list that mine replaces
	if _, err := apply(t.Context(), s, mine); err != nil {
		t.Fatal(err)
	}
	if s.entries[strings.ToLower(list)] == nil || read(t, s, "other") == nil {
		t.Error("the list of the other policy is gone")
	}
}

func FuzzExtensionNames(f *testing.F) {
	f.Add("[" + extension + toolExtension + "]")
	f.Add("[{1}{2}][{0}]")
	f.Fuzz(func(t *testing.T, names string) {
		with, err := withExtension(names, true)
		if err != nil {
			return
		}
		again, err := withExtension(with, true)
		if err != nil || again != with || !extends(with) {
			t.Errorf("%q becomes %q and %q, %v", names, with, again, err)
		}
		if without, err := withExtension(with, false); err != nil || extends(without) {
			t.Errorf("%q without it is %q, %v", with, without, err)
		}
	})
}
