package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"ipsecagent/driver/nft"
	"ipsecagent/sadb"
)

// facts asks the network namespace it was opened in what the kernel driver's
// limits depend on.
type facts struct {
	forward []*os.File // sysctls that say whether this host forwards
	links   *netlink.Handle
	remote  nft.RemoteAccess
}

func openFacts(remote nft.RemoteAccess) (*facts, error) {
	f := &facts{remote: remote}
	var err error
	if f.links, err = netlink.NewHandle(); err != nil {
		return nil, fmt.Errorf("open a netlink socket of routing: %w", err)
	}
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		file, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // no such family
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("ask whether this host forwards: %w", err), f.close())
		}
		f.forward = append(f.forward, file)
	}
	return f, nil
}

func (f *facts) close() error {
	f.links.Close()
	var errs []error
	for _, file := range f.forward {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// forwards reports whether this host forwards packets of others.
func (f *facts) forwards() bool {
	for _, file := range f.forward {
		b := make([]byte, 16)
		n, _ := file.ReadAt(b, 0)
		if strings.TrimSpace(string(b[:n])) != "0" {
			return true
		}
	}
	return false
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
	return fmt.Errorf("filter %s (%s) is for connections of type %s and %s is one of remote access: the kernel driver does not tell connections apart: set driver: user", g.ID, g.Name, g.Connections, dialUp)
}

// own returns the addresses of a host that forwards, ascending; nil of one that
// does not.
func (f *facts) own() ([]netip.Addr, error) {
	if !f.forwards() {
		return nil, nil
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
