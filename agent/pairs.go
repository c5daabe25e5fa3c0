package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

const (
	// halfLife is how long associations may stand without their pair being
	// whole; an exchange is over before.
	halfLife = 150 * time.Second
	// rekeyAgain is how soon a rekey that brought nothing is asked for again.
	rekeyAgain = time.Minute
	// writeDelay is how far apart two writes of the book are at least.
	writeDelay = 500 * time.Millisecond
)

// half is associations in force whose pair is not whole yet.
type half struct {
	filter sadb.FilterID
	remote netip.Addr
	ids    []sadb.SAID
	since  time.Time
}

// ikeOutput handles what the key exchange asks for or reports.
func (a *Agent) ikeOutput(now time.Time, o ike.Output) {
	switch o := o.(type) {
	case ike.ReserveSPI:
		a.reserve(now, o)
	case ike.Install:
		err := a.install(now, o)
		a.cfg.IKE.Submit(ike.Installed{ID: o.ID, Err: err})
	case ike.Established:
		a.established(now, o)
	case ike.Failed:
		a.failed(now, o)
	case ike.Ended:
		a.endPair(now, o.Pair, ending{reason: o.Reason, byPeer: o.ByPeer})
	case ike.MainMode:
		a.mainMode(now, o)
	case ike.Traced:
		a.traced(now, o)
	case ike.KeyLog:
		a.keyLog(now, o)
	case ike.Dropped:
		a.ikeDropped += uint64(max(0, o.Count))
		if strings.HasPrefix(o.Reason, ike.InternalError) {
			a.ikeInternal += uint64(max(0, o.Count))
		}
		a.cfg.Log.Debug("datagrams of IKE dropped", "peer", o.Remote.String(), "reason", printable(o.Reason, maxField), "count", o.Count)
	}
}

// driverEvent handles what the driver asks for or reports.
func (a *Agent) driverEvent(now time.Time, e driver.Event) {
	switch e := e.(type) {
	case driver.Acquire:
		a.acquire(now, e)
	case driver.Expire:
		a.expire(now, e)
	case driver.Used:
		a.cfg.IKE.Submit(ike.Used{ID: a.scoped(e.ID)})
	case driver.FilterEnded:
		a.filterEnded(now, e.ID)
	case driver.Tampered:
		a.tampered(now, e)
	case driver.Resync:
		a.event(now, control.EventResync, "info", "the state of the data path is read anew: "+e.Reason, nil)
		a.enforceAgain(now)
	case driver.Moved:
		a.moved(now, e)
	}
}

func (a *Agent) tampered(now time.Time, e driver.Tampered) {
	if e.Restored {
		a.problem("tampered "+e.What, "")
		a.event(now, control.EventTampered, "warning", e.What+" was changed or removed by another program, and is in force again", nil)
		return
	}
	words := e.What + " was changed or removed by another program and is not in force"
	a.problem("tampered "+e.What, words)
	a.event(now, control.EventTampered, "error", words, nil)
}

func (a *Agent) reserve(now time.Time, o ike.ReserveSPI) {
	ctx, cancel := a.driverContext()
	defer cancel()
	spi, err := a.cfg.Driver.AllocSPI(ctx, o.Src, o.Dst, o.Proto)
	a.cfg.IKE.Submit(ike.SPIReserved{ID: o.ID, SPI: spi, Err: err})
}

// install puts an association in force, if policy still wants it.
func (a *Agent) install(now time.Time, o ike.Install) error {
	if err := a.refuseSetBack(now, o.Pair); err != nil {
		return fmt.Errorf("agent: install %s: %w", o.SA.ID, err)
	}
	if err := a.wants(now, o.Pair); err != nil {
		return fmt.Errorf("agent: install %s: %w", o.SA.ID, err)
	}
	if err := a.refuseTaken(o); err != nil {
		return fmt.Errorf("agent: install %s: %w", o.SA.ID, err)
	}
	if o.SA.Dir == sadb.Out { // with the last of them the pair is whole
		o.SA.Record = recordOf(o.Pair).write()
	}
	ctx, cancel := a.driverContext()
	defer cancel()
	if err := a.cfg.Driver.AddSA(ctx, o.SA); err != nil {
		return fmt.Errorf("agent: install %s: %w", o.SA.ID, err)
	}
	if _, whole := a.book.Get(o.Pair.ID); whole {
		return nil
	}
	a.noteHalf(now, o)
	if former, ok := a.book.BySA(o.SA.ID); ok {
		a.endPair(now, former.ID, ending{reason: "the peer has given its SPI to another association", tell: true})
	}
	return nil
}

