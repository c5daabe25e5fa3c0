package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// maxRemoteAccess bounds the patterns of remote-access interfaces: each is a
// rule more for the filters of that type.
const maxRemoteAccess = 16

// Hardware types of dial-up links (linux/if_arp.h): PPP, and the four kinds of
// SLIP, which are 256 to 259.
const (
	hardwarePPP  = unix.ARPHRD_PPP
	hardwareSLIP = unix.ARPHRD_SLIP
	maskSLIP     = 0xfffc
)

// pppNames are the names of dial-up interfaces where the type cannot be asked.
const pppNames = "ppp*"

// RemoteAccess says which interfaces are of the connection type remote access:
// those of the hardware types PPP and SLIP, and those whose name fits a
// pattern: a name, or the beginning of names and a star ("wg0", "tun*"). Every
// other interface is of the type LAN.
type RemoteAccess []string

// Validate names every pattern that cannot be used.
func (r RemoteAccess) Validate() error {
	var errs []error
	if len(r) > maxRemoteAccess {
		errs = append(errs, fmt.Errorf("remoteAccess: %d interfaces: at most %d names or patterns", len(r), maxRemoteAccess))
	}
	for _, p := range r {
		name := strings.TrimSuffix(p, "*")
		if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "*/: \t\n") {
			errs = append(errs, fmt.Errorf("remoteAccess: %q names no interface: write a name of 1 to %d bytes, or the beginning of names and a star, as in wg0 or tun*", p, unix.IFNAMSIZ-1))
		}
	}
	return errors.Join(errs...)
}

// Is reports whether an interface is of the connection type remote access, by
// its name and whether its hardware type is PPP or SLIP.
func (r RemoteAccess) Is(name string, dialUp bool) bool {
	if dialUp {
		return true
	}
	for _, p := range r {
		prefix, open := strings.CutSuffix(p, "*")
		if name == p || open && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// test is a condition that holds (CmpOpEq) or does not hold (CmpOpNeq).
type test func(expr.CmpOp) []expr.Any

// remoteAccessTests are the conditions of which one holds for packets of
// remote-access connections, in a base chain: inbound it is the interface they
// came by, outbound the one they leave by. Before forwarding only the name of
// the latter is known, by the route; the last chain asks again.
func (c Config) remoteAccessTests(chain string) []test {
	if chain == chainVia {
		route := &expr.Fib{Register: scratch, ResultOIFNAME: true, FlagDADDR: true, FlagMARK: true}
		return append(c.nameTests(route), nameTest(route, pppNames))
	}
	name, hardware := expr.MetaKeyOIFNAME, expr.MetaKeyOIFTYPE
	if chain == chainIn {
		name, hardware = expr.MetaKeyIIFNAME, expr.MetaKeyIIFTYPE
	}
	return append(c.nameTests(meta(name, scratch)), hardwareTest(hardware, 0xffff, hardwarePPP), hardwareTest(hardware, maskSLIP, hardwareSLIP))
}

func (c Config) nameTests(load expr.Any) []test {
	var all []test
	for _, p := range c.RemoteAccess {
		all = append(all, nameTest(load, p))
	}
	return all
}

// nameTest compares a name of an interface, or its beginning, with a pattern.
func nameTest(load expr.Any, pattern string) test {
	want := make([]byte, unix.IFNAMSIZ)
	prefix, open := strings.CutSuffix(pattern, "*")
	n := copy(want, prefix)
	if open {
		want = want[:n]
	}
	return func(op expr.CmpOp) []expr.Any { return []expr.Any{load, compare(op, want...)} }
}

// hardwareTest compares an interface's hardware type under a mask.
func hardwareTest(key expr.MetaKey, mask, want uint16) test {
	octets := func(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }
	return func(op expr.CmpOp) []expr.Any {
		return []expr.Any{meta(key, scratch),
			&expr.Bitwise{SourceRegister: scratch, DestRegister: scratch, Len: 2, Mask: octets(mask), Xor: octets(0)},
			compare(op, octets(want)...)}
	}
}

// connections returns what stands before a look-up that is for one type of
// connection: for remote access as many alternatives as there are tests, for
// LAN one in which none of them holds.
func (c Config) connections(chain string, s shape) []rule {
	switch {
	case s.has(onRemoteAccess):
		var all []rule
		for _, t := range c.remoteAccessTests(chain) {
			all = append(all, t(expr.CmpOpEq))
		}
		return all
	case s.has(onLAN):
		var r rule
		for _, t := range c.remoteAccessTests(chain) {
			r = append(r, t(expr.CmpOpNeq)...)
		}
		return []rule{r}
	}
	return []rule{nil}
}
