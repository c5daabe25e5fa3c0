package main

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm"
)

// leftInKernel says in words what a kernel driver with these settings has in
// force in this network namespace; "": nothing. The kernel is asked, because a
// folder may be lost and a policy is not.
func (s *settings) leftInKernel() (string, error) {
	f, err := xfrm.LookAtForeign(s.xfrmConfig(nil))
	switch {
	case withoutXFRM(err):
		return "", nil
	case err != nil || f.OurPolicies+f.OurStates == 0:
		return "", err
	}
	return plural(f.OurPolicies, "XFRM policy", "XFRM policies") + " and " + plural(f.OurStates, "association", "associations") + " of the kernel driver", nil
}

// removeKernel takes out of force what a kernel driver has left in this network
// namespace.
func removeKernel(s *settings) ([]string, error) {
	removed, err := xfrm.Remove(s.xfrmConfig(nil))
	if withoutXFRM(err) {
		return nil, nil
	}
	return removed, err
}

// withoutXFRM reports whether an error means that the kernel has no XFRM or lets
// nobody here get at it, so that nothing can have been left in it.
func withoutXFRM(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOSYS, unix.EPERM, unix.EACCES},
		func(no unix.Errno) bool { return errors.Is(err, no) })
}
