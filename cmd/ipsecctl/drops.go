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
}

type drop struct {
	Counter string `json:"counter"`
	Packets uint64 `json:"packets"`
	Meaning string `json:"meaning"`
	Hint    string `json:"hint,omitempty"`
}

func dropsCommand(e *env) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "drops",
		Short: "Show what the kernel's IPsec has dropped, and why",
		Long: `drops shows the packets that the kernel's IPsec (XFRM) has dropped in this network
namespace since it was made, with what each counter means and what to look at. They
count for every program that uses XFRM, and need no agent. What the userspace driver
drops, and what the firewall table drops beside the kernel driver, status shows.`,
		Example: "  ipsecctl drops\n  ipsecctl drops --all -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			counters, err := xfrm.Drops()
			if err != nil {
				return err
			}
			v := drops{SchemaVersion: control.SchemaVersion, Drops: []drop{}}
			for _, d := range counters {
				if all || d.Packets > 0 {
					v.Drops = append(v.Drops, drop{d.Name, d.Packets, d.Meaning, d.Hint})
				}
			}
			return e.show(v, func(p *printer) { printDrops(p, v) })
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also counters that are zero")
	return e.withFormat(c)
}

func printDrops(p *printer, v drops) {
	if len(v.Drops) == 0 {
		p.line("The kernel's IPsec (XFRM) has dropped nothing. What the userspace driver and the agent's table have dropped: ipsecctl status")
		return
	}
	rows := [][]string{{"COUNTER", "PACKETS", "MEANING", "LOOK AT"}}
	for _, d := range v.Drops {
		meaning := d.Meaning
		if meaning == "" {
			meaning = "not known to this program"
		}
		rows = append(rows, []string{d.Counter, fmt.Sprint(d.Packets), meaning, d.Hint})
	}
	p.table("", rows)
}
