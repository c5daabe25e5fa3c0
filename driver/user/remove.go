package user

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Validate says what Serve would refuse in c.
func (c Config) Validate() error { return c.withDefaults().validate() }

// remove removes rules and routes of both families and names those that were
// there.
func (s *system) remove() (removed []string, err error) {
	var errs []error
	note := func(what string, was bool, err error) {
		if was {
			removed = append(removed, what)
		}
		errs = append(errs, err)
	}
	for _, family := range s.families {
		for _, rule := range []*netlink.Rule{s.steering(family), s.incoming(family)} {
			was, err := s.removeRule(rule)
			note(fmt.Sprintf("ip rule %d (%s)", rule.Priority, familyName(family)), was, err)
		}
		was, err := s.removeRoutes(family)
		note(fmt.Sprintf("routing table %d (%s)", s.cfg.RouteTable, familyName(family)), was, err)
	}
	return removed, errors.Join(errs...)
}

func (s *system) removeRule(want *netlink.Rule) (was bool, err error) {
	rules, err := s.nl.RuleList(want.Family)
	if hasNone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list ip rules: %w", err)
	}
	for _, r := range rules {
		if !sameRule(r, *want) {
			continue
		}
		if err := s.nl.RuleDel(want); err != nil && !errors.Is(err, unix.ENOENT) {
			return was, fmt.Errorf("delete ip rule %d: %w", want.Priority, err)
		}
		was = true
	}
	return was, nil
}

// hasNone reports whether the kernel has no rules or routing tables of a family
// to list: none can have been left there.
func hasNone(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

// removeRoutes removes the blackhole; the route over the TUN goes with the TUN.
func (s *system) removeRoutes(family int) (was bool, err error) {
	have, err := s.nl.RouteListFiltered(family, &netlink.Route{Table: s.cfg.RouteTable}, netlink.RT_FILTER_TABLE)
	if hasNone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list routing table %d: %w", s.cfg.RouteTable, err)
	}
	for _, r := range have {
		if r.Type != unix.RTN_BLACKHOLE || r.Priority != blackholeMetric {
			continue
		}
		if err := s.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return was, fmt.Errorf("delete a route of table %d: %w", s.cfg.RouteTable, err)
		}
		was = true
	}
	return was, nil
}
