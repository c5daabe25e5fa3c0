package user

import (
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// addressPause lies between two looks at the addresses that packets from
// unknown sources ask for: forwarded traffic has many of them.
const addressPause = 10 * time.Millisecond

// learnSource looks at the addresses of this host again if a packet comes from
// one that is not known: it may have been added a moment ago.
func (e *engine) learnSource(src netip.Addr, now time.Time) {
	if !e.sh.snap.Load().local[src] && now.Sub(e.learned) >= addressPause {
		e.learnAddresses(now)
	}
}

// learnAddresses publishes the addresses of this host.
func (e *engine) learnAddresses(now time.Time) {
	e.learned = now
	local, err := e.sys.addresses()
	if err != nil {
		e.log.Error("cannot read the addresses of this host; those known stay", "error", err)
		return
	}
	snap := *e.sh.snap.Load()
	if maps.Equal(snap.local, local) {
		return
	}
	snap.local = local
	e.sh.snap.Store(&snap)
}

// addresses returns the addresses of this host.
func (s *system) addresses() (map[netip.Addr]bool, error) {
	list, err := s.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	all := map[netip.Addr]bool{}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			all[ip.Unmap()] = true
		}
	}
	return all, nil
}
