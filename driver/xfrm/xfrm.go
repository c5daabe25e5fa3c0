// Package xfrm is the kernel driver: filters become policies and associations
// become states of the kernel's XFRM, by netlink.
//
// It owns the policies, the states and the SPIs it has made in the network
// namespace it is opened in, and the directory in which it remembers what they
// stand for (Config.Dir). It does not negotiate and decides nothing that the
// filters have not said. The kernel enforces: what is in force stays so when
// this process ends, and Open finds it again.
//
// # What is ours
//
// Every policy of ours looks at the mark of the packet: it matches only packets
// without the exempt mark, which the sockets of IKE bear (PrepareSocket). The
// mask of that mark is at the same time how a policy of ours is known from
// another's; a state of ours is known by its request ID. Nothing else is ever
// changed or deleted, and nothing is ever flushed.
//
// # Order
//
// The kernel decides by priority, the smallest first. Filters get priorities
// with gaps, and a change only ever moves a policy up: while a list is being
// exchanged, message by message, each packet is decided by the old list or by
// the new one. Adds come first, from the top down; what goes, goes last, from
// the bottom up. A changed policy is written in place.
//
// A policy's identity has no priority in it: two filters with the same selector
// differ in the mask of the mark (variants). Packets whose mark has one of the
// three upper bits set do not meet the policies of variants.
//
// # Where XFRM falls short of the model
//
// Outbound policies see what is forwarded, too. On a host that forwards, Me is
// therefore each of its addresses there, read every second; until then the table
// drops what leaves from a new one though a filter wants it secured.
//
// The kernel keeps the packets that wait in one queue for each policy. When a
// negotiation fails all of it is dropped, what waits for other peers of the same
// filter too: left there, the packets of the one that does not answer would hold
// up the others behind them. Applications send again.
//
// A delay before clear traffic is refused: whose traffic has waited that long
// the agent decides, by an overlay. Policies do not know by which connection a
// packet goes: filters for one type of connection are refused on a host with an
// interface of remote access; on others, those for LAN are for all and those for
// remote access are left to the table, which lets nothing pass in clear that
// they want secured. A bundle in tunnel mode is ESP in tunnel mode
// within AH in transport mode, as RFC 2401 §4.3 wants it.
//
// The table of package nft stands beside the policies and lets pass only what
// they would: it drops what would leave or come in clear though a filter wants
// it secured, whatever has become of the policies, and counts it and the peers
// in clear, which XFRM does not. A packet needs the consent of both.
package xfrm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net/netip"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// What Config falls back to: the same as with the userspace driver.
const (
	DefaultExempt = 0x02000000
	DefaultTable  = "ipsecagent"
)

// MarkLimit is above every Config.Exempt that there can be: the bits from it up
// tell policies of the same selector apart.
const MarkLimit = 1 << variantShift

const defaultLogGroup = 50

// Config is what the driver is opened with.
type Config struct {
	// Dir keeps what policies and states stand for; made if missing. It must
	// live as long as the kernel does and no longer: below /run. Required.
	Dir string
	// Exempt is the mark bit of our own sockets; 0: DefaultExempt.
	Exempt uint32
	// Table is the name of the nftables table; "": DefaultTable. TableSocket is
	// nft.Config.Socket: where its owner comes from on kernels that remove a
	// table with its owner (Linux before 6.9); nil: they are refused.
	Table       string
	TableSocket func() (fd int, err error)
	// LogGroup is the nflog group by which the table reports first packets in
	// clear, which nobody here reads; 0: 50.
	LogGroup uint16
	// RemoteAccess names the interfaces that count as remote access besides
	// those of PPP and SLIP; see nft.RemoteAccess.
	RemoteAccess []string
	Log          *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Exempt == 0 {
		c.Exempt = DefaultExempt
	}
	if c.Table == "" {
		c.Table = DefaultTable
	}
	if c.LogGroup == 0 {
		c.LogGroup = defaultLogGroup
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// steer returns a mark bit that nft.Config asks for and that is never set here:
// not the exempt one.
func (c Config) steer() uint32 { return bits.RotateLeft32(c.Exempt, 1) }

func (c Config) validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("the directory of its book is missing"))
	}
	if bits.OnesCount32(c.Exempt) != 1 || c.Exempt&variantBits != 0 {
		errs = append(errs, fmt.Errorf("exempt mark %#x must be a single bit below the upper three", c.Exempt))
	}
	return errors.Join(errs...)
}

