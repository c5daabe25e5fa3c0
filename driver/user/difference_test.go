package user

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"ipsecagent/sadb"
)

// TestDifferenceGivesTheList: what is sent makes the list, whatever changed, and
// names few filters where few did.
func TestDifferenceGivesTheList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	list := randomFilters(r, 200)
	for round := range 500 {
		next, touched := slices.Clone(list), r.IntN(4)
		for i := range touched {
			at := r.IntN(len(next))
			switch r.IntN(4) {
			case 0:
				next[at].Action.Kind = sadb.Permit + sadb.ActionKind(round%2)
			case 1:
				next = slices.Delete(next, at, at+1)
			case 2:
				next = slices.Insert(next, at, sadb.Filter{ID: sadb.FilterID(fmt.Sprintf("new %d %d", round, i))})
			default:
				to := r.IntN(len(next))
				next[at], next[to] = next[to], next[at]
			}
		}
		runs := over(t, request{Runs: difference(list, next)}).Runs
		got, err := compose(list, runs)
		if err != nil || !slices.Equal(got, next) {
			t.Fatalf("round %d: another list: %v", round, err)
		}
		if same := slices.Equal(list, next); same != unchanged(runs, len(list)) {
			t.Fatalf("round %d: unchanged: %t, said %t", round, same, !same)
		}
		sent := 0
		for _, s := range runs {
			sent += len(s.Filters)
		}
		if len(runs) > 2+4*touched || sent > touched {
			t.Fatalf("round %d: %d stretches and %d filters for %d changes", round, len(runs), sent, touched)
		}
		if list = next; len(list) < 50 {
			list = randomFilters(r, 200)
		}
	}
}

func TestStretchesOutsideTheListAreRefused(t *testing.T) {
	before := sampleFilters()
	for _, s := range []stretch{{From: -1, N: 1}, {N: -1}, {From: 4, N: 1}, {From: 5}, {N: 5}, {From: 1, N: 1<<63 - 1}, {Filters: make([]wireFilter, 1)}} {
		if got, err := compose(before, []stretch{{N: 1}, s}); err == nil {
			t.Errorf("%d, %d: %d filters", s.From, s.N, len(got))
		}
	}
	long := make([]stretch, maxFilters/len(before)+1)
	for i := range long {
		long[i].N = len(before)
	}
	if _, err := compose(before, long); err == nil {
		t.Error("a list without bound is made")
	}
}
