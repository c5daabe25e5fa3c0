package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
)

// maxAcquireRatio is how long we may take for each second of strongSwan's.
const maxAcquireRatio = 1

// rest is how long all daemons are left alone before each question: what they do
// after the last one is over.
const rest = 1500 * time.Millisecond

// contender is a pair of IKE daemons, each in a namespace, that is ready to be
// asked for associations.
type contender struct {
	name    string
	ns      string // of the end that is asked
	stop    func()
	capture *capture
	took    []time.Duration
}

// acquire measures from the kernel's question for an association (ACQUIRE) until
// the outbound one is in force: main mode and quick mode with a preshared key
// and ECP-256, ours with ours and charon with charon, a new peer each time.
func (b *bench) acquire() error {
	var all []*contender
	for name, start := range map[string]func(alices, bobs string) (func(), error){"ours": b.startAgents, "charon": b.startCharons} {
		c, err := b.contend(name, start)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		defer c.stop()
		defer c.capture.close()
		all = append(all, c)
	}
	if all[0].name != "ours" {
		all[0], all[1] = all[1], all[0]
	}
	for peer := range b.peers {
		for _, c := range all {
			time.Sleep(rest)
			took, err := c.ask(peerAddr(peer))
			if err != nil {
				return fmt.Errorf("%s: %s: %w", c.name, peerAddr(peer), err)
			}
			c.took = append(c.took, took)
		}
	}
	ratio, words := ratios(all[0].took, all[1].took)
	b.say("acquire: from ACQUIRE to the outbound association ours takes %s of charon's time (%s, %s; %d peers)",
		words, median(all[0].took), median(all[1].took), b.peers)
	b.limit(ratio <= maxAcquireRatio, "from ACQUIRE to the association we take %.2f of charon's time, limit %d", ratio, maxAcquireRatio)
	return nil
}

// contend makes the lab of a contender and starts its daemons.
func (b *bench) contend(name string, start func(alices, bobs string) (func(), error)) (*contender, error) {
	alices, err := namespace(name + "-a")
	if err != nil {
		return nil, err
	}
	bobs, err := namespace(name + "-b")
	if err != nil {
		return nil, err
	}
	if err := join(alices, bobs, b.peers); err != nil {
		return nil, err
	}
	c := &contender{name: name, ns: alices}
	if c.stop, err = start(alices, bobs); err != nil {
		return nil, err
	}
	if c.capture, err = startCapture(alices); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// ask sends a packet to a peer and returns how long it took from the kernel's
// question to its answer to the daemon that the association is there.
func (c *contender) ask(peer netip.Addr) (time.Duration, error) {
	s, err := in(c.ns, func() (*net.UDPConn, error) { return net.ListenUDP("udp4", nil) })
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if _, err := s.WriteToUDPAddrPort([]byte("who is there"), netip.AddrPortFrom(peer, port)); err != nil {
		return 0, err
	}
	w := watch{peer: peer}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		all, err := c.capture.next()
		if err != nil {
			return 0, err
		}
		for _, m := range all {
			if m.family == unix.NETLINK_XFRM && w.see(m) {
				return w.took, nil
			}
		}
	}
	return 0, fmt.Errorf("no association after a minute (asked for: %t)", !w.asked.IsZero())
}

// watch follows the messages about one peer.
type watch struct {
	peer      netip.Addr
	asked     time.Time // ACQUIRE
	installed bool      // the association has been sent to the kernel
	seq, pid  uint32    // by this request
	took      time.Duration
}

// see takes a message and reports whether it is the last: the kernel's answer
// to the request that installs the outbound association.
func (w *watch) see(m message) bool {
	switch {
	case m.typ == wire.MsgAcquire && w.asked.IsZero():
		if a, err := wire.ParseAcquire(m.body); err == nil && a.ID.Dst == w.peer {
			w.asked = m.at
		}
	case (m.typ == wire.MsgNewSA || m.typ == wire.MsgUpdateSA) && m.request:
		if s, err := wire.ParseState(m.body); err == nil && s.ID.Dst == w.peer {
			w.installed, w.seq, w.pid = true, m.seq, m.pid
		}
	case m.typ == unix.NLMSG_ERROR && w.installed && m.seq == w.seq && !m.request:
		w.took = m.at.Sub(w.asked)
		return !w.asked.IsZero()
	}
	return false
}
