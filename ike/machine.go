package ike

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/sadb"
)

// Config is what a Machine needs from outside.
type Config struct {
	// Rand is the source of all randomness: crypto/rand.Reader, or a
	// deterministic one in tests. Work reads from it too, so it must bear
	// several readers at once if work runs concurrently.
	Rand io.Reader
	// Auth are the methods this host can authenticate with.
	Auth []auth.Authenticator
	// HalfOpen is the size of the table of main modes begun by peers; 0: 4096.
	HalfOpen int
	// ForceEncap has ESP go in UDP with every peer that can, as if this host
	// were behind an address translator: for paths that drop ESP.
	ForceEncap bool
}

const defaultHalfOpen = 4096

// keyExchange is one side of a Diffie-Hellman exchange.
type keyExchange interface {
	Public() []byte
	Shared(peer []byte) ([]byte, error)
	Zero() // forgets the private value
}

// saKey names an ISAKMP SA by its two cookies; before the answer to a first
// message the second is zero.
type saKey struct{ i, r [8]byte }

// Machine is all state of IKE on this host: the exchanges under way, the
// ISAKMP SAs and the pairs of associations. It does no I/O and reads no clock.
// It belongs to one goroutine.
type Machine struct {
	cfg    Config
	policy Policy
	newDH  func(sadb.Group, io.Reader) (keyExchange, error)

	out    []Output
	timers timers
	lastID uint64
	// What was asked of the outside and what goes on with the answer.
	working    map[uint64]func(now time.Time, result any)
	reserving  map[uint64]func(now time.Time, in SPIReserved)
	installing map[uint64]func(now time.Time, err error)

	cookies    cookies
	assembler  assembler
	fragmentID uint16 // of the message sent last in fragments
	halfOpen   *halfOpen
	mains      map[saKey]*mainMode // under way, in either role
	sas        map[saKey]*isakmp   // established
	pairs      map[sadb.PairID]*pairState
	quicks     map[sadb.PairID]*quickMode // under way, in either role
	inbound    map[sadb.SAID]sadb.PairID
	peers      peers                   // by address
	attempts   map[netip.Addr]attempts // failed authentications as initiator
	drops      drops
	trace      SetTrace
	strangers  strangers // work until message 4
	provers    strangers // work for message 5
	hints      hintLimit // answers in clear
	reports    hintLimit // reports about peers that have proven nothing
	// A replay of what others have said differs in these from what we say.
	anonymous bool // says nothing of itself by vendor IDs
	nonceLen  int  // of main mode
}

// New returns a Machine that refuses everything until SetPolicy.
func New(cfg Config) *Machine {
	if cfg.HalfOpen <= 0 {
		cfg.HalfOpen = defaultHalfOpen
	}
	return &Machine{
		cfg:        cfg,
		nonceLen:   ourNonce,
		newDH:      func(g sadb.Group, r io.Reader) (keyExchange, error) { return crypt.NewDH(g, r) },
		working:    map[uint64]func(time.Time, any){},
		reserving:  map[uint64]func(time.Time, SPIReserved){},
		installing: map[uint64]func(time.Time, error){},
		halfOpen:   newHalfOpen(cfg.HalfOpen),
		mains:      map[saKey]*mainMode{},
		sas:        map[saKey]*isakmp{},
		pairs:      map[sadb.PairID]*pairState{},
		quicks:     map[sadb.PairID]*quickMode{},
		inbound:    map[sadb.SAID]sadb.PairID{},
		peers:      newPeers(),
		hints:      hintLimit{most: hintsPerSecond},
		reports:    hintLimit{most: reportsPerSecond},
		attempts:   map[netip.Addr]attempts{},
		drops:      drops{counts: map[Dropped]int{}},
		strangers:  strangers{waiting: map[netip.Addr]int{}},
		provers:    strangers{waiting: map[netip.Addr]int{}},
	}
}

// Handle takes an input. What it leads to comes out of Poll.
func (m *Machine) Handle(now time.Time, in Input) {
	switch in := in.(type) {
	case Packet:
		m.packet(now, in)
	case Initiate:
		m.initiate(now, &request{Initiate: in, since: now})
	case WorkDone:
		if then := take(m.working, in.ID); then != nil {
			then(now, in.Result)
		}
	case SPIReserved:
		if then := take(m.reserving, in.ID); then != nil {
			then(now, in)
		}
	case Installed:
		if then := take(m.installing, in.ID); then != nil {
			then(now, in.Err)
		}
	case SetTrace:
		m.setTrace(in)
	case SetPolicy:
		m.policy = in.Policy
	case Recheck:
		m.recheck(now)
	case Cancel:
		m.cancel(now, in.Request)
	default:
		m.handlePairs(now, in)
	}
}

