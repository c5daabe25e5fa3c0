package user

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// blackholeMetric places the blackhole below the route over the TUN: it takes
// over when the TUN vanishes with its process.
const blackholeMetric = 4000

// system is what the data path keeps in force outside nftables: the TUN's
// link and settings, the ip rule and the routing table, in both families.
type system struct {
	cfg      Config
	nl       *netlink.Handle
	families []int
}

func openSystem(cfg Config) (*system, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	s := &system{cfg: cfg, nl: nl, families: []int{unix.AF_INET}}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		s.families = append(s.families, unix.AF_INET6)
	}
	return s, nil
}

func (s *system) close() { s.nl.Close() }

// refuseKernelStates fails where the kernel holds ESP or AH states: both it
// and this driver would take the packets. A kernel without XFRM has none.
func refuseKernelStates() error {
	nl, err := netlink.NewHandle(unix.NETLINK_XFRM)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open XFRM netlink: %w", err)
	}
	defer nl.Close()
	states, err := nl.XfrmStateList(netlink.FAMILY_ALL)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list kernel IPsec states: %w", err)
	}
	for _, st := range states {
		if st.Proto == netlink.XFRM_PROTO_ESP || st.Proto == netlink.XFRM_PROTO_AH {
			return fmt.Errorf("the kernel holds IPsec states (the first: SPI 0x%08x to %s): those of this agent's kernel driver go with 'ipsecagent datapath --stop'; of another IPsec service: stop it, or clear them with 'ip xfrm state flush'", st.Spi, st.Dst)
		}
	}
	return nil
}

// ensure puts in force what is missing and returns its names: all at the
// start, later what something else removed.
func (s *system) ensure() (missing []string, err error) {
	link, err := s.nl.LinkByName(s.cfg.TUN)
	if err != nil {
		return nil, fmt.Errorf("TUN %s: %w", s.cfg.TUN, err)
	}
	var errs []error
	note := func(what string, was bool, err error) {
		if !was || err != nil {
			missing = append(missing, what)
		}
		errs = append(errs, err)
	}
	was, err := s.ensureLink(link)
	note("link "+s.cfg.TUN, was, err)
	for _, family := range s.families {
		was, err := s.ensureRule(family)
		note(fmt.Sprintf("ip rule %d (%s)", s.cfg.Preference, familyName(family)), was, err)
		was, err = s.ensureIncoming(family)
		note(fmt.Sprintf("ip rule %d (%s)", s.cfg.Preference-1, familyName(family)), was, err)
		was, err = s.ensureRoutes(family, link)
		note(fmt.Sprintf("routing table %d (%s)", s.cfg.RouteTable, familyName(family)), was, err)
	}
	return missing, errors.Join(errs...)
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "IPv6"
	}
	return "IPv4"
}

// ensureIncoming keeps the rule that leads what was opened and goes on to
// another host by the main table: its mark, which reverse-path filtering wants,
// would lead it back to the TUN.
func (s *system) ensureIncoming(family int) (was bool, err error) {
	return s.ensureOneRule(s.incoming(family))
}

func (s *system) incoming(family int) *netlink.Rule {
	want := netlink.NewRule()
	want.Family, want.Priority, want.Table, want.IifName = family, s.cfg.Preference-1, unix.RT_TABLE_MAIN, s.cfg.TUN
	return want
}

// ensureLink sets the TUN up. was reports that nothing was to be done.
func (s *system) ensureLink(link netlink.Link) (was bool, err error) {
	if err := s.sysctls(); err != nil {
		return false, err
	}
	a := link.Attrs()
	if a.Flags&net.FlagUp != 0 && a.MTU == tunMTU && a.TxQLen == tunQueue {
		return true, nil
	}
	if err := s.nl.LinkSetMTU(link, tunMTU); err != nil {
		return false, fmt.Errorf("set MTU of %s: %w", s.cfg.TUN, err)
	}
	if err := s.nl.LinkSetTxQLen(link, tunQueue); err != nil {
		return false, fmt.Errorf("set queue length of %s: %w", s.cfg.TUN, err)
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return false, fmt.Errorf("set %s up: %w", s.cfg.TUN, err)
	}
	return false, nil
}

