package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

// doctorWithin is how long the look at the host may take: KDCs may be silent, and
// a kernel that is asked for an algorithm loads its module.
const doctorWithin = 2 * time.Minute

func doctorCommand(e *env) *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host: what is fine, what is not, and what to do",
		Long: `doctor looks at what stands in the way of securing this host's traffic, and says of
each check whether it is ok, a warning or a problem, and what to do: the agent, its
policy and its privileges; which driver carries the traffic and why; what the kernel
carries; other IKE daemons; policies and associations of others in the kernel;
firewall rules that drop IKE, ESP or AH; settings of the kernel and of interfaces;
MTU; the clock, also against the KDC's; the key table and a login with it;
certificates and revocation lists; units of systemd.

It needs no agent that runs; root has to run it. It changes nothing that lasts but for
modules that the kernel loads: each algorithm is tried with an association that is
deleted at once. With an agent,
its settings are used, else those of the default file or of --config. The exit code
is 9 when there is a problem; warnings do not count.`,
		Example: "  ipsecctl doctor\n  ipsecctl doctor -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := e.doctor(cmd.Context(), config)
			if err != nil {
				return err
			}
			if err := e.show(v, func(p *printer) { printDoctor(p, v) }); err != nil {
				return err
			}
			if v.Count(control.CheckProblem) > 0 {
				return errDegraded
			}
			return nil
		},
	}
	c.Flags().StringVar(&config, "config", "", "settings file of the agent, where it is not the default one and no agent runs")
	return e.withFormat(c)
}

// doctor has the agent's program look at this host.
func (e *env) doctor(ctx context.Context, config string) (control.Doctor, error) {
	if os.Geteuid() != 0 {
		return control.Doctor{}, &control.Error{Code: control.NotPermitted, Message: "not permitted: only root sees what doctor looks at; run the command as root (sudo)"}
	}
	ctx, cancel := context.WithTimeout(ctx, doctorWithin)
	defer cancel()
	program, args := e.agentProgram(ctx)
	if program == "" {
		return control.Doctor{}, &control.Error{Code: control.NotFound, Message: "the program ipsecagent is neither beside this one nor in PATH: install it there"}
	}
	if config != "" {
		args = append(args, "--config", config)
	}
	cmd := exec.CommandContext(ctx, program, append(args, "doctor")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return control.Doctor{}, &control.Error{Code: control.TimedOut, Message: fmt.Sprintf("%s did not finish within %v: modules of the kernel that were loaded make the next time faster", program, doctorWithin)}
	}
	if err != nil {
		return control.Doctor{}, fmt.Errorf("%s did not look at this host: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	var v control.Doctor
	if err := json.Unmarshal(out, &v); err != nil {
		return v, fmt.Errorf("read what %s found: %w", program, err)
	}
	return v, nil
}

// agentProgram returns the program of the agent that runs, with the flags it was
// started with; of none, that which is installed. "": there is none.
func (e *env) agentProgram(ctx context.Context) (path string, args []string) {
	path = installedAgent()
	pid, err := control.Listener(ctx, e.socket)
	if err != nil || !ofRoot(pid) {
		return path, e.socketFlag()
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return path, e.socketFlag()
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && !strings.HasSuffix(exe, " (deleted)") {
		path = exe
	}
	return path, words[1:]
}

// socketFlag hands on the socket that was asked for.
func (e *env) socketFlag() []string {
	if e.socket == control.DefaultSocket {
		return nil
	}
	return []string{"--socket", e.socket}
}

// ofRoot reports whether a process is root's: another's is not started here.
func ofRoot(pid int) bool {
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0
}

// installedAgent finds the agent's program: beside this one, as it is installed,
// or in PATH.
func installedAgent() string {
	if own, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(own), "ipsecagent")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside
		}
	}
	for _, name := range []string{"/usr/sbin/ipsecagent", "ipsecagent"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func printDoctor(p *printer, v control.Doctor) {
	width := 0
	for _, c := range v.Checks {
		width = max(width, len(c.Name))
	}
	for _, c := range v.Checks {
		p.line("%s  %s  %s", pad(c.State, len(control.CheckWarning)), pad(c.Name, width), c.Says)
		if c.Do != "" {
			p.line("%s  %s  do: %s", pad("", len(control.CheckWarning)), pad("", width), c.Do)
		}
	}
	p.gap()
	p.line("%s, %s, %s ok", count(uint64(v.Count(control.CheckProblem)), "problem"), count(uint64(v.Count(control.CheckWarning)), "warning"), grouped(uint64(v.Count(control.CheckFine))))
}
