package gpipsec

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// A rule with a filter list is not taken for the default response, whatever the
// type of its filter action says: what the list requires would be left out
// without a word.
func TestARuleWithAListIsNoDefaultResponse(t *testing.T) {
	objects, o := modern(t)
	o.Type = typeResponse()
	r := Decode(objects)
	if len(r.Store.Policies) != 0 {
		t.Errorf("it is taken, with the default response %+v", r.Store.Policies[0].DefaultResponse)
	}
	for _, p := range r.Problems {
		if !p.Warning && strings.Contains(p.Error(), "has a filter list, which would be left out") {
			return
		}
	}
	t.Errorf("%v", r.Problems)
}

// What our own extension says is held to what the model takes, as Windows' data
// are: hosts poll as often as it says.
func TestAnExtensionCannotSayAnyPollingInterval(t *testing.T) {
	for _, c := range []struct{ says, want time.Duration }{{1, minPolling}, {-time.Hour, minPolling}, {1 << 62, maxPolling}, {90 * time.Second, 90 * time.Second}, {0, 0}} {
		p, ok := policy.Original("client")
		if !ok {
			t.Fatal("no client policy")
		}
		p.PollingInterval = c.says
		objects, _, err := Encode(policy.Store{Policies: []policy.Policy{*p}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := Decode(objects)
		if len(r.Store.Policies) != 1 || r.Store.Policies[0].PollingInterval != c.want {
			t.Errorf("%v: not %v: %+v, %v", c.says, c.want, r.Store, r.Problems)
		}
	}
}

// The largest policy that the model takes goes there and back in lists that hosts
// read; one list of all its filters is refused, and what to do is said.
func TestWhatIsWrittenHostsRead(t *testing.T) {
	filters := make([]policy.Filter, 100_000)
	for i := range filters {
		address := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		filters[i] = policy.Filter{From: policy.Endpoint{Kind: policy.Me}, To: policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(netip.PrefixFrom(address, 32))}, Mirrored: true}
	}
	with := func(lists ...[]policy.Filter) policy.Store {
		p := *policy.SecureServer()
		rule := p.Rules[0]
		p.Rules, p.FilterLists = nil, nil
		for i, l := range lists {
			rule.Name = fmt.Sprintf("list %d", i)
			rule.FilterList = rule.Name
			p.Rules, p.FilterLists = append(p.Rules, rule), append(p.FilterLists, policy.FilterList{Name: rule.Name, Filters: l})
		}
		return policy.Store{Policies: []policy.Policy{p}}
	}
	if _, _, err := Encode(with(filters), Options{}); err == nil || !strings.Contains(err.Error(), `"list 0"`) || !strings.Contains(err.Error(), "part it") {
		t.Errorf("one list: %.300v", err)
	}
	objects, _, err := Encode(with(filters[:50_000], filters[50_000:]), Options{})
	if err != nil {
		t.Fatalf("%.300v", err)
	}
	r := Decode(objects)
	if len(r.Problems) != 0 || len(r.Store.Policies) != 1 {
		t.Fatalf("%.300v", r.Problems)
	}
	if l := r.Store.Policies[0].FilterLists; len(l) != 2 || len(l[0].Filters)+len(l[1].Filters) != len(filters) {
		t.Errorf("%d lists", len(l))
	}
}
