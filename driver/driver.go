// Package driver is the seam between the agent and what enforces policy on
// packets: the kernel (driver/xfrm) or the userspace data path (driver/user).
//
// It owns the Driver interface and its events, and nothing else. A driver
// decides nothing that policy has not said: it enforces an ordered list of
// filters, carries associations and reports.
package driver

import (
	"context"
	"net/netip"
	"time"

	"ipsecagent/sadb"
)

// Driver enforces filters and carries associations. Only the agent's loop
// calls it. An error leaves what was in force before the call in force.
type Driver interface {
	// SetFilters makes filters, in order of decision, the whole SPD.
	// Idempotent: the same list again changes nothing. It adds before it
	// removes and never opens a gap. Overlays whose Parent is still there
	// with the same selector stay; others end.
	SetFilters(ctx context.Context, filters []sadb.Filter) error

	// PutFilter adds or replaces an overlay directly above its Parent (sadb.Splice), or,
	// with Parent "" and an Expires, below every filter (default response).
	// Expires is kept by the driver even with the agent dead; then Parent
	// decides again.
	PutFilter(ctx context.Context, f sadb.Filter) error

	// RemoveFilter ends an overlay. One that is gone is no error.
	RemoveFilter(ctx context.Context, id sadb.FilterID) error

	// AllocSPI reserves an inbound SPI for associations from src to dst.
	AllocSPI(ctx context.Context, src, dst netip.Addr, p sadb.Proto) (sadb.SPI, error)

	// AddSA puts an association in force. It replaces a reservation or the
	// same association; an outbound one takes the traffic from the one it
	// replaces.
	AddSA(ctx context.Context, sa sadb.SA) error

	// DeleteSA ends an association. One that is gone is no error.
	DeleteSA(ctx context.Context, id sadb.SAID) error

	// Abandon says that the negotiation an Acquire asked for has failed:
	// packets that wait are dropped and a new Acquire may be raised.
	Abandon(ctx context.Context, a Acquire) error

	// State returns what is in force, that of an earlier process included.
	State(ctx context.Context) (State, error)

	// Events returns the driver's events. One reader.
	Events() <-chan Event

	// Close ends the connection and leaves filters and associations in force.
	Close() error
}

// Event is one of Acquire, Expire, Used, Moved, FilterEnded, Tampered, Resync.
type Event interface{ event() }

// Acquire asks for an association: a packet matched a Negotiate filter that
// has none with this peer. It is raised once for a filter, a pair of addresses
// and, where the filter leaves them open, no finer; then not again until an
// association is there or Abandon.
type Acquire struct {
	Filter sadb.FilterID
	Flow   sadb.Flow // of the packet that asked
	// Clear: the packet went in clear (request), nothing waits.
	Clear bool
}

// Expire says that an association reached its soft or hard lifetime. At hard
// it is gone already.
type Expire struct {
	ID   sadb.SAID
	Hard bool
}

// Used says that the first valid packet arrived on an inbound association.
type Used struct{ ID sadb.SAID }

// Moved says that valid packets of an association come from another UDP port of
// the peer's address (NAT mapping change).
type Moved struct {
	ID   sadb.SAID
	From netip.AddrPort
}

// FilterEnded says that an overlay expired.
type FilterEnded struct{ ID sadb.FilterID }

// Tampered says that something else removed or changed what the driver owns,
// and that it is in force again.
type Tampered struct {
	What     string // "nftables table ipsecagent", "ip rule 900", ...
	Restored bool
}

// Resync says that events were lost or that the data path started anew: call
// State.
type Resync struct{ Reason string }

func (Acquire) event()     {}
func (Expire) event()      {}
func (Used) event()        {}
func (Moved) event()       {}
func (FilterEnded) event() {}
func (Tampered) event()    {}
func (Resync) event()      {}

// State is what a driver has in force.
type State struct {
	Name       string       // "user", "xfrm", "fake"
	Started    time.Time    // of the data path
	SAs        []SAState    // ours only
	Filters    []FilterStat // in order, overlays included
	Clear      []ClearPeer  // peers with which filters of action negotiate pass traffic in clear
	ClearLost  bool         // the bounded set of such peers is full: the list is incomplete
	Counters   Counters     // of the whole data path
	Exempt     []string     // what passes whatever the filters say, in words
	Suites     []sadb.Suite // what it can carry
	ModeTunnel bool         // tunnel mode is carried
}

// SAState is an association with its counters; without keys.
type SAState struct {
	SA       sadb.SA // EncKey and AuthKey are empty
	Added    time.Time
	LastUsed time.Time // zero: never
	Bytes    uint64
	Packets  uint64
	Seq      uint64 // highest sent or authenticated
	Replayed uint64 // inbound: dropped as replay
	BadICV   uint64 // inbound: dropped as forged
}

// FilterStat is a filter with its counters.
type FilterStat struct {
	Filter  sadb.Filter
	Packets uint64 // matched
	Bytes   uint64
	Dropped uint64 // dropped because policy said so
}

// ClearPeer is a peer with which traffic passes in clear although its filter
// asks for security.
type ClearPeer struct {
	Filter  sadb.FilterID
	Local   netip.Addr
	Remote  netip.Addr
	Since   time.Time
	Last    time.Time
	Packets uint64 // outbound; 0 where the driver cannot count them
	Inbound bool   // accepted by pass-through, not sent
}

// Counters of a data path, since it started.
type Counters struct {
	OutPackets, InPackets uint64 // secured
	Queued                uint64 // waiting for an association now
	QueueDrops            uint64 // dropped because a queue was full or its negotiation failed
	NoSA                  uint64 // inbound with unknown SPI
	BadICV                uint64
	Replayed              uint64
	Malformed             uint64
	BadSelector           uint64 // inbound, valid, but not what its association may carry
	LastChain             uint64 // dropped by the last chain
	InClear               uint64 // inbound clear packets dropped because policy wants them secured
}
