package main

import (
	"ipsecagent/agent/control"
	"ipsecagent/agent/doctor"
	"ipsecagent/driver/xfrm"
)

// marks finds other programs that use the agent's bits of the packet mark.
func (p *patient) marks(rules *doctor.Ruleset) []control.Check {
	d := &p.settings.DataPath
	routing, err := doctor.ReadRoutingRules(d.SteerMark, d.RouteTable)
	if err != nil {
		return []control.Check{doctor.Unknown("packet marks", err)}
	}
	m := doctor.Marks{Exempt: d.ExemptMark, Steer: d.SteerMark, Below: xfrm.MarkLimit,
		Anew: "then stop the agent, ipsecagent datapath --stop, start it (traffic is not protected meanwhile)"}
	if p.driver == driverKernel {
		m.Steer, m.Anew = 0, "then start the agent anew"
	}
	return doctor.CheckMarks(m, rules, routing)
}
