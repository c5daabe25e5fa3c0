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

// probe finds out, once, which suites the kernel can carry, by making a state
// of each with a key of zeros for the loopback, which never comes to XFRM. An
// implementation that is a module is loaded by it.
func (e *engine) probe() error {
	if e.probed {
		return nil
	}
	for _, suite := range sadb.Suites() {
		ok, err := e.carries(suite)
		if err != nil {
			return fmt.Errorf("find out whether the kernel has %s: %w", suite, err)
		}
		if ok {
			e.suites = append(e.suites, suite)
		}
	}
	e.probed = true
	return nil
}

// carries reports whether the kernel accepts a suite in both families.
func (e *engine) carries(suite sadb.Suite) (bool, error) {
	for _, lo := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		s := wire.State{ID: sadb.SAID{Dst: lo, Proto: suite.Proto, SPI: sadb.RandomSPI()}, Src: lo, Suite: suite, ReqID: reqidLast,
			EncKey: sampleKey(suite.EncKeyLen()), AuthKey: sampleKey(suite.Integrity.KeyLen()), Window: 1,
			Lifetime: sadb.Lifetime{Hard: sadb.Limits{Time: time.Second}}}
		body, err := s.Append(nil)
		if err != nil {
			return false, err
		}
		err = e.link.request(wire.MsgNewSA, body)
		if missing(err) {
			return false, nil
		}
		if err == nil {
			err = e.deleteState(s.ID)
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
