package agent

import (
	"net/netip"

	"ipsecagent/host"
	"ipsecagent/sadb"
)

// at has s know by which type of connection this host has its addresses.
func (s *snapshot) at(f host.Facts) *snapshot {
	s.remoteAccess = remoteAccess(f)
	return s
}

// remoteAccess returns the addresses of interfaces of that kind.
func remoteAccess(f host.Facts) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, i := range f.Interfaces {
		if i.Kind == host.RemoteAccess {
			for _, a := range i.Addresses {
				all[plain(a)] = true
			}
		}
	}
	return all
}

// connection returns the type of connection that an own address belongs to: a
// peer that is spoken to from it is reached by that.
func (s *snapshot) connection(local netip.Addr) sadb.ConnectionType {
	if s.remoteAccess[plain(local)] {
		return sadb.RemoteAccess
	}
	return sadb.LAN
}