// refuseTaken refuses an association in the place of another peer's: two behind
// one translator have one address, and each may see the SPIs of the other.
func (a *Agent) refuseTaken(o ike.Install) error {
	former, ok := a.book.BySA(o.SA.ID)
	if !ok || former.Principal == o.Pair.Principal {
		return nil
	}
	return fmt.Errorf("another peer at this address (%s) has given this SPI before, and its association stays: a negotiation with another SPI will do", former.Principal)
}

// noteHalf remembers what is in force of a pair that is not whole yet.
func (a *Agent) noteHalf(now time.Time, o ike.Install) {
	h, again := a.halves[o.Pair.ID]
	if !again {
		h = half{filter: o.SA.Filter, remote: plain(o.Pair.Remote), since: now}
		a.timers.at(now.Add(halfLife), func(now time.Time) { a.dropHalf(now, o.Pair.ID) })
	}
	h.ids = append(h.ids, o.SA.ID)
	a.halves[o.Pair.ID] = h
}

// wants reports whether the policy now in force has a place for the pair, and
// makes it where that is a temporary filter.
func (a *Agent) wants(now time.Time, p sadb.Pair) error {
	if p.DefaultResponse {
		return a.respond(now, p)
	}
	if f, ok := a.inForce.snapshot.filter(p.Filter); !ok || f.Negotiation == nil {
		return fmt.Errorf("the policy has changed: its filter does not negotiate any more")
	}
	return nil
}

// dropHalf takes what was installed of a pair out of force, if the pair never
// became whole.
func (a *Agent) dropHalf(now time.Time, id sadb.PairID) {
	h, ok := a.halves[id]
	if !ok {
		return
	}
	delete(a.halves, id)
	a.deleteSAs(now, h.ids)
	if o, ok := a.overlays[h.filter]; ok && o.kind == responseOverlay && !a.halfFor(h.filter, h.remote) {
		a.unprotect(now, sadb.Pair{Filter: h.filter, Selector: o.filter.Selector}, grace)
	}
}

// halfFor reports whether a negotiation for a filter and a peer has come as far
// as its first association.
func (a *Agent) halfFor(f sadb.FilterID, remote netip.Addr) bool {
	for _, h := range a.halves {
		if h.filter == f && h.remote == plain(remote) {
			return true
		}
	}
	return false
}

// deleteSAs ends associations of a pair that is no more. One that has become
// another pair's meanwhile, by the same SPI, stays.
func (a *Agent) deleteSAs(now time.Time, ids []sadb.SAID) {
	for _, id := range ids {
		if a.belongs(id) {
			continue
		}
		ctx, cancel := a.driverContext()
		if err := a.cfg.Driver.DeleteSA(ctx, id); err != nil {
			a.event(now, control.EventAgent, "warning", fmt.Sprintf("the data path did not delete %s: %v", id, err), nil)
		}
		cancel()
	}
}

// belongs reports whether a pair, whole or not yet, has an association.
func (a *Agent) belongs(id sadb.SAID) bool {
	for _, h := range a.halves {
		if slices.Contains(h.ids, id) {
			return true
		}
	}
	_, ok := a.book.BySA(id)
	return ok
}

// established books a pair that is whole.
func (a *Agent) established(now time.Time, o ike.Established) {
	p := o.Pair
	if _, _, ok := a.inForce.snapshot.offersFor(p, methodOf(p)); !ok {
		a.refusePair(now, p)
		return
	}
	a.noteModern(now, p)
	delete(a.halves, p.ID)
	delete(a.rekeying, p.Replaces)
	a.book.Put(p)
	a.bookChanged(now)
	a.prove(now, p.Remote)
	a.protect(now, p)
	a.harden(now, p)
	a.finish(o)
	a.alive(now, p.Remote)
	a.failures.settle(plain(p.Remote))
	a.event(now, control.EventSAUp, "info", fmt.Sprintf("secured with %s: %s", p.Remote, p.Flow), a.pairFields(p))
}

