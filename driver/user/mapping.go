package user

import (
	"encoding/binary"
	"net/netip"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

// keepAliveEvery is how often a translator in front of this host is reminded
// of its mapping while nothing else goes (RFC 3948 §4).
const keepAliveEvery = 20 * time.Second

// moved sends what goes to a peer to the port that its authentic packets come
// from now: by all associations of the pair.
func (e *engine) moved(a *assoc) {
	to := *a.use.from.Load()
	for _, b := range e.sas {
		if b.out != nil && b.sa.Pair == a.sa.Pair && b.sa.Src == a.sa.ID.Dst {
			from := b.out.Peer()
			b.out.Move(to)
			e.sh.flows.move(from, b.out.Peer())
		}
	}
	e.emit(driver.Moved{ID: a.sa.ID, From: to})
}

// leave forgets what came from an endpoint to which no association leads any
// more.
func (e *engine) leave(a *assoc) {
	if a.out == nil || a.sa.Encap.IsZero() {
		return
	}
	for _, b := range e.sas {
		if b.out != nil && b.out.Peer() == a.out.Peer() {
			return
		}
	}
	e.sh.flows.move(a.out.Peer(), netip.AddrPort{})
}

// keepAlive reminds the translators in front of this host of associations that
// have been silent.
func (e *engine) keepAlive(now time.Time) {
	sent := map[[2]netip.AddrPort]bool{}
	for _, a := range e.sas {
		if a.out == nil || !a.sa.Encap.KeepAlive {
			continue
		}
		last := a.use.alive
		if used := a.use.last.Load(); used > last.UnixNano() {
			last = time.Unix(0, used)
		}
		if at := last.Add(keepAliveEvery); now.Before(at) {
			e.due(at)
			continue
		}
		a.use.alive = now
		e.due(now.Add(keepAliveEvery))
		way := [2]netip.AddrPort{netip.AddrPortFrom(a.sa.Src, a.sa.Encap.Local.Port()), a.out.Peer()}
		if !sent[way] {
			sent[way] = true
			e.out.send(keepAlivePacket(way[0], way[1]), way[1].Addr(), int(a.path.mtu.Load()))
		}
	}
	e.out.flush()
}

// keepAlivePacket is the one byte of RFC 3948 §2.3 in UDP. Its checksum is zero
// over IPv4.
func keepAlivePacket(from, to netip.AddrPort) []byte {
	head := ipv4Header
	if to.Addr().Is6() {
		head = ipv6Header
	}
	p := make([]byte, head+9)
	esp.OuterHeader{Src: from.Addr(), Dst: to.Addr(), Proto: sadb.UDP, Hops: 64}.Put(p, len(p))
	u := p[head:]
	binary.BigEndian.PutUint16(u, from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	u[8] = 0xff
	if to.Addr().Is6() {
		_ = esp.RepairChecksum(p) // it is well formed
	}
	return p
}
