package ike

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/sadb"
)

// queued is a datagram on its way.
type queued struct {
	to   *host
	from netip.AddrPort
	data []byte
}

// script is two hosts and a network in the hands of the fuzzer.
type script struct {
	w     *world
	net   []queued
	main  MainOffer
	bytes []byte
}

// next returns the next byte of the script, zero at its end.
func (s *script) next() byte {
	if len(s.bytes) == 0 {
		return 0
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return b
}

// FuzzMachine plays bytes as a script: what is asked, delivered, lost, doubled,
// damaged, and when the clock moves. Nothing panics, nothing grows without
// bound, and where both ends have an association they have the same keys.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
	f.Add([]byte{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7, 1, 1, 1, 5, 5, 5, 1, 1, 1})
	f.Add([]byte{0, 16, 1, 3, 1, 1, 4, 0, 30, 1, 1, 1, 2, 1, 5, 1, 1, 8, 1, 1, 9, 40, 1, 2, 3})
	f.Add([]byte{12, 28, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 11, 27, 1, 1, 1, 7, 23, 1, 1, 1, 1, 1, 1, 1, 10, 26, 5, 1, 1, 1, 14, 5, 11, 5, 5, 5, 5, 5, 5, 5, 5})
	f.Add([]byte{0, 1, 1, 6, 0, 1, 1, 1, 3, 1, 3, 1, 1, 1, 1, 5, 8, 1, 10, 1, 1})
	f.Fuzz(func(t *testing.T, in []byte) { playScript(t, in, fuzzMain(auth.PSK)) })
}

