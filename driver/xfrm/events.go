package xfrm

import (
	"errors"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// What the feed sends besides the events of package wire.
type (
	// overrun: events were lost.
	overrun struct{ why string }
	// changed: a policy or state was changed or deleted, or all of them.
	changed struct {
		by     uint32       // the port of the socket whose request it was
		policy *wire.Policy // nil: not a policy
		state  sadb.SAID    // zero: not a state
	}
)

// feed reads the kernel's events on a socket of its own.
type feed struct {
	c    *netlink.Conn
	done chan struct{}
}

const feedBuffer = 8 << 20 // bytes; 10 000 policies written at once fit

func listen(to chan<- any) (*feed, error) {
	c, err := dial(wire.GroupAcquire, wire.GroupExpire, wire.GroupMapping, wire.GroupMigrate, wire.GroupPolicy, wire.GroupSA)
	if err != nil {
		return nil, err
	}
	// As much as the privilege allows; what is lost leads to a Resync.
	_ = c.SetReadBuffer(feedBuffer)
	f := &feed{c: c, done: make(chan struct{})}
	go f.read(to)
	return f, nil
}

func (f *feed) close() error {
	close(f.done)
	return f.c.Close()
}

// feedPause is between two attempts to read what cannot be read.
const feedPause = time.Second

// read passes events on until the socket is closed. It waits for the engine,
// and the socket's buffer for it. Whatever else goes wrong counts as lost events.
func (f *feed) read(to chan<- any) {
	for {
		messages, err := f.c.Receive()
		if err != nil {
			messages = nil
			if !f.failed(to, err) {
				return
			}
		}
		for _, m := range messages {
			if ev := parse(m); ev != nil {
				f.pass(to, ev)
			}
		}
	}
}

// failed says that events were lost, and why; false: the socket is closed.
func (f *feed) failed(to chan<- any, err error) bool {
	why, pause := "the kernel had more events than fit", time.Duration(0)
	if !errors.Is(err, unix.ENOBUFS) {
		why, pause = "events of the kernel could not be read: "+err.Error(), feedPause
	}
	select {
	case <-f.done:
		return false
	default:
		f.pass(to, overrun{why})
	}
	select {
	case <-f.done:
		return false
	case <-time.After(pause):
		return true
	}
}

func (f *feed) pass(to chan<- any, ev any) {
	select {
	case to <- ev:
	case <-f.done:
	}
}

// parse returns the event of a message, nil for what is of no interest. What
// cannot be read counts as lost.
func parse(m netlink.Message) any {
	var ev any
	var err error
	switch uint16(m.Header.Type) {
	case wire.MsgAcquire:
		ev, err = wire.ParseAcquire(m.Data)
	case wire.MsgExpire:
		ev, err = wire.ParseExpire(m.Data)
	case wire.MsgPolExpire:
		ev, err = wire.ParsePolicyExpire(m.Data)
	case wire.MsgMapping:
		ev, err = wire.ParseMapping(m.Data)
	case wire.MsgDelPolicy, wire.MsgUpdatePolicy, wire.MsgMigrate, wire.MsgDelSA, wire.MsgFlushPolicy, wire.MsgFlushSA:
		ev, err = parseChange(m)
	case wire.MsgNewSA, wire.MsgUpdateSA:
		clear(m.Data) // keys
	}
	if err != nil {
		return overrun{"an event of the kernel could not be read: " + err.Error()}
	}
	return ev
}

// parseChange reads what was changed.
func parseChange(m netlink.Message) (any, error) {
	c := changed{by: m.Header.PID}
	var p wire.Policy
	var err error
	switch uint16(m.Header.Type) {
	case wire.MsgDelPolicy:
		p, err = wire.ParseDeletedPolicy(m.Data)
		c.policy = &p
	case wire.MsgUpdatePolicy:
		p, err = wire.ParsePolicy(m.Data)
		c.policy = &p
	case wire.MsgMigrate: // whose policy it is, it does not say
		_, err = wire.ParseMigrate(m.Data)
	case wire.MsgDelSA:
		c.state, err = wire.ParseDeletedState(m.Data)
		clear(m.Data) // keys
	}
	return c, err
}

// concerns reports whether a change that something else has made may be one of
// what is ours.
func (e *engine) concerns(c changed) bool {
	switch {
	case c.by == e.link.c.PID():
		return false
	case c.policy != nil:
		return e.ours(*c.policy)
	case c.state != sadb.SAID{}:
		return e.find(c.state) != nil
	}
	return true
}

// handle acts on one event of the kernel.
func (e *engine) handle(ev any) {
	switch ev := ev.(type) {
	case wire.Acquire:
		e.acquire(ev)
	case wire.Expire:
		e.reached(ev)
	case wire.PolicyExpire:
		e.policyEnded(ev)
	case wire.Mapping:
		e.mapped(ev)
	case changed:
		e.suspect = e.suspect || e.concerns(ev)
	case overrun:
		e.suspect = true
		e.emit(driver.Resync{Reason: ev.why})
	}
}

func (e *engine) reached(ev wire.Expire) {
	a := e.find(ev.State.ID)
	switch {
	case a == nil:
	case !ev.Hard:
		a.told = e.emit(driver.Expire{ID: a.SA.ID})
	case e.gone(a.SA.ID):
		e.tally(e.carried, a, ev.State.Use)
		e.ended(a.SA.ID)
	default:
		e.suspect = true
	}
}

// gone reports whether the kernel has no such state: it may have a new one by the
// name of that which has ended.
func (e *engine) gone(id sadb.SAID) bool {
	_, message, err := e.get(id)
	clear(message)
	return errors.Is(err, unix.ESRCH)
}

// policyEnded: the kernel ended a policy of an overlay before our clock did. The
// notice may be of the policy as it was before the overlay was renewed: then the
// kernel is looked at, and the policy stays or is put back.
func (e *engine) policyEnded(ev wire.PolicyExpire) {
	k := keyOf(ev.Policy)
	it := e.list.byKey[k]
	if it == nil || !ev.Hard {
		return
	}
	if it.filter.Expires.IsZero() || now().Before(it.filter.Expires.Add(-endSlack)) {
		e.suspect = true
		return
	}
	delete(e.have, k)
	ended := slices.DeleteFunc(slices.Clone(e.overlays), func(o sadb.Filter) bool { return o.ID != it.filter.ID })
	if err := e.regroup(it.group, without(e.overlays, it.filter.ID)); err != nil {
		e.cfg.Log.Error("end a temporary filter", "filter", it.filter.ID, "error", err)
		e.stray()
		return
	}
	e.report(ended)
}

// mapped: valid packets come from another port. Those to the peer follow.
func (e *engine) mapped(ev wire.Mapping) {
	in := e.find(ev.ID)
	if in == nil || in.SA.Encap.IsZero() || ev.New.Addr() != in.SA.Encap.Remote.Addr() || ev.New == in.SA.Encap.Remote {
		return
	}
	for _, a := range e.sas.byID {
		if a != in && (a.SA.Dir != sadb.Out || a.SA.Pair != in.SA.Pair || a.SA.Encap.IsZero()) {
			continue
		}
		if err := e.remap(a, ev.New.Port()); err != nil {
			e.cfg.Log.Error("follow the peer to another port", "association", a.SA.ID, "port", ev.New.Port(), "error", err)
			return
		}
	}
	e.emit(driver.Moved{ID: ev.ID, From: ev.New})
}