// refusePair ends a pair that became whole after the policy has changed.
func (a *Agent) refusePair(now time.Time, p sadb.Pair) {
	delete(a.halves, p.ID)
	a.deleteSAs(now, slices.Concat(p.In, p.Out))
	a.cfg.IKE.Submit(ike.Gone{Pair: p.ID})
}

// finish ends the negotiation that has made a pair, and one that waits for the
// same traffic.
func (a *Agent) finish(o ike.Established) {
	if t := a.talks.byRequest[o.Request]; t != nil {
		a.forget(t)
		return
	}
	t := a.talks.byKey[talkKey{o.Pair.Filter, o.Pair.Selector}]
	if t != nil && t.request == 0 {
		a.forget(t)
	}
}

func (a *Agent) pairFields(p sadb.Pair) map[string]string {
	f := map[string]string{"peer": p.Remote.String(), "local": p.Local.String(), "rule": a.ruleOf(p.Filter, p.DefaultResponse),
		"principal": p.Principal, "method": p.Method, "suite": suiteNames(p), "mode": p.Mode.String()}
	if len(p.In) > 0 && len(p.Out) > 0 {
		f["spiIn"], f["spiOut"] = p.In[0].SPI.String(), p.Out[0].SPI.String()
	}
	return f
}

func suiteNames(p sadb.Pair) string {
	var names []string
	for _, s := range p.Suites {
		names = append(names, s.String())
	}
	return strings.Join(names, "+")
}

// ruleOf says which rule a filter comes from.
func (a *Agent) ruleOf(id sadb.FilterID, response bool) string {
	if response {
		return defaultResponseTag
	}
	if o, ok := a.overlays[id]; ok {
		if o.kind == responseOverlay {
			return defaultResponseTag
		}
		id = o.filter.Parent
	}
	f, ok := a.inForce.snapshot.filter(id)
	if !ok && a.pending != nil { // of the policy before, whose associations stay
		f, _ = a.pending.former.snapshot.filter(id)
	}
	return f.Rule
}

// drainTime is how long the inbound half of a pair outlives it: what the peer
// sent before it knew waits in the data path's queue, while a delete does not.
const drainTime = 5 * time.Second

// ending is why a pair ends.
type ending struct {
	reason string
	tell   bool // the key exchange does not know yet
	byPeer bool // the peer, proven, has ended it
}

// grace is how long what the pair carried stays required.
func (e ending) grace() time.Duration {
	if e.byPeer {
		return shortGrace
	}
	return grace
}

// endPair takes a pair out of force, its inbound half when what is under way
// has arrived.
func (a *Agent) endPair(now time.Time, id sadb.PairID, e ending) {
	a.dropHalf(now, id)
	p, ok := a.book.Remove(id)
	if !ok {
		return
	}
	a.deleteSAs(now, p.Out)
	a.timers.at(now.Add(drainTime), func(now time.Time) { a.deleteSAs(now, p.In) })
	if e.tell {
		a.cfg.IKE.Submit(ike.Gone{Pair: id})
	}
	_, replaced := a.book.ReplacedBy(id)
	a.unprotect(now, p, e.grace())
	a.noteEnd(now, p, e.reason)
	a.bookChanged(now)
	delete(a.adopted, id)
	delete(a.rekeying, id)
	fields := a.pairFields(p)
	fields["reason"] = e.reason
	if replaced {
		fields["replaced"] = "yes"
	}
	a.event(now, control.EventSADown, "info", fmt.Sprintf("association with %s ended: %s", p.Remote, e.reason), fields)
}

