package main

import (
	"errors"
	"fmt"
	"strings"

	"ipsecagent/agent/control"
	"ipsecagent/agent/doctor"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/xfrm"
)

// inForce is what the kernel enforces while no agent runs.
type inForce struct {
	table    bool          // the nftables table decides about packets
	policies int           // of the kernel driver in XFRM
	dataPath int           // process of the userspace data path; 0: none runs
	boot     nft.BootState // boot filters
}

// lookInForce reads what is in force in this network namespace.
func (p *patient) lookInForce() (f inForce, err error) {
	f.dataPath = p.dataPath
	table := p.settings.DataPath.Table
	var errTable, errBoot error
	f.table, errTable = nft.Enforces(table)
	f.boot, errBoot = nft.Boot(table)
	if ours, err := xfrm.LookAtForeign(p.settings.xfrmConfig(nil)); err == nil { // an error: there is no XFRM
		f.policies = ours.OurPolicies
	}
	return f, errors.Join(errTable, errBoot)
}

// check says what becomes of the traffic of an assigned policy without an agent.
func (f inForce) check(policy string) control.Check {
	const name = "policy"
	switch {
	case !f.table && f.policies == 0 && f.boot.Mode != "":
		return doctor.Warning(name, "start the agent", "%s is assigned and not in force: the boot filters hold (below)", policy)
	case !f.table && f.policies == 0:
		return doctor.Problem(name, "start the agent", "%s is assigned and NOTHING enforces it: traffic passes in clear", policy)
	case f.policies == 0 && f.dataPath == 0:
		return doctor.Problem(name, "start the agent", "%s is in force and no data path runs: what it wants secured is dropped", policy)
	}
	return doctor.Warning(name, "start the agent", "%s is assigned; without the agent nothing new is negotiated, and what it has put in force stays as it is: %s", policy, f.words())
}

// words names what is in force.
func (f inForce) words() string {
	var parts []string
	if f.table {
		parts = append(parts, "the nftables table")
	}
	if f.policies > 0 {
		parts = append(parts, plural(f.policies, "policy", "policies")+" in XFRM")
	}
	if f.dataPath > 0 {
		parts = append(parts, fmt.Sprintf("the userspace data path (process %d)", f.dataPath))
	}
	return strings.Join(parts, ", ")
}
