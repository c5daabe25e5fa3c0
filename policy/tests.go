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
		filter, ok := decide(spd, flow, dir)
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

// decide returns the filter that decides over a packet. One that this host
// forwards goes out by the filters that have its source on their own side, and
// comes in by those that have its destination there: the side of a tunnel.
func decide(spd []sadb.Filter, flow sadb.Flow, dir sadb.Directions) (sadb.Filter, bool) {
	f, ok := sadb.Decide(spd, flow, dir)
	if ok || flow.LocalMe || dir != sadb.Out {
		return f, ok
	}
	flow.Local, flow.Remote = flow.Remote, flow.Local
	flow.LocalPort, flow.RemotePort = flow.RemotePort, flow.LocalPort
	return sadb.Decide(spd, flow, sadb.In)
}
