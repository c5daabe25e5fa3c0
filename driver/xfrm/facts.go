package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver/nft"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// facts asks the network namespace it was opened in what the kernel driver's
// limits depend on.
type facts struct {
	routing *mdnetlink.Conn // of the kernel's settings by interface
	links   *netlink.Handle
	remote  nft.RemoteAccess
}

func openFacts(remote nft.RemoteAccess) (*facts, error) {
	f := &facts{remote: remote}
	var err error
	if f.links, err = netlink.NewHandle(); err != nil {
		return nil, fmt.Errorf("open a netlink socket of routing: %w", err)
	}
	if f.routing, err = mdnetlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		f.links.Close()
		return nil, fmt.Errorf("open a netlink socket of routing: %w", err)
	}
	return f, nil
}

func (f *facts) close() error {
	f.links.Close()
	return f.routing.Close()
}

// Of struct netconfmsg and its attributes (linux/netconf.h).
const (
	netconfHeader     = 4 // the family, padded
	netconfIfIndex    = 1
	netconfForwarding = 2
	netconfDefault    = -2 // the index of what new interfaces begin with
)

// forwards reports whether this host forwards packets of others, all of its
// interfaces or one: that can be set by interface alone.
func (f *facts) forwards() (bool, error) {
	for _, family := range []wire.Family{wire.IPv4, wire.IPv6} {
		request := mdnetlink.Message{Data: []byte{byte(family), 0, 0, 0},
			Header: mdnetlink.Header{Type: unix.RTM_GETNETCONF, Flags: mdnetlink.Request | mdnetlink.Dump}}
		all, err := f.routing.Execute(request)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // it is: no such family
			return false, fmt.Errorf("ask whether this host forwards: %w", err)
		}
		for _, m := range all {
			if yes, err := forwarding(m.Data); yes || err != nil {
				return yes, err
			}
		}
	}
	return false, nil
}

// forwarding reads from one answer whether an interface forwards, or all do.
func forwarding(b []byte) (yes bool, err error) {
	if len(b) < netconfHeader {
		return false, fmt.Errorf("settings of an interface in %d bytes", len(b))
	}
	d, err := mdnetlink.NewAttributeDecoder(b[netconfHeader:])
	if err != nil {
		return false, fmt.Errorf("settings of an interface: %w", err)
	}
	newInterfaces := false
	for d.Next() {
		switch d.Type() {
		case netconfIfIndex:
			newInterfaces = d.Int32() == netconfDefault
		case netconfForwarding:
			yes = d.Int32() != 0
		}
	}
	return yes && !newInterfaces, d.Err()
}

// dialUp returns an interface of the connection type remote access, "" if there
// is none.
func (f *facts) dialUp() (string, error) {
	all, err := f.links.LinkList()
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range all {
		a := l.Attrs()
		if f.remote.Is(a.Name, a.EncapType == "ppp" || strings.HasPrefix(a.EncapType, "slip") || strings.HasPrefix(a.EncapType, "cslip")) {
			return a.Name, nil
		}
	}
	return "", nil
}

// allow refuses filters that XFRM cannot enforce on this host as it is now.
func (f *facts) allow(filters []sadb.Filter) error {
	i := slices.IndexFunc(filters, func(g sadb.Filter) bool { return g.Connections != sadb.AllConnections })
	if i < 0 {
		return nil
	}
	dialUp, err := f.dialUp()
	if err != nil || dialUp == "" {
		return err
	}
	g := filters[i]
	return fmt.Errorf("filter %s (%s) is for connections of type %s, and %s is an interface of remote access: the kernel driver does not tell types of connection apart. "+
		"Make the rule for all connections, take the interface away (or out of the setting remoteAccess), or have driver: user", g.ID, g.Name, g.Connections, dialUp)
}

// own returns the addresses of a host that forwards, ascending; nil of one that
// does not.
func (f *facts) own() ([]netip.Addr, error) {
	if yes, err := f.forwards(); !yes || err != nil {
		return nil, err
	}
	all, err := f.links.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := []netip.Addr{}
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			out = append(out, ip.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// followEvery is how often the addresses of a host that forwards are read. The
// table stands guard over one that has come meanwhile.
const followEvery = time.Second

// readOwn reads the addresses of a host that forwards.
func (e *engine) readOwn() (err error) {
	e.own, err = e.facts.own()
	return err
}

// follow keeps the policies of Me to the addresses of a host that forwards.
func (e *engine) follow(at time.Time) {
	if at.Sub(e.looked) < followEvery || len(e.filters) == 0 {
		return
	}
	e.looked = at
	before := e.own
	err := e.readOwn()
	if err == nil && !slices.Equal(before, e.own) {
		err = e.enforce(e.filters, e.overlays)
	}
	if err != nil {
		e.own, e.retry = before, at.Add(retryAfter)
		e.cfg.Log.Error("follow the addresses of this host", "error", err)
	}
}
