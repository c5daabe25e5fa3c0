package xfrm

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// question is what an Acquire was raised for.
type question struct {
	root          sadb.FilterID
	local, remote netip.Addr
}

// pending is an Acquire that has no answer yet.
type pending struct {
	waits wire.State // the state that the kernel made for it
	flow  sadb.Flow
	mode  sadb.Mode
	clear bool // packets go in clear meanwhile
	since time.Time
}

const (
	maxQuestions = 4096
	// questionLife ends a question that nobody answered: an exchange that is
	// silent is given up well before.
	questionLife = 10 * time.Minute
)

// acquire turns the kernel's question into an Acquire, once.
func (e *engine) acquire(a wire.Acquire) {
	it := e.list.byKey[key{a.Policy.Selector, wire.Out, a.Policy.Mark}]
	if it == nil || a.Policy.Dir != wire.Out {
		return // another's
	}
	waits := wire.State{ID: a.ID, Src: a.Src, Seq: a.Seq, ReqID: it.reqid, Selector: a.Selector}
	if len(a.Policy.Templates) > 0 {
		waits.Mode = a.Policy.Templates[0].Mode
	}
	e.ask(it, waits)
}

// ask raises an Acquire for a state that waits and the item whose policy made
// it wait.
func (e *engine) ask(it *item, waits wire.State) {
	q := question{it.root, waits.Selector.Src.Addr(), waits.Selector.Dst.Addr()}
	if q.remote.IsMulticast() || q.remote == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return // never negotiated
	}
	p := pending{flow: flowOf(waits.Selector, it.filter), mode: it.filter.Mode, clear: it.filter.Action.AllowClear, since: now(), waits: waits}
	if slices.ContainsFunc(e.sas.byRoot[it.root], func(a *association) bool { return a.SA.Dir == sadb.Out && e.answers(a.SA, q, p) }) {
		return // it has come since the kernel asked
	}
	was, again := e.asked[q]
	if !again && len(e.asked) >= maxQuestions {
		return // the kernel asks again
	}
	if again && was.clear == p.clear {
		p.since = was.since
		e.asked[q] = p
		return
	}
	if e.emit(driver.Acquire{Filter: it.root, Flow: p.flow, Clear: p.clear}) {
		e.asked[q] = p
	}
}

// resume raises the questions of states that wait: when the kernel's were lost
// or an earlier process had them. It would ask again after half a minute only.
func (e *engine) resume(states []wire.State) {
	byReqID := map[uint32][]*item{}
	for _, it := range e.list.items {
		byReqID[it.reqid] = append(byReqID[it.reqid], it)
	}
	for _, s := range states {
		if s.ID.SPI != 0 || s.Selector.Family() == 0 || !e.oursState(s) {
			continue
		}
		all := byReqID[s.ReqID]
		i := slices.IndexFunc(all, func(it *item) bool {
			return it.filter.Action.Kind == sadb.Negotiate && matches(it.filter.Selector, flowOf(s.Selector, it.filter))
		})
		if i >= 0 {
			e.ask(all[i], s)
		}
	}
}

// flowOf returns the headers of the packet that asked.
func flowOf(s wire.Selector, f sadb.Filter) sadb.Flow {
	flow := sadb.Flow{Local: s.Src.Addr(), Remote: s.Dst.Addr(), LocalMe: f.Selector.Local.IsMe(), RemoteMe: f.Selector.Remote.IsMe(), Proto: s.Proto}
	switch {
	case sadb.HasICMP(s.Proto):
		flow.ICMPType, flow.ICMPCode = uint8(s.SrcPort.Port), uint8(s.DstPort.Port)
	case sadb.HasPorts(s.Proto):
		flow.LocalPort, flow.RemotePort = s.SrcPort.Port, s.DstPort.Port
	}
	return flow
}

// answered ends the questions that an association answers.
func (e *engine) answered(root sadb.FilterID, sa sadb.SA) {
	for q, p := range e.asked {
		if q.root == root && e.answers(sa, q, p) {
			delete(e.asked, q)
		}
	}
}

