package ike

import (
	"fmt"
	"reflect"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// ikePort is where IKE is spoken (RFC 2408 §2.5.1).
const ikePort = 500

// request is somebody's wish for a pair of associations, on its way.
type request struct {
	Initiate
	encap sadb.Encap // of the pair that is renewed
	since time.Time
	mains int // main modes begun for it
}

const (
	// maxMains bounds the main modes made for one request: one, and another
	// if the peer has forgotten the ISAKMP SA that was there.
	maxMains = 2
	// maxWaiting bounds the requests that wait for one main mode.
	maxWaiting = 256
	// ownQuicks is how many quick modes this host runs at once under one
	// ISAKMP SA; more wait their turn.
	ownQuicks = 3
)

// initiate takes a request one step further: a quick mode under an ISAKMP SA
// that satisfies its rule, else a main mode first.
func (m *Machine) initiate(now time.Time, r *request) {
	if err := r.check(); err != nil {
		m.failRequest(r, Failed{Code: FailLocal, Step: "start", Reason: err.Error()})
		return
	}
	if s := m.serving(now, r); s != nil {
		m.startQuick(now, s, r)
		return
	}
	p := r.path()
	if x := m.joinable(p, r); x != nil {
		x.waiting = append(x.waiting, r)
		return
	}
	if r.mains++; r.mains > maxMains {
		m.failRequest(r, Failed{Code: FailPolicy, Step: "main mode", Reason: "main mode succeeds, but what it proves is not what the rule asks for"})
		return
	}
	m.startMain(now, p, r.Main, r)
}

// path is where main mode begins: behind a translator a peer can be reached only
// where its associations are.
func (r *request) path() path {
	if !r.encap.IsZero() {
		return path{r.encap.Local, r.encap.Remote}
	}
	return hostsPath(r.Local.Unmap(), r.Remote.Unmap())
}

func (r *request) check() error {
	switch {
	case !r.Local.IsValid() || !r.Remote.IsValid() || r.Local.Unmap().BitLen() != r.Remote.Unmap().BitLen():
		return fmt.Errorf("addresses %s and %s are no pair of one family", r.Local, r.Remote)
	case len(r.Quick.Proposals) == 0:
		return fmt.Errorf("filter %q names no security method", r.Quick.Filter)
	}
	return nil
}

// serving returns the ISAKMP SA that is to carry the request, of those that
// may.
func (m *Machine) serving(now time.Time, r *request) *isakmp {
	var best *isakmp
	for _, s := range m.peers.at(ends{r.Local.Unmap(), r.Remote.Unmap()}).sas {
		fits := s.usable(now) && s.satisfies(r.Main)
		if fits && (best == nil || s.preferred(best)) {
			best = s
		}
	}
	return best
}

// joinable returns a main mode under way that offers just what r would.
func (m *Machine) joinable(p path, r *request) *mainMode {
	offer := m.able(r.Main)
	for _, x := range m.peers.at(p.ends()).mains {
		if x.sameHosts(p) && len(x.waiting) < maxWaiting && reflect.DeepEqual(x.offer, offer) {
			return x
		}
	}
	return nil
}

// failRequest reports the end of a request. A rekey of our own is tried again
// while its pair lives.
func (m *Machine) failRequest(r *request, f Failed) {
	f.Request, f.Filter = r.Request, r.Quick.Filter
	f.Local, f.Remote = r.Local, r.Remote
	m.put(f)
	p := m.pairs[r.Replaces]
	if p == nil {
		return
	}
	p.renewing = false
	if p.probing && f.Code == FailNoAnswer {
		m.timers.set(nil, r.since, func(now time.Time) {
			if m.pairs[p.pair.ID] == p {
				m.endPair(now, p, peerDead, true)
			}
		})
		return
	}
	p.probing = false
	if r.Request == 0 {
		at := r.since.Add(giveUp + m.jitter())
		m.timers.set(nil, at, func(now time.Time) { m.rekey(now, r.Replaces) })
	}
}

// cancel gives up a request wherever it is.
func (m *Machine) cancel(now time.Time, id uint64) {
	if id == 0 {
		return
	}
	for _, x := range m.mains {
		if r := takeRequest(&x.waiting, id); r != nil {
			m.cancelled(r)
			if len(x.waiting) == 0 {
				m.endMain(x)
			}
			return
		}
	}
	for _, s := range m.sas {
		if r := takeRequest(&s.queue, id); r != nil {
			m.cancelled(r)
			return
		}
	}
	for _, q := range m.quicks {
		if q.request != nil && q.request.Request == id {
			m.failQuick(now, q, Failed{Code: FailCancelled, Reason: "policy no longer wants it"})
			return
		}
	}
}

func (m *Machine) cancelled(r *request) {
	m.failRequest(r, Failed{Code: FailCancelled, Step: "main mode", Reason: "policy no longer wants it"})
}

func takeRequest(list *[]*request, id uint64) *request {
	for i, r := range *list {
		if r.Request == id {
			*list = append((*list)[:i:i], (*list)[i+1:]...)
			return r
		}
	}
	return nil
}

// firstContact returns INITIAL-CONTACT if this host holds nothing of the peer:
// the peer may then forget what it holds of us.
func (m *Machine) firstContact(x *mainMode) []wire.Payload {
	for _, r := range x.waiting {
		if r.NoInitialContact {
			return nil
		}
	}
	if len(x.waiting) == 0 || m.holds(x) {
		return nil
	}
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, Type: wire.InitialContact,
		SPI: append(x.icookie[:], x.rcookie[:]...)}
	return []wire.Payload{{Type: wire.NotifyPayload, Body: n.Append(nil)}}
}

// holds reports whether there is anything with the peer of x but x.
func (m *Machine) holds(x *mainMode) bool {
	return m.peers.held[x.remote.Addr()] > 0
}
