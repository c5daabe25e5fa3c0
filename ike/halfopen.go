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
// size. It never refuses: what has waited longest goes. Exchanges whose peer
// has returned our cookie are counted apart, so that a flood of forged
// addresses cannot push them out. An address that policy does not name never
// gets in at all.
type halfOpen struct {
	unproven, proven waitingList
	addresses        map[netip.Addr][]*mainMode // by source, the oldest first
}

type waitingList struct {
	list list.List
	max  int
}

func (w *waitingList) front() *mainMode { return w.list.Front().Value.(*mainMode) }

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
	h := &halfOpen{addresses: map[netip.Addr][]*mainMode{}}
	h.proven.max = max(1, size/4)
	h.unproven.max = max(1, size-h.proven.max)
	return h
}

// room returns the exchanges that have to go before addr can have another.
// What has yet to come is never among them: an exchange that is refused its
// place the moment it begins would be answered and never gone on with.
func (h *halfOpen) room(addr netip.Addr) []*mainMode {
	var crowd []*mainMode
	full := h.unproven.list.Len() >= h.unproven.max
	if mine := h.addresses[source(addr)]; len(mine) >= perAddress*hostsOfSource(addr) {
		old := h.oldest(mine)
		crowd = append(crowd, old)
		full = full && old.slot.in != &h.unproven
	}
	if full {
		crowd = append(crowd, h.unproven.front())
	}
	return crowd
}

// add enters x, for which there is room.
func (h *halfOpen) add(x *mainMode) {
	addr := source(x.remote.Addr())
	h.addresses[addr] = append(h.addresses[addr], x)
	h.place(x, &h.unproven)
}

// oldest returns the oldest of an address, of those that are unproven if there
// is one: who forges an address cannot push out what its owner has begun,
// unless the owner has filled its share with it.
func (h *halfOpen) oldest(mine []*mainMode) *mainMode {
	return mine[max(0, slices.IndexFunc(mine, func(x *mainMode) bool { return x.slot.in == &h.unproven }))]
}

// prove moves x to the exchanges whose peer is known to be where it says, and
// returns those that have to make room.
func (h *halfOpen) prove(x *mainMode) []*mainMode {
	if x.slot.in == nil || x.slot.in == &h.proven {
		return nil
	}
	x.slot.in.list.Remove(x.slot.element)
	h.place(x, &h.proven)
	if h.proven.list.Len() > h.proven.max {
		return []*mainMode{h.proven.front()}
	}
	return nil
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

func (h *halfOpen) len() int { return h.unproven.list.Len() + h.proven.list.Len() }

// cookieEpoch is how long one secret makes the responder cookies.
const cookieEpoch = 10 * time.Minute

// cookies makes responder cookies: the same first message gets the same
// cookie, so that a retransmission makes no second state, and a stranger
// cannot guess one.
type cookies struct {
	secrets [2][32]byte // of this epoch and of the one before
	until   time.Time
}

// renew draws a new secret when the epoch is over.
func (c *cookies) renew(now time.Time, rand io.Reader) error {
	if now.Before(c.until) {
		return nil
	}
	previous := c.secrets[0]
	if _, err := io.ReadFull(rand, c.secrets[0][:]); err != nil {
		return err
	}
	if c.until.IsZero() {
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