// Driver is the kernel driver. Its methods may be called from any goroutine;
// one goroutine of its own does the work.
type Driver struct {
	requests chan func(*engine)
	done     chan struct{} // closed when the goroutine has ended
	events   chan driver.Event
}

var _ driver.Driver = (*Driver)(nil)

var errClosed = errors.New("xfrm: the driver is closed")

// Open connects to XFRM of the calling thread's network namespace and takes up
// what an earlier process left in force. The error says what the kernel or the
// process lacks: XFRM, ESP, the privilege.
func Open(c Config) (*Driver, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("xfrm: %w", err)
	}
	e, err := newEngine(c)
	if err != nil {
		return nil, fmt.Errorf("xfrm: open: %w", err)
	}
	d := &Driver{requests: make(chan func(*engine)), done: make(chan struct{}), events: e.out}
	go func() {
		defer close(d.done)
		e.run(d.requests)
	}()
	return d, nil
}

// do runs f in the goroutine that owns the state. A context that ends before f
// begins keeps it from beginning; what has begun is brought to its end.
func (d *Driver) do(ctx context.Context, f func(*engine) error) error {
	result := make(chan error, 1)
	select {
	case d.requests <- func(e *engine) { result <- f(e) }:
		return <-result
	case <-ctx.Done():
		return fmt.Errorf("xfrm: %w", ctx.Err())
	case <-d.done:
		return errClosed
	}
}

// SetFilters implements driver.Driver.
func (d *Driver) SetFilters(ctx context.Context, filters []sadb.Filter) error {
	return d.do(ctx, func(e *engine) error { return wrap(e.setFilters(filters), "set %d filters", len(filters)) })
}

// PutFilter implements driver.Driver.
func (d *Driver) PutFilter(ctx context.Context, f sadb.Filter) error {
	return d.do(ctx, func(e *engine) error { return wrap(e.putFilter(f), "put filter %s", f.ID) })
}

// RemoveFilter implements driver.Driver.
func (d *Driver) RemoveFilter(ctx context.Context, id sadb.FilterID) error {
	return d.do(ctx, func(e *engine) error { return wrap(e.removeFilter(id), "remove filter %s", id) })
}

// AllocSPI implements driver.Driver.
func (d *Driver) AllocSPI(ctx context.Context, src, dst netip.Addr, p sadb.Proto) (spi sadb.SPI, err error) {
	err = d.do(ctx, func(e *engine) error {
		spi, err = e.allocSPI(src, dst, p)
		return wrap(err, "reserve an SPI for %s from %s to %s", p, src, dst)
	})
	return spi, err
}

// AddSA implements driver.Driver.
func (d *Driver) AddSA(ctx context.Context, sa sadb.SA) error {
	return d.do(ctx, func(e *engine) error { return wrap(e.addSA(sa), "add %s", sa.ID) })
}

// DeleteSA implements driver.Driver.
func (d *Driver) DeleteSA(ctx context.Context, id sadb.SAID) error {
	return d.do(ctx, func(e *engine) error { return wrap(e.deleteSA(id), "delete %s", id) })
}

// Abandon implements driver.Driver.
func (d *Driver) Abandon(ctx context.Context, a driver.Acquire) error {
	return d.do(ctx, func(e *engine) error {
		return wrap(e.abandon(a), "abandon the negotiation of %s with %s", a.Filter, a.Flow.Remote)
	})
}

// State implements driver.Driver.
func (d *Driver) State(ctx context.Context) (s driver.State, err error) {
	err = d.do(ctx, func(e *engine) error {
		s, err = e.state()
		return wrap(err, "read the state")
	})
	return s, err
}

// Events implements driver.Driver.
func (d *Driver) Events() <-chan driver.Event { return d.events }

// Close implements driver.Driver.
func (d *Driver) Close() error {
	err := d.do(context.Background(), func(e *engine) error { e.closing = true; return nil })
	if errors.Is(err, errClosed) {
		return nil
	}
	<-d.done
	return err
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("xfrm: "+format+": %w", append(args, err)...)
}

// now is the engine's clock; the kernel keeps its own.
func now() time.Time { return time.Now() }
