// Package doctor finds what stands in the way of IPsec on a machine: other key
// exchanges, firewall rules, settings of the kernel and of interfaces, the clock,
// units of systemd, missing privileges. Each check is a function of facts; the
// functions that read facts stand beside them and read the network namespace of
// the calling process.
//
// It changes nothing, asks nobody on the network, and knows neither the agent's
// settings nor its driver: what they say is handed in.
package doctor

import (
	"fmt"
	"strings"

	"ipsecagent/agent/control"
)

// Fine is a check that found nothing wrong.
func Fine(name, format string, args ...any) control.Check {
	return check(name, control.CheckFine, "", fmt.Sprintf(format, args...))
}

// Warning is a check that found what may not be wanted, and what to do.
func Warning(name, do, format string, args ...any) control.Check {
	return check(name, control.CheckWarning, do, fmt.Sprintf(format, args...))
}

// Problem is a check that found what does not work, and what to do.
func Problem(name, do, format string, args ...any) control.Check {
	return check(name, control.CheckProblem, do, fmt.Sprintf(format, args...))
}

// Unknown is a check that could not be made.
func Unknown(name string, err error) control.Check {
	return Warning(name, "look at it by hand, or run the command as root", "not looked at: %v", err)
}

// check makes a check of one line.
func check(name, state, do, says string) control.Check {
	says = strings.ReplaceAll(strings.TrimSpace(says), "\n", "; ")
	return control.Check{Name: name, State: state, Do: do, Says: strings.Join(strings.Fields(says), " ")}
}