// handlePairs takes the inputs about pairs that exist.
func (m *Machine) handlePairs(now time.Time, in Input) {
	switch in := in.(type) {
	case Rekey:
		m.rekey(now, in.Pair)
	case Used:
		m.used(now, in.ID)
	case Silent:
		m.silent(now, in.Pair)
	case Moved:
		m.moved(in)
	case Gone:
		m.gone(now, in.Pair)
	case Close:
		m.close(now, in)
	case Adopt:
		m.adopt(now, in)
	}
}

// Poll returns the next output; false: there is none.
func (m *Machine) Poll() (Output, bool) {
	if len(m.out) == 0 {
		return nil, false
	}
	next := m.out[0]
	m.out[0] = nil
	m.out = m.out[1:]
	return next, true
}

// Deadline returns when Tick wants to be called, zero: not at all.
func (m *Machine) Deadline() time.Time { return m.timers.next() }

// Tick does what is due.
func (m *Machine) Tick(now time.Time) {
	for {
		t, ok := m.timers.due(now)
		if !ok {
			return
		}
		t.fire(now)
	}
}

// SAs returns the established ISAKMP SAs, oldest first.
func (m *Machine) SAs() []ISAKMPSA {
	all := make([]ISAKMPSA, 0, len(m.sas))
	for _, s := range m.established() {
		all = append(all, s.status())
	}
	return all
}

// established returns the ISAKMP SAs, oldest first.
func (m *Machine) established() []*isakmp {
	all := slices.Collect(maps.Values(m.sas))
	slices.SortFunc(all, func(a, b *isakmp) int { return a.compare(b) })
	return all
}

func take[T any](from map[uint64]T, id uint64) T {
	v := from[id]
	delete(from, id)
	return v
}

func (m *Machine) put(o Output) {
	m.out = append(m.out, o)
	m.traceOutput(o)
}

func (m *Machine) send(p path, data []byte) {
	m.sendAgain(p, data, 0)
}

func (m *Machine) nextID() uint64 {
	m.lastID++
	return m.lastID
}

// work has run done outside the machine's loop and goes on with its result.
func (m *Machine) work(w Work, then func(now time.Time, result any)) {
	w.ID = m.nextID()
	m.working[w.ID] = then
	m.put(w)
}

// reserve asks for an inbound SPI from remote to local.
func (m *Machine) reserve(p path, proto sadb.Proto, then func(now time.Time, in SPIReserved)) {
	id := m.nextID()
	m.reserving[id] = then
	m.put(ReserveSPI{ID: id, Src: p.remote.Addr(), Dst: p.local.Addr(), Proto: proto})
}

// install has associations put in force, one after the other, and goes on when
// all are or one failed.
func (m *Machine) install(now time.Time, sas []sadb.SA, pair sadb.Pair, then func(now time.Time, err error)) {
	if len(sas) == 0 {
		then(now, nil)
		return
	}
	id := m.nextID()
	m.installing[id] = func(now time.Time, err error) {
		if err != nil {
			then(now, err)
			return
		}
		m.install(now, sas[1:], pair, then)
	}
	m.put(Install{ID: id, SA: sas[0], Pair: pair})
}

var errRandom = errors.New("the system's source of randomness failed")

// random returns n random bytes. An error here is the end of the exchange that
// needs them, never a guess.
func (m *Machine) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(m.cfg.Rand, b); err != nil {
		return nil, errors.Join(errRandom, err)
	}
	return b, nil
}

// randomCookie returns a cookie that is not zero.
func (m *Machine) randomCookie() (c [8]byte, err error) {
	b, err := m.random(len(c))
	copy(c[:], b)
	if err == nil && c == [8]byte{} {
		err = errRandom
	}
	return c, err
}

// fraction returns a random percentage from low to below high.
func (m *Machine) fraction(low, high uint64) uint64 {
	b, err := m.random(8)
	if err != nil {
		return low
	}
	return low + binary.BigEndian.Uint64(b)%(high-low)
}

// authenticator returns the authenticator of a method.
func (m *Machine) authenticator(method auth.Method) auth.Authenticator {
	for _, a := range m.cfg.Auth {
		if a.Method() == method {
			return a
		}
	}
	return nil
}

// able leaves out the requirements that this host has no authenticator for.
func (m *Machine) able(o MainOffer) MainOffer {
	unable := func(r auth.Requirement) bool { return m.authenticator(r.Method) == nil }
	if slices.ContainsFunc(o.Auth, unable) {
		o.Auth = slices.DeleteFunc(slices.Clone(o.Auth), unable)
	}
	return o
}
