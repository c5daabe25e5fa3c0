package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// verdict is what becomes of a packet.
type verdict string

const (
	passed   verdict = "in clear, and delivered"
	sealed   verdict = "secured, and delivered"
	admitted verdict = "admitted in clear" // of a packet that was put on the wire
	dropped  verdict = "dropped"
)

// String says which packet of a flow it is.
func (s send) String() string {
	way := "sent"
	if s.forged {
		way = "put on the wire in clear"
	}
	return fmt.Sprintf("packet %d, %s", s.round, way)
}

// means says what should become of a packet by what explain has said. The words
// are those of policy.Explanation.Outcome.
func (l *lab) means(tr trial) verdict {
	said := tr.said.Outcome
	is := func(words string) bool { return strings.HasPrefix(said, words) }
	up := tr.said.Live != nil && len(tr.said.Live.Secured) > 0
	fallen := tr.said.Live != nil && len(tr.said.Live.InClear) > 0
	switch {
	case tr.send.forged:
		return forgedMeans(is, up, fallen)
	case is("passes in clear"):
		return passed
	case is("passes unmodified"):
		if !tr.flow.out && l.asksFor(tr.flow) && strings.Contains(said, "the default response rule answers") {
			return sealed
		}
		return passed
	case is("is dropped"):
		return dropped
	case is("is accepted secured"):
		if up || l.s.peer == peerMirrors {
			return sealed
		}
		if forgedMeans(is, up, fallen) == admitted {
			return passed
		}
		return dropped
	case up || is("is secured; ") && !tr.flow.silent && !strings.Contains(said, "meanwhile it goes in clear"):
		return sealed
	case is("is secured; without an association it waits"), is("is secured; without an association one is negotiated, and what is sent after"):
		return dropped
	case is("is secured; without an association one is negotiated, and meanwhile it goes in clear"):
		return passed
	}
	return verdict("unknown to this test: " + said)
}

// forgedMeans is means for a packet that comes in clear whatever its sender's
// policy is. up: there is an association; fallen: the peer has fallen back.
func forgedMeans(is func(string) bool, up, fallen bool) verdict {
	switch {
	case is("passes"), is("is accepted secured, and in clear too until the peer has an association") && !up,
		is("is accepted secured; in clear it is dropped, unless the peer has been let fall back") && fallen:
		return admitted
	}
	return dropped
}

// sightings is what was on the wire.
type sightings struct {
	clear map[sighting]bool
	esp   map[[2]netip.Addr]bool
	ike   map[[2]netip.Addr]bool
}

// sighting is a packet in clear. One that only quotes another, an error or the
// reply to an echo request, is traffic of its own: it has another sender.
type sighting struct {
	id    send
	from  netip.Addr
	proto uint8
}

func newSightings(all []packet) sightings {
	s := sightings{clear: map[sighting]bool{}, esp: map[[2]netip.Addr]bool{}, ike: map[[2]netip.Addr]bool{}}
	for _, p := range all {
		ends := [2]netip.Addr{p.src, p.dst}
		switch {
		case p.arp:
		case p.esp():
			s.esp[ends] = true
		case p.ike():
			s.ike[ends] = true
		default:
			if id, ok := findMarker(p.data); ok {
				s.clear[sighting{id, p.src, p.proto}] = true
			}
		}
	}
	return s
}

// observed says what became of a packet.
func (l *lab) observed(tr trial, seen sightings) verdict {
	src, dst, _, _ := tr.flow.ends()
	inClear, arrived := seen.clear[sighting{tr.send, src, tr.flow.proto}], l.arrived(tr)
	if tr.send.forged {
		switch {
		case !inClear:
			return "not seen on the wire, where it was put"
		case arrived:
			return admitted
		}
		return dropped
	}
	if l.s.inside.IsValid() {
		ends := l.s.gateways()
		src, dst = ends[0], ends[1]
		if !tr.flow.out {
			src, dst = dst, src
		}
	}
	esp := seen.esp[[2]netip.Addr{src, dst}]
	switch {
	case inClear && arrived:
		return passed
	case inClear && !tr.flow.out:
		return dropped
	case inClear:
		return "in clear on the wire, and not delivered"
	case arrived && esp:
		return sealed
	case arrived:
		return "delivered, but neither in clear nor in ESP"
	}
	return dropped
}

// negotiated reports whether the two ends have carried ESP, or this one has asked
// a peer that does not answer.
func (l *lab) negotiated(f flow, seen sightings) bool {
	if l.s.inside.IsValid() {
		return slices.ContainsFunc(l.trials, func(tr trial) bool { return tr.flow.n == f.n && l.observed(tr, seen) == sealed })
	}
	there, back := [2]netip.Addr{f.local, f.remote}, [2]netip.Addr{f.remote, f.local}
	return seen.esp[there] || seen.esp[back] || f.silent && seen.ike[there]
}

// asksFor reports whether the peer's own policy asks for security of a flow that
// this host says nothing about.
func (l *lab) asksFor(f flow) bool {
	return f.inside && f.rule == askedRule
}
