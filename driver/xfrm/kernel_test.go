package xfrm

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// kernel is XFRM and the table of nftables in memory, for engines without a
// kernel. What it is asked to do it counts, from 1: messages and lists for the
// table alike. It refuses the one of number fail with number; the process that
// sends the one of number die ends at it, before or after it is done.
type kernel struct {
	policies map[key]wire.Policy
	states   map[sadb.SAID]wire.State
	larval   map[sadb.SAID]bool   // states that are a reservation
	bodies   map[sadb.SAID][]byte // that states were made with: algorithms and keys
	filters  []sadb.Filter        // of the table
	messages int
	fail     int
	failing  int        // how many in a row from fail on; 0: one
	number   unix.Errno // 0: ENOMEM
	die      int
	after    bool
	done     func() // called when a message has been obeyed; may be nil
	spi      sadb.SPI
	conf     [][]byte // settings of interfaces
	odd      [][]byte // listed beside policies and states
	noIPv6   bool
}

// death is what ends a process of a kernel's.
type death struct{}

func newKernel() *kernel {
	return &kernel{policies: map[key]wire.Policy{}, states: map[sadb.SAID]wire.State{}, larval: map[sadb.SAID]bool{}, bodies: map[sadb.SAID][]byte{}, spi: 0x5000}
}

// obey counts a request and does it, if its process lives.
func (k *kernel) obey(f func() unix.Errno) unix.Errno {
	k.messages++
	if k.fail > 0 && k.messages >= k.fail && k.messages < k.fail+max(k.failing, 1) {
		if k.number == 0 {
			return unix.ENOMEM
		}
		return k.number
	}
	if k.messages == k.die && !k.after {
		panic(death{})
	}
	number := f()
	if k.done != nil {
		k.done()
	}
	if k.messages == k.die {
		panic(death{})
	}
	return number
}

func (k *kernel) answer(reqs []netlink.Message) ([]netlink.Message, error) {
	var answers []netlink.Message
	number := k.obey(func() (n unix.Errno) {
		for _, r := range reqs {
			var a []netlink.Message
			if a, n = k.take(r); n != 0 {
				return n
			}
			answers = append(answers, a...)
		}
		return 0
	})
	if number != 0 || len(answers) == 0 {
		return nltest.Error(int(number), reqs)
	}
	for i := range answers {
		answers[i].Header.Sequence, answers[i].Header.PID = reqs[0].Header.Sequence, reqs[0].Header.PID
	}
	return answers, nil
}

func (k *kernel) take(r netlink.Message) ([]netlink.Message, unix.Errno) {
	switch r.Header.Type {
	case wire.MsgNewPolicy, wire.MsgUpdatePolicy:
		return nil, k.write(r)
	case wire.MsgDelPolicy:
		return nil, k.remove(r.Data)
	case wire.MsgNewSA, wire.MsgUpdateSA:
		return nil, k.writeState(r)
	case wire.MsgDelSA:
		return nil, k.removeState(r.Data)
	case wire.MsgAllocSPI:
		return k.allocate(r.Data)
	case wire.MsgGetPolicy:
		var all [][]byte
		for _, p := range k.policies {
			b := p.Append(nil)
			binary.NativeEndian.PutUint64(b[136:], uint64(p.Use.Added.Unix()))
			all = append(all, b)
		}
		return dumped(wire.MsgNewPolicy, append(all, k.odd...)), 0
	case wire.MsgGetSA:
		if r.Header.Flags&netlink.Dump != netlink.Dump {
			return k.get(r.Data)
		}
		var all [][]byte
		for _, s := range k.states {
			all = append(all, stateBody(s))
		}
		return dumped(wire.MsgNewSA, append(all, k.odd...)), 0
	}
	return nil, unix.EINVAL
}

func (k *kernel) write(r netlink.Message) unix.Errno {
	p, err := wire.ParsePolicy(r.Data)
	if err != nil {
		return unix.EINVAL
	}
	if _, there := k.policies[keyOf(p)]; there && r.Header.Type == wire.MsgNewPolicy {
		return unix.EEXIST
	}
	p.Use.Added = now()
	k.policies[keyOf(p)] = p
	return 0
}

// remove finds the policy whose identity a request names.
func (k *kernel) remove(body []byte) unix.Errno {
	for id, p := range k.policies {
		if slices.Equal(p.AppendID(nil), body) {
			delete(k.policies, id)
			return 0
		}
	}
	return unix.ENOENT
}

func (k *kernel) writeState(r netlink.Message) unix.Errno {
	s, err := wire.ParseState(r.Data)
	if err != nil {
		return unix.EINVAL
	}
	was, there := k.states[s.ID]
	switch {
	case k.noIPv6 && s.ID.Dst.Is6():
		return unix.EPROTONOSUPPORT
	case there && r.Header.Type == wire.MsgNewSA:
		return unix.EEXIST
	case !there && r.Header.Type == wire.MsgUpdateSA:
		return unix.ESRCH
	case there && !k.larval[s.ID]: // the kernel obeys in this alone
		was.Selector, was.Lifetime, was.Encap = s.Selector, s.Lifetime, s.Encap
		k.states[s.ID] = was
		return 0
	}
	delete(k.larval, s.ID)
	k.states[s.ID], k.bodies[s.ID] = s, slices.Clone(r.Data)
	return 0
}

