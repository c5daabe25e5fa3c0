package agent

import (
	"container/list"
	"fmt"
	"net/netip"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
)

const (
	// maxTalks bounds what packets from made-up addresses can make the agent
	// remember, maxRunning what they can make it do at once.
	maxTalks   = 4096
	maxRunning = 1024
	// maxStrangers and maxStrangersRunning are the part of it that is for
	// peers which have never proven themselves. Of them the oldest gives
	// way: a peer that is there answers within moments, a made-up one never.
	maxStrangers        = maxTalks / 4 * 3
	maxStrangersRunning = maxRunning / 4 * 3
	// maxOfPeer is how many negotiations of a proven peer are spared; more
	// of them count as a stranger's.
	maxOfPeer = 64
	// maxProven bounds the peers that are remembered as proven.
	maxProven = 16384
	// crowdedEvery is how often a crowd of strangers is reported.
	crowdedEvery = time.Minute
)

// talks is the negotiations by what they are for and by request, and those
// with strangers in their order.
type talks struct {
	byKey     map[talkKey]*talk
	byRequest map[uint64]*talk
	requests  uint64
	// idle and running hold the strangers', oldest first.
	idle, running *list.List
	spared        map[netip.Addr]int // how many of a proven peer
	reported      time.Time          // a crowd of strangers
}

func newTalks() talks {
	return talks{byKey: map[talkKey]*talk{}, byRequest: map[uint64]*talk{},
		idle: list.New(), running: list.New(), spared: map[netip.Addr]int{}}
}

func (ts *talks) all() []*talk {
	all := make([]*talk, 0, len(ts.byKey))
	for _, t := range ts.byKey {
		all = append(all, t)
	}
	return all
}

// add enters a negotiation that is not under way yet.
func (ts *talks) add(t *talk, proven bool) {
	ts.byKey[t.key] = t
	ts.enlist(t)
	if proven {
		ts.spare(t)
	}
}

// run makes t the negotiation of the next request.
func (ts *talks) run(t *talk) {
	ts.requests++
	t.request = ts.requests
	ts.byRequest[t.request] = t
	ts.enlist(t)
}

// rest ends t's request and keeps t.
func (ts *talks) rest(t *talk) {
	delete(ts.byRequest, t.request)
	t.request = 0
	ts.enlist(t)
}

func (ts *talks) remove(t *talk) {
	if ts.byKey[t.key] != t {
		return
	}
	delete(ts.byKey, t.key)
	delete(ts.byRequest, t.request)
	ts.unlist(t)
	if !t.spared {
		return
	}
	peer := plain(t.remote)
	if ts.spared[peer]--; ts.spared[peer] == 0 {
		delete(ts.spared, peer)
	}
}

// enlist makes a stranger's t the newest of those that run, or of those that
// do not.
func (ts *talks) enlist(t *talk) {
	if t.spared {
		return
	}
	ts.unlist(t)
	t.queue = ts.idle
	if t.request != 0 {
		t.queue = ts.running
	}
	t.place = t.queue.PushBack(t)
}

func (ts *talks) unlist(t *talk) {
	if t.queue != nil {
		t.queue.Remove(t.place)
		t.queue, t.place = nil, nil
	}
}

// spare lets t never give way to another: its peer has proven itself.
func (ts *talks) spare(t *talk) {
	peer := plain(t.remote)
	if t.spared || ts.spared[peer] >= maxOfPeer {
		return
	}
	ts.unlist(t)
	t.spared = true
	ts.spared[peer]++
}

// idler returns a negotiation that has failed and that no traffic asks for.
func (ts *talks) idler() *talk {
	for _, t := range ts.byKey {
		if t.request == 0 && !t.wanted {
			return t
		}
	}
	return nil
}

// roomFor sees that one more negotiation can be remembered.
func (a *Agent) roomFor(now time.Time, proven bool) bool {
	ts := &a.talks
	if len(ts.byKey) < maxTalks && (proven || ts.idle.Len()+ts.running.Len() < maxStrangers) {
		return true
	}
	if a.giveWay(now, ts.idle) || a.giveWay(now, ts.running) {
		return true
	}
	t := ts.idler()
	if t != nil {
		a.cancel(now, t)
	}
	return t != nil
}

// roomToRun sees that t can be under way.
func (a *Agent) roomToRun(now time.Time, t *talk) bool {
	ts := &a.talks
	if len(ts.byRequest) < maxRunning && (t.spared || ts.running.Len() < maxStrangersRunning) {
		return true
	}
	return a.giveWay(now, ts.running)
}

// giveWay gives up the oldest of some strangers' negotiations. The driver asks
// again if its traffic does.
func (a *Agent) giveWay(now time.Time, strangers *list.List) bool {
	oldest := strangers.Front()
	if oldest == nil {
		return false
	}
	t := oldest.Value.(*talk)
	if t.request != 0 && now.Sub(a.talks.reported) >= crowdedEvery {
		a.talks.reported = now
		a.event(now, control.EventCrowded, "warning", "more negotiations with peers that have not proven themselves than can be under way: the oldest are given up; see whether packets with made-up addresses reach this host",
			map[string]string{"peer": t.remote.String()})
	}
	a.cancel(now, t)
	return true
}

// proven is the peers that have proven their identity to this process, or hold
// a pair with it, and when they last did. Nothing that a packet alone says
// brings a peer here.
type proven map[netip.Addr]acquaintance

// acquaintance is when a peer last proved its identity, and which it was in
// main mode; method 0: in an earlier process.
type acquaintance struct {
	at        time.Time
	method    auth.Method
	principal auth.Principal
}

// put remembers a peer; the one that was last heard of longest ago makes place.
func (p proven) put(peer netip.Addr, now time.Time) {
	if _, again := p[peer]; !again && len(p) >= maxProven {
		oldest := peer
		for o, at := range p {
			if oldest == peer || at.at.Before(p[oldest].at) {
				oldest = o
			}
		}
		delete(p, oldest)
	}
	was := p[peer]
	was.at = now
	p[peer] = was
}

// prove remembers that a peer has proven its identity, and spares what is under
// way with it.
func (a *Agent) prove(now time.Time, remote netip.Addr) {
	a.proven.put(plain(remote), now)
	for _, t := range a.talks.byKey {
		if plain(t.remote) == plain(remote) {
			a.talks.spare(t)
		}
	}
}

// meet remembers which identity the peer at an address has proven, and reports
// another one than before: a host replaced, or one that has no business there.
// Of preshared keys several may be in use with one peer, each with its name.
func (a *Agent) meet(now time.Time, remote netip.Addr, method auth.Method, principal auth.Principal) {
	peer := plain(remote)
	a.proven.put(peer, now)
	former := a.proven[peer]
	a.proven[peer] = acquaintance{now, method, principal}
	if former.method == method && former.principal != principal && method != auth.PSK {
		a.event(now, control.EventIdentityChanged, "warning", fmt.Sprintf("the peer at %s is %s now, it was %s", remote, principal, former.principal),
			map[string]string{"peer": remote.String(), "principal": string(principal), "former": string(former.principal)})
	}
}

func (a *Agent) hasProven(remote netip.Addr) bool {
	_, ok := a.proven[plain(remote)]
	return ok
}

// forget ends t with its timers: what a flood of packets leaves behind must
// not outlive it.
func (a *Agent) forget(t *talk) {
	a.timers.stop(t.wakes)
	a.timers.stop(t.eases)
	a.talks.remove(t)
}
