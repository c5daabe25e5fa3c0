package user

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

// assoc is an association in force. Its fields do not change once a snapshot
// holds it; what changes is behind the pointers, and atomic.
type assoc struct {
	sa     sadb.SA       // without keys
	keys   [32]byte      // tells two sets of keys apart
	limits sadb.Lifetime // sa.Lifetime, or less: see limitsOf
	root   sadb.FilterID // the filter it is bound to: see rootOf
	order  uint64        // of coming: the newest carries the traffic
	out    *esp.Outbound // one of out and in
	in     *esp.Inbound
	outer  *assoc // outbound ESP of a bundle: its AH; nil: not there
	path   *path  // outbound: what is known of the way to the peer
	use    *usage
}

// pairKey is where an outbound association is found. A tunnel has one peer,
// and its filter says which.
func (a *assoc) pairKey() pairKey {
	if a.sa.Mode == sadb.Tunnel {
		return pairKey{root: a.root}
	}
	return pairKey{a.root, a.sa.Src, a.sa.ID.Dst}
}

// bundled reports whether a is one half of AH and ESP.
func (a *assoc) bundled() bool { return a.sa.Bundle.SPI != 0 }

// carries reports whether a, outbound, is to be found by packets: of a bundle
// it is ESP, once its AH is there.
func (a *assoc) carries() bool {
	return !a.bundled() || a.sa.ID.Proto == sadb.ESP && a.outer != nil
}

// dead reports whether nothing passes by a any more.
func (a *assoc) dead() bool {
	return a.use.dead.Load() || a.outer != nil && a.outer.use.dead.Load()
}

// innerMTU returns the length of the longest packet that fits mtu when sealed.
func (a *assoc) innerMTU(mtu int) int {
	if a.outer != nil {
		mtu = a.outer.out.InnerMTU(mtu)
	}
	return a.out.InnerMTU(mtu)
}

// usage counts what an association has carried. All workers share it.
type usage struct {
	added    time.Time
	packets  atomic.Uint64
	bytes    atomic.Uint64
	last     atomic.Int64 // Unix nanoseconds; 0: never
	replayed atomic.Uint64
	badICV   atomic.Uint64

	alive time.Time // outbound in UDP: when its translator was last reminded; the engine's alone

	from atomic.Pointer[netip.AddrPort] // inbound in UDP: where it came from last; nil: from Encap.Remote

	used atomic.Bool // the first valid packet was reported
	soft atomic.Bool // the soft limit was reported
	dead atomic.Bool // the hard limit is reached: nothing passes any more
}

// newAssoc makes the keys of sa ready.
func newAssoc(sa sadb.SA, now time.Time) (*assoc, error) {
	a := &assoc{sa: sa, keys: fingerprint(sa), limits: limitsOf(sa), use: &usage{added: now}}
	a.sa.EncKey, a.sa.AuthKey = sadb.Secret{}, sadb.Secret{}
	var err error
	if sa.Dir == sadb.In {
		a.in, err = esp.NewInbound(sa)
	} else {
		a.out, err = esp.NewOutbound(sa)
	}
	return a, err
}

// fingerprint is the same for two associations with the same keys: the second
// must go on with the sequence numbers and the replay window of the first.
func fingerprint(sa sadb.SA) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d ", sa.EncKey.Len())
	h.Write(sa.EncKey.Bytes())
	h.Write(sa.AuthKey.Bytes())
	return [32]byte(h.Sum(nil))
}

// alike reports whether two associations protect alike, where the peer's
// endpoint may be another.
func alike(a, b sadb.SA) bool {
	return a.ID == b.ID && a.Src == b.Src && a.Dir == b.Dir && a.Mode == b.Mode && a.Suite == b.Suite &&
		a.ESN == b.ESN && a.Replay == b.Replay && a.Bundle == b.Bundle &&
		a.Encap.Local == b.Encap.Local && a.Encap.IsZero() == b.Encap.IsZero()
}

// smallBlocks is how many bytes a key of a cipher with 64-bit blocks may
// protect, whatever was negotiated: with more, blocks begin to repeat.
const smallBlocks = 1 << 30

// limitsOf asks for a replacement well before 32-bit sequence numbers are used
// up: they never cycle (RFC 4303 §3.3.3).
func limitsOf(sa sadb.SA) sadb.Lifetime {
	l := sa.Lifetime
	if e := sa.Suite.Encryption; e == sadb.DES || e == sadb.TripleDES {
		l.Soft = l.Soft.Min(sadb.Limits{Bytes: smallBlocks / 4 * 3})
		l.Hard = l.Hard.Min(sadb.Limits{Bytes: smallBlocks})
	}
	if sa.Dir == sadb.Out && !sa.ESN {
		l.Soft = l.Soft.Min(sadb.Limits{Packets: 3 << 30})
	}
	return l
}

// reached is what a packet has brought an association to.
type reached uint8

const (
	nothing reached = iota
	softLimit
	hardLimit
)

// count books one packet of n bytes and says which limit that reached, once
// for each limit.
func (a *assoc) count(n int, now time.Time) reached {
	u := a.use
	packets, bytes := u.packets.Add(1), u.bytes.Add(uint64(n))
	u.last.Store(now.UnixNano())
	l := a.limits
	if l.Hard.Reached(0, bytes, packets) {
		if u.dead.Swap(true) {
			return nothing
		}
		return hardLimit
	}
	if l.Soft.Reached(0, bytes, packets) && !u.soft.Load() && !u.soft.Swap(true) {
		return softLimit
	}
	return nothing
}

// deadline returns when a next reaches a time limit; zero: never.
func (a *assoc) deadline() time.Time {
	l := a.limits
	if l.Soft.Time > 0 && !a.use.soft.Load() {
		return a.use.added.Add(l.Soft.Time)
	}
	if l.Hard.Time > 0 {
		return a.use.added.Add(l.Hard.Time)
	}
	return time.Time{}
}

// state returns what State says about a, without keys.
func (a *assoc) state() driver.SAState {
	s := driver.SAState{
		SA: a.sa, Added: a.use.added,
		Bytes: a.use.bytes.Load(), Packets: a.use.packets.Load(),
		Replayed: a.use.replayed.Load(), BadICV: a.use.badICV.Load(),
	}
	if last := a.use.last.Load(); last != 0 {
		s.LastUsed = time.Unix(0, last)
	}
	if a.in != nil {
		s.Seq = a.in.Seq()
	} else {
		s.Seq = a.out.Seq()
	}
	return s
}

// path is what is known of the way to a peer. Associations with the same
// remote address share one.
type path struct {
	remote  netip.Addr
	mtu     atomic.Uint32 // of the device, or less where a router said so
	users   int           // associations; the engine's alone
	device  uint32        // MTU of the route's device; the engine's alone
	learned uint32        // said by a router; 0: nothing; the engine's alone
	until   time.Time     // when learned ends; the engine's alone
}
