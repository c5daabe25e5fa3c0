package gpipsec

import (
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
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
