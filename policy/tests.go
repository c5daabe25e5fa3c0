package policy

import "ipsecagent/sadb"

// RunTests asks c for the decision on every flow of tests and reports all
// that differ from what is expected, with the filter that decided. The error
// joins values of type *Problem.
func RunTests(c *Compiled, tests []Test) error {
	r := &report{}
	spd := c.SPD()
	for i, t := range tests {
		flow, dir, err := ParseFlow(t.Flow)
		if err != nil {
			r.add(at("tests", i, "flow"), "%v", err)
			continue
		}
		filter, ok := sadb.Decide(spd, flow, dir)
		got, why := "none", "no filter matches it"
		if ok {
			got, why = filter.Action.Kind.String(), "decided by "+filter.Name+" ("+filter.Selector.String()+")"
		}
		if got != t.Expect {
			r.add(at("tests", i, "expect"), "flow %q: expected %s, is %s: %s", t.Flow, t.Expect, got, why)
		}
	}
	return r.err()
}
