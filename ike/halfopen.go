package ike

import (
	"container/list"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"
)

// perAddress is how many half-open exchanges one address may have.
const perAddress = 35

// halfOpen is the table of the main modes that peers have begun, of fixed
// size. It never refuses: what has waited longest goes. An address of which no
// rule speaks never gets in at all. What has returned our cookie is counted
// apart, so that a flood of forged addresses cannot push it out, and so are the
// addresses that a rule names, so that nobody else can push them out, forged or
// not. A quarter of the table each is kept for these three; the rest, and what
// they leave empty, is the crowd's, which gives way to all.
type halfOpen struct {
	size                         int
	crowd, named                 waitingList                // have shown nothing
	crowdReturned, namedReturned waitingList                // are where they say
	addresses                    map[netip.Addr][]*mainMode // by source, the oldest first
}

type waitingList struct {
	list list.List
	max  int // of the crowd: the whole table, if the others leave it
}

func (w *waitingList) front() *mainMode { return w.list.Front().Value.(*mainMode) }

func (w *waitingList) full() bool { return w.list.Len() >= w.max }

// source is what counts as one source of unproven messages: an address, and of
// IPv6 a network of 64 bits, since one host can have all of its addresses.
func source(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	return netip.PrefixFrom(a, 64).Masked().Addr()
}

// hostsOfSource is how many times the share of an address a source has: a
// network of 64 bits may be an attacker's or a whole office's.
func hostsOfSource(a netip.Addr) int {
	if a.Is6() {
		return 8
	}
	return 1
}

// slot is a main mode's place in the table.
type slot struct {
	in      *waitingList
	element *list.Element // in in.list
}

func newHalfOpen(size int) *halfOpen {
	h := &halfOpen{size: max(4, size), addresses: map[netip.Addr][]*mainMode{}}
	h.crowd.max = h.size
	for _, w := range []*waitingList{&h.named, &h.crowdReturned, &h.namedReturned} {
		w.max = h.size / 4
	}
	return h
}

// begin is where an exchange begins.
func (h *halfOpen) begin(named bool) *waitingList {
	if named {
		return &h.named
	}
	return &h.crowd
}

// room returns the exchanges that have to go before addr can have another, of
// which policy says whether a rule names it. What has yet to come is never among
// them: an exchange that is refused its place the moment it begins would be
// answered and never gone on with.
func (h *halfOpen) room(addr netip.Addr, named bool) []*mainMode {
	var old []*mainMode
	if mine := h.addresses[source(addr)]; len(mine) >= perAddress*hostsOfSource(addr) {
		old = append(old, h.oldest(mine))
	}
	in := h.begin(named)
	switch {
	case in.full() && (len(old) == 0 || old[0].slot.in != in):
		return append(old, in.front())
	case h.len() >= h.size && len(old) == 0:
		return append(old, h.crowd.front()) // there is one: the others have three quarters
	}
	return old
}

// add enters x, for which there is room.
func (h *halfOpen) add(x *mainMode) {
	addr := source(x.remote.Addr())
	h.addresses[addr] = append(h.addresses[addr], x)
	h.place(x, h.begin(x.offer.Named))
}

// oldest returns the oldest of an address, of those that have shown nothing if
// there is one: who forges an address cannot push out what its owner has begun,
// unless the owner has filled its share with it.
func (h *halfOpen) oldest(mine []*mainMode) *mainMode {
	return mine[max(0, slices.IndexFunc(mine, func(x *mainMode) bool { return x.slot.in == h.begin(x.offer.Named) }))]
}

// prove moves x to the exchanges whose peer is known to be where it says, and
// returns those that have to make room.
func (h *halfOpen) prove(x *mainMode) []*mainMode {
	var to *waitingList
	switch x.slot.in {
	case &h.crowd:
		to = &h.crowdReturned
	case &h.named:
		to = &h.namedReturned
	default:
		return nil
	}
	var old []*mainMode
	if to.full() {
		old = append(old, to.front())
	}
	x.slot.in.list.Remove(x.slot.element)
	h.place(x, to)
	return old
}

func (h *halfOpen) place(x *mainMode, in *waitingList) {
	x.slot.in, x.slot.element = in, in.list.PushBack(x)
}

// remove takes x out; it may be gone already.
func (h *halfOpen) remove(x *mainMode) {
	if x.slot.in == nil {
		return
	}
	x.slot.in.list.Remove(x.slot.element)
	addr := source(x.remote.Addr())
	mine := h.addresses[addr]
	i := slices.Index(mine, x)
	if mine = slices.Delete(mine, i, i+1); len(mine) > 0 {
		h.addresses[addr] = mine
	} else {
		delete(h.addresses, addr)
	}
	x.slot = slot{}
}

func (h *halfOpen) len() int {
	return h.unshown() + h.crowdReturned.list.Len() + h.namedReturned.list.Len()
}

// unshown is how many exchanges there are of peers that have shown nothing.
func (h *halfOpen) unshown() int { return h.crowd.list.Len() + h.named.list.Len() }

// cookieEpoch is how long one secret makes the responder cookies.
const cookieEpoch = 10 * time.Minute

// cookies makes responder cookies: the same first message gets the same
// cookie, so that a retransmission makes no second state, and a stranger
// cannot guess one.
type cookies struct {
	secrets [2][32]byte // of this epoch and of the one before
	until   time.Time
}

// renew draws a new secret when the epoch is over. The one before counts for one
// epoch more, unless nobody has asked for so long that it is over too.
func (c *cookies) renew(now time.Time, rand io.Reader) error {
	if now.Before(c.until) {
		return nil
	}
	previous := c.secrets[0]
	if _, err := io.ReadFull(rand, c.secrets[0][:]); err != nil {
		return err
	}
	if !now.Before(c.until.Add(cookieEpoch)) {
		previous = c.secrets[0]
	}
	c.secrets[1], c.until = previous, now.Add(cookieEpoch)
	return nil
}

// responder returns the cookies for a first message, that of this epoch first.
func (c *cookies) responder(p path, icookie [8]byte, sa []byte) [2][8]byte {
	var out [2][8]byte
	sum := sha256.Sum256(sa)
	for i, secret := range c.secrets {
		mac := hmac.New(sha256.New, secret[:])
		for _, end := range []netip.AddrPort{p.local, p.remote} {
			a := end.Addr().As16()
			mac.Write(a[:])
			mac.Write(binary.BigEndian.AppendUint16(nil, end.Port()))
		}
		mac.Write(icookie[:])
		mac.Write(sum[:])
		copy(out[i][:], mac.Sum(nil))
	}
	return out
}
