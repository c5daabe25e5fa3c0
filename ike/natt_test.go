package ike

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
)

// translator is a NAT in front of some hosts: what they send comes from its
// address, from a port of its own for each of theirs.
type translator struct {
	addr  netip.Addr
	hosts map[netip.Addr]bool
	ports map[netip.AddrPort]uint16 // of what is inside
	last  uint16
}

func newTranslator(w *world, addr string, inside ...*host) *translator {
	n := &translator{addr: netip.MustParseAddr(addr), hosts: map[netip.Addr]bool{}, ports: map[netip.AddrPort]uint16{}, last: 20000}
	for _, h := range inside {
		n.hosts[h.addr] = true
	}
	w.nat = n
	return n
}

// out translates a source address.
func (n *translator) out(w *world, from netip.AddrPort) netip.AddrPort {
	if n == nil || !n.hosts[from.Addr()] {
		return from
	}
	if n.ports[from] == 0 {
		n.last++
		n.ports[from] = n.last
		w.net.Attach(netip.AddrPortFrom(n.addr, n.last))
	}
	return netip.AddrPortFrom(n.addr, n.ports[from])
}

// in translates a destination address back.
func (n *translator) in(to netip.AddrPort) netip.AddrPort {
	if n == nil || to.Addr() != n.addr {
		return to
	}
	for inside, port := range n.ports {
		if port == to.Port() {
			return inside
		}
	}
	return netip.AddrPort{}
}

// rebind forgets all translations, as a restart does.
func (n *translator) rebind() { clear(n.ports) }

func at4500(h *host) netip.AddrPort { return netip.AddrPortFrom(h.addr, natPort) }

// behindNAT has a host behind a translator negotiate with one in the open.
func behindNAT(t *testing.T, seed uint64) (*world, *host, *host, *translator) {
	w, a, b := two(t, seed)
	n := newTranslator(w, "198.51.100.7", a)
	return w, a, b, n
}

func TestNATIsFound(t *testing.T) {
	w, a, b, n := behindNAT(t, 1)
	w.ask(a, b, 1)
	w.run(2 * time.Second)
	if len(a.m.sas) != 1 || len(b.m.sas) != 1 {
		t.Fatalf("%+v %+v", a.failed, b.failed)
	}
	sa, sb := a.m.established()[0], b.m.established()[0]
	if !sa.nat.local || sa.nat.remote || sb.nat.local || !sb.nat.remote || sa.nat.form != natRFC3947 {
		t.Errorf("%+v %+v", sa.nat, sb.nat)
	}
	if status := b.m.SAs()[0]; !status.NAT || status.Vendor != "ipsecagent" {
		t.Errorf("%+v", status)
	}
	if e := sa.encap(); e.Local != at4500(a) || e.Remote != at4500(b) {
		t.Errorf("%+v", e)
	}
	if e := sb.encap(); e.Local != at4500(b) || e.Remote != netip.AddrPortFrom(n.addr, n.ports[at4500(a)]) {
		t.Errorf("%+v, ports %v", e, n.ports)
	}
}

func TestWithoutNATNothingMoves(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	for _, h := range w.hosts {
		if s := h.m.established()[0]; s.nat.found() || s.nat.form != natRFC3947 || !s.encap().IsZero() || s.remote.Port() != ikePort {
			t.Errorf("%+v %+v", s.nat, s.path)
		}
	}
}

// TestForcedEncapsulation: either end can have both do as if it were behind a
// translator.
func TestForcedEncapsulation(t *testing.T) {
	for who := range 2 {
		w, a, b := two(t, 1)
		w.hosts[who].m.cfg.ForceEncap = true
		w.ask(a, b, 1)
		w.run(2 * time.Second)
		for i, h := range w.hosts {
			s := h.m.established()[0]
			if s.nat.local != (i == who) || s.nat.remote == (i == who) || s.encap().IsZero() {
				t.Errorf("host %d forces, host %d: %+v %+v", who, i, s.nat, s.path)
			}
		}
	}
}

