// Package nft enforces filters with nftables, for every driver: it owns one
// table, of the family inet, in the network namespace it is opened in.
//
// The table decides which packets leave as they are, which are steered to the
// data path and which are dropped; it keeps the counters of the filters and
// bounded sets of the peers traffic passes in clear with. It carries no
// associations, makes no ip rule and no TUN, and knows no overlays: its caller
// hands over one ordered list (sadb.Splice) each time.
//
// # Chains
//
//   - steer (output, after destination NAT) marks locally made packets that a
//     filter wants secured, so that an ip rule leads them to the TUN.
//   - via (prerouting, after destination NAT) marks forwarded packets that a
//     filter of tunnel mode wants secured.
//   - last (postrouting, after source NAT; forwarded packets too) drops what a
//     filter blocks or wants secured and that leaves neither by the TUN nor
//     from a socket of our own. It does not trust the steering mark: routing
//     steers, this chain enforces.
//   - in (prerouting, after defragmentation, before destination NAT) drops
//     packets in clear that a filter wants secured.
//
// # Cost
//
// Filters are put in layers: within a layer no two overlap, so that a layer is
// a few set look-ups, one for each shape of selector in it (hash sets for
// single values, concatenated ranges else). What a packet costs grows with the
// depth to which filters overlap, not with their number.
//
// # Changes
//
// A filter that stays keeps its elements. Those of filters that come are added,
// from the upper layers to the lower, then those of filters that go are removed,
// from the lower layers to the upper: at every moment each packet is decided by
// the old list or by the new one, and a change costs the kernel what changes,
// besides what it does for every transaction.
//
// The first list, and one that has little in common with that in force, is built
// beside it (sets, chains that nothing refers to) and put in force by one
// transaction that exchanges rules only. It takes two steps because the kernel
// publishes the contents of a set of ranges a moment after the rules of the same
// transaction; until then the set is empty and decides nothing.
//
// # Ownership
//
// The table has the flags owner and persist (Linux 6.9): while the process
// lives no other can change or remove it, not even by "nft flush ruleset". When
// the process ends, in whatever way, the table stays in force and the next Open
// adopts it; until then the kernel no longer protects it, and a privileged
// command that flushes all tables removes it (a process that holds the table
// meanwhile is not part of this package).
//
// An older kernel removes an owned table when the socket that owns it is
// closed. There the socket must come from a process that keeps it open
// (Config.Socket); without one, such kernels are refused. The table then stays
// owned between two data paths as well, and goes when nobody holds the socket.
//
// Not seen by any table: packets written to packet sockets (CAP_NET_RAW).
package nft

