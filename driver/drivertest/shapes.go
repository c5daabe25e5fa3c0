package drivertest

import (
	"net/netip"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// shapeTests is about what an association looks like on the wire: tunnel mode,
// bundles, ESP in UDP.
func shapeTests() []namedTest {
	return []namedTest{
		{"tunnel mode", tunnelMode},
		{"a bundle of AH and ESP", bundle},
		{"a bundle of AH and ESP in tunnel mode", bundleTunnel},
		{"ESP of a bundle without its AH", halfABundle},
		{"an association of another mode", otherMode},
		{"ESP in UDP", espInUDP},
		{"ESP in UDP from another port", espInUDPMoved},
	}
}

// shaped sets a filter "f" for all UDP between the two, in that mode, on both
// hosts.
func (r *rig) shaped(mode sadb.Mode) {
	r.Helper()
	for _, e := range [][2]*end{{r.alice, r.bob}, {r.bob, r.alice}} {
		f := e[0].between("f", e[1], require())
		if f.Mode = mode; mode == sadb.Tunnel {
			f.TunnelLocal, f.TunnelRemote = e[0].addr(), e[1].addr()
		}
		e[0].set(f)
	}
}

// protected sends one datagram, which waits for what add installs and is not
// seen on the wire before it or in clear.
func (r *rig) protected(add func()) {
	r.Helper()
	ch, before := r.bob.listen(port), r.alice.reading()
	r.alice.send(r.bob, port, "first")
	r.alice.asked("f", r.bob)
	add()
	r.arrives(ch, "first")
	for _, n := range []int{0, 1400, 8000} {
		want := string(make([]byte, n)) + "more"
		r.alice.send(r.bob, port, want)
		r.arrives(ch, want)
	}
	r.alice.left(before, true, false)
}

func tunnelMode(r *rig) {
	if !r.alice.state().ModeTunnel {
		r.Log("this driver carries no tunnels")
		return
	}
	r.shaped(sadb.Tunnel)
	r.protected(func() {
		sa := r.sa(r.alice, r.bob, "f", 6001)
		sa.Mode = sadb.Tunnel
		r.pair(r.alice, r.bob, sa)
	})
}

// bundled returns AH and ESP of one bundle.
func (r *rig) bundled(mode sadb.Mode) (ah, esp sadb.SA) {
	ah = r.suiteSA(r.alice, r.bob, "f", 6001, "ah-sha256")
	esp = r.sa(r.alice, r.bob, "f", 6002)
	ah.Mode, esp.Mode = mode, mode
	ah.Bundle, esp.Bundle = esp.ID, ah.ID
	return ah, esp
}

func bundle(r *rig)       { r.bothOf(sadb.Transport) }
func bundleTunnel(r *rig) { r.bothOf(sadb.Tunnel) }

// bothOf: nothing goes before both associations are there, in either order.
func (r *rig) bothOf(mode sadb.Mode) {
	r.shaped(mode)
	ah, esp := r.bundled(mode)
	r.protected(func() {
		before := r.alice.reading()
		r.inbound(r.bob, ah)
		r.inbound(r.bob, esp)
		r.alice.add(ah)
		r.alice.remove(ah.ID)
		r.alice.add(esp)
		r.alice.left(before, false, false)
		r.alice.add(ah)
	})
	for _, id := range []sadb.SAID{ah.ID, esp.ID} {
		// More where what goes into a tunnel is cut to its size first.
		if s, _ := r.bob.sa(id); s.Packets < 4 {
			r.Errorf("%s: %d packets, want 4 or more", id, s.Packets)
		}
		await(r.bob, "Used", func(e driver.Used) bool { return e.ID == id })
	}
}

// halfABundle: ESP alone, with the keys of a bundle, is not accepted, and does
// not count as use.
func halfABundle(r *rig) {
	r.required()
	ch := r.bob.listen(port)
	ah, esp := r.bundled(sadb.Transport)
	r.inbound(r.bob, ah)
	r.inbound(r.bob, esp)
	esp.Bundle = sadb.SAID{}
	r.alice.add(esp)
	r.alice.send(r.bob, port, "naked")
	r.arrivesNot(ch, "its bundle has AH around it")
	r.bob.until("counted", func(s driver.State) bool { return s.Counters.BadSelector > 0 })
	refuse(r.bob, "half a bundle counts as use", func(driver.Used) bool { return true })
}

// otherMode: a filter of transport mode accepts nothing out of a tunnel.
func otherMode(r *rig) {
	r.shaped(sadb.Transport)
	ch := r.bob.listen(port)
	sa := r.sa(r.alice, r.bob, "f", 6001)
	sa.Mode = sadb.Tunnel
	r.inbound(r.bob, sa)
	f := r.alice.between("f", r.bob, require())
	f.Mode, f.TunnelLocal, f.TunnelRemote = sadb.Tunnel, r.alice.addr(), r.bob.addr()
	r.alice.set(f)
	r.alice.add(sa)
	r.alice.send(r.bob, port, "hello")
	r.arrivesNot(ch, "its filter is of transport mode")
	r.bob.until("counted", func(s driver.State) bool { return s.Counters.BadSelector > 0 })
}

// encapsulated returns an association in UDP, as the sender has it, and the
// endpoint of the sender.
func (r *rig) encapsulated() (out, in sadb.SA) {
	const natPort = 4500
	out = r.sa(r.alice, r.bob, "f", 6001)
	in = out
	out.Encap.Local, out.Encap.Remote = netip.AddrPortFrom(r.alice.addr(), natPort), netip.AddrPortFrom(r.bob.addr(), natPort)
	in.Encap.Local, in.Encap.Remote = out.Encap.Remote, out.Encap.Local
	return out, in
}

func espInUDP(r *rig) {
	r.required()
	out, in := r.encapsulated()
	r.protected(func() {
		r.inbound(r.bob, in)
		r.alice.add(out)
	})
	refuse(r.bob, "Moved", func(driver.Moved) bool { return true })
}

// espInUDPMoved: the peer's packets come from another port than was negotiated;
// answers follow.
func espInUDPMoved(r *rig) {
	r.required()
	out, in := r.encapsulated()
	really := in.Encap.Remote
	in.Encap.Remote = netip.AddrPortFrom(really.Addr(), 61000)
	back := r.sa(r.bob, r.alice, "f", 6002)
	back.Encap = in.Encap
	r.bob.add(back)
	answer := back
	answer.Encap = out.Encap
	r.inbound(r.alice, answer)
	r.protected(func() {
		r.inbound(r.bob, in)
		r.alice.add(out)
	})
	await(r.bob, "Moved", func(e driver.Moved) bool { return e.ID == in.ID && e.From == really })
	ch := r.alice.listen(sourcePort)
	r.bob.Send(netip.AddrPortFrom(r.bob.addr(), port+1), netip.AddrPortFrom(r.alice.addr(), sourcePort), []byte("answer"))
	r.arrives(ch, "answer")
}
