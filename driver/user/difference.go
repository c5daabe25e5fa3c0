package user

import (
	"fmt"

	"ipsecagent/sadb"
)

// maxFilters bounds a list that comes over the socket.
const maxFilters = 1 << 20

// stretch is a part of a list of filters: N filters of the list before, from From
// on, then filters that are new.
type stretch struct {
	From    int          `json:",omitempty"`
	N       int          `json:",omitempty"`
	Filters []wireFilter `json:",omitempty"`
}

// difference says how after is made from before. It is one stretch without filters
// where nothing has changed.
func difference(before, after []sadb.Filter) []stretch {
	var runs []stretch
	var where map[sadb.FilterID]int // of before; made when it is needed
	next := 0                       // the place in before behind the last filter taken from there
	for _, f := range after {
		at, again := next, next < len(before) && before[next] == f
		if !again {
			if where == nil {
				where = places(before)
			}
			at, again = where[f.ID]
			again = again && before[at] == f
		}
		switch {
		case !again:
			runs = appendNew(runs, f)
		case len(runs) > 0 && at == next && len(runs[len(runs)-1].Filters) == 0:
			runs[len(runs)-1].N++
			next++
		default:
			runs = append(runs, stretch{From: at, N: 1})
			next = at + 1
		}
	}
	return runs
}

func appendNew(runs []stretch, f sadb.Filter) []stretch {
	if len(runs) == 0 {
		runs = append(runs, stretch{})
	}
	last := &runs[len(runs)-1]
	last.Filters = append(last.Filters, toWireFilter(f))
	return runs
}

func places(filters []sadb.Filter) map[sadb.FilterID]int {
	at := make(map[sadb.FilterID]int, len(filters))
	for i, f := range filters {
		at[f.ID] = i
	}
	return at
}

// compose is the reverse of difference.
func compose(before []sadb.Filter, runs []stretch) ([]sadb.Filter, error) {
	n := 0
	for _, r := range runs {
		if r.From < 0 || r.N < 0 || r.From > len(before) || r.N > len(before)-r.From {
			return nil, fmt.Errorf("filters %d to %d of a list of %d", r.From, r.From+r.N, len(before))
		}
		if n += r.N + len(r.Filters); n > maxFilters {
			return nil, fmt.Errorf("more than %d filters", maxFilters)
		}
	}
	out := make([]sadb.Filter, 0, n)
	for _, r := range runs {
		out = append(out, before[r.From:r.From+r.N]...)
		fresh, err := toFilters(r.Filters)
		if err != nil {
			return nil, err
		}
		out = append(out, fresh...)
	}
	return out, nil
}

// unchanged reports whether runs make the list of n filters that was there.
func unchanged(runs []stretch, n int) bool {
	if n == 0 {
		return len(runs) == 0
	}
	return len(runs) == 1 && runs[0].From == 0 && runs[0].N == n && len(runs[0].Filters) == 0
}
