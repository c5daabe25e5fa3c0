package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
)

const marksName = "packet marks"

// Marks are the bits of the packet mark that the agent uses.
type Marks struct {
	Exempt uint32 // of its own packets, which pass whatever policy says
	Steer  uint32 // leads packets to the data path; 0: none is used
	Below  uint32 // bits that it can use are below this one
	// Anew says how the agent is started with others.
	Anew string
}

// RoutingRule is a rule of policy routing that asks for the mark.
type RoutingRule struct {
	Priority int
	Words    string
	test
}

// ReadRoutingRules reads the rules of both families that ask for the mark, but for
// that of the data path, which leads the mark steer to the routing table.
func ReadRoutingRules(steer uint32, table int) ([]RoutingRule, error) {
	var found []RoutingRule
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("doctor: read the rules of routing: %w", err)
		}
		for _, r := range rules {
			c, marked := testOf(r)
			if !marked || r.Table == table && c == (test{steer, steer, false}) {
				continue
			}
			words := fmt.Sprintf("ip rule %d (fwmark %#x/%#x lookup %d)", r.Priority, c.value, c.mask, r.Table)
			if c.invert {
				words = strings.Replace(words, "(", "(not ", 1)
			}
			if !slices.ContainsFunc(found, func(f RoutingRule) bool { return f.Words == words }) {
				found = append(found, RoutingRule{r.Priority, words, c})
			}
		}
	}
	return found, nil
}

// testOf is what a rule asks of the mark; false: nothing.
func testOf(r netlink.Rule) (test, bool) {
	c := test{r.Mark, ^uint32(0), r.Invert}
	if r.Mask != nil {
		c.mask = *r.Mask
	}
	return c, r.Mark != 0 || r.Mask != nil && *r.Mask != 0
}

// marker is a program that is known by its chains, and the bits it takes for its
// own unless told otherwise.
type marker struct {
	name, chain, setting string
	bits                 uint32
}

// kubernetes are the bits of kube-proxy and the kubelet, which may come to a host at
// any time: they are not proposed.
const kubernetes = 0xc000

func markers() []marker {
	return []marker{
		{"Calico", "cali-", "iptablesMarkMask or nftablesMarkMask of its FelixConfiguration", 0xffff0000},
		{"Cilium", "CILIUM_", "none", 0xffff0fff}, // 0x0f00 says what a packet is, the rest is the identity of its sender
		{"kube-proxy", "KUBE-", "iptables.masqueradeBit of its configuration; 0x8000 is the kubelet's", kubernetes},
		{"Tailscale", "ts-", "none", 0xff0000},
	}
}

// owner names the program of a chain, as ", of Calico"; "": not known.
func owner(chain string) string {
	for _, m := range markers() {
		if strings.Contains(chain, m.chain) {
			return ", of " + m.name + ","
		}
	}
	return ""
}

// CheckMarks finds other programs that use the agent's bits of the packet mark.
func CheckMarks(m Marks, r *Ruleset, rules []RoutingRule) []control.Check {
	s := &search{Marks: m, Ruleset: r, taken: m.Exempt | m.Steer | kubernetes}
	s.known()
	for _, rule := range rules {
		s.taken |= rule.bits()
	}
	for _, all := range r.Rules {
		for _, rule := range all {
			s.taken |= markingOf(rule).bits()
		}
	}
	s.routing(rules)
	s.setting()
	s.meeting()
	s.present()
	if len(s.found) == 0 {
		return []control.Check{Fine(marksName, "no rule of another program uses the agent's (%s)", s.words())}
	}
	return s.found
}

// search is for uses of the agent's bits.
type search struct {
	Marks
	*Ruleset
	taken uint32 // bits that somebody uses
	here  []marker
	found []control.Check
}

func (s *search) words() string {
	if s.Steer == 0 {
		return fmt.Sprintf("exempt %#x", s.Exempt)
	}
	return fmt.Sprintf("exempt %#x, steer %#x", s.Exempt, s.Steer)
}

// known finds the programs that are known by their chains.
func (s *search) known() {
	for _, m := range markers() {
		if slices.ContainsFunc(s.Chains, func(ch *nftables.Chain) bool { return strings.Contains(ch.Name, m.chain) }) {
			s.here, s.taken = append(s.here, m), s.taken|m.bits
		}
	}
}

// add notes a finding once for each place, as a problem if it is one for any
// packet.
func (s *search) add(c control.Check) {
	i := slices.IndexFunc(s.found, func(f control.Check) bool { return f.Says == c.Says })
	switch {
	case i < 0:
		s.found = append(s.found, c)
	case c.State == control.CheckProblem:
		s.found[i].State = c.State
	}
}