// TestFormsOfNATTraversal: each form a peer may have is used with its payload
// number; with a peer that has none nothing is sent.
func TestFormsOfNATTraversal(t *testing.T) {
	for id, number := range map[string]wire.PayloadType{vidRFC3947: wire.NATDPayload, vidNATDraft3: wire.NATDDraftPayload,
		vidNATDraft2n: wire.NATDDraftPayload, vidNATDraft2: wire.NATDDraftPayload, "": 0} {
		w, a, b, _ := behindNAT(t, 1)
		w.net.OnNth(netip.MustParseAddrPort("198.51.100.7:20001"), w.at(b), 1, func(data []byte) []byte {
			return rewrite(t, data, func(p []wire.Payload) []wire.Payload {
				p = withoutVendor(withoutVendor(p, vidRFC3947), vidNATDraft3)
				p = withoutVendor(p, vidNATDraft2[:4])
				return append(withoutVendor(p, vidNATDraft2n), vendorPayloads(id)...)
			})
		})
		w.ask(a, b, 1)
		w.run(2 * time.Second)
		if len(b.m.sas) != 1 {
			t.Fatalf("%x: %+v", id, b.failed)
		}
		h, body, _ := wire.ParseHeader(a.sent[1])
		chain, _ := wire.ParseChain(h.Next, body)
		var numbers []wire.PayloadType
		for _, p := range chain.Payloads {
			if p.Type == wire.NATDPayload || p.Type == wire.NATDDraftPayload {
				numbers = append(numbers, p.Type)
			}
		}
		if number == 0 && len(numbers) != 0 || number != 0 && !slices.Equal(numbers, []wire.PayloadType{number, number}) {
			t.Errorf("%x: %v", id, numbers)
		}
		if s := b.m.established()[0]; s.nat.found() != (number != 0) {
			t.Errorf("%x: %+v", id, s.nat)
		}
	}
}

// wrongHash is a message that is well formed once decrypted, and whose hash is
// none.
func wrongHash(t *testing.T, s *isakmp, exchange wire.Exchange) []byte {
	t.Helper()
	const id = 0x12345678
	n := wire.Notify{DOI: 1, Protocol: wire.ProtoISAKMP, Type: wire.ReplayStatus}
	data, _, err := seal(s.keys, s.header(exchange, id), s.keys.ExchangeIV(s.last, id), []wire.Payload{
		{Type: wire.HashPayload, Body: make([]byte, len(s.keys.Hash1(id, nil)))}, {Type: wire.NotifyPayload, Body: n.Append(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestNATRebinds: the translator gives the host another port. What it sends
// next, authenticated, tells the peer; a forged datagram does not.
func TestNATRebinds(t *testing.T) {
	w, a, b, n := behindNAT(t, 1)
	a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
	w.run(2 * time.Second)
	sa, sb := a.m.established()[0], b.m.established()[0]
	before := sb.remote
	forged := slices.Clone(a.sent[len(a.sent)-1])
	forged[len(forged)-1] ^= 1
	b.m.Handle(w.now, Packet{Local: at4500(b), Remote: netip.AddrPortFrom(n.addr, 4), Data: forged})
	if sb.remote != before {
		t.Error("a forged datagram moved the peer")
	}
	for _, exchange := range []wire.Exchange{wire.Informational, wire.QuickMode} {
		b.m.Handle(w.now, Packet{Local: at4500(b), Remote: netip.AddrPortFrom(n.addr, 4), Data: wrongHash(t, sa, exchange)})
		if sb.remote != before {
			t.Errorf("exchange %d: a message with a wrong hash moved the peer", exchange)
		}
	}
	n.rebind()
	a.m.sendInformational(w.now, sa, 1, wire.Payload{Type: wire.NotifyPayload,
		Body: wire.Notify{DOI: 1, Protocol: wire.ProtoISAKMP, Type: wire.ReplayStatus}.Append(nil)})
	w.run(time.Second)
	if after := netip.AddrPortFrom(n.addr, n.ports[at4500(a)]); sb.remote != after || after == before {
		t.Errorf("%s, was %s, should be %s", sb.remote, before, after)
	}
	b.m.startMain(w.now, sb.path, mainOffer(t)) // the only way to a is back through the translator
	w.run(2 * time.Second)
	if len(a.m.sas) != 2 || len(b.m.sas) != 2 {
		t.Errorf("%d and %d ISAKMP SAs", len(a.m.sas), len(b.m.sas))
	}
}

func TestKeepAlives(t *testing.T) {
	w, a, b, _ := behindNAT(t, 1)
	a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
	w.run(101 * time.Second)
	count := func(h *host) (n int) {
		for _, data := range h.sent {
			if slices.Equal(data, []byte{0xff}) {
				n++
			}
		}
		return n
	}
	if len(a.m.sas) != 1 || count(a) != 5 || count(b) != 0 {
		t.Errorf("%d ISAKMP SAs, %d and %d keep-alives", len(a.m.sas), count(a), count(b))
	}
	a.m.Handle(w.now, Close{Remote: b.addr, Main: true, Reason: "test"})
	w.run(100 * time.Second)
	if count(a) != 5 {
		t.Errorf("%d keep-alives after the end", count(a))
	}
}

// TestNATOverABadNetwork: whichever messages are lost, main mode comes about.
func TestNATOverABadNetwork(t *testing.T) {
	for seed := range uint64(60) {
		w, a, b, _ := behindNAT(t, seed)
		w.net.SetPath(iketest.Path{Loss: 0.2, Duplicate: 0.1, Delay: 20 * time.Millisecond})
		a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
		w.run(200 * time.Second)
		if len(a.m.sas) == 0 || len(b.m.sas) == 0 {
			t.Errorf("seed %d: %+v %+v", seed, a.failed, b.failed)
		}
	}
}
