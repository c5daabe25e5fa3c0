package user

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"ipsecagent/driver/nft"
	"ipsecagent/sadb"
)

// maxRoutes bounds the destinations whose connection is remembered; then all
// are forgotten.
const maxRoutes = 4096

// links says of every interface, by its index, what connections it has.
type links map[int]sadb.ConnectionType

// arrived returns the type of the connection that a packet came by; false: the
// interface is not known yet. Only filters of one type make it matter.
func (s *snapshot) arrived(device int) (sadb.ConnectionType, bool) {
	if !s.spd.typed {
		return sadb.AllConnections, true
	}
	c, ok := s.links[device]
	return c, ok
}

// leaves returns the type of the connection that a packet to an address would
// leave by without IPsec; false: it was not asked yet.
func (s *snapshot) leaves(to netip.Addr) (sadb.ConnectionType, bool) {
	if !s.spd.typed {
		return sadb.AllConnections, true
	}
	c, ok := s.routes[to]
	return c, ok
}

// learnLinks publishes the interfaces and forgets the routes, which may lead
// elsewhere.
func (e *engine) learnLinks() {
	all, err := e.sys.links()
	if err != nil {
		e.log.Error("cannot read the interfaces of this host; those known stay", "error", err)
		return
	}
	snap := *e.sh.snap.Load()
	if len(snap.routes) == 0 && maps.Equal(snap.links, all) {
		return
	}
	snap.links, snap.routes = all, nil
	e.sh.snap.Store(&snap)
}

// learnRoute publishes by which type of connection an address is reached.
func (e *engine) learnRoute(to netip.Addr) {
	old := e.sh.snap.Load()
	if _, known := old.leaves(to); known {
		return
	}
	device, err := e.sys.device(to)
	if err != nil {
		e.log.Debug("cannot tell the connection of a packet", "error", err)
		return
	}
	if _, known := old.links[device]; !known {
		e.learnLinks() // it has just appeared
	}
	snap := *e.sh.snap.Load()
	if snap.routes = maps.Clone(snap.routes); snap.routes == nil || len(snap.routes) >= maxRoutes {
		snap.routes = map[netip.Addr]sadb.ConnectionType{}
	}
	snap.routes[to] = snap.links[device]
	e.sh.snap.Store(&snap)
}

// links lists the interfaces.
func (s *system) links() (links, error) {
	list, err := s.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	all := links{}
	for _, l := range list {
		a := l.Attrs()
		all[a.Index] = sadb.LAN
		if nft.RemoteAccess(s.cfg.RemoteAccess).Is(a.Name, dialUp(a.EncapType)) {
			all[a.Index] = sadb.RemoteAccess
		}
	}
	return all, nil
}

// dialUp reports whether a hardware type, by the name that netlink gives it, is
// one of dial-up links.
func dialUp(hardware string) bool {
	return slices.Contains([]string{"ppp", "slip", "cslip", "slip6", "cslip6"}, hardware)
}

// device returns the index of the interface by which our own sockets reach an
// address.
func (s *system) device(to netip.Addr) (int, error) {
	routes, err := s.nl.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Mark: s.cfg.Exempt})
	if err != nil || len(routes) == 0 {
		return 0, fmt.Errorf("route to %s: %w", to, err)
	}
	return routes[0].LinkIndex, nil
}
