package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/sadb"
)

// TestTooManyWaysForOnePeer: what a responder could not try is refused before
// it is in force; as many keys for as many peers are not.
func TestTooManyWaysForOnePeer(t *testing.T) {
	key := func(i int) AuthMethod { return AuthMethod{Kind: PresharedKey, Key: fmt.Sprint(i)} }
	authority := func(i int) AuthMethod { return AuthMethod{Kind: Certificate, CA: fmt.Sprintf("CN=%d", i)} }
	same := func(int) AuthMethod { return AuthMethod{Kind: PresharedKey, Key: "a"} }
	all := func(int) sadb.Addrs { return sadb.Prefix(netip.MustParsePrefix("10.0.0.0/8")) }
	any := func(int) sadb.Addrs { return sadb.AnyAddrs() }
	each := func(i int) sadb.Addrs { return sadb.Addr(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) }
	meet := func(i int) sadb.Addrs { // in 10.1.0.0 alone
		end := netip.AddrFrom4([4]byte{10, 1, 0, 0})
		if i%2 == 0 {
			return sadb.Range(netip.AddrFrom4([4]byte{10, 0, 0, 0}), end)
		}
		return sadb.Range(end, netip.AddrFrom4([4]byte{10, 2, 0, 0}))
	}
	cases := []struct {
		name  string
		n     int
		way   func(int) AuthMethod
		peers func(int) sadb.Addrs
		ok    bool
	}{
		{"as many keys as may be", MaxKeys, key, all, true},
		{"one key too many", MaxKeys + 1, key, all, false},
		{"one key too many for any peer", MaxKeys + 1, key, any, false},
		{"one key too many where ranges meet", MaxKeys + 1, key, meet, false},
		{"a key for each of many peers", 1000, key, each, true},
		{"the same key often", 1000, same, all, true},
		{"as many authorities as may be", MaxAuthorities, authority, all, true},
		{"one authority too many", MaxAuthorities + 1, authority, all, false},
	}
	for _, c := range cases {
		var compiled Compiled
		for i := range c.n {
			compiled.Filters = append(compiled.Filters, CompiledFilter{Filter: sadb.Filter{Selector: sadb.Selector{Remote: c.peers(i)}},
				Negotiation: &Negotiation{Authentication: []AuthMethod{c.way(i)}}})
		}
		err := compiled.checkWays()
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestWaysOfTunnelsAndTheDefaultResponse: the default response rule counts for every
// peer, and a tunnel's for its other gateway.
func TestWaysOfTunnelsAndTheDefaultResponse(t *testing.T) {
	c := Compiled{DefaultResponse: &Negotiation{}}
	for i := range MaxAuthorities {
		c.DefaultResponse.Authentication = append(c.DefaultResponse.Authentication, AuthMethod{Kind: Certificate, CA: fmt.Sprint(i)})
	}
	if err := c.checkWays(); err != nil {
		t.Fatal(err)
	}
	c.Filters = []CompiledFilter{{Filter: sadb.Filter{Mode: sadb.Tunnel, TunnelRemote: netip.MustParseAddr("192.0.2.9")},
		Negotiation: &Negotiation{Authentication: []AuthMethod{{Kind: Certificate, CA: "another"}}}}}
	if err := c.checkWays(); err == nil || !strings.Contains(err.Error(), "192.0.2.9") {
		t.Errorf("%v", err)
	}
}