// other says how another bit is chosen.
func (s *search) other(bit uint32) string {
	name, free := "dataPath.exemptMark", s.free(0)
	if bit != s.Exempt {
		name, free = "dataPath.steerMark", s.free(1)
	}
	if free == 0 {
		return fmt.Sprintf("free a bit in the other program, and set %s to it; %s", name, s.Anew)
	}
	return fmt.Sprintf("set %s: %#x, a bit that no rule here uses; %s", name, free, s.Anew)
}

// free returns a bit that nobody uses, the nth from above; 0: there is none.
func (s *search) free(n int) uint32 {
	for bit := s.Below >> 1; bit != 0; bit >>= 1 {
		if s.taken&bit != 0 {
			continue
		}
		if n == 0 {
			return bit
		}
		n--
	}
	return 0
}

// routing finds rules of routing that take the agent's packets for their own.
func (s *search) routing(rules []RoutingRule) {
	for _, r := range rules {
		if r.minds(s.Exempt) {
			s.add(Problem(marksName, s.other(s.Exempt), "%s is about bit %#x, the agent's exempt mark: IKE, ESP and what else the agent sends is routed by it", r.Words, s.Exempt))
		}
		if s.Steer != 0 && r.minds(s.Steer) {
			s.add(Problem(marksName, s.other(s.Steer), "%s is about bit %#x, the agent's steer mark: packets to be secured may be routed by it, and are dropped then", r.Words, s.Steer))
		}
	}
}

// setting finds rules that set a bit of the agent's.
func (s *search) setting() {
	for _, ch := range s.Chains {
		name := ChainName(ch.Table, ch.Name)
		for _, rule := range s.Rules[name] {
			m := markingOf(rule)
			if m.sets(s.Exempt) {
				s.add(Problem(marksName, s.other(s.Exempt)+"; "+listing("chain "+name)+" shows the rule",
					"a rule of chain %s%s sets bit %#x, the agent's exempt mark: what it marks passes in clear whatever the policy says", name, owner(ch.Name), s.Exempt))
			}
			if s.Steer != 0 && m.sets(s.Steer) {
				s.add(Problem(marksName, s.other(s.Steer)+"; "+listing("chain "+name)+" shows the rule",
					"a rule of chain %s%s sets bit %#x, the agent's steer mark: what it marks is led to the data path, whatever it is", name, owner(ch.Name), s.Steer))
			}
		}
	}
}

// meeting follows what IPsec sends through the rules and finds those that take its
// mark away, or go by it.
func (s *search) meeting() {
	for _, p := range kinds() {
		for _, ch := range s.Chains {
			if !p.out || !meets(ch, p) {
				continue
			}
			w := &walk{Ruleset: s.Ruleset, packet: p, meets: s.met}
			w.through(ch.Table, ch.Name, false, 0)
		}
	}
}

// met looks at a rule that a packet of the agent's meets, or may meet.
func (s *search) met(rule *nftables.Rule, certainly bool) {
	m, name := markingOf(rule), ChainName(rule.Table, rule.Chain.Name)
	if m.clears(s.Exempt) {
		c := Warning(marksName, fmt.Sprintf("have the rule leave the bit alone (a mask without it), or out: udp dport { 500, 4500 }, ESP and AH; %s shows it", listing("chain "+name)),
			"a rule of chain %s%s may take bit %#x, the agent's exempt mark, from what it sends: without it IKE and ESP are subject to the policy, and dropped", name, owner(rule.Chain.Name), s.Exempt)
		if certainly {
			c.State = control.CheckProblem
		}
		s.add(c)
	}
	if m.minds(s.Exempt) {
		s.add(Warning(marksName, s.other(s.Exempt)+"; "+listing("chain "+name)+" shows the rule",
			"a rule of chain %s%s goes by bit %#x, the agent's exempt mark: it takes what the agent sends for something else", name, owner(rule.Chain.Name), s.Exempt))
	}
}

// meets reports whether packets go through a base chain where their mark counts:
// before routing, and before the agent's last chain.
func meets(ch *nftables.Chain, p packet) bool {
	if ch.Hooknum == nil || ch.Priority == nil {
		return false
	}
	as := *ch
	as.Type = nftables.ChainTypeFilter // a route chain sees the same packets, a nat chain the first of each connection
	return passes(&as, p) && *ch.Priority < lastPriority
}

// present says that a program is here that may use a bit at any time.
func (s *search) present() {
	for _, m := range s.here {
		for _, bit := range []uint32{s.Exempt, s.Steer} {
			if m.bits&bit == 0 {
				continue
			}
			do := s.other(bit)
			if m.setting != "none" {
				do += "; or narrow the mask of " + m.name + " (" + m.setting + ")"
			}
			s.add(Warning(marksName, do, "%s is here, which takes the bits %#x of marks for its own: %#x of the agent's is one of them", m.name, m.bits, bit))
		}
	}
}
