package ike

import (
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/ike/iketest"
	"ipsecagent/sadb"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// host is a machine with what the world around it would hold: the associations
// in force and everything the machine has put out.
type host struct {
	addr netip.Addr
	m    *Machine
	spi  sadb.SPI

	sas         map[sadb.SAID]sadb.SA
	order       []sadb.SAID // outbound ones, the newest last
	established []Established
	failed      []Failed
	ended       []Ended
	mains       []MainMode
	dropped     map[string]int
	sent        [][]byte
	works       int
	hold        bool // work and driver do not answer until released
	held        []func()
	refuseSA    error // the driver's answer to Install
}

// world is hosts on a network in virtual time.
type world struct {
	t     *testing.T
	now   time.Time
	net   *iketest.Net
	hosts []*host
	watch func(h *host, o Output) // sees everything; may be nil
	nat   *translator             // nil: none
}

type seeded struct{ *mrand.ChaCha8 }

func (s seeded) Read(b []byte) (int, error) { return s.ChaCha8.Read(b) }

func randomFrom(seed uint64) io.Reader {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%032d", seed))
	return seeded{mrand.NewChaCha8(key)}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, now: epoch, net: iketest.New(seed)}
	t.Cleanup(func() {
		for _, h := range w.hosts {
			checkPeers(t, h.m)
		}
	})
	return w
}

