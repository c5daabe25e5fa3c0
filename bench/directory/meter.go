package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// meter counts what all agents do, second by second.
type meter struct {
	began    time.Time
	requests [maxSeconds]atomic.Uint64 // of LDAP
	received [maxSeconds]atomic.Uint64 // bytes from the server: answers, and what it tells of changes
	held     atomic.Int64              // connections to the server
}

// maxSeconds is how long a run is counted.
const maxSeconds = 4 * 3600

// second is which second of the run it is.
func (m *meter) second() int { return min(int(time.Since(m.began)/time.Second), maxSeconds-1) }

// traffic is what one agent has done. Bytes are those of TCP's payload, sealed as
// they are; a request is a message sent, the steps of a bind too.
type traffic struct {
	meter                    *meter
	requests, sent, received atomic.Uint64
	binds                    atomic.Uint64 // connections opened
	tickets, names           atomic.Uint64 // conversations with KDCs and name servers
	pings                    atomic.Uint64
}

// counts is traffic at one moment, or a difference.
type counts struct{ requests, bytes, binds, tickets, names, pings uint64 }

func (t *traffic) now() counts {
	return counts{t.requests.Load(), t.sent.Load() + t.received.Load(), t.binds.Load(), t.tickets.Load(), t.names.Load(), t.pings.Load()}
}

func (c counts) minus(d counts) counts {
	return counts{c.requests - d.requests, c.bytes - d.bytes, c.binds - d.binds, c.tickets - d.tickets, c.names - d.names, c.pings - d.pings}
}

func (c counts) plus(d counts) counts {
	return counts{c.requests + d.requests, c.bytes + d.bytes, c.binds + d.binds, c.tickets + d.tickets, c.names + d.names, c.pings + d.pings}
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// counted counts the connections that are opened, and leaves them as they are.
func counted(d dialer, n *atomic.Uint64) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		n.Add(1)
		return d(ctx, network, address)
	}
}

// dial connects to the directory.
func (t *traffic) dial(d dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "udp" {
			t.pings.Add(1)
			return d(ctx, network, address)
		}
		c, err := d(ctx, network, address)
		if err != nil {
			return nil, err
		}
		t.binds.Add(1)
		t.meter.held.Add(1)
		return &connection{Conn: c, traffic: t}, nil
	}
}

// connection is one to the directory.
type connection struct {
	net.Conn
	traffic *traffic
	once    sync.Once
}

func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	t := c.traffic
	t.received.Add(uint64(n))
	t.meter.received[t.meter.second()].Add(uint64(n))
	return n, err
}

func (c *connection) Write(p []byte) (int, error) {
	t := c.traffic
	t.requests.Add(1)
	t.meter.requests[t.meter.second()].Add(1)
	n, err := c.Conn.Write(p)
	t.sent.Add(uint64(n))
	return n, err
}

func (c *connection) Close() error {
	c.once.Do(func() { c.traffic.meter.held.Add(-1) })
	return c.Conn.Close()
}
