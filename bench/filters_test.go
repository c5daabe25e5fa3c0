package bench

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/nft"
	"ipsecagent/sadb"
)

// policyOf returns n filters for as many hosts, or for as many subnets, and one
// for all else.
func policyOf(n int, subnets bool) []sadb.Filter {
	var list []sadb.Filter
	for i := range n {
		f := sadb.Filter{ID: sadb.FilterID(fmt.Sprint("f", i)), Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate}}
		a := netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 0})
		f.Selector = sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(a), Proto: sadb.TCP, RemotePorts: sadb.Port(443)}
		if subnets {
			f.Selector.Remote = sadb.Prefix(netip.PrefixFrom(a, 24))
		}
		list = append(list, f)
	}
	return append(list, sadb.Filter{ID: "rest", Dir: sadb.Both, Selector: sadb.Selector{Local: sadb.Me()}})
}

// inNamespace runs f on a thread in a network namespace of its own.
func inNamespace(b *testing.B, f func() error) {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("needs root: a network namespace and nftables")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFilters puts lists of filters in force in the kernel: at first, the
// same again, with one filter that has another action, and with one that comes
// or goes.
func BenchmarkFilters(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		for _, kind := range []string{"hosts", "subnets"} {
			if n == 100_000 && kind == "subnets" {
				continue // a minute for each: what the kernel takes to fill sets of ranges grows with the square
			}
			list := policyOf(n, kind == "subnets")
			changed := slices.Clone(list)
			changed[n/2].Action.Kind = sadb.Permit
			shorter := slices.Delete(slices.Clone(list), n/2, n/2+1)
			b.Run(fmt.Sprintf("%d/%s/first", n, kind), func(b *testing.B) { alternate(b, list, nil) })
			b.Run(fmt.Sprintf("%d/%s/again", n, kind), func(b *testing.B) { alternate(b, list, list) })
			b.Run(fmt.Sprintf("%d/%s/changed", n, kind), func(b *testing.B) { alternate(b, list, changed) })
			b.Run(fmt.Sprintf("%d/%s/shorter", n, kind), func(b *testing.B) { alternate(b, list, shorter) })
		}
	}
}

// alternate measures lists put in force in turn, or one in a new table each
// time.
func alternate(b *testing.B, list, other []sadb.Filter) {
	inNamespace(b, func() error {
		var table *nft.Table
		open := func() (err error) {
			table, err = nft.Open(nft.Config{Table: "bench", Steer: 1 << 24, Exempt: 1 << 25, TUN: "tun0", LogGroup: 50})
			return err
		}
		if err := open(); err != nil {
			return err
		}
		if other != nil {
			if err := table.Apply(list); err != nil {
				return err
			}
		}
		b.ResetTimer()
		for i := range b.N {
			if other == nil && i > 0 {
				b.StopTimer()
				if err := table.Remove(); err != nil {
					return err
				}
				if err := open(); err != nil {
					return err
				}
				b.StartTimer()
			}
			next := list
			if other != nil && i%2 == 0 {
				next = other
			}
			if err := table.Apply(next); err != nil {
				return err
			}
		}
		b.StopTimer()
		return table.Remove()
	})
}
