package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// Preflight returns the suites that the kernel of the calling thread's network
// namespace can carry, none if it has no ESP and no AH. The error says what
// XFRM or this process lacks.
func Preflight() ([]sadb.Suite, error) {
	c, err := dial()
	if err != nil {
		return nil, fmt.Errorf("xfrm: %w", err)
	}
	defer c.Close()
	suites, err := link{c}.suites(loopbacks())
	return suites, wrap(err, "preflight")
}

// probe finds out, once, which suites the kernel can carry.
func (e *engine) probe() (err error) {
	if e.suites == nil {
		e.suites, err = e.link.suites(loopbacks())
	}
	return err
}

// suites makes a state of each suite for the loopback, which never comes to
// XFRM, and deletes it. An implementation that is a module is loaded by it.
func (l link) suites(loopbacks []netip.Addr) ([]sadb.Suite, error) {
	all := []sadb.Suite{}
	for _, suite := range sadb.Suites() {
		ok, err := l.carries(suite, loopbacks)
		if err != nil {
			return nil, fmt.Errorf("find out whether the kernel has %s: %w", suite, err)
		}
		if ok {
			all = append(all, suite)
		}
	}
	return all, nil
}

// loopbacks returns the loopback addresses of the families that this kernel has:
// booted with ipv6.disable=1 it takes no state of IPv6 whatever its suite.
func loopbacks() []netip.Addr {
	all := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return all
	}
	if err == nil {
		unix.Close(s)
	}
	return append(all, netip.IPv6Loopback())
}

// carries reports whether the kernel accepts a suite with each of these addresses.
func (l link) carries(suite sadb.Suite, loopbacks []netip.Addr) (bool, error) {
	for _, lo := range loopbacks {
		s := wire.State{ID: sadb.SAID{Dst: lo, Proto: suite.Proto, SPI: sadb.RandomSPI()}, Src: lo, Suite: suite, ReqID: reqidLast,
			EncKey: sampleKey(suite.EncKeyLen()), AuthKey: sampleKey(suite.Integrity.KeyLen()), Window: 1,
			Lifetime: sadb.Lifetime{Hard: sadb.Limits{Time: time.Second}}}
		body, err := s.Append(nil)
		if err != nil {
			return false, err
		}
		err = l.request(wire.MsgNewSA, body)
		if missing(err) {
			return false, nil
		}
		if err == nil {
			err = l.deleteState(s.ID)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// missing reports whether an error means that the kernel has no implementation.
func missing(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

// sampleKey is no key that 3DES refuses for being three times the same.
func sampleKey(n int) sadb.Secret {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*37 + 1)
	}
	return sadb.NewSecret(b)
}
