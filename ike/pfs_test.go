package ike

import (
	"errors"
	"io"
	"testing"
	"time"

	"ipsecagent/sadb"
)

var (
	errNoKeyPair = errors.New("no key pair to be had")
	errNoPoint   = errors.New("public value of the peer is none")
)

// strictDH takes no value of a peer.
type strictDH struct{ recordedDH }

func (strictDH) Shared([]byte) ([]byte, error) { return nil, errNoPoint }

// TestQuickModeKeyExchangeFailures: what this host cannot do is not the peer's
// fault, and what the peer sent is.
func TestQuickModeKeyExchangeFailures(t *testing.T) {
	q := quickOffer(t, mustAddr("192.0.2.1"), mustAddr("192.0.2.2"))
	q.PFS = sadb.ECP256
	public := make([]byte, 64)
	cases := map[string]struct {
		damage func(a *host)
		code   FailCode
	}{
		"no key pair": {func(a *host) {
			a.m.newDH = func(sadb.Group, io.Reader) (keyExchange, error) { return nil, errNoKeyPair }
		}, FailLocal},
		"peer's value": {func(a *host) {
			a.m.newDH = func(sadb.Group, io.Reader) (keyExchange, error) { return strictDH{recordedDH{public: public}}, nil }
		}, FailProtocol},
	}
	for name, c := range cases {
		w, a, b := two(t, 1)
		w.ask(a, b, 1)
		w.run(time.Second) // main mode is there
		c.damage(b)
		a.m.Handle(w.now, Initiate{Request: 2, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: q})
		w.run(time.Second)
		if len(b.failed) != 1 || b.failed[0].Code != c.code {
			t.Errorf("%s: %+v, want code %v", name, b.failed, c.code)
		}
	}
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	a.m.Handle(w.now, Initiate{Request: 2, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: q})
	a.fail(w)
	if len(a.failed) != 1 || a.failed[0].Code != FailLocal {
		t.Errorf("work that ends in a panic: %+v", a.failed)
	}
}

// fail answers all work with nothing, as a pool does whose work has ended in a
// panic.
func (h *host) fail(w *world) {
	for o, ok := h.m.Poll(); ok; o, ok = h.m.Poll() {
		if work, ok := o.(Work); ok {
			h.m.Handle(w.now, WorkDone{ID: work.ID})
			continue
		}
		w.output(h, o)
	}
}
