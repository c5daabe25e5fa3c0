package xfrm

import "ipsecagent/sadb"

// Request IDs of ours: a policy's template and the states made for its filter
// have the same. Small numbers are what people write by hand.
const (
	reqidFirst = 0x49500000
	reqidLast  = 0x495fffff // of reservations and probes, of no filter
)

// maxFilters bounds a list, so that request IDs never run out: the other half is
// for overlays and for filters that associations outlive, of which there are few.
const maxFilters = (reqidLast - reqidFirst) / 2

// requestIDs gives every filter its own.
type requestIDs struct {
	of    map[sadb.FilterID]uint32
	taken map[uint32]bool
	last  uint32 // given
}

func newRequestIDs(of map[sadb.FilterID]uint32) *requestIDs {
	r := &requestIDs{of: map[sadb.FilterID]uint32{}, taken: map[uint32]bool{}, last: reqidFirst}
	for id, n := range of {
		if n > reqidFirst && n < reqidLast {
			r.of[id], r.taken[n] = n, true
			r.last = max(r.last, n)
		}
	}
	return r
}

// id returns the request ID of a filter's states.
func (r *requestIDs) id(root sadb.FilterID) uint32 {
	if n, ok := r.of[root]; ok {
		return n
	}
	for ok := true; ok; ok = r.taken[r.last] {
		if r.last++; r.last >= reqidLast {
			r.last = reqidFirst + 1
		}
	}
	r.of[root], r.taken[r.last] = r.last, true
	return r.last
}

// drop forgets a filter.
func (r *requestIDs) drop(id sadb.FilterID) {
	delete(r.taken, r.of[id])
	delete(r.of, id)
}

// avoid keeps a number that a state has from being given to a filter that has
// none yet: the state is not its.
func (r *requestIDs) avoid(n uint32) { r.taken[n] = true }

// keep forgets all filters but those for which stays holds.
func (r *requestIDs) keep(stays func(sadb.FilterID) bool) {
	for id, n := range r.of {
		if !stays(id) {
			delete(r.of, id)
			delete(r.taken, n)
		}
	}
}
