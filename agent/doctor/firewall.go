package doctor

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
)

const firewallName = "firewall"

// The places of our table's chains: classification of what leaves, in the hook
// output, and the last chain, in postrouting.
const (
	classifyPriority = -90
	lastPriority     = 300
)

// Firewall finds rules of others that drop what IPsec needs, or that change
// packets behind the table of ours.
func Firewall(r *Ruleset) []control.Check {
	found := slices.Concat(r.dropped(), r.behind())
	if len(found) > 0 {
		return found
	}
	if len(r.Chains) == 0 {
		return []control.Check{Fine(firewallName, "there are no nftables rules but those of the agent")}
	}
	return []control.Check{Fine(firewallName, "the nftables rules of others let IKE (UDP 500 and 4500), ESP and AH pass (%d chains)", len(r.Chains))}
}

// kinds are the packets that IPsec needs, in both directions and families.
func kinds() []packet {
	var all []packet
	for _, p := range []packet{{proto: unix.IPPROTO_UDP, port: 500}, {proto: unix.IPPROTO_UDP, port: 4500}, {proto: unix.IPPROTO_ESP}, {proto: unix.IPPROTO_AH}} {
		for _, out := range []bool{false, true} {
			for _, v6 := range []bool{false, true} {
				p.out, p.v6 = out, v6
				all = append(all, p)
			}
		}
	}
	return all
}

// drop is what a place of the rules drops.
type drop struct {
	where string
	state string
	how   string
	what  []string
}

// dropped finds what the rules drop, one check for each place.
func (r *Ruleset) dropped() []control.Check {
	var drops []*drop
	for _, p := range kinds() {
		for _, ch := range r.Chains {
			if passes(ch, p) {
				drops = r.noteFate(drops, r.fateIn(ch, p), p)
			}
		}
	}
	var found []control.Check
	for _, d := range drops {
		do := fmt.Sprintf("let it pass: accept 'udp dport { 500, 4500 }' and 'meta l4proto { esp, ah }' before it; %s shows it", listing(d.where))
		found = append(found, control.Check{Name: firewallName, State: d.state, Says: fmt.Sprintf("%s drops%s %s", d.where, d.how, strings.Join(d.what, ", ")), Do: do})
	}
	return found
}

func (r *Ruleset) noteFate(drops []*drop, f fate, p packet) []*drop {
	switch {
	case f.drops && !f.unless:
		return noteDrop(drops, drop{where: f.where, state: control.CheckProblem}, p)
	case f.drops:
		return noteDrop(drops, drop{where: f.where, state: control.CheckWarning, how: ", unless a rule before it lets it pass by address, interface or mark,"}, p)
	}
	for _, where := range f.perhaps {
		drops = noteDrop(drops, drop{where: where, state: control.CheckWarning, how: " some of"}, p)
	}
	return drops
}

// noteDrop adds a packet to what a place drops.
func noteDrop(drops []*drop, d drop, p packet) []*drop {
	way := "in"
	if p.out {
		way = "out"
	}
	what := fmt.Sprintf("%s %s", p, way)
	for _, known := range drops {
		if known.where == d.where && known.state == d.state && known.how == d.how {
			if !slices.Contains(known.what, what) {
				known.what = append(known.what, what)
			}
			return drops
		}
	}
	d.what = []string{what}
	return append(drops, &d)
}

// behind finds what changes packets after the table of ours has decided.
func (r *Ruleset) behind() []control.Check {
	var found []control.Check
	for _, ch := range r.Chains {
		if ch.Hooknum == nil || ch.Priority == nil || ch.Type != nftables.ChainTypeNAT || len(r.Rules[ChainName(ch.Table, ch.Name)]) == 0 {
			continue
		}
		late := *ch.Hooknum == *nftables.ChainHookOutput && *ch.Priority >= classifyPriority || *ch.Hooknum == *nftables.ChainHookPostrouting && *ch.Priority >= lastPriority
		if late {
			found = append(found, Warning(firewallName, "give the chain a smaller priority", "chain %s translates addresses at priority %d, after the agent's table has decided by the old ones",
				ChainName(ch.Table, ch.Name), *ch.Priority))
		}
	}
	for _, name := range r.Flowtables {
		found = append(found, Warning(firewallName, "take out of it what tunnels carry", "table %s has a flow table: forwarded packets of its flows meet no other rule and no IPsec policy", name))
	}
	return found
}

// LegacyTables finds tables of the old iptables, which nftables does not show.
// read reads the lists of tables.
func LegacyTables(read func(path string) ([]byte, error)) []control.Check {
	var names []string
	for _, f := range []struct{ path, what string }{{"/proc/thread-self/net/ip_tables_names", "iptables"}, {"/proc/thread-self/net/ip6_tables_names", "ip6tables"}} {
		text, err := read(f.path)
		if err != nil && !os.IsNotExist(err) {
			return []control.Check{Unknown(firewallName, err)}
		}
		tables := strings.Fields(string(text))
		if slices.Contains(tables, "filter") || slices.Contains(tables, "mangle") {
			names = append(names, f.what)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []control.Check{Warning(firewallName, "look at the rules: "+strings.Join(names, "-legacy -S; ")+"-legacy -S", "rules of the old %s are loaded, which are not looked at here", strings.Join(names, " and "))}
}
