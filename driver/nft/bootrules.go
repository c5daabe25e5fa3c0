package nft

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// Base chains of the boot filters, and their counters of the same name. A chain
// without rules bears the name of the mode.
const (
	bootOut     = "out"
	bootIn      = "in"
	bootForward = "forward"
)

// bootHooks returns the base chains of the boot filters. Inbound packets are met
// where their connection is known, before destination NAT.
func bootHooks() map[string]*hook {
	return map[string]*hook{
		bootOut:     {"filter", unix.NF_INET_POST_ROUTING, 300},
		bootIn:      {"filter", unix.NF_INET_PRE_ROUTING, -150},
		bootForward: {"filter", unix.NF_INET_FORWARD, 0},
	}
}

// addBoot adds the boot filters to their empty table.
func (e *engine) addBoot(b *batch, c BootConfig) {
	rules, hooks := c.rules(e.cfg), bootHooks()
	for _, name := range sorted(rules) {
		if hooks[name] != nil {
			e.addCounter(b, name)
		}
		e.addChain(b, name, hooks[name])
	}
	e.addChain(b, string(c.Mode), nil)
	e.putRules(b, rules)
}

// rules returns the chains of the boot filters. What is always exempt is what
// the policy's table exempts.
func (c BootConfig) rules(policy Config) map[string][]rule {
	fixed := policy.fixed()
	rules := map[string][]rule{
		bootOut:     c.outRules(),
		bootIn:      c.inRules(policy),
		bootForward: {join(count(bootForward), drop())},
	}
	for _, name := range []string{chainExempt, chainListener, chainExemptO, chainExemptI} {
		rules[name] = fixed[name]
	}
	return rules
}

func (c BootConfig) outRules() []rule {
	out := []rule{
		join(markHas(c.Exempt), accept()),
		join(loopback(expr.MetaKeyOIFTYPE), accept()),
		join(readable(), jump(chainExempt)),
		join(readable(), jump(chainExemptO)),
	}
	if c.Mode == BootStateful {
		return append(out, join(accept()))
	}
	for _, x := range c.Exemptions {
		if x.Inbound {
			out = append(out, x.answers())
		} else {
			out = append(out, x.packets())
		}
	}
	return append(out, join(count(bootOut), drop()))
}

func (c BootConfig) inRules(policy Config) []rule {
	in := []rule{
		join(loopback(expr.MetaKeyIIFTYPE), accept()),
		join(readable(), jump(chainExempt)),
		join(readable(), jump(chainExemptI)),
		join(protocolIs(unix.IPPROTO_ICMP), connectionIs(expr.CtStateBitRELATED), accept()),
		join(protocolIs(unix.IPPROTO_ICMPV6), connectionIs(expr.CtStateBitRELATED), accept()),
	}
	in = append(in, policy.ipsecRules()...)
	in = append(in, policy.replyRules()...)
	if c.Mode == BootStateful {
		in = append(in, join(answer(), accept()))
	}
	for _, x := range c.Exemptions {
		if x.Inbound {
			in = append(in, x.packets())
		} else {
			in = append(in, x.answers())
		}
	}
	return append(in, join(count(bootIn), drop()))
}

func (x BootExemption) hasPorts() bool { return sadb.HasPorts(x.Protocol) }

// packets accepts what an exemption names.
func (x BootExemption) packets() rule {
	return join(protocolIs(x.Protocol), x.ports(x.Source, x.Destination), accept())
}

// answers accepts what comes back in the connections of an exemption.
func (x BootExemption) answers() rule {
	return join(protocolIs(x.Protocol), x.ports(x.Destination, x.Source), answer(), accept())
}

func (x BootExemption) ports(source, destination uint16) []expr.Any {
	if !x.hasPorts() {
		return nil
	}
	match := readable() // a fragment shows data where the ports would be
	if source != 0 {
		match = join(match, transportIs(0, byte(source>>8), byte(source)))
	}
	if destination != 0 {
		match = join(match, transportIs(2, byte(destination>>8), byte(destination)))
	}
	return match
}

// connectionIs holds for packets whose connection is in one of the states.
func connectionIs(states uint32) []expr.Any {
	return has(&expr.Ct{Key: expr.CtKeySTATE, Register: scratch}, states)
}

// answer holds for packets that go back in a connection, to who began it.
func answer() []expr.Any {
	const reply = 1 // IP_CT_DIR_REPLY
	return join(connectionIs(expr.CtStateBitESTABLISHED),
		[]expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: scratch}, compare(expr.CmpOpEq, reply)})
}
