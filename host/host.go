// Package host gives the facts of this machine as values, and says when they
// may have changed: its addresses and its interfaces, the servers that its
// configuration names, the gateways of its routes, and what DNS names stand for.
//
// It decides nothing and changes nothing: what a fact means for a policy is
// the policy's affair.
package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kind is what an interface is, as far as a policy cares.
type Kind string

// The kinds of interface.
const (
	Loopback     Kind = "loopback"
	LAN          Kind = "lan"
	RemoteAccess Kind = "remote-access" // PPP and the like
)

// Interface is a network interface.
type Interface struct {
	Index int
	Name  string
	Kind  Kind
	Up    bool
	MTU   int
	// Addresses are those of this interface, in the order of the kernel.
	Addresses []netip.Addr
}

// Facts is what is known of this machine at one moment.
type Facts struct {
	// Addresses are the machine's own, of every interface, sorted, each
	// once, without zones; those not yet proven unique (tentative) are left
	// out.
	Addresses []netip.Addr
	// Broadcasts are the broadcast addresses of its IPv4 networks, sorted, each
	// once.
	Broadcasts []netip.Addr
	// Interfaces are sorted by index.
	Interfaces []Interface
	// Sets is what its configuration names now.
	Sets Sets
}

// Owns reports whether a is one of the machine's addresses.
func (f Facts) Owns(a netip.Addr) bool {
	_, found := slices.BinarySearchFunc(f.Addresses, a.Unmap().WithZone(""), netip.Addr.Compare)
	return found
}

// Zone returns the name of the interface that a link-local address of this
// machine belongs to; "" for other addresses. Of an address that several have,
// the first that is up.
func (f Facts) Zone(a netip.Addr) string {
	if a = a.Unmap().WithZone(""); !a.IsLinkLocalUnicast() || a.Is4() {
		return ""
	}
	for _, i := range f.Interfaces {
		if i.Up && slices.Contains(i.Addresses, a) {
			return i.Name
		}
	}
	return ""
}

// Read asks the kernel for the facts of the current network namespace.
func Read() (Facts, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return Facts{}, fmt.Errorf("host: list interfaces: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return Facts{}, fmt.Errorf("host: list addresses: %w", err)
	}
	gateways, err := defaultGateways()
	if err != nil {
		return Facts{}, err
	}
	f := factsOf(links, addrs)
	f.Sets = configured(root(), f.Owns)
	f.Sets.Gateways = set(gateways)
	return f, nil
}

func factsOf(links []netlink.Link, addrs []netlink.Addr) Facts {
	var f Facts
	of := map[int][]netip.Addr{}
	for _, a := range addrs {
		if ip, ok := usable(a); ok {
			f.Addresses = append(f.Addresses, ip)
			of[a.LinkIndex] = append(of[a.LinkIndex], ip)
		}
		if b, ok := broadcast(a); ok {
			f.Broadcasts = append(f.Broadcasts, b)
		}
	}
	for _, l := range links {
		i := describe(l.Attrs())
		i.Addresses = of[i.Index]
		f.Interfaces = append(f.Interfaces, i)
	}
	slices.SortFunc(f.Interfaces, func(a, b Interface) int { return a.Index - b.Index })
	slices.SortFunc(f.Addresses, netip.Addr.Compare)
	slices.SortFunc(f.Broadcasts, netip.Addr.Compare)
	f.Addresses, f.Broadcasts = slices.Compact(f.Addresses), slices.Compact(f.Broadcasts)
	return f
}

// broadcast returns the broadcast address of the network that an address of
// this machine is in: the last one, unless the network has none (RFC 3021).
func broadcast(a netlink.Addr) (netip.Addr, bool) {
	if a.IPNet == nil || a.IP.To4() == nil || a.IP.IsLoopback() {
		return netip.Addr{}, false
	}
	ones, bits := a.Mask.Size()
	if bits != 32 || ones > 30 {
		return netip.Addr{}, false
	}
	last := [4]byte(a.IP.To4())
	for i, m := range a.Mask {
		last[i] |= ^m
	}
	return netip.AddrFrom4(last), true
}

// defaultGateways returns the gateways of the default routes of the main table.
func defaultGateways() ([]netip.Addr, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("host: list routes: %w", err)
	}
	var all []netip.Addr
	add := func(ip net.IP) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			all = append(all, a)
		}
	}
	for _, r := range routes {
		if !isDefault(r) {
			continue
		}
		add(r.Gw)
		for _, hop := range r.MultiPath {
			add(hop.Gw)
		}
	}
	return all, nil
}

func describe(a *netlink.LinkAttrs) Interface {
	return Interface{Index: a.Index, Name: a.Name, Kind: kindOf(a), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
}

// kindOf tells remote access from the rest by the link's ARP hardware type:
// point-to-point protocols are what the model calls remote access.
func kindOf(a *netlink.LinkAttrs) Kind {
	switch {
	case a.Flags&net.FlagLoopback != 0:
		return Loopback
	case strings.EqualFold(a.EncapType, "ppp"), strings.EqualFold(a.EncapType, "slip"):
		return RemoteAccess
	}
	return LAN
}

func usable(a netlink.Addr) (netip.Addr, bool) {
	if a.IPNet == nil || a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	return ip.Unmap(), ok
}