// expire handles a lifetime that was reached.
func (a *Agent) expire(now time.Time, e driver.Expire) {
	p, ok := a.book.BySA(a.scoped(e.ID))
	if !ok {
		return
	}
	if e.Hard {
		a.endPair(now, p.ID, ending{reason: "its lifetime is over", tell: true})
		return
	}
	if !a.rekeying[p.ID] && !a.idle[p.ID] {
		a.rekey(now, p.ID)
	}
}

// rekey asks for a replacement of a pair, again and again until there is one
// or the pair has ended.
func (a *Agent) rekey(now time.Time, id sadb.PairID) {
	_, ok := a.book.Get(id)
	_, replaced := a.book.ReplacedBy(id)
	if !ok || replaced {
		delete(a.rekeying, id)
		return
	}
	a.rekeying[id] = true
	a.cfg.IKE.Submit(ike.Rekey{Pair: id})
	a.timers.at(now.Add(jitter(rekeyAgain)), func(now time.Time) { a.rekey(now, id) })
}

// serving returns the newest pair of a filter with a peer.
func (a *Agent) serving(f sadb.FilterID, remote netip.Addr) (best sadb.Pair, ok bool) {
	for _, p := range a.book.All() {
		if p.Filter == f && plain(p.Remote) == plain(remote) {
			best, ok = p, true
		}
	}
	return best, ok
}

// scoped returns an association's name as the key exchange has it: a driver
// does not know the zone of a link-local address.
func (a *Agent) scoped(id sadb.SAID) sadb.SAID {
	if !id.Dst.IsLinkLocalUnicast() {
		return id
	}
	for _, p := range a.book.All() {
		if known, ok := match(id, p.In, p.Out); ok {
			return known
		}
	}
	for _, h := range a.halves {
		if known, ok := match(id, h.ids); ok {
			return known
		}
	}
	return id
}

func match(id sadb.SAID, lists ...[]sadb.SAID) (sadb.SAID, bool) {
	for _, known := range slices.Concat(lists...) {
		if known.SPI == id.SPI && known.Proto == id.Proto && plain(known.Dst) == plain(id.Dst) {
			return known, true
		}
	}
	return sadb.SAID{}, false
}

// mainMode reports an ISAKMP SA that began or ended.
func (a *Agent) mainMode(now time.Time, o ike.MainMode) {
	remote := o.SA.Remote.Addr()
	fields := map[string]string{"peer": remote.String(), "local": o.SA.Local.Addr().String(), "principal": string(o.SA.Principal),
		"method": o.SA.Method.String(), "suite": o.SA.Suite.String(), "reason": o.Ended}
	if o.Ended != "" {
		a.event(now, control.EventMainModeDown, "info", fmt.Sprintf("main mode with %s ended: %s", remote, o.Ended), fields)
		return
	}
	a.meet(now, remote, o.SA.Method, o.SA.Principal)
	a.prove(now, remote)
	a.event(now, control.EventMainModeUp, "info", fmt.Sprintf("main mode with %s: it is %s", remote, o.SA.Principal), fields)
	if !o.SA.Initiator {
		a.alive(now, remote)
	}
}

// methodOf returns by which method the identity of a pair was proven.
func methodOf(p sadb.Pair) auth.Method {
	for _, m := range []auth.Method{auth.PSK, auth.RSA, auth.ECDSA256, auth.ECDSA384, auth.ECDSA521, auth.Kerberos} {
		if m.String() == p.Method {
			return m
		}
	}
	return 0
}

// bookChanged has the pairs written: at once, or, where many change together,
// all with one write soon.
func (a *Agent) bookChanged(now time.Time) {
	if a.unwritten {
		return
	}
	a.unwritten = true
	if next := a.written.Add(writeDelay); next.After(now) {
		a.timers.at(next, a.writePairs)
		return
	}
	a.writePairs(now)
}

func (a *Agent) writePairs(now time.Time) {
	if !a.unwritten {
		return
	}
	a.unwritten, a.written = false, now
	if err := a.store.write(a.book.All(), a.modern.changed); err != nil {
		a.problem("store", err.Error()+": associations would not be known after a restart")
		a.event(now, control.EventAgent, "error", err.Error(), nil)
		return
	}
	clear(a.modern.changed)
	a.problem("store", "")
}
