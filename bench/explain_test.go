package bench

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// maxExplain is how long an explanation may take with a hundred thousand
// filters, once they are compiled.
const maxExplain = 5 * time.Millisecond

// manyRules returns a policy of 10 000 lists of ten filters each.
func manyRules() *policy.Policy {
	p := &policy.Policy{Name: "large", FilterActions: []policy.FilterAction{{Name: "secure", Kind: sadb.Negotiate,
		Methods: []policy.SecurityMethod{{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}}}}}}}
	for i := range 10_000 {
		list := policy.FilterList{Name: fmt.Sprintf("list %d", i)}
		for j := range 10 {
			n := i*10 + j
			remote := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
			list.Filters = append(list.Filters, policy.Filter{From: policy.Endpoint{Kind: policy.Me},
				To:       policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Addr(remote)},
				Protocol: sadb.TCP, FromPorts: sadb.Port(uint16(1000 + j)), Mirrored: true})
		}
		p.FilterLists = append(p.FilterLists, list)
		p.Rules = append(p.Rules, policy.Rule{Name: fmt.Sprintf("rule %d", i), FilterList: list.Name, FilterAction: "secure",
			Authentication: []policy.AuthMethod{{Kind: policy.PresharedKey}}})
	}
	return p
}

// manyFilters returns what that policy compiles to.
func manyFilters(tb testing.TB) *policy.Compiled {
	tb.Helper()
	c, err := policy.Compile(manyRules(), policy.Host{})
	if err != nil {
		tb.Fatal(err)
	}
	if len(c.Filters) != 100_000 {
		tb.Fatalf("%d filters", len(c.Filters))
	}
	return c
}

// unmatched is a packet that every filter is asked about.
func unmatched(tb testing.TB) policy.Question {
	tb.Helper()
	q, err := policy.ParseQuestion("tcp me=192.0.2.1:1005 -> 198.51.100.1:443", "")
	if err != nil {
		tb.Fatal(err)
	}
	return q
}

// BenchmarkExplain asks every filter about a packet. On a machine that does
// nothing else it fails beyond what is promised.
func BenchmarkExplain(b *testing.B) {
	c, q := manyFilters(b), unmatched(b)
	for b.Loop() {
		if x := policy.Explain(c, q); x.Decided != nil || len(x.Passed) == 0 {
			b.Fatalf("%+v", x)
		}
	}
	if each := b.Elapsed() / time.Duration(b.N); each > maxExplain {
		b.Errorf("an explanation takes %v, more than %v", each, maxExplain)
	}
}

func BenchmarkLint(b *testing.B) {
	p := manyRules()
	for b.Loop() {
		if _, err := policy.Lint(p, policy.Environment{}); err != nil {
			b.Fatal(err)
		}
	}
}

// One rule of ten thousand has another action.
func BenchmarkDiff(b *testing.B) {
	before, after := manyRules(), manyRules()
	after.Rules[5].FilterAction = "block"
	c, err := policy.Compile(after, policy.Host{})
	if err != nil {
		b.Fatal(err)
	}
	sides := [2]policy.Side{{Policy: before, Compiled: manyFilters(b)}, {Policy: after, Compiled: c}}
	for b.Loop() {
		if d := policy.Diff(sides[0], sides[1]); len(d.Flows) != 10 || !d.Whole {
			b.Fatalf("%d changes", len(d.Flows))
		}
	}
}
