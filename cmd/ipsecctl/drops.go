package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/driver/xfrm"
)

// drops is what drops shows.
type drops struct {
	SchemaVersion string `json:"schemaVersion"`
	Drops         []drop `json:"drops"`
	// NoRules is why no rules are named; "": they are.
	NoRules string `json:"noRules,omitempty"`
}

type drop struct {
	Counter string `json:"counter"`
	Packets uint64 `json:"packets"`
	Meaning string `json:"meaning"`
	Hint    string `json:"hint,omitempty"`
	// Rules of the policy in force that it may be about, the likeliest first.
	Rules []likelyRule `json:"rules,omitempty"`
}

func dropsCommand(e *env) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "drops",
		Short: "Show what the kernel's IPsec has dropped, and why",
		Long: `drops shows the packets that the kernel's IPsec (XFRM) has dropped in this network
namespace since it was made, with what each counter means, what to look at and, where
that can be known, the rules of the policy in force that it may be about. They count for
every program that uses XFRM; without the agent no rules are named. What the userspace driver
drops, and what the firewall table drops beside the kernel driver, status shows.`,
		Example: "  ipsecctl drops\n  ipsecctl drops --all -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			counters, err := xfrm.Drops()
			if err != nil {
				return err
			}
			v := dropsOf(counters, all)
			if len(v.Drops) > 0 {
				v.nameRules(e.enforced(c.Context()))
			}
			return e.show(v, func(p *printer) { printDrops(p, v) })
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also counters that are zero")
	return e.withFormat(c)
}

func dropsOf(counters []xfrm.Drop, all bool) drops {
	v := drops{SchemaVersion: control.SchemaVersion, Drops: []drop{}}
	for _, d := range counters {
		if all || d.Packets > 0 {
			v.Drops = append(v.Drops, drop{Counter: d.Name, Packets: d.Packets, Meaning: d.Meaning, Hint: d.Hint})
		}
	}
	return v
}

// nameRules names the rules that the counters may be about.
func (v *drops) nameRules(policy enforced, err error) {
	if err != nil {
		v.NoRules = err.Error()
		return
	}
	for i, d := range v.Drops {
		if d.Packets > 0 {
			v.Drops[i].Rules = policy.likely(d.Counter)
		}
	}
}

func printDrops(p *printer, v drops) {
	if len(v.Drops) == 0 {
		p.line("The kernel's IPsec (XFRM) has dropped nothing. What the userspace driver and the agent's table have dropped: ipsecctl status")
		return
	}
	rows := [][]string{{"COUNTER", "PACKETS", "MEANING", "LIKELY RULES", "LOOK AT"}}
	for _, d := range v.Drops {
		meaning := d.Meaning
		if meaning == "" {
			meaning = "not known to this program"
		}
		rows = append(rows, []string{d.Counter, fmt.Sprint(d.Packets), meaning, likelyWords(d.Rules), d.Hint})
	}
	p.table("", rows)
	if v.NoRules != "" {
		p.line("Which rules it may have been is not known: %s", v.NoRules)
	}
}
