package agent

import (
	"container/list"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
)

const (
	// maxFailedPeers is of how many peers failures are kept, of those that
	// this host began and of the others each.
	maxFailedPeers = 1000
	// maxRecords is how many failures of one peer are kept in each share.
	maxRecords = 4
	// maxOffer bounds what is kept of one side's offer, in bytes.
	maxOffer = 1024
)

// failures is what failed with each peer. Negotiations that a peer began have a
// share of their own: a stranger with made-up addresses must not push out what
// this host has met.
type failures struct {
	byPeer map[failureKey]*peerFailures
	// own and others hold the peers of each share, the one that failed longest
	// ago first.
	own, others *list.List
}

type failureKey struct {
	remote netip.Addr
	own    bool // this host began
}

// peerFailures is the failures of one peer in one share, newest last.
type peerFailures struct {
	key     failureKey
	records []control.Failure
	settled bool // the peer was secured since
	place   *list.Element
}

func newFailures() failures {
	return failures{byPeer: map[failureKey]*peerFailures{}, own: list.New(), others: list.New()}
}

// put remembers a failure. One like the last is counted there; the peer that
// failed longest ago makes place.
func (f *failures) put(remote netip.Addr, v control.Failure) {
	p := f.peer(failureKey{remote, v.Own})
	p.settled = false
	v.First, v.Times = v.Time, 1
	if n := len(p.records); n > 0 && alike(p.records[n-1], v) {
		v.First, v.Times = p.records[n-1].First, p.records[n-1].Times+1
		p.records = p.records[:n-1]
	}
	if len(p.records) == maxRecords {
		p.records = slices.Delete(p.records, 0, 1)
	}
	p.records = append(p.records, v)
}

// peer returns the place of a peer, as the one that failed last.
func (f *failures) peer(k failureKey) *peerFailures {
	share := f.others
	if k.own {
		share = f.own
	}
	if p, again := f.byPeer[k]; again {
		share.MoveToBack(p.place)
		return p
	}
	if share.Len() >= maxFailedPeers {
		oldest := share.Remove(share.Front()).(*peerFailures)
		delete(f.byPeer, oldest.key)
	}
	p := &peerFailures{key: k}
	p.place = share.PushBack(p)
	f.byPeer[k] = p
	return p
}

func alike(a, b control.Failure) bool {
	return a.Code == b.Code && a.Step == b.Step && a.Filter == b.Filter && a.Differs == b.Differs && a.Local == b.Local
}

// settle says that the peer was secured: what failed is history.
func (f *failures) settle(remote netip.Addr) {
	for _, own := range []bool{true, false} {
		if p, ok := f.byPeer[failureKey{remote, own}]; ok {
			p.settled = true
		}
	}
}

// lasting returns the last failure of each peer that was not secured since.
func (f *failures) lasting() iter.Seq2[failureKey, control.Failure] {
	return func(yield func(failureKey, control.Failure) bool) {
		for k, p := range f.byPeer {
			if !p.settled && !yield(k, p.records[len(p.records)-1]) {
				return
			}
		}
	}
}

// of returns the last failure with the first of some peers that was not secured
// since, preferably of this host's own attempts.
func (f *failures) of(peers ...netip.Addr) (control.Failure, bool) {
	for _, remote := range peers {
		for _, own := range []bool{true, false} {
			if p, ok := f.byPeer[failureKey{remote, own}]; ok && !p.settled {
				return p.records[len(p.records)-1], true
			}
		}
	}
	return control.Failure{}, false
}

// all returns everything kept of some peers, newest first.
func (f *failures) all(peers ...netip.Addr) []control.Failure {
	found := []control.Failure{}
	for _, remote := range peers {
		for _, own := range []bool{true, false} {
			if p, ok := f.byPeer[failureKey{remote, own}]; ok {
				found = append(found, p.records...)
			}
		}
	}
	slices.SortStableFunc(found, func(x, y control.Failure) int { return y.Time.Compare(x.Time) })
	return found
}

// recordFailure remembers and reports a negotiation that failed. t is this
// host's own, nil: the peer began. retry: when the next attempt is made; zero:
// not by this host.
func (a *Agent) recordFailure(now time.Time, o ike.Failed, t *talk, retry time.Time) {
	if t != nil && o.Filter == "" {
		o.Filter = t.key.filter
	}
	v := control.Failure{Time: now, Peer: o.Remote.String(), Local: o.Local.String(), Own: t != nil,
		Rule: a.ruleOf(o.Filter, t != nil && t.response), Filter: string(o.Filter), Step: o.Step,
		Code: string(o.Code), Reason: printable(o.Reason, maxMessage), Hint: printable(hintOf(o), maxMessage), Retry: retry,
		Offered: printables(o.Offered), Received: printables(o.Received), Differs: printable(o.Differs, maxField)}
	a.failures.put(plain(o.Remote), v)
	mode, _, _ := strings.Cut(o.Step, " ")
	a.event(now, control.EventFailed, "warning", "negotiation with "+v.Peer+" failed: "+o.Reason,
		map[string]string{"peer": v.Peer, "local": v.Local, "rule": v.Rule, "filter": v.Filter, "step": v.Step, "mode": mode,
			"code": v.Code, "reason": v.Reason, "hint": v.Hint, "differs": v.Differs, "begunBy": begunBy(v.Own),
			"offered": strings.Join(v.Offered, ", "), "received": strings.Join(v.Received, ", ")})
}

func begunBy(own bool) string {
	if own {
		return "this host"
	}
	return "peer"
}

// printables makes a list fit to be kept: parts of it are a peer's words.
func printables(words []string) []string {
	var out []string
	size := 0
	for _, w := range words {
		w = printable(w, maxField)
		if size += len(w); size > maxOffer {
			return append(out, "...")
		}
		out = append(out, w)
	}
	return out
}
