package user

import (
	"cmp"
	"fmt"
	"slices"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// state collects what is in force, with counters, without keys.
func (e *engine) state() (*wireState, error) {
	stats, err := e.table.Stats()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	clear, full, err := e.table.ClearPeers()
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s := driver.State{
		Name: "user", Started: e.started, Filters: stats.Filters, Clear: clear, ClearLost: full,
		Counters: e.counters(), Exempt: exempt(), Suites: sadb.Suites(), ModeTunnel: true,
	}
	s.Counters.LastChain, s.Counters.InClear = stats.LastChain, stats.InClear
	for _, a := range e.sas {
		s.SAs = append(s.SAs, a.state())
	}
	slices.SortFunc(s.SAs, func(a, b driver.SAState) int {
		return cmp.Or(a.Added.Compare(b.Added), cmp.Compare(a.SA.ID.SPI, b.SA.ID.SPI))
	})
	return toWireState(s), nil
}

func (e *engine) counters() driver.Counters {
	c := &e.sh.count
	return driver.Counters{
		OutPackets: c.out.Load(), InPackets: c.in.Load(),
		Queued:     uint64(e.wait.packets),
		QueueDrops: e.wait.dropped + c.missDrops.Load() + e.unwanted,
		NoSA:       c.noSA.Load(), BadICV: c.badICV.Load(), Replayed: c.replayed.Load(),
		Malformed: c.malformed.Load(), BadSelector: c.badSelector.Load(),
	}
}

// exempt says what passes whatever the filters say: the table's fixed rules.
func exempt() []string {
	return []string{
		"packets of the agent's own IKE and ESP sockets, told by their mark",
		"inbound ESP and AH, and UDP 500 and 4500, to addresses of this host",
		"inbound ICMP \"too big\" that quotes ESP, AH or UDP 4500",
		"loopback",
		"IPv6 neighbour discovery (ICMPv6 133-137, hop limit 255) and multicast listener discovery",
		"DHCP of this host as a client",
	}
}
