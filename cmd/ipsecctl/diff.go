package main

import (
	"context"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// diffed is what policy diff says.
type diffed struct {
	SchemaVersion string         `json:"schemaVersion"`
	Before        diffSide       `json:"before"`
	After         diffSide       `json:"after"`
	Objects       []objectChange `json:"objects"`
	Flows         []flowChange   `json:"flows"`
	MoreFlows     int            `json:"moreFlows,omitempty"`
	// Whole: all traffic was compared.
	Whole bool `json:"whole"`
	// Unresolved are the names and sets that stand for nothing here: what is
	// written of them was compared, their traffic was not.
	Unresolved []string `json:"unresolved,omitempty"`
}

type diffSide struct {
	Policy string `json:"policy"`
	Origin string `json:"origin"`
}

type objectChange struct {
	Object string        `json:"object"`
	Change string        `json:"change"` // "added", "removed" or "changed"
	Fields []fieldChange `json:"fields,omitempty"`
}

type fieldChange struct {
	Field  string `json:"field"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

type flowChange struct {
	Traffic     string `json:"traffic"`
	Direction   string `json:"direction"`
	Connections string `json:"connections"`
	Before      string `json:"before"`
	After       string `json:"after"`
	Partly      bool   `json:"partly,omitempty"` // more specific filters decide about the rest
	Example     string `json:"example"`
}

// errDiffers ends policy diff; what differs is already printed.
var errDiffers = &control.Error{Code: control.Differs, Message: "the policies differ"}

func diffCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "diff [BEFORE] AFTER",
		Short: "Compare two policies: rules, lists and actions, and traffic treated differently",
		Long: `diff says what changes from one policy to another: rules, filter lists, filter
actions and settings, field by field; and the traffic that is treated differently.
Each is a file, the name of a policy, or in-force; without BEFORE it is in-force.
Files need no agent. Both are taken as on the same host, with a way to every
tunnel endpoint. The exit code is 7 when they differ.`,
		Example: `  ipsecctl policy diff database-servers.yaml
  ipsecctl policy diff server secure-server`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				args = []string{inForce, args[0]}
			}
			sides, origins, err := e.sides(cmd.Context(), args)
			if err != nil {
				return err
			}
			d := policy.Diff(sides[0], sides[1])
			v := diffedOf(sides, origins, d)
			if err := e.show(v, func(p *printer) { printDiff(p, v) }); err != nil {
				return err
			}
			if !d.Empty() {
				return errDiffers
			}
			return nil
		},
	})
}

// sides finds and compiles the two policies.
func (e *env) sides(ctx context.Context, args []string) (sides [2]policy.Side, origins [2]string, err error) {
	for i, arg := range args {
		f, err := e.findPolicy(ctx, arg)
		if err != nil {
			return sides, origins, err
		}
		c, err := f.compile()
		if err != nil {
			return sides, origins, err
		}
		sides[i], origins[i] = policy.Side{Policy: f.policy, Compiled: c}, f.origin
	}
	return sides, origins, nil
}

func diffedOf(sides [2]policy.Side, origins [2]string, d policy.Difference) diffed {
	v := diffed{SchemaVersion: control.SchemaVersion, Before: diffSide{sides[0].Policy.Name, origins[0]}, After: diffSide{sides[1].Policy.Name, origins[1]},
		Objects: []objectChange{}, Flows: []flowChange{}, MoreFlows: d.MoreFlows, Whole: d.Whole}
	for _, o := range d.Objects {
		c := objectChange{Object: o.Object, Change: string(o.Change)}
		for _, f := range o.Fields {
			c.Fields = append(c.Fields, fieldChange(f))
		}
		v.Objects = append(v.Objects, c)
	}
	for _, f := range d.Flows {
		v.Flows = append(v.Flows, flowChange{Traffic: f.Traffic.String(), Direction: f.Dir.String(), Connections: f.Connections.String(),
			Before: f.Before, After: f.After, Partly: f.Partly, Example: f.Example.String()})
	}
	for _, s := range sides {
		for _, u := range s.Compiled.Unresolved {
			v.Unresolved = append(v.Unresolved, u.String())
		}
	}
	return v
}

func printDiff(p *printer, v diffed) {
	p.line("before: %s (%s)", v.Before.Policy, v.Before.Origin)
	p.line("after:  %s (%s)", v.After.Policy, v.After.Origin)
	p.heading("Rules, lists, actions and settings that differ", len(v.Objects))
	for _, o := range v.Objects {
		p.line("  %s: %s", o.Object, o.Change)
		for _, f := range o.Fields {
			printField(p, f)
		}
	}
	p.heading("Traffic that is treated differently", len(v.Flows)+v.MoreFlows)
	for _, f := range v.Flows {
		partly := ""
		if f.Partly {
			partly = " (in part: more specific filters decide about the rest)"
		}
		connections := ""
		if f.Connections != "all" {
			connections = ", " + f.Connections + " connections"
		}
		p.line("  %s, %s%s%s", f.Traffic, directionWord(f.Direction), connections, partly)
		p.line("      %s -> %s", f.Before, f.After)
		p.line("      for example %s", f.Example)
	}
	if v.MoreFlows > 0 {
		p.line("  and %s", count(uint64(v.MoreFlows), "more change"))
	}
	if !v.Whole {
		p.line("Not all traffic was compared: there are too many filters.")
	}
	if n := len(v.Unresolved); n > 0 {
		p.gap()
		p.line("Names and sets stand for nothing here, so their traffic was not compared: %s", v.Unresolved[0])
		if n > 1 {
			p.line("  and %s", count(uint64(n-1), "more name"))
		}
	}
}

func printField(p *printer, f fieldChange) {
	switch {
	case f.Before == "":
		p.line("      + %s: %s", f.Field, f.After)
	case f.After == "":
		p.line("      - %s: %s", f.Field, f.Before)
	default:
		p.line("      %s: %s -> %s", f.Field, f.Before, f.After)
	}
}
