package xfrm

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// association is one of ours that is in force.
type association struct {
	SA    sadb.SA // without keys
	Added time.Time
	// stamp is when the kernel takes it for added, in seconds since 1970.
	stamp  int64
	root   sadb.FilterID // that it serves: of an overlay the filter it narrows
	serial uint64        // of two, the older has the smaller
	// packets are those it had carried when it was last looked at, moved when
	// they were first seen to be so many.
	packets uint64
	moved   time.Time
	// look is when to ask again whether a first packet has come by it.
	look time.Time
	told bool // that it is beyond a soft limit; not known of an earlier process
}

// isOld reports whether an association that has carried so much is beyond a soft
// limit.
func (a *association) isOld(use wire.Use, at time.Time) bool {
	soft := a.SA.Lifetime.Soft
	return soft.Time > 0 && at.Sub(a.Added) >= soft.Time ||
		soft.Bytes > 0 && use.Bytes >= soft.Bytes ||
		soft.Packets > 0 && use.Packets >= soft.Packets
}

// associations are those in force, found by name and by filter.
type associations struct {
	byID   map[sadb.SAID]*association
	byRoot map[sadb.FilterID][]*association // oldest first
	fresh  []*association                   // inbound, and no packet has come by them; oldest first
	added  uint64
}

func newAssociations() *associations {
	return &associations{byID: map[sadb.SAID]*association{}, byRoot: map[sadb.FilterID][]*association{}}
}

// add adds an association, in the place of that of the same name.
func (s *associations) add(a *association) {
	s.remove(a.SA.ID)
	s.added++
	a.serial = s.added
	s.byID[a.SA.ID] = a
	s.byRoot[a.root] = append(s.byRoot[a.root], a)
	if a.SA.Dir == sadb.In {
		s.fresh = append(s.fresh, a)
	}
}

// remove forgets an association and returns it; nil: it was not there.
func (s *associations) remove(id sadb.SAID) *association {
	a := s.byID[id]
	if a == nil {
		return nil
	}
	delete(s.byID, id)
	s.used(a)
	rest := slices.DeleteFunc(s.byRoot[a.root], func(b *association) bool { return b == a })
	if s.byRoot[a.root] = rest; len(rest) == 0 {
		delete(s.byRoot, a.root)
	}
	return a
}

// used forgets that no packet has come by an association.
func (s *associations) used(a *association) {
	if i := slices.Index(s.fresh, a); i >= 0 {
		s.fresh = slices.Delete(s.fresh, i, i+1)
	}
}

// due returns the fresh associations that are to be asked about, at most so
// many: those that have waited for it longest.
func (s *associations) due(at time.Time, most int) []*association {
	var out []*association
	for _, a := range s.fresh {
		if !a.look.After(at) {
			out = append(out, a)
		}
	}
	if len(out) > most {
		slices.SortStableFunc(out, func(a, b *association) int { return a.look.Compare(b.look) })
		out = out[:most]
	}
	return out
}

// all returns the associations, oldest first.
func (s *associations) all() []*association {
	return slices.SortedFunc(maps.Values(s.byID), func(a, b *association) int { return cmp.Compare(a.serial, b.serial) })
}
