package policy

import "ipsecagent/sadb"

// What the model can say and this version does not enforce stands in this file
// alone. It is refused, never ignored: a rule that looks protected and is not
// is worse than none. What a data path or an
// authentication method of this host cannot do, the agent refuses.

const notYet = "is not enforced by this version"

func (p *Policy) notEnforced(r *report) {
	for i := range p.Rules {
		ruleNotEnforced(r, at("rules", i, ""), &p.Rules[i])
	}
}

func ruleNotEnforced(r *report, path string, rule *Rule) {
	if rule.Connections == sadb.LAN || rule.Connections == sadb.RemoteAccess {
		r.add(path+".connections", "rule %q: connection type %v %s; write all", rule.identity(), rule.Connections, notYet)
	}
}
