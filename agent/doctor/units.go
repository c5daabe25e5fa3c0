package doctor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"ipsecagent/agent/control"
)

const unitsName = "systemd"

// Unit is what systemd says of a unit, in the words of its properties.
type Unit struct {
	Name                                  string
	LoadState, ActiveState, UnitFileState string
	NeedsReload                           bool // its file has changed since systemd read it
}

// Names of the units.
const (
	AgentUnit    = "ipsecagent.service"
	DataPathUnit = "ipsecagent-datapath.service"
	BootUnit     = "ipsecagent-boot.service"
)

// Units finds units that are not as they should be. kernel: XFRM carries the
// traffic; running: the agent answers.
func Units(all []Unit, kernel, running bool) []control.Check {
	var found []control.Check
	for _, u := range all {
		switch u.Name {
		case AgentUnit:
			found = append(found, agentUnit(u, running)...)
		case DataPathUnit:
			found = append(found, dataPathUnit(u, kernel)...)
		case BootUnit:
			found = append(found, bootUnit(u)...)
		}
		if u.NeedsReload {
			found = append(found, Warning(unitsName, "systemctl daemon-reload", "the file of %s has changed since systemd read it", u.Name))
		}
	}
	if len(found) == 0 {
		return []control.Check{Fine(unitsName, "the units are as they should be")}
	}
	return found
}

func agentUnit(u Unit, running bool) (found []control.Check) {
	switch {
	case u.LoadState == "not-found":
		return []control.Check{Warning(unitsName, "install packaging/ipsecagent.service", "there is no unit %s: the agent does not start with this host", u.Name)}
	case u.LoadState != "loaded":
		return []control.Check{Problem(unitsName, "systemctl status ipsecagent; systemctl unmask ipsecagent", "%s is %s: the agent does not start with this host", u.Name, u.LoadState)}
	case u.UnitFileState != "enabled":
		found = append(found, Problem(unitsName, "systemctl enable ipsecagent", "%s is %s: after a boot nothing is secured", u.Name, u.UnitFileState))
	}
	switch {
	case u.ActiveState == "failed":
		found = append(found, Problem(unitsName, "journalctl -u ipsecagent; systemctl restart ipsecagent", "%s has failed", u.Name))
	case running && u.ActiveState != "active":
		found = append(found, Warning(unitsName, "stop it, and: systemctl start ipsecagent", "an agent runs, and %s is %s: it was started by hand", u.Name, u.ActiveState))
	}
	return found
}

func dataPathUnit(u Unit, kernel bool) []control.Check {
	switch {
	case kernel && u.ActiveState == "active":
		return []control.Check{Warning(unitsName, "systemctl mask --now ipsecagent-datapath", "%s runs although the kernel is the driver", u.Name)}
	case !kernel && u.ActiveState == "failed":
		return []control.Check{Problem(unitsName, "journalctl -u ipsecagent-datapath; systemctl restart ipsecagent-datapath", "%s has failed: what policy wants secured is dropped", u.Name)}
	}
	return nil
}

func bootUnit(u Unit) []control.Check {
	switch {
	case u.LoadState == "not-found":
		return nil // not shipped with every version
	case u.ActiveState == "failed":
		return []control.Check{Problem(unitsName, "journalctl -u ipsecagent-boot", "%s has failed: from boot until the first policy this host was not protected", u.Name)}
	case u.UnitFileState != "enabled":
		return []control.Check{Warning(unitsName, "systemctl enable ipsecagent-boot", "%s is %s: from boot until the first policy this host is not protected", u.Name, u.UnitFileState)}
	}
	return nil
}

// UnderSystemd reports whether systemd is the service manager of this host.
func UnderSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// ReadUnits asks systemd; nil: it is not the service manager here.
func ReadUnits(ctx context.Context) ([]Unit, error) {
	if !UnderSystemd() {
		return nil, nil
	}
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload", AgentUnit, DataPathUnit, BootUnit).Output()
	if err != nil {
		return nil, fmt.Errorf("doctor: ask systemd: %w", err)
	}
	return parseUnits(out), nil
}

// parseUnits reads what systemctl show prints: a block of lines for each unit.
func parseUnits(text []byte) []Unit {
	var all []Unit
	var u Unit
	end := func() {
		if u.Name != "" {
			all = append(all, u)
		}
		u = Unit{}
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch name {
		case "":
			end()
		case "Id":
			u.Name = value
		case "LoadState":
			u.LoadState = value
		case "ActiveState":
			u.ActiveState = value
		case "UnitFileState":
			u.UnitFileState = value
		case "NeedDaemonReload":
			u.NeedsReload = value == "yes"
		}
	}
	end()
	return slices.Clip(all)
}