// sysctls keeps reverse-path filtering from dropping what was opened (its
// mark, set by the table, leads it back to the TUN), and the kernel from
// giving the TUN IPv6 addresses of its own. Settings of other interfaces, or
// of all, are never touched.
func (s *system) sysctls() error {
	values := [][2]string{
		{"ipv4/conf/%s/src_valid_mark", "1"},
		{"ipv4/conf/%s/rp_filter", "0"},
	}
	if len(s.families) > 1 {
		values = append(values,
			[2]string{"ipv6/conf/%s/disable_ipv6", "0"}, // a default of 1 is for other devices
			[2]string{"ipv6/conf/%s/accept_ra", "0"},
			[2]string{"ipv6/conf/%s/autoconf", "0"},
			[2]string{"ipv6/conf/%s/addr_gen_mode", "1"})
	}
	for _, v := range values {
		path := "/proc/sys/net/" + fmt.Sprintf(v[0], s.cfg.TUN)
		if err := writeSysctl(path, v[1]); err != nil {
			return err
		}
	}
	return nil
}

func writeSysctl(path, value string) error {
	if now, err := os.ReadFile(path); err == nil && string(now) == value+"\n" {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (s *system) ensureRule(family int) (was bool, err error) {
	return s.ensureOneRule(s.steering(family))
}

// steering is the rule that leads marked packets to the TUN.
func (s *system) steering(family int) *netlink.Rule {
	want := netlink.NewRule()
	want.Family, want.Priority, want.Table = family, s.cfg.Preference, s.cfg.RouteTable
	want.Mark, want.Mask = s.cfg.Steer, &s.cfg.Steer
	return want
}

func (s *system) ensureOneRule(want *netlink.Rule) (was bool, err error) {
	rules, err := s.nl.RuleList(want.Family)
	if err != nil {
		return false, fmt.Errorf("list ip rules: %w", err)
	}
	for _, r := range rules {
		if sameRule(r, *want) {
			return true, nil
		}
	}
	if err := s.nl.RuleAdd(want); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add ip rule %d: %w", want.Priority, err)
	}
	return false, nil
}

func sameRule(r, want netlink.Rule) bool {
	return r.Priority == want.Priority && r.Table == want.Table && r.Mark == want.Mark &&
		(want.Mask == nil || r.Mask != nil && *r.Mask == *want.Mask) && !r.Invert &&
		r.Src == nil && r.Dst == nil && r.IifName == want.IifName && r.OifName == ""
}

func (s *system) ensureRoutes(family int, link netlink.Link) (was bool, err error) {
	have, err := s.nl.RouteListFiltered(family, &netlink.Route{Table: s.cfg.RouteTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("list routing table %d: %w", s.cfg.RouteTable, err)
	}
	was = true
	for _, want := range s.routes(family, link) {
		if hasRoute(have, want) {
			continue
		}
		was = false
		if err := s.nl.RouteReplace(&want); err != nil {
			return false, fmt.Errorf("add route to table %d: %w", s.cfg.RouteTable, err)
		}
	}
	return was, nil
}

// routes returns the default over the TUN and the blackhole below it. The
// blackhole comes first: adding the other never opens a gap.
func (s *system) routes(family int, link netlink.Link) []netlink.Route {
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return []netlink.Route{
		{Family: family, Dst: all, Table: s.cfg.RouteTable, Type: unix.RTN_BLACKHOLE, Priority: blackholeMetric},
		{Family: family, Dst: all, Table: s.cfg.RouteTable, LinkIndex: link.Attrs().Index, Priority: 100},
	}
}

func hasRoute(have []netlink.Route, want netlink.Route) bool {
	for _, r := range have {
		sameType := (r.Type == unix.RTN_BLACKHOLE) == (want.Type == unix.RTN_BLACKHOLE)
		isDefault := r.Dst == nil || r.Dst.IP.IsUnspecified()
		sameLink := want.LinkIndex == 0 || r.LinkIndex == want.LinkIndex
		if sameType && isDefault && sameLink && r.Priority == want.Priority {
			return true
		}
	}
	return false
}

// mtu returns the MTU towards an address, by the route that our own sockets
// take.
func (s *system) mtu(to net.IP) (int, error) {
	routes, err := s.nl.RouteGetWithOptions(to, &netlink.RouteGetOptions{Mark: s.cfg.Exempt})
	if err != nil || len(routes) == 0 {
		return 0, fmt.Errorf("route to %s: %w", to, err)
	}
	link, err := s.nl.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return 0, fmt.Errorf("device of the route to %s: %w", to, err)
	}
	mtu := link.Attrs().MTU
	if routes[0].MTU > 0 {
		mtu = min(mtu, routes[0].MTU)
	}
	return mtu, nil
}
