package user

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// eventBuffer is how many events wait for the reader; behind them there is room
// for the Resync that stands for the rest.
const eventBuffer = 1024

// callTimeout ends a call whose context has no deadline of its own.
const callTimeout = 60 * time.Second

// Client is a Driver that has its work done by a data path (Serve) in another
// process. When that process goes away every call fails with an error that
// wraps net.ErrClosed, Events is closed, and the owner dials anew; filters
// stay in force in the table meanwhile.
type Client struct {
	conn    net.Conn
	turn    chan struct{} // holds one token: calls go one at a time
	replies chan reply    // the newest reply
	events  chan driver.Event
	done    chan struct{} // closed when the connection is over
	calls   uint64        // owned by the holder of the token
	list    []sadb.Filter // in force by the last SetFilters, whose number is base
	base    uint64        // 0: not known
	missed  atomic.Bool   // events were lost since the last State
}

var _ driver.Driver = (*Client)(nil)

// Dial attaches to the data path that listens on the socket. An earlier client
// is cut off. The first event is a Resync: after the State that it asks for,
// every Acquire comes again that is still unanswered.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("user: reach the data path on %s: %w: is 'ipsecagent datapath' running?", socket, err)
	}
	c := &Client{
		conn: conn, turn: make(chan struct{}, 1), replies: make(chan reply, 1),
		events: make(chan driver.Event, eventBuffer+1), done: make(chan struct{}),
	}
	c.turn <- struct{}{}
	go c.read()
	if _, err := c.call(ctx, request{Verb: verbAttach}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// read is the one goroutine that receives. It never waits for the reader of
// events: what does not fit is replaced by one Resync.
func (c *Client) read() {
	defer close(c.events)
	defer close(c.done)
	defer c.conn.Close()
	lost := false
	for {
		var m message
		if err := readFrame(c.conn, &m); err != nil {
			return
		}
		if m.Reply != nil {
			c.deliver(*m.Reply)
		}
		if m.Event != nil {
			lost = c.pass(m.Event, lost)
		}
	}
}

// deliver leaves r for the caller in place of one that nobody took.
func (c *Client) deliver(r reply) {
	select {
	case <-c.replies:
	default:
	}
	c.replies <- r
}

// pass queues an event; lost says that the last slot already holds the Resync
// that stands for what did not fit.
func (c *Client) pass(w *wireEvent, lost bool) bool {
	full := len(c.events) >= eventBuffer
	if full && !lost {
		c.missed.Store(true)
		c.events <- driver.Resync{Reason: "events came faster than they were read"}
	}
	if full {
		return true
	}
	e, err := w.event()
	if err != nil {
		e = driver.Resync{Reason: err.Error()}
	}
	if _, ok := e.(driver.Resync); ok {
		c.missed.Store(true)
	}
	c.events <- e
	return false
}

// call sends a request and waits for its reply.
func (c *Client) call(ctx context.Context, r request) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case <-c.turn:
	case <-ctx.Done():
		return reply{}, fmt.Errorf("user: %s: wait for an earlier call: %w", r.Verb, ctx.Err())
	}
	defer func() { c.turn <- struct{}{} }()
	c.calls++
	r.ID = c.calls
	deadline, _ := ctx.Deadline()
	err := c.conn.SetWriteDeadline(deadline)
	if err == nil {
		err = writeFrame(c.conn, r)
	}
	if err != nil {
		c.conn.Close() // half a frame may have gone
		return reply{}, errors.Join(gone(r.Verb), err)
	}
	return c.await(ctx, r)
}

func (c *Client) await(ctx context.Context, r request) (reply, error) {
	for {
		select {
		case got := <-c.replies:
			if got.ID != r.ID {
				continue // of a call that did not wait for it
			}
			if got.Error != "" {
				return reply{}, errors.New(got.Error)
			}
			return got, nil
		case <-c.done:
			return reply{}, gone(r.Verb)
		case <-ctx.Done():
			return reply{}, fmt.Errorf("user: %s: wait for the data path: %w", r.Verb, ctx.Err())
		}
	}
}

func gone(v verb) error {
	return fmt.Errorf("user: %s: the data path closed the connection (ended, or another agent took over): %w", v, net.ErrClosed)
}

// SetFilters makes filters the whole SPD. See driver.Driver. What is different
// from the list before goes to the data path. It must not be called while it
// runs.
func (c *Client) SetFilters(ctx context.Context, filters []sadb.Filter) error {
	req := request{Verb: verbSetFilters, Base: c.base, Runs: difference(c.list, filters)}
	c.list, c.base = nil, 0 // until it is known what is in force
	r, err := c.call(ctx, req)
	if err != nil {
		return err
	}
	c.list, c.base = slices.Clone(filters), r.Base
	return nil
}

// PutFilter adds or replaces an overlay. See driver.Driver.
func (c *Client) PutFilter(ctx context.Context, f sadb.Filter) error {
	_, err := c.call(ctx, request{Verb: verbPutFilter, Filters: []wireFilter{toWireFilter(f)}})
	return err
}

// RemoveFilter ends an overlay. See driver.Driver.
func (c *Client) RemoveFilter(ctx context.Context, id sadb.FilterID) error {
	_, err := c.call(ctx, request{Verb: verbRemoveFilter, FilterID: id})
	return err
}

// AllocSPI reserves an inbound SPI. See driver.Driver.
func (c *Client) AllocSPI(ctx context.Context, src, dst netip.Addr, p sadb.Proto) (sadb.SPI, error) {
	r, err := c.call(ctx, request{Verb: verbAllocSPI, Src: src, Dst: dst, Proto: p})
	return r.SPI, err
}

// AddSA puts an association in force. See driver.Driver.
func (c *Client) AddSA(ctx context.Context, sa sadb.SA) error {
	w := toWireSA(sa)
	_, err := c.call(ctx, request{Verb: verbAddSA, SA: &w})
	return err
}

// DeleteSA ends an association. See driver.Driver.
func (c *Client) DeleteSA(ctx context.Context, id sadb.SAID) error {
	_, err := c.call(ctx, request{Verb: verbDeleteSA, SAID: id})
	return err
}

// Abandon drops what waits for a negotiation that failed. See driver.Driver.
func (c *Client) Abandon(ctx context.Context, a driver.Acquire) error {
	_, err := c.call(ctx, request{Verb: verbAbandon, Acquire: &a})
	return err
}

// State returns what is in force, without keys. See driver.Driver.
func (c *Client) State(ctx context.Context) (driver.State, error) {
	r, err := c.call(ctx, request{Verb: verbState, Again: c.missed.Swap(false)})
	if err != nil {
		return driver.State{}, err
	}
	if r.State == nil {
		return driver.State{}, fmt.Errorf("user: %s: the data path's answer is empty", verbState)
	}
	s, err := r.State.state()
	if err != nil {
		return driver.State{}, fmt.Errorf("user: %s: read the data path's answer: %w", verbState, err)
	}
	return s, nil
}

// Events returns the events; closed when the data path is gone.
func (c *Client) Events() <-chan driver.Event { return c.events }

// Close detaches. Filters and associations stay in force.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
