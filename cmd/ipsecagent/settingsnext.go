package main

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
	"ipsecagent/agent/doctor"
)

// settingsProblem is the kind of the problem that the settings do not load any
// more.
const settingsProblem = "settings"

// settingsStay is how that problem begins.
const settingsStay = "the settings do not load: the agent goes on with those it was started with, and its next start fails: "

// settingsNext is how an agent that runs sees what its next start will read.
type settingsNext struct {
	started settings // with which it was started
	again   func() (settings, error)
}

// words says how the settings differ from those in use; "": they do not. broken:
// they do not load.
func (n settingsNext) words() (words string, broken bool) {
	now, err := n.again()
	switch {
	case err != nil:
		return settingsStay + lines(err), true
	case !reflect.DeepEqual(now, n.started):
		return "the settings have changed since the agent was started, and count from its next start on", false
	}
	return "", false
}

// newerSettings finds settings files that have changed since the agent started.
func newerSettings(file string, started time.Time) []control.Check {
	var newer []string
	for _, path := range settingsFiles(file) {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(started) {
			newer = append(newer, path)
		}
	}
	if len(newer) == 0 {
		return nil
	}
	return []control.Check{doctor.Warning("settings", "start the agent anew, if they are to count (what is in force stays in force)", "changed since the agent was started, and not read since: %s", strings.Join(newer, ", "))}
}

// openSettings finds settings files that others than root may change: they name
// what passes at boot, what is exempt and where keys are.
func openSettings(file string) (found []control.Check) {
	for _, path := range settingsFiles(file) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && (st.Uid != 0 || st.Mode&0o022 != 0) {
			found = append(found, doctor.Warning("settings", fmt.Sprintf("chown root: %s; chmod go-w %s", path, path), "others than root may change %s (owner %d, mode %04o)", path, st.Uid, st.Mode&0o7777))
		}
	}
	return found
}

// nextDriver finds that the agent runs with another driver than the settings ask
// for. refused is why the next start could not have that one.
func nextDriver(setting, running string, refused error) []control.Check {
	const name = "driver"
	switch {
	case setting == driverAuto || setting == running:
		return nil
	case refused != nil:
		c := refusedCheck(refused)
		c.Says = fmt.Sprintf("the agent runs with driver %s, and its next start fails: %v", running, why(refused))
		return []control.Check{c}
	}
	return []control.Check{doctor.Warning(name, "stop the agent; ipsecagent datapath --stop; start it (traffic is not protected meanwhile)", "the settings say driver: %s, and the agent runs with driver %s", setting, running)}
}