import (
	"errors"
	"fmt"
	"math/bits"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// Config says how the table is to be made.
type Config struct {
	// Table is the name of the table, "ipsecagent".
	Table string
	// Steer is the mark bit of packets that go to the TUN, Exempt that of
	// packets of our own sockets: two different single bits.
	Steer, Exempt uint32
	// TUN is the name of the data path's TUN interface; "": the kernel is the
	// data path (XFRM). Then nothing is steered, what leaves through XFRM or
	// came out of it passes, and its own ESP and AH must bear Exempt.
	TUN string
	// LogGroup is the nflog group that reports first packets in clear. One
	// reader for each group and network namespace.
	LogGroup uint16
	// RemoteAccess says which interfaces count as remote access besides those
	// of PPP and SLIP.
	RemoteAccess RemoteAccess
	// ClearPeersMax bounds each set of peers in clear (one for each
	// direction and family); 0: 4096.
	ClearPeersMax int
	// Socket returns a descriptor, owned by the caller, of a bound
	// netfilter netlink socket of this network namespace that another
	// process keeps open: the same socket each time. It is called where the
	// kernel has no persistent tables (Linux before 6.9); nil: such kernels
	// are refused.
	Socket func() (fd int, err error)

	held bool // tests: as if the kernel had no persistent tables
}

const (
	defaultClearPeers = 4096
	maxNameLen        = 64 // of tables and filter IDs
)

func (c Config) validate() error {
	var errs []error
	if c.Table == "" || len(c.Table) > maxNameLen {
		errs = append(errs, fmt.Errorf("table name %q must have 1 to %d bytes", c.Table, maxNameLen))
	}
	if bits.OnesCount32(c.Steer) != 1 || bits.OnesCount32(c.Exempt) != 1 || c.Steer == c.Exempt {
		errs = append(errs, fmt.Errorf("steer mark %#x and exempt mark %#x must be two different single bits", c.Steer, c.Exempt))
	}
	if len(c.TUN) > 15 {
		errs = append(errs, fmt.Errorf("TUN name %q must have at most 15 bytes", c.TUN))
	}
	errs = append(errs, c.RemoteAccess.Validate())
	if c.ClearPeersMax < 0 || c.ClearPeersMax > 1<<20 {
		errs = append(errs, fmt.Errorf("bound of peers in clear %d must be 0 to %d", c.ClearPeersMax, 1<<20))
	}
	return errors.Join(errs...)
}

// Stats is the counters of the table since its first Apply.
type Stats struct {
	// Filters are those in force, in order. Packets counts packets the
	// filter decided: steered, passed or dropped; what comes back from the
	// data path is not counted again.
	Filters []driver.FilterStat
	// LastChain counts outbound packets dropped because they were about to
	// leave in clear though a filter wants them secured.
	LastChain uint64
	// InClear counts inbound packets dropped because they came in clear
	// though a filter wants them secured.
	InClear uint64
	// Opaque counts packets dropped because the ports or ICMP type that
	// filters look at could not be read.
	Opaque uint64
}

// Asked reports a packet that went in clear under a filter that requests
// security. It comes at most once a second for a filter and a pair of
// addresses while packets go.
type Asked struct {
	Filter sadb.FilterID
	// Flow is the packet's headers. LocalMe and RemoteMe are set where the
	// filter says Me.
	Flow sadb.Flow
}

// Table is an open table. Its methods may be called from any goroutine; one
// goroutine of its own does the work.
type Table struct {
	requests chan func(*engine)
	done     chan struct{} // closed when the goroutine has ended
	asked    chan Asked
	tampered chan driver.Tampered
	feeds    []closer
}

type closer interface{ Close() error }

var errClosed = errors.New("nft: the table is closed")

// do runs f in the goroutine that owns the table.
func (t *Table) do(f func(*engine) error) error {
	result := make(chan error, 1)
	select {
	case t.requests <- func(e *engine) { result <- f(e) }:
		return <-result
	case <-t.done:
		return errClosed
	}
}

// Apply puts an ordered list of filters in force: the first that matches
// decides, what matches none passes. The same list again changes nothing in
// the kernel. On an error what was in force stays in force.
func (t *Table) Apply(filters []sadb.Filter) error {
	return t.do(func(e *engine) error {
		if err := e.apply(filters); err != nil {
			return fmt.Errorf("nft: apply %d filters to table %s: %w", len(filters), e.cfg.Table, err)
		}
		return nil
	})
}

// Stats reads the counters. Those of a filter survive Apply as long as the
// filter does.
func (t *Table) Stats() (s Stats, err error) {
	err = t.do(func(e *engine) error {
		if s, err = e.stats(); err != nil {
			return fmt.Errorf("nft: read counters of table %s: %w", e.cfg.Table, err)
		}
		return nil
	})
	return s, err
}

// ClearPeers lists the peers with which filters of action negotiate let
// traffic pass in clear during the last ten minutes. full says that a set
// reached its bound, so that the list is incomplete. Since is when this
// process first saw the peer listed.
func (t *Table) ClearPeers() (peers []driver.ClearPeer, full bool, err error) {
	err = t.do(func(e *engine) error {
		if peers, full, err = e.clearPeers(); err != nil {
			return fmt.Errorf("nft: list peers in clear of table %s: %w", e.cfg.Table, err)
		}
		return nil
	})
	return peers, full, err
}

// Asked returns the reports of packets that go in clear. One reader; a report
// nobody takes is lost, and comes again with the next packet.
func (t *Table) Asked() <-chan Asked { return t.asked }

// Tampered returns reports that something else changed the table; it has been
// put back when the report comes, or Restored is false. One reader.
func (t *Table) Tampered() <-chan driver.Tampered { return t.tampered }

// Remove deletes the table: nothing is enforced after it. Only uninstalling
// and tests want that. The Table is closed.
func (t *Table) Remove() error {
	err := t.do(func(e *engine) error {
		if err := e.remove(); err != nil {
			return fmt.Errorf("nft: remove table %s: %w", e.cfg.Table, err)
		}
		return nil
	})
	return errors.Join(err, t.Close())
}

// Close gives the table up and leaves it in force.
func (t *Table) Close() error {
	err := t.do(func(e *engine) error { e.closing = true; return nil })
	if errors.Is(err, errClosed) {
		return nil
	}
	<-t.done
	return err
}