// named returns the state that a request names.
func (k *kernel) named(body []byte) (wire.State, bool) {
	for id, s := range k.states {
		if slices.Equal(wire.AppendStateID(nil, id), body) {
			return s, true
		}
	}
	return wire.State{}, false
}

func (k *kernel) removeState(body []byte) unix.Errno {
	s, ok := k.named(body)
	if !ok {
		return unix.ESRCH
	}
	delete(k.states, s.ID)
	return 0
}

func (k *kernel) get(body []byte) ([]netlink.Message, unix.Errno) {
	s, ok := k.named(body)
	if !ok {
		return nil, unix.ESRCH
	}
	return []netlink.Message{{Header: netlink.Header{Type: wire.MsgNewSA}, Data: stateBody(s)}}, 0
}

// allocate makes a state with an SPI for what a request describes.
func (k *kernel) allocate(body []byte) ([]netlink.Message, unix.Errno) {
	s, err := wire.ParseState(body[:stateSize])
	if err != nil {
		return nil, unix.EINVAL
	}
	k.spi++
	s.ID.SPI = k.spi
	k.states[s.ID], k.larval[s.ID] = s, true
	return []netlink.Message{{Header: netlink.Header{Type: wire.MsgNewSA}, Data: stateBody(s)}}, 0
}

// stateSize is that of a state without attributes.
const stateSize = 224

// stateBody is a state as the kernel lists it: without algorithms, which nobody
// reads.
func stateBody(s wire.State) []byte {
	b := s.AppendAllocSPI(nil, 0, 0)[:stateSize]
	binary.NativeEndian.PutUint64(b[168:], s.Use.Packets)
	binary.NativeEndian.PutUint64(b[160:], s.Use.Bytes)
	return b
}

// settings answers questions about interfaces.
func (k *kernel) settings(reqs []netlink.Message) ([]netlink.Message, error) {
	all := dumped(unix.RTM_NEWNETCONF, k.conf)
	for i := range all {
		all[i].Header.Sequence, all[i].Header.PID = reqs[0].Header.Sequence, reqs[0].Header.PID
	}
	return all, nil
}

// dumped makes a listing.
func dumped(typ uint16, bodies [][]byte) []netlink.Message {
	var out []netlink.Message
	for _, b := range bodies {
		out = append(out, netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Multi}, Data: b})
	}
	return append(out, netlink.Message{Header: netlink.Header{Type: netlink.Done, Flags: netlink.Multi}, Data: make([]byte, 4)})
}

// table is the kernel's table as an engine sees it.
type table struct{ k *kernel }

func (t table) Apply(filters []sadb.Filter) error {
	if n := t.k.obey(func() unix.Errno { t.k.filters = slices.Clone(filters); return 0 }); n != 0 {
		return n
	}
	return nil
}

func (t table) Stats() (s nft.Stats, err error) {
	for _, f := range t.k.filters {
		s.Filters = append(s.Filters, driver.FilterStat{Filter: f})
	}
	return s, nil
}

func (t table) ClearPeers() ([]driver.ClearPeer, bool, error) { return nil, false, nil }
func (t table) Tampered() <-chan driver.Tampered              { return nil }
func (t table) Close() error                                  { return nil }

// engine returns an engine of a process that has just begun, with the book of
// dir.
func (k *kernel) engine(dir string) *engine {
	return &engine{cfg: Config{Exempt: DefaultExempt, Log: slog.New(slog.DiscardHandler)}, link: link{nltest.Dial(k.answer)}, book: book{dir},
		table: table{k}, facts: &facts{routing: nltest.Dial(k.settings)}, out: make(chan driver.Event, eventRoom), places: map[string]standing{}, have: map[key]wire.Policy{},
		reqids: newRequestIDs(nil), reserved: map[sadb.SAID]time.Time{}, asked: map[question]pending{}, sas: newAssociations(), carried: map[sadb.FilterID]tally{}, exempt: exemptPolicies(DefaultExempt)}
}

// open is engine and what Open does then.
func (k *kernel) open(t *testing.T, dir string) *engine {
	t.Helper()
	e := k.engine(dir)
	if err := e.adopt(); err != nil {
		t.Fatal(err)
	}
	return e
}

// lives runs what a process does and reports whether it lived to the end.
func lives(t *testing.T, f func() error) (alive bool) {
	t.Helper()
	defer func() {
		switch r := recover(); r.(type) {
		case nil, death:
		default:
			panic(r)
		}
	}()
	if err := f(); err != nil {
		t.Errorf("an error of its own: %v", err)
	}
	return true
}

// bench is an engine that asks nothing of a kernel.
func bench() *engine { return newKernel().engine("") }

func exampleAddr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

// between returns a filter for UDP of a host with a peer.
func between(id sadb.FilterID, peer netip.Addr) sadb.Filter {
	return sadb.Filter{ID: id, Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(peer), Proto: sadb.UDP}, Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate}}
}
