package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy/directory"
)

// rsopView is the resultant set of policy of a host.
type rsopView struct {
	SchemaVersion string     `json:"schemaVersion"`
	Computer      string     `json:"computer"`
	Account       string     `json:"account,omitempty"`
	Groups        []string   `json:"groups"`
	Server        string     `json:"server"`
	Site          string     `json:"site,omitempty"`
	At            time.Time  `json:"at"`
	Policy        string     `json:"policy,omitempty"` // DN
	Considered    []rsopItem `json:"considered"`
	Error         string     `json:"error,omitempty"`
	// InForce is what this host's agent has in force, and from where; empty: it
	// is another host, or the agent does not answer.
	InForce string `json:"inForce,omitempty"`
}

// rsopItem is a place that can assign a policy.
type rsopItem struct {
	Precedence int    `json:"precedence"`
	Scope      string `json:"scope"`
	At         string `json:"at"`
	GPO        string `json:"gpo,omitempty"`
	Name       string `json:"name,omitempty"`
	Enforced   bool   `json:"enforced"`
	Policy     string `json:"policy,omitempty"`
	PolicyName string `json:"policyName,omitempty"`
	Applies    bool   `json:"applies"`
	Wins       bool   `json:"wins"`
	Why        string `json:"why"`
}

func rsopCommand(e *env) *cobra.Command {
	var o directoryOptions
	var host, site string
	c := &cobra.Command{
		Use:   "rsop [--host HOST]",
		Short: "Show which policy the directory assigns to a host, and why",
		Long: `rsop asks the directory itself, now, which policy is assigned to this host or to
another one: every group policy object that is linked on the way from the site to
the host's organizational unit, in the order in which they decide, with why it
won, lost or does not count. In other directories these are the entries of the
host, its groups and those above it.

Beside it stands what the agent of this host has in force, if it answers. How the
directory is reached, and in whose name, is as of 'ipsecctl directory'.`,
		Example: `  ipsecctl rsop
  ipsecctl rsop --host sql1 --site Branch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.inDirectory(cmd, &o, func(ctx context.Context, s *directory.Session) error {
				of := rsopOf{host: host, site: site, here: host == ""}
				if of.here && o.person {
					of.host, _ = os.Hostname() // "": the directory says that it is missing
				}
				return e.rsop(ctx, s, of)
			})
		},
	}
	o.add(c)
	c.Flags().StringVar(&host, "host", "", "another host, by its name")
	c.Flags().StringVar(&site, "site", "", "as if it were in this site")
	return e.withFormat(c)
}

// rsopOf says of which host: "" is the one that asks.
type rsopOf struct {
	host, site string
	here       bool // it is this host
}

func (e *env) rsop(ctx context.Context, s *directory.Session, of rsopOf) error {
	computer, err := "", error(nil)
	if of.host != "" {
		computer, err = s.ComputerNamed(ctx, of.host)
	}
	if err != nil {
		return err
	}
	r, err := s.Resolve(ctx, computer, of.site)
	if of.host != "" && errors.Is(err, directory.ErrNotFound) && !errors.Is(err, directory.ErrUnreadable) {
		return notFound("there is no computer %q in the directory, or this account may not see it", of.host)
	}
	if err != nil && (!errors.Is(err, directory.ErrUnreadable) || r.Computer.DN == "") {
		return err
	}
	nameAssigned(ctx, s, r)
	v := rsopViewOf(r, err)
	if of.here {
		v.InForce = e.inForceHere(ctx)
	}
	if show := e.show(v, func(p *printer) { printRsop(p, v) }); show != nil {
		return show
	}
	return err
}

// agentTime bounds the question to the agent, which is no more than useful.
const agentTime = 2 * time.Second

// inForceHere asks the agent of this host what it has in force.
func (e *env) inForceHere(ctx context.Context) string {
	s, err := control.NewClient(e.socket, agentTime).Status(ctx)
	switch {
	case err != nil:
		return ""
	case s.Policy.Name == "":
		return "no policy"
	}
	return fmt.Sprintf("%s (%s)", s.Policy.Name, s.Policy.Origin)
}

// nameAssigned reads the names of policies that are assigned by their DN alone.
// One that cannot be read keeps the DN.
func nameAssigned(ctx context.Context, s *directory.Session, r *directory.Result) {
	for i := range r.Considered {
		c := &r.Considered[i]
		if c.PolicyName != "" || c.Policy == "" {
			continue
		}
		e, err := s.Read(ctx, c.Policy, "ipsecName")
		if names := e.Values("ipsecName"); err == nil && len(names) == 1 {
			c.PolicyName = string(names[0])
		}
	}
}

func rsopViewOf(r *directory.Result, err error) rsopView {
	v := rsopView{SchemaVersion: control.SchemaVersion, Computer: r.Computer.DN, Account: r.Computer.Account, Groups: r.Computer.Groups,
		Server: r.Server, Site: r.Site, At: r.At, Considered: []rsopItem{}}
	if v.Groups == nil {
		v.Groups = []string{}
	}
	for i, c := range r.Considered {
		v.Considered = append(v.Considered, rsopItem{i + 1, c.Scope, c.At, c.GPO, c.Name, c.Enforced, c.Policy, c.PolicyName, c.Applies, i == r.Winner, c.Why})
	}
	if w := r.Won(); w != nil {
		v.Policy = w.Policy
	}
	if err != nil {
		v.Error = err.Error()
	}
	return v
}

func printRsop(p *printer, v rsopView) {
	rows := [][2]string{{"Computer:", v.Computer}, {"Asked:", v.Server + ", " + p.at(v.At)}}
	if v.Site != "" {
		rows = append(rows, [2]string{"Site:", v.Site})
	}
	rows = append(rows, [2]string{"Policy:", v.verdict()})
	if v.InForce != "" {
		rows = append(rows, [2]string{"In force:", v.InForce})
	}
	p.facts("", rows)
	p.heading("Considered, in the order in which they decide", len(v.Considered))
	for _, c := range v.Considered {
		printRsopItem(p, c)
	}
}

// verdict says what is assigned.
func (v *rsopView) verdict() string {
	for _, c := range v.Considered {
		if !c.Wins {
			continue
		}
		if c.PolicyName != "" {
			return fmt.Sprintf("%s (%s)", c.PolicyName, c.Policy)
		}
		return c.Policy
	}
	if v.Error != "" {
		return "not known, see below"
	}
	return "none is assigned"
}

func printRsopItem(p *printer, c rsopItem) {
	mark := " "
	if c.Wins {
		mark = "*"
	}
	what := c.At
	if c.GPO != "" {
		enforced := ""
		if c.Enforced {
			enforced = ", enforced"
		}
		name := c.Name
		if name == "" {
			name = c.GPO
		}
		what = fmt.Sprintf("%s, linked to the %s %s%s", name, c.Scope, c.At, enforced)
	} else {
		what = c.Scope + " " + what
	}
	p.line("%s %2d  %s", mark, c.Precedence, what)
	if c.PolicyName != "" {
		p.line("      assigns %s", c.PolicyName)
	} else if c.Policy != "" {
		p.line("      assigns %s", c.Policy)
	}
	if c.Why != "" {
		p.block("      ", strings.TrimSpace(c.Why))
	}
}
