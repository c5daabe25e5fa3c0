package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/agent/doctor"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/xfrm"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

func (p *program) doctorCommand(config *string) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host and print what was found as JSON; ipsecctl doctor shows it",
		Long: `doctor looks at what the agent needs on this host, with the agent's settings, and
prints what it found as JSON, with exit code 0 whatever it found. 'ipsecctl doctor'
starts it and shows that. It changes nothing that lasts but for modules that the
kernel loads: each algorithm is tried with an association that is deleted at once.
It needs no agent that runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := givenSettings(cmd.Flags(), *config)
			return json.NewEncoder(p.out).Encode(control.Doctor{SchemaVersion: control.SchemaVersion, Checks: examine(cmd.Context(), s, *config, err)})
		},
	}
}

// patient is what the doctor knows of the agent before it looks at the rest.
type patient struct {
	settings *settings
	file     string          // of the settings
	start    bootStart       // what the next start of the host puts in force
	status   *control.Status // nil: the agent does not run, or does not answer
	driver   string          // that is or would be used; "": none can be
	refused  bool            // the driver of the settings cannot be used, which is said once
	ours     []int           // processes of the agent and of its data path
	dataPath int             // process of the userspace data path; 0: none runs
}

// examine looks at everything. Settings that are not valid are a problem, and
// the rest is looked at with defaults in the place of what does not load.
func examine(ctx context.Context, s settings, file string, invalid error) []control.Check {
	found := []control.Check{doctor.Fine("settings", "valid")}
	start := startOf(s, file, invalid)
	if invalid != nil {
		found = settingsChecks(invalid)
		s = s.orDefaults()
	}
	p := &patient{settings: &s, file: file, start: start}
	return once(slices.Concat(
		found, openSettings(file),
		p.agent(ctx), p.chosen(ctx), p.kernel(), p.others(), independent(s.DataPath.TUN), p.network(), p.boot(), p.identities(ctx), p.units(ctx), p.directory(ctx)))
}

// settingsChecks makes a problem of each thing that is wrong with settings.
func settingsChecks(invalid error) (found []control.Check) {
	for _, err := range each(invalid) {
		words := err.Error()
		if at := new(file.Error); errors.As(err, &at) { // the checks have one line each
			words = fmt.Sprintf("%s:%d:%d: %s", at.File, at.Line, at.Column, at.Message)
		}
		found = append(found, doctor.Problem("settings", "correct it: the agent does not start with it; below, defaults stand in the place of what does not load", "%s", words))
	}
	return found
}

// independent makes the checks that need no settings but the name of the data
// path's own TUN device.
func independent(tun string) []control.Check {
	links, err := net.Interfaces()
	if err != nil {
		return []control.Check{doctor.Unknown("MTU", err)}
	}
	links = slices.DeleteFunc(links, func(l net.Interface) bool { return l.Name == tun })
	found := doctor.MTUs(links)
	status, err := doctor.ReadClock()
	if err != nil {
		return append(found, doctor.Unknown("clock", err))
	}
	return append(found, doctor.Clock(status))
}

const (
	agentName  = "agent"
	policyName = "policy"
)

// agent asks the agent, if it runs.
func (p *patient) agent(ctx context.Context) []control.Check {
	if pid, err := control.Listener(ctx, p.settings.dataPathSocket()); err == nil {
		p.dataPath = pid
		p.ours = append(p.ours, pid)
	}
	pid, err := control.Listener(ctx, p.settings.Socket)
	if err != nil {
		return append([]control.Check{doctor.Problem(agentName, startWords(), "it does not run: nobody answers on %s", p.settings.Socket)}, p.assigned(ctx)...)
	}
	p.ours = append(p.ours, pid)
	status, err := control.NewClient(p.settings.Socket, 10*time.Second).Status(ctx)
	if err != nil {
		return []control.Check{doctor.Problem(agentName, "look at its log, and start it anew", "process %d has its socket and does not answer: %v", pid, err)}
	}
	p.status = &status
	found := []control.Check{doctor.Fine(agentName, "runs, process %d, version %s", pid, status.Agent.Version)}
	return slices.Concat(found, newerSettings(p.file, status.Agent.Started), sameNamespace(pid), sameProgram(pid), capabilities(pid), policyChecks(status))
}

// startWords says how the agent is started on this host.
func startWords() string {
	if !doctor.UnderSystemd() {
		return "start it (ipsecagent): what keeps it from running, it says itself"
	}
	return "systemctl start ipsecagent; if it ends again, journalctl -u ipsecagent says why"
}

// assigned says what an agent would put in force, and whether it is. What cannot be read is said
// with the identities that it needs.
func (p *patient) assigned(ctx context.Context) []control.Check {
	inUse, err := policyInUse(ctx, p.settings)
	if err != nil || inUse == nil {
		return nil
	}
	f, err := p.lookInForce()
	if err != nil {
		return []control.Check{doctor.Unknown("policy", fmt.Errorf("%s is assigned; whether it is in force: %w", inUse.Name, err))}
	}
	return []control.Check{f.check(inUse.Name)}
}

// sameNamespace finds that the command looks at another network than the agent.
func sameNamespace(pid int) []control.Check {
	own, errOwn := os.Readlink("/proc/self/ns/net")
	its, errIts := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Join(errOwn, errIts) != nil || own == its {
		return nil
	}
	return []control.Check{doctor.Problem(agentName, fmt.Sprintf("run the command there: nsenter -t %d -n ipsecctl doctor", pid), "it runs in another network namespace (%s): what is said of kernel, firewall and interfaces here is not about it", its)}
}

// sameProgram finds that the agent's program was replaced since it started.
func sameProgram(pid int) []control.Check {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || !strings.HasSuffix(exe, " (deleted)") {
		return nil
	}
	return []control.Check{doctor.Warning(agentName, "start it anew (what is in force stays in force)", "its program was replaced since it started: an older version runs")}
}

func capabilities(pid int) []control.Check {
	missing, err := missingCapabilities(pid)
	switch {
	case err != nil:
		return []control.Check{doctor.Unknown("capabilities", err)}
	case len(missing) > 0:
		return []control.Check{doctor.Problem("capabilities", "give them back in its unit (CapabilityBoundingSet)", "the agent has not %s", strings.Join(missing, ", "))}
	}
	return []control.Check{doctor.Fine("capabilities", "the agent has those it needs")}
}

// policyChecks says what the agent says of the policy and of itself.
func policyChecks(s control.Status) []control.Check {
	var found []control.Check
	switch s.Policy.State {
	case "none":
		found = append(found, doctor.Warning(policyName, "ipsecctl assign client|server|secure-server|NAME", "none is assigned: all traffic passes in clear"))
	case "assigned":
		found = append(found, doctor.Fine(policyName, "%s (%s) is in force, %s", s.Policy.Name, s.Policy.Origin, plural(s.Policy.Filters, "filter", "filters")))
	}
	for _, words := range s.Problems {
		found = append(found, doctor.Problem(policyName, "mend what it names; the agent's log has when it began", "%s", words))
	}
	for _, words := range s.Warnings {
		found = append(found, doctor.Warning(policyName, "ipsecctl policy lint says more", "%s", words))
	}
	return found
}

// chosen says which driver is used, or would be, and why.
func (p *patient) chosen(ctx context.Context) []control.Check {
	if p.status != nil && p.status.DataPath.Driver != "" {
		p.driver = map[string]string{"xfrm": driverKernel, "user": driverUser}[p.status.DataPath.Driver]
		_, refused := choose(p.settings.Driver, xfrm.Preflight, p.settings.leftInKernel)
		return append([]control.Check{doctor.Fine("driver", "%s, because %s", p.driver, p.status.DataPath.Why)}, nextDriver(p.settings.Driver, p.driver, refused)...)
	}
	c, err := chooseDriver(ctx, p.settings)
	if err != nil {
		p.driver, p.refused = p.settings.Driver, true
		return []control.Check{refusedCheck(err)}
	}
	p.driver = c.driver
	return []control.Check{doctor.Fine("driver", "%s would be used, because %s", c.driver, c.why)}
}

// refusedCheck says why no driver can be used, and what to do in one place.
func refusedCheck(err error) control.Check {
	do := "mend that, or set driver: auto"
	var r refusal
	if errors.As(err, &r) {
		do = r.do
	}
	return doctor.Problem("driver", do, "the agent would not start: %v", why(err))
}

// why is an error without what to do about it.
func why(err error) error {
	var r refusal
	if errors.As(err, &r) {
		return r.error
	}
	return err
}

// kernel says what the kernel of this host can do. What the driver does not need
// may be missing.
func (p *patient) kernel() []control.Check {
	suites, err := xfrm.Preflight()
	found := xfrmChecks(suites, err, p.driver == driverKernel)
	if p.refused {
		found = slices.DeleteFunc(found, func(c control.Check) bool { return c.State == control.CheckProblem })
	}
	needs := []struct {
		name string
		err  error
	}{{"nftables", needNFT()}}
	if p.driver == driverUser {
		needs = append(needs, struct {
			name string
			err  error
		}{"TUN", needTUN()})
	}
	if p.driver == driverKernel {
		found = append(found, kernelRelease())
	}
	for _, n := range needs {
		if n.err != nil {
			found = append(found, doctor.Problem(n.name, "mend that, and start the agent anew", "%v", n.err))
			continue
		}
		found = append(found, doctor.Fine(n.name, "there"))
	}
	return found
}

// kernelRelease looks at the version of the kernel, which decrypts.
func kernelRelease() control.Check {
	release, version, err := doctor.ReadRelease()
	if err != nil {
		return doctor.Unknown("kernel", err)
	}
	return doctor.Release(release, version)
}

// xfrmChecks says what the kernel's IPsec carries; needed: it is the driver.
func xfrmChecks(suites []sadb.Suite, err error, needed bool) []control.Check {
	if err != nil {
		if needed {
			return []control.Check{doctor.Problem("XFRM", "start a kernel that has it, or set driver: user", "%v", err)}
		}
		return []control.Check{doctor.Fine("XFRM", "not to be had, and not needed by this driver: %v", err)}
	}
	found := []control.Check{doctor.Fine("XFRM", "there")}
	for _, proto := range []sadb.Proto{sadb.ESP, sadb.AH} {
		with, without := split(suites, proto)
		switch {
		case len(with) == 0 && needed && proto == sadb.ESP:
			found = append(found, doctor.Problem(proto.String(), loadWords(modulesDir()), "the kernel carries none of its suites"))
		case len(with) == 0:
			found = append(found, doctor.Fine(proto.String(), "the kernel has it not, and the driver can do without"))
		case len(without) == 0:
			found = append(found, doctor.Fine(proto.String(), "the kernel carries %s", strings.Join(with, ", ")))
		default:
			found = append(found, doctor.Fine(proto.String(), "the kernel carries %s; not %s", strings.Join(with, ", "), strings.Join(without, ", ")))
		}
	}
	return found
}

// split names the suites of a protocol: those in the list, and the others.
func split(suites []sadb.Suite, proto sadb.Proto) (with, without []string) {
	for _, s := range sadb.Suites() {
		switch {
		case s.Proto != proto:
		case slices.Contains(suites, s):
			with = append(with, s.String())
		default:
			without = append(without, s.String())
		}
	}
	return with, without
}

// others looks for other programs that do IPsec here.
func (p *patient) others() []control.Check {
	var found []control.Check
	processes, err := doctor.ReadProcesses()
	if err != nil {
		found = append(found, doctor.Unknown("other IKE daemons", err))
	} else {
		found = append(found, doctor.Daemons(processes, p.ours)...)
	}
	foreign, err := xfrm.LookAtForeign(p.settings.xfrmConfig(nil))
	if err != nil {
		return found // there is no XFRM, which was said
	}
	return append(found, foreignChecks(foreign, p.driver)...)
}

// maxNamed bounds how many of a kind are named.
const maxNamed = 4

const foreignName = "foreign XFRM"

// foreignChecks finds policies and states of others that touch what the driver
// does.
func foreignChecks(f xfrm.Foreign, driver string) []control.Check {
	var found []control.Check
	if n := len(f.States); n > 0 {
		do, state := "stop the program that made them, if they are not meant to be", control.CheckWarning
		if driver == driverUser {
			do, state = "stop the program that made them; or: ip xfrm state flush", control.CheckProblem
		}
		found = append(found, control.Check{Name: foreignName, State: state, Do: do, Says: fmt.Sprintf("another program has %s in the kernel: %s", plural(n, "association", "associations"), firstOf(f.States))})
	}
	var before, after []string
	for _, p := range f.Policies {
		if p.Before {
			before = append(before, p.Words)
			continue
		}
		after = append(after, p.Words)
	}
	do := "ip xfrm policy shows them; stop the program that made them, or delete them: ip xfrm policy delete"
	if len(before) > 0 {
		found = append(found, doctor.Warning(foreignName, do, "another program has %s before the agent's, which decide first: %s", plural(len(before), "policy", "policies"), firstOf(before)))
	}
	if len(after) > 0 {
		found = append(found, doctor.Warning(foreignName, do, "another program has %s after the agent's: %s", plural(len(after), "policy", "policies"), firstOf(after)))
	}
	for _, words := range f.Marked {
		found = append(found, doctor.Warning(foreignName, "have that program use another mark, or set dataPath.exemptMark to a bit that nobody uses", "the agent's exempt mark is another program's, too: %s", words))
	}
	if driver == driverUser && f.OurPolicies+f.OurStates > 0 {
		found = append(found, doctor.Problem(foreignName, "stop the agent; ipsecagent datapath --stop; start it", "the kernel driver has left %s and %s in force beside the userspace data path",
			plural(f.OurPolicies, "policy", "policies"), plural(f.OurStates, "association", "associations")))
	}
	if len(found) == 0 {
		return []control.Check{doctor.Fine(foreignName, "no other program has policies or associations in the kernel")}
	}
	return found
}

// firstOf names the first of a list.
func firstOf(list []string) string {
	if more := len(list) - maxNamed; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(list[:maxNamed], "; "), more)
	}
	return strings.Join(list, "; ")
}

// network looks at the firewall and at settings of interfaces.
func (p *patient) network() []control.Check {
	found := doctor.LegacyTables(os.ReadFile)
	if rules, err := doctor.ReadRuleset(p.settings.DataPath.Table, nft.BootTable(p.settings.DataPath.Table)); err != nil {
		found = append(found, doctor.Unknown("firewall", err))
	} else {
		found = append(found, doctor.Firewall(rules)...)
		found = append(found, p.marks(rules)...)
	}
	links, err := net.Interfaces()
	if err != nil {
		return append(found, doctor.Unknown("sysctls", err))
	}
	var names []string
	for _, l := range links {
		if l.Name != p.settings.DataPath.TUN {
			names = append(names, l.Name)
		}
	}
	if p.driver == driverKernel && p.status != nil {
		found = append(found, doctor.Larval(doctor.ReadSysctl)...)
	}
	return slices.Concat(found, doctor.Tunables(doctor.ReadSysctl, names, p.driver == driverKernel), doctor.ReversePath(doctor.ReadSysctl, names))
}

// boot looks at the boot filters: in force without a policy they are what the
// administrator wanted, and may be why nothing passes.
func (p *patient) boot() []control.Check {
	const name = "boot filters"
	next := fmt.Sprintf("at the next start: %s (%s)", p.start.mode, p.start.why)
	now, err := nft.Boot(p.settings.DataPath.Table)
	switch {
	case err != nil:
		return []control.Check{doctor.Unknown(name, err)}
	case now.Mode == "":
		return []control.Check{doctor.Fine(name, "none is in force; %s", next)}
	}
	return []control.Check{doctor.Warning(name, "start the agent and assign a policy; to end them without: ipsecagent boot --clear", "in force, because no policy has been put in force yet: %s; %s", bootWords(now), next)}
}

func (p *patient) units(ctx context.Context) []control.Check {
	units, err := doctor.ReadUnits(ctx)
	switch {
	case err != nil:
		return []control.Check{doctor.Unknown("systemd", err)}
	case units == nil:
		return []control.Check{doctor.Fine("systemd", "is not the service manager of this host")}
	}
	return doctor.Units(units, p.driver == driverKernel, p.status != nil)
}
