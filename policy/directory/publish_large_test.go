package directory

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"ipsecagent/policy"
)

// largePolicy has as many rules as nobody has, each with a list of its own.
func largePolicy(rules int) policy.Policy {
	p := webPolicy()
	rule, list := p.Rules[0], p.FilterLists[0]
	p.Rules, p.FilterLists = nil, nil
	for i := range rules {
		rule.Name, list.Name = fmt.Sprintf("rule %d", i), fmt.Sprintf("list %d", i)
		rule.FilterList = list.Name
		list.Filters = []policy.Filter{{From: policy.Endpoint{Kind: policy.Me}, To: addresses(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)), Mirrored: true}}
		p.Rules, p.FilterLists = append(p.Rules, rule), append(p.FilterLists, list)
	}
	return p
}

// processorTime is what this process has used: other programs run too.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// The work of planning grows with the policy, not with its square.
func TestLargePoliciesAreCompared(t *testing.T) {
	took := func(rules int) time.Duration {
		s := newShelf()
		publish(t, s, largePolicy(rules))
		c := s.contents()
		best := time.Hour
		for range 3 {
			begin := processorTime(t)
			if made, err := planPublish(c, largePolicy(rules), PublishOptions{}); err != nil || len(made.Steps) > 0 {
				t.Fatalf("%d steps, %v", len(made.Steps), err)
			}
			best = min(best, processorTime(t)-begin)
		}
		return best
	}
	small, large := took(200), took(1600)
	if large > 40*small {
		t.Errorf("200 rules take %v, 1600 rules %v", small, large)
	}
	t.Logf("200 rules take %v, 1600 rules %v", small, large)
}