func keyring(t testing.TB, text string) *psk.Keyring {
	t.Helper()
	ring, err := psk.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

const goodKey = "correct horse battery staple 41"

// host adds a host with preshared keys and a policy.
func (w *world) host(addr, keys string, p Policy) *host {
	w.t.Helper()
	h := w.bareHost(addr, uint64(len(w.hosts)+1), psk.New(keyring(w.t, keys)))
	h.m.Handle(w.now, SetPolicy{p})
	return h
}

func (w *world) bareHost(addr string, seed uint64, a ...auth.Authenticator) *host {
	h := &host{addr: netip.MustParseAddr(addr), spi: sadb.SPI(0x1000 * seed), sas: map[sadb.SAID]sadb.SA{}, dropped: map[string]int{}}
	h.m = New(Config{Rand: randomFrom(seed), Auth: a})
	w.hosts = append(w.hosts, h)
	w.net.Attach(netip.AddrPortFrom(h.addr, ikePort), netip.AddrPortFrom(h.addr, natPort))
	return h
}

// flush does what the hosts ask for until all is quiet.
func (w *world) flush() {
	for quiet := false; !quiet; {
		quiet = true
		for _, h := range w.hosts {
			for o, ok := h.m.Poll(); ok; o, ok = h.m.Poll() {
				quiet = false
				w.output(h, o)
			}
		}
	}
}

func (w *world) output(h *host, o Output) {
	if w.watch != nil {
		w.watch(h, o)
	}
	switch o := o.(type) {
	case Send:
		h.sent = append(h.sent, o.Data)
		w.net.Send(w.now, w.nat.out(w, o.Local), o.Remote, o.Data)
	case Work:
		h.works++
		h.answer(w, func() Input { return WorkDone{o.ID, o.Run()} })
	case ReserveSPI:
		h.spi++
		spi := h.spi
		h.answer(w, func() Input { return SPIReserved{ID: o.ID, SPI: spi} })
	case Install:
		h.answer(w, func() Input {
			if h.refuseSA == nil {
				h.sas[o.SA.ID] = o.SA
				if o.SA.Dir == sadb.Out {
					h.order = append(h.order, o.SA.ID)
				}
			}
			return Installed{o.ID, h.refuseSA}
		})
	case Ended:
		h.ended = append(h.ended, o)
		for id, sa := range h.sas {
			if sa.Pair == o.Pair {
				delete(h.sas, id)
			}
		}
	default:
		h.record(o)
	}
}

func (h *host) answer(w *world, in func() Input) {
	if h.hold {
		h.held = append(h.held, func() { h.m.Handle(w.now, in()) })
		return
	}
	h.m.Handle(w.now, in())
}

// release answers what was held back.
func (h *host) release(w *world) {
	h.hold = false
	held := h.held
	h.held = nil
	for _, f := range held {
		f()
	}
	w.flush()
}

func (h *host) record(o Output) {
	switch o := o.(type) {
	case Established:
		h.established = append(h.established, o)
	case Failed:
		h.failed = append(h.failed, o)
	case MainMode:
		h.mains = append(h.mains, o)
	case Dropped:
		h.dropped[o.Reason] += o.Count
	}
}

// next returns when something happens next.
func (w *world) next() (time.Time, bool) {
	at, ok := w.net.NextTime()
	for _, h := range w.hosts {
		if d := h.m.Deadline(); !d.IsZero() && (!ok || d.Before(at)) {
			at, ok = d, true
		}
	}
	return at, ok
}

// run lets the time pass.
func (w *world) run(d time.Duration) {
	until := w.now.Add(d)
	w.flush()
	for {
		at, ok := w.next()
		if !ok || at.After(until) {
			w.now = until
			return
		}
		if at.After(w.now) {
			w.now = at
		}
		w.step()
		w.flush()
	}
}

func (w *world) step() {
	if at, ok := w.net.NextTime(); ok && !at.After(w.now) {
		_, d, _ := w.net.Next()
		d.To = w.nat.in(d.To)
		for _, h := range w.hosts {
			if h.addr == d.To.Addr() {
				h.m.Handle(w.now, Packet{Local: d.To, Remote: d.From, Data: d.Data})
			}
		}
		return
	}
	for _, h := range w.hosts {
		h.m.Tick(w.now)
	}
}

// suites of tests; the names are those of policies.
func mainSuite(t testing.TB, names ...string) []sadb.ISAKMPSuite {
	t.Helper()
	var all []sadb.ISAKMPSuite
	for _, n := range names {
		s, err := sadb.ParseISAKMPSuite(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func proposals(t testing.TB, names ...string) []sadb.Proposal {
	t.Helper()
	var all []sadb.Proposal
	for _, n := range names {
		s, err := sadb.ParseSuite(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sadb.Proposal{Suites: []sadb.Suite{s}, Lifetime: sadb.Limits{Time: time.Hour, Bytes: 100 << 30}})
	}
	return all
}

func mainOffer(t testing.TB) MainOffer {
	return MainOffer{Suites: mainSuite(t, "aes256-sha256-ecp256", "aes128-sha1-modp1024"), Lifetime: 8 * time.Hour,
		Auth: []auth.Requirement{{Method: auth.PSK}}}
}

func quickOffer(t testing.TB, local, remote netip.Addr) QuickOffer {
	return QuickOffer{Filter: "filter-1", Selector: sadb.Selector{}.Narrow(local, remote),
		Proposals: proposals(t, "esp-aes256gcm", "esp-aes128-sha256")}
}

// policyOf accepts these offers from everybody; the selector is the one asked
// for.
func policyOf(main MainOffer, quick QuickOffer) Policy {
	return Policy{
		Main: func(MainQuery) (MainOffer, error) { return main, nil },
		Quick: func(q QuickQuery) (QuickOffer, error) {
			o := quick
			o.Selector = q.Selector
			return o, nil
		},
	}
}

// two returns two hosts that accept each other.
func two(t *testing.T, seed uint64) (*world, *host, *host) {
	w := newWorld(t, seed)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	p := policyOf(mainOffer(t), QuickOffer{Filter: "filter-1", Proposals: proposals(t, "esp-aes256gcm", "esp-aes128-sha256")})
	return w, w.host("192.0.2.1", goodKey, p), w.host("192.0.2.2", goodKey, p)
}

// ask has a host ask for a pair with another.
func (w *world) ask(from, to *host, request uint64) {
	from.m.Handle(w.now, Initiate{Request: request, Local: from.addr, Remote: to.addr,
		Main: mainOffer(w.t), Quick: quickOffer(w.t, from.addr, to.addr)})
}

// checkPaired checks that the pair is whole on both and that each outbound
// association of one is the inbound one of the other, with the same keys.
func (w *world) checkPaired(a, b *host) {
	w.t.Helper()
	if err := paired(a, b); err != nil {
		w.t.Errorf("%v; failed %+v and %+v", err, a.failed, b.failed)
	}
}

func paired(a, b *host) error {
	if len(a.established) == 0 || len(b.established) == 0 {
		return fmt.Errorf("established %d and %d pairs", len(a.established), len(b.established))
	}
	for _, h := range []*host{a, b} {
		out := 0
		for _, sa := range h.sas {
			if sa.Dir == sadb.Out {
				out++
			}
		}
		if out == 0 || len(h.sas) != 2*out {
			return fmt.Errorf("%s has %d associations, %d outbound", h.addr, len(h.sas), out)
		}
	}
	for id, sa := range a.sas {
		other, ok := b.sas[id]
		if !ok {
			return fmt.Errorf("%s is on one side only", id)
		}
		if other.Dir == sa.Dir || !other.EncKey.Equal(sa.EncKey) || !other.AuthKey.Equal(sa.AuthKey) || other.Suite != sa.Suite ||
			other.Src != sa.Src || other.Selector.Mirror() != sa.Selector || other.Mode != sa.Mode {
			return fmt.Errorf("%s differs", id)
		}
	}
	return nil
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func (w *world) at(h *host) netip.AddrPort { return netip.AddrPortFrom(h.addr, 500) }