// answers reports whether an association of a question's filter is one that it
// asks for; half of a bundle is not.
func (e *engine) answers(sa sadb.SA, q question, p pending) bool {
	if sa.Bundle != (sadb.SAID{}) && e.find(sa.Bundle) == nil {
		return false
	}
	return serves(sa, q, p)
}

// serves reports whether an association of a question's filter is for its flow.
func serves(sa sadb.SA, q question, p pending) bool {
	peer := sa.ID.Dst
	if sa.Dir == sadb.In {
		peer = sa.Src
	}
	return sa.Mode == p.mode && sa.Selector.Matches(p.flow) && (sa.Mode == sadb.Tunnel || peer == q.remote)
}

// askAnew ends the questions whose association is no more, or never became
// whole: the kernel may ask again at once.
func (e *engine) askAnew(a *association) {
	maps.DeleteFunc(e.asked, func(q question, p pending) bool { return q.root == a.root && serves(a.SA, q, p) })
}

// abandon drops what waits and allows a new Acquire.
func (e *engine) abandon(a driver.Acquire) error {
	q := question{rootOf(a.Filter, e.overlays), plain(a.Flow.Local), plain(a.Flow.Remote)}
	p, ok := e.asked[q]
	if !ok {
		return nil
	}
	delete(e.asked, q)
	// What is held goes first: the kernel would try it again meanwhile, and ask by a
	// policy that is no more.
	return errors.Join(e.dropHeld(q.root, p.flow), e.endWaiting(p.waits))
}

// endWaiting deletes the state that waits. It has no SPI, without which it
// cannot be named: so it is given one.
func (e *engine) endWaiting(s wire.State) error {
	answer, err := e.link.ask(wire.MsgAllocSPI, s.AppendAllocSPI(nil, lowestSPI, highestSPI))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil // it has ended by itself
	}
	if err != nil {
		return fmt.Errorf("end what waits for an association: %w", err)
	}
	given, err := wire.ParseState(answer)
	if err != nil {
		return err
	}
	return e.link.deleteState(given.ID)
}

// dropHeld drops the packets that wait at the policies for a flow. They go with
// their policy: another takes its place first.
func (e *engine) dropHeld(root sadb.FilterID, flow sadb.Flow) error {
	for _, it := range e.list.byRoot[root] {
		if it.filter.Action.Kind != sadb.Negotiate || !matches(it.filter.Selector, flow) {
			continue
		}
		if err := e.exchange(it); err != nil {
			return err
		}
	}
	return nil
}

// matches is Selector.Matches for a flow of which all is known.
func matches(s sadb.Selector, flow sadb.Flow) bool {
	flow.LocalMe = true
	return s.Matches(flow)
}

// exchange puts an item's policies in force again as another variant and then
// deletes those there were.
func (e *engine) exchange(it *item) error {
	old, was := slices.Clone(it.policies), it.variant
	if !e.claimFree(e.list, it, (was+1)%variants) {
		it.mark(was)
		return errors.New("no variant is free to take its policies' place")
	}
	var steps []step
	for _, p := range it.policies {
		steps = append(steps, step{typ: wire.MsgNewPolicy, policy: p})
	}
	for _, p := range old {
		steps = append(steps, step{typ: wire.MsgDelPolicy, policy: p, before: &p})
	}
	err := e.note(it)
	if err == nil {
		err = e.carry(steps)
	}
	if err != nil {
		e.disown(it.policies)
		it.mark(was)
		return errors.Join(err, e.note(it))
	}
	e.disown(old)
	return nil
}

// disown removes policies from the list in force.
func (e *engine) disown(policies []wire.Policy) {
	for _, p := range policies {
		delete(e.list.byKey, keyOf(p))
	}
}

// note writes the variant of an item into the book.
func (e *engine) note(it *item) error {
	e.places[it.name] = standing{it.priority, it.variant}
	begin, end, _ := e.list.span(it.group)
	return e.book.saveGroup(e.groupPage(it.group, e.overlays, e.list.items[begin:end]))
}

// forget ends what nobody asks for any more.
func (e *engine) forget(at time.Time) {
	for id, since := range e.reserved {
		if at.Sub(since) > reservationLife {
			delete(e.reserved, id)
		}
	}
	for q, p := range e.asked {
		if at.Sub(p.since) > questionLife {
			delete(e.asked, q)
		}
	}
}
