package user

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver/nft"
)

// Validate says what Serve would refuse in c.
func (c Config) Validate() error { return c.withDefaults().validate() }

// Remove takes out of force what a data path with this configuration has left
// behind: the ip rule, the routes and, last, the nftables table. Traffic is not
// protected afterwards. It is for the administrator who wants just that, and
// fails while a data path runs. What is gone already is no error.
func Remove(c Config) error {
	c = c.withDefaults()
	sys, err := openSystem(c)
	if err != nil {
		return fmt.Errorf("user: remove the data path: %w", err)
	}
	defer sys.close()
	// The table goes last and only after the rest: until then it drops.
	if err := sys.remove(); err != nil {
		return fmt.Errorf("user: remove the data path: %w", err)
	}
	table, err := nft.Open(c.nft())
	if err != nil {
		return fmt.Errorf("user: remove the data path: %w", err)
	}
	if err := errors.Join(table.Remove(), table.Close()); err != nil {
		return fmt.Errorf("user: remove the data path: %w", err)
	}
	return nil
}

// remove removes rule and routes of both families.
func (s *system) remove() error {
	var errs []error
	for _, family := range s.families {
		errs = append(errs, s.removeRule(s.steering(family)), s.removeRule(s.incoming(family)), s.removeRoutes(family))
	}
	return errors.Join(errs...)
}

func (s *system) removeRule(want *netlink.Rule) error {
	rules, err := s.nl.RuleList(want.Family)
	if err != nil {
		return fmt.Errorf("list ip rules: %w", err)
	}
	for _, r := range rules {
		if !sameRule(r, *want) {
			continue
		}
		if err := s.nl.RuleDel(want); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete ip rule %d: %w", want.Priority, err)
		}
	}
	return nil
}

// removeRoutes removes the blackhole; the route over the TUN went with it.
func (s *system) removeRoutes(family int) error {
	have, err := s.nl.RouteListFiltered(family, &netlink.Route{Table: s.cfg.RouteTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routing table %d: %w", s.cfg.RouteTable, err)
	}
	for _, r := range have {
		if r.Type != unix.RTN_BLACKHOLE || r.Priority != blackholeMetric {
			continue
		}
		if err := s.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete a route of table %d: %w", s.cfg.RouteTable, err)
		}
	}
	return nil
}
