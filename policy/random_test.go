package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Random policies and packets live in a small world, so that they meet: two
// networks of a few addresses, four ports, four protocols.

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

func randomAddr(rng *rand.Rand, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 1+rng.IntN(6)))
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(2)), byte(1 + rng.IntN(6))})
}

func randomEndpoint(rng *rand.Rand, v6 bool) policy.Endpoint {
	a := randomAddr(rng, v6)
	addresses := func(a sadb.Addrs) policy.Endpoint { return policy.Endpoint{Kind: policy.Addresses, Addrs: a} }
	switch rng.IntN(6) {
	case 0:
		return policy.Endpoint{Kind: policy.Any}
	case 1, 2:
		return policy.Endpoint{Kind: policy.Me}
	case 3:
		b := randomAddr(rng, v6)
		if b.Less(a) {
			a, b = b, a
		}
		return addresses(sadb.Range(a, b))
	case 4:
		return addresses(sadb.Prefix(netip.PrefixFrom(a, a.BitLen()-rng.IntN(10))))
	}
	return addresses(sadb.Addr(a))
}

func randomPorts(rng *rand.Rand) sadb.Ports {
	if rng.IntN(2) == 0 {
		return sadb.Ports{}
	}
	from := uint16(1 + rng.IntN(4))
	return sadb.Ports{From: from, To: from + uint16(rng.IntN(3))}
}

// anyFilter is a filter of any shape.
func anyFilter(rng *rand.Rand) policy.Filter {
	v6 := rng.IntN(4) == 0
	f := policy.Filter{From: randomEndpoint(rng, v6), To: randomEndpoint(rng, v6), Mirrored: true,
		Protocol: pick(rng, 0, sadb.TCP, sadb.UDP, sadb.ICMP)}
	if f.From.Kind == policy.Me && f.To.Kind == policy.Me {
		f.To = policy.Endpoint{Kind: policy.Any}
	}
	switch f.Protocol {
	case sadb.TCP, sadb.UDP:
		f.FromPorts, f.ToPorts = randomPorts(rng), randomPorts(rng)
	case sadb.ICMP:
		if t := uint8(rng.IntN(3)); t > 0 {
			f.ICMPType = sadb.Octets{From: t, To: t + uint8(rng.IntN(2)), Set: true}
		}
		if v6 {
			f.Protocol = 0
			f.ICMPType = sadb.Octets{}
		}
	}
	return f
}

// randomPolicy has up to n rules of a few filters each; not every one can be
// compiled.
func randomPolicy(rng *rand.Rand, n int) *policy.Policy {
	gcm := []policy.SecurityMethod{{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}}}}
	p := &policy.Policy{Name: "random", FilterActions: []policy.FilterAction{
		{Name: "require", Kind: sadb.Negotiate, Methods: gcm},
		{Name: "request", Kind: sadb.Negotiate, Methods: gcm, AllowClear: true, AcceptUnsecured: true},
	}}
	for i := range 1 + rng.IntN(n) {
		list := policy.FilterList{Name: fmt.Sprintf("list %d", i)}
		action := pick(rng, "permit", "block", "require", "request")
		for range 1 + rng.IntN(3) {
			f := anyFilter(rng)
			f.Mirrored = action == "require" || action == "request" || rng.IntN(3) > 0
			list.Filters = append(list.Filters, f)
		}
		p.FilterLists = append(p.FilterLists, list)
		p.Rules = append(p.Rules, policy.Rule{Name: fmt.Sprintf("rule %d", i), FilterList: list.Name, FilterAction: action, Authentication: psk()})
	}
	return p
}

// randomCompiled returns a random policy and what it compiles to.
func randomCompiled(t *testing.T, rng *rand.Rand, n int) (*policy.Policy, *policy.Compiled) {
	t.Helper()
	for range 100 {
		p := randomPolicy(rng, n)
		if c, err := policy.Compile(p, policy.Host{}); err == nil {
			return p, c
		}
	}
	t.Fatal("no random policy compiles")
	return nil, nil
}

// randomQuestion is a packet of the same world, whose addresses are known.
func randomQuestion(rng *rand.Rand) policy.Question {
	v6 := rng.IntN(4) == 0
	f := sadb.Flow{Local: randomAddr(rng, v6), Remote: randomAddr(rng, v6), LocalMe: rng.IntN(4) > 0,
		Proto: pick(rng, sadb.TCP, sadb.UDP, sadb.ICMP, 47)}
	switch f.Proto {
	case sadb.TCP, sadb.UDP:
		f.LocalPort, f.RemotePort = uint16(1+rng.IntN(7)), uint16(1+rng.IntN(7))
	case sadb.ICMP:
		f.ICMPType = uint8(rng.IntN(5))
	}
	q := policy.Question{Flow: f, Dir: sadb.Out}
	if f.LocalMe {
		q.Dir = pick(rng, sadb.In, sadb.Out)
	}
	return q
}
