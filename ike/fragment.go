package ike

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/ike/wire"
)

// How large a datagram with a fragment is: at first such that it passes nearly
// every path with its headers, after some silence such that it passes all.
const (
	pieceIPv4  = 1200
	pieceIPv6  = 1232 // 1280 without the headers
	pieceSmall = 548  // 576 without the headers
	// smallAfter is how many sends go unanswered before pieces are small.
	smallAfter = 3
)

// pieceLen returns the size of a datagram beyond which a message goes in
// fragments, if the peer takes them.
func (p path) pieceLen(sends int) int {
	switch {
	case p.remote.Addr().Is6():
		return pieceIPv6
	case sends >= smallAfter:
		return pieceSmall
	}
	return pieceIPv4
}

// sendAgain sends a message that has been sent before: in fragments if it is
// large and the peer takes them.
func (m *Machine) sendAgain(p path, data []byte, sends int) {
	m.traceDatagram(p, true, data, sends)
	size := p.pieceLen(sends)
	if len(data) <= size || !m.takesFragments(data) {
		m.put(Send{Local: p.local, Remote: p.remote, Data: slices.Clone(data)})
		return
	}
	m.fragmentID++
	for _, piece := range wire.Split(data, m.fragmentID, size) {
		m.put(Send{Local: p.local, Remote: p.remote, Data: piece})
	}
}

// takesFragments reports whether the peer of the exchange that a message of
// ours belongs to has said that it takes fragments.
func (m *Machine) takesFragments(data []byte) bool {
	key := saKey{[8]byte(data[:8]), [8]byte(data[8:16])}
	if s := m.sas[key]; s != nil {
		return s.fragments
	}
	x := m.mains[key]
	return x != nil && x.peer.fragments
}

const (
	// assemblyLife is how long the fragments of a message are waited for.
	assemblyLife = 70 * time.Second
	// maxAssemblies bounds the messages that wait for fragments, those of
	// one address, and what they hold in bytes.
	maxAssemblies     = 256
	assembliesOfHost  = 4
	maxAssembledBytes = 4 << 20
)

// assembly is the fragments of a message. There is one for an exchange: a
// fragment of another message takes its place.
type assembly struct {
	key   saKey
	from  netip.Addr
	id    uint16
	parts [wire.MaxFragments][]byte
	last  int // number of the last one, 0: not seen yet
	have  int
	bytes int
	timer *timer
}

// assembler holds what waits for fragments, the oldest first.
type assembler struct {
	waiting []*assembly
	bytes   int
}

var (
	errFragment = errors.New("fragment that contradicts another one")
	errOrphan   = errors.New("fragment for no exchange")
)

// fragment takes a datagram with a fragment. Fragments prove nothing, so they
// are kept only for exchanges that this host knows, and what they make is
// treated like any other datagram.
func (m *Machine) fragment(now time.Time, msg message) error {
	key := saKey{msg.ICookie, msg.RCookie}
	var known path
	if s := m.sas[key]; s != nil {
		known = s.path
	} else if x := m.mains[key]; x != nil && key.r != [8]byte{} {
		known = x.path
	}
	if !known.sameHosts(msg.path) {
		return errOrphan
	}
	f, err := wire.ParseFragment(msg.body)
	if err != nil {
		return err
	}
	a := m.assembly(now, key, msg.remote.Addr(), f.ID)
	if err := m.assembler.add(a, f); err != nil {
		m.forgetAssembly(a)
		return err
	}
	if a.last == 0 || a.have < a.last {
		return nil
	}
	m.forgetAssembly(a)
	return m.assembled(now, msg, bytes.Join(a.parts[:a.last], nil))
}

// assembly returns the fragments of a message so far, and makes room for them.
func (m *Machine) assembly(now time.Time, key saKey, from netip.Addr, id uint16) *assembly {
	var oldest *assembly
	ofHost := 0
	for _, a := range m.assembler.waiting {
		if a.key == key && a.id == id {
			return a
		}
		if a.from != from {
			continue
		}
		if ofHost++; oldest == nil || a.key == key {
			oldest = a
		}
	}
	if oldest != nil && (oldest.key == key || ofHost >= assembliesOfHost) {
		m.forgetAssembly(oldest)
	}
	if len(m.assembler.waiting) >= maxAssemblies {
		m.forgetAssembly(m.assembler.waiting[0])
	}
	a := &assembly{key: key, from: from, id: id}
	a.timer = m.timers.set(nil, now.Add(assemblyLife), func(time.Time) { m.forgetAssembly(a) })
	m.assembler.waiting = append(m.assembler.waiting, a)
	return a
}

// add enters a fragment. One that comes twice must be the same both times.
func (r *assembler) add(a *assembly, f wire.Fragment) error {
	n := int(f.Number)
	switch old := a.parts[n-1]; {
	case old != nil && !bytes.Equal(old, f.Data):
		return errFragment
	case old != nil:
		return nil
	case a.last != 0 && (n > a.last || f.Last):
		return errFragment
	case f.Last && slices.ContainsFunc(a.parts[n:], func(p []byte) bool { return p != nil }):
		return errFragment
	case a.bytes+len(f.Data) > wire.MaxAssembled || r.bytes+len(f.Data) > maxAssembledBytes:
		return errors.New("more fragments than there is room for")
	}
	if f.Last {
		a.last = n
	}
	a.parts[n-1] = f.Data
	a.have++
	a.bytes += len(f.Data)
	r.bytes += len(f.Data)
	return nil
}

func (m *Machine) forgetAssembly(a *assembly) {
	i := slices.Index(m.assembler.waiting, a)
	if i < 0 {
		return
	}
	m.assembler.waiting = slices.Delete(m.assembler.waiting, i, i+1)
	m.assembler.bytes -= a.bytes
	m.timers.stop(a.timer)
}

// assembled takes a whole message that came in fragments: under the same
// cookies and no fragment itself. What else their headers say is not looked at:
// strongSwan writes main mode and message ID 0 there, whatever it cuts.
func (m *Machine) assembled(now time.Time, outer message, data []byte) error {
	h, body, err := wire.ParseHeader(data)
	if err != nil {
		return err
	}
	if h.ICookie != outer.ICookie || h.RCookie != outer.RCookie || h.Next == wire.FragmentPayload {
		return errors.New("fragments that make a message of another exchange")
	}
	m.traceDatagram(outer.path, false, data, 0)
	return m.dispatch(now, message{path: outer.path, Header: h, body: body, sum: checksum(data), size: outer.size})
}