// FuzzMethods plays with Kerberos and signatures: the bits of methods say which
// of the three are allowed.
func FuzzMethods(f *testing.F) {
	for methods := range byte(8) {
		f.Add(methods, []byte{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
		f.Add(methods, []byte{0, 16, 1, 3, 1, 1, 4, 0, 30, 1, 1, 1, 2, 1, 5, 1, 1, 8, 1, 1, 9, 40, 1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, methods byte, in []byte) {
		var allowed []auth.Method
		for i, m := range []auth.Method{auth.Kerberos, auth.RSA, auth.PSK} {
			if methods&(1<<i) != 0 {
				allowed = append(allowed, m)
			}
		}
		playScript(t, in, fuzzMain(allowed...))
	})
}

func playScript(t *testing.T, in []byte, main MainOffer) {
	if len(in) > 400 {
		return
	}
	s := &script{w: newWorld(t, 1), bytes: in, main: main}
	ring, err := psk.Parse("test", []byte(goodKey))
	if err != nil {
		t.Fatal(err)
	}
	for i, addr := range v4 {
		h := s.w.bareHost(addr, uint64(i+1), psk.New(ring), newTicket("host/"+addr), sound())
		h.m.Handle(s.w.now, SetPolicy{policyOf(main, fuzzQuick())})
	}
	for len(s.bytes) > 0 {
		s.play()
		s.drain()
		s.check(t)
	}
}

func fuzzMain(methods ...auth.Method) MainOffer {
	var reqs []auth.Requirement
	for _, m := range methods {
		reqs = append(reqs, auth.Requirement{Method: m})
	}
	suite := sadb.ISAKMPSuite{Encryption: sadb.AESCBC, KeyBits: 128, Hash: sadb.SHA256, Group: sadb.ECP256}
	return MainOffer{Suites: []sadb.ISAKMPSuite{suite}, Auth: reqs, Lifetime: 10 * time.Minute}
}

func fuzzQuick() QuickOffer {
	suite := sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 128}
	return QuickOffer{Filter: "f", Proposals: []sadb.Proposal{{Suites: []sadb.Suite{suite}, Lifetime: sadb.Limits{Time: time.Hour}}}}
}

func (s *script) play() {
	op := s.next()
	h, peer := s.w.hosts[op>>4&1], s.w.hosts[1-op>>4&1]
	switch op & 15 {
	case 0:
		quick := fuzzQuick()
		quick.Selector = sadb.Selector{}.Narrow(h.addr, peer.addr)
		h.m.Handle(s.w.now, Initiate{Request: 1, Local: h.addr, Remote: peer.addr, Main: s.main, Quick: quick})
	case 1, 2, 3, 4, 6:
		s.deliver(op & 15)
	case 5:
		s.clock()
	case 7:
		h.m.Handle(s.w.now, Rekey{h.newestPair().ID})
	case 8:
		h.m.Handle(s.w.now, Close{Pair: h.newestPair().ID, Main: op&32 != 0, Remote: peer.addr})
	case 9:
		n := min(int(s.next()), len(s.bytes))
		h.m.Handle(s.w.now, Packet{Local: s.w.at(h), Remote: s.w.at(peer), Data: s.bytes[:n]})
		s.bytes = s.bytes[n:]
	case 10:
		if in := h.newestPair().In; len(in) > 0 {
			h.m.Handle(s.w.now, Used{in[0]})
		}
	case 11:
		h.m.Handle(s.w.now, Silent{h.newestPair().ID})
	case 12:
		h.m.Handle(s.w.now, SetTrace{All: op&32 == 0, Keys: []netip.Addr{peer.addr}, Show: peer.addr})
	case 13:
		if in := h.newestPair().In; len(in) > 0 {
			h.m.Handle(s.w.now, Moved{in[0], netip.AddrPortFrom(peer.addr, uint16(s.next()))})
		}
	case 14:
		gone := h.newestPair().ID
		maps.DeleteFunc(h.sas, func(_ sadb.SAID, sa sadb.SA) bool { return sa.Pair == gone })
		h.m.Handle(s.w.now, Gone{gone})
	default:
		h.m.Handle(s.w.now, Cancel{1})
	}
}

// deliver does something with the first datagram on its way.
func (s *script) deliver(how byte) {
	if len(s.net) == 0 {
		return
	}
	q := s.net[0]
	if how != 2 { // 2 leaves it there: it comes again
		s.net = s.net[1:]
	}
	switch how {
	case 3: // lost
		return
	case 4: // damaged
		q.data = slices.Clone(q.data)
		q.data[int(s.next())%len(q.data)] ^= s.next()
	case 6: // overtaken
		s.net = append(s.net, q)
		return
	}
	q.to.m.Handle(s.w.now, Packet{Local: s.w.at(q.to), Remote: q.from, Data: q.data})
}

func (s *script) clock() {
	for _, h := range s.w.hosts {
		if d := h.m.Deadline(); d.After(s.w.now) {
			s.w.now = d
			break
		}
	}
	for _, h := range s.w.hosts {
		h.m.Tick(s.w.now)
	}
}

func (s *script) drain() {
	for quiet := false; !quiet; {
		quiet = true
		for i, h := range s.w.hosts {
			for o, ok := h.m.Poll(); ok; o, ok = h.m.Poll() {
				quiet = false
				if send, ok := o.(Send); ok {
					if len(s.net) < 64 {
						s.net = append(s.net, queued{s.w.hosts[1-i], s.w.at(h), send.Data})
					}
					continue
				}
				s.w.output(h, o)
			}
		}
	}
}

func (s *script) check(t *testing.T) {
	a, b := s.w.hosts[0], s.w.hosts[1]
	for id, sa := range a.sas {
		if other, ok := b.sas[id]; ok && (!sa.EncKey.Equal(other.EncKey) || sa.Dir == other.Dir) {
			t.Fatalf("%s differs", id)
		}
	}
	for _, h := range s.w.hosts {
		for id, sa := range h.sas {
			if h.m.pairs[sa.Pair] == nil && h.m.quicks[sa.Pair] == nil {
				t.Fatalf("%s is in force and nobody's", id)
			}
		}
		m := h.m
		if n := len(m.working) + len(m.reserving) + len(m.installing); n != 0 {
			t.Fatalf("%d answers are awaited that were given", n)
		}
		if m.halfOpen.len() > len(m.mains) || len(m.sas) > peerSAs || len(m.pairs) > 2*peerPairs {
			t.Fatalf("%d half-open, %d main modes, %d ISAKMP SAs, %d pairs", m.halfOpen.len(), len(m.mains), len(m.sas), len(m.pairs))
		}
	}
}

// FuzzSelector: what a peer says a pair is for never widens what transport mode
// across address translation secures, and what is read can be said again.
func FuzzSelector(f *testing.F) {
	f.Add([]byte("\x01\x11\x06\xa5\xc6\x33\x64\x01"), []byte("\x02\x11\x00\x00pc.example"))
	f.Add([]byte("\x04\x00\x00\x00\x0a\x00\x00\x00\xff\x00\x00\x00"), []byte("\x07\x00\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x09"))
	f.Add([]byte("\x05\x06\x00\x50\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"), []byte("\x05\x06\x00\x00\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"))
	p := path{netip.MustParseAddrPort("192.0.2.2:4500"), netip.MustParseAddrPort("198.51.100.7:20001")}
	f.Fuzz(func(t *testing.T, local, remote []byte) {
		if s, err := selectorOf(local, remote, p, true); err == nil && s.Narrow(p.local.Addr(), p.remote.Addr()) != s {
			t.Fatalf("transport mode for %s", s)
		}
		s, err := selectorOf(local, remote, p, false)
		if err != nil {
			return
		}
		l, r, err := clientIDs(s, p)
		if err != nil {
			t.Fatalf("%s cannot be said: %v", s, err)
		}
		if again, err := selectorOf(l, r, p, false); err != nil || again != s {
			t.Fatalf("%s became %s, %v", s, again, err)
		}
	})
}
