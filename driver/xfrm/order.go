package xfrm

// Priorities of our policies. The exempt ones stand above all others.
const (
	priorityExempt = 0x1000
	priorityTop    = 0x10000    // no filter above it
	priorityFirst  = 0x80000000 // where the first list begins
	priorityBottom = 0xffffffff // no filter at it or below
	gapMax         = 0x10000    // between filters
)

// slot is what is to get a priority: an entry of the list of filters.
type slot struct {
	now     uint32 // what it has; 0: it is new
	overlay bool
}

// prioritise returns ascending priorities for the slots of a list, and false
// when there is no room left above those in force: see spread. An entry keeps its priority
// or moves up, never down: a policy that moved down would uncover for a moment
// what stands between.
func prioritise(slots []slot) ([]uint32, bool) {
	if out, ok := fit(slots, priorityTop, priorityBottom); ok {
		return out, true
	}
	return renumber(slots)
}

// fit keeps what stands in order, from the bottom up, and puts what is new
// between its neighbours, all between two priorities.
func fit(slots []slot, top, bottom uint32) ([]uint32, bool) {
	out := make([]uint32, len(slots))
	limit := bottom
	for i := len(slots) - 1; i >= 0; i-- {
		if p := slots[i].now; p > top && p < limit {
			out[i], limit = p, p
		}
	}
	below := bottom
	for end := len(out); end > 0; {
		if out[end-1] != 0 {
			below = out[end-1]
			end--
			continue
		}
		begin, above := end, top
		for begin > 0 && out[begin-1] == 0 {
			begin--
		}
		if begin > 0 {
			above = out[begin-1]
		}
		if !place(out[begin:end], slots[begin:end], above, below) {
			return nil, false
		}
		end = begin
	}
	return out, true
}

// place gives a run of new slots priorities between two others. Overlays stand
// close to what they are above: many may come, each above those before.
func place(out []uint32, slots []slot, above, below uint32) bool {
	if above >= below {
		return false
	}
	step := min((below-above)/uint32(len(out)+1), gapMax)
	if step == 0 {
		return false
	}
	for i := len(out) - 1; i >= 0; i-- {
		if slots[i].overlay {
			below--
		} else {
			below -= step
		}
		out[i] = below
	}
	return true
}

// renumber gives all slots new priorities above every one in force.
func renumber(slots []slot) ([]uint32, bool) {
	top := uint32(priorityFirst)
	for _, s := range slots {
		if s.now != 0 {
			top = min(top, s.now)
		}
	}
	gap := min(gapMax, (top-priorityTop)/uint32(len(slots)+1))
	if gap < 2 {
		return nil, false
	}
	out := make([]uint32, len(slots))
	for i := range slots {
		out[i] = top - uint32(len(slots)-i)*gap
	}
	return out, true
}

// spread returns priorities for a list of n entries as if none were in force: as
// low as a first list's.
func spread(n int) []uint32 {
	out, _ := fit(make([]slot, n), priorityTop, priorityBottom)
	return out
}
