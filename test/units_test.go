package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// atNetwork runs when the network would be configured, atEnd when all is up.
const (
	atNetwork = `echo "## at network time"
nft list tables
ipsecagent boot --show
`
	atEnd = `echo "## all is up"
systemctl show -p Id,ActiveState,Result ipsecagent-boot ipsecagent-datapath ipsecagent
ipsecctl status
echo "larval drop $(cat /proc/sys/net/core/xfrm_larval_drop)"
systemctl stop ipsecagent
echo "## the agent is stopped"
nft list tables
systemctl start ipsecagent
echo "## the agent is started anew"
ipsecctl status
ipsecagent boot --show
`
)

// unitsCase is a start of a host.
type unitsCase struct {
	name, settings string
	has, hasNot    []string // in what its units print
}

// atOnce is in the log of a start at which the policy is in force before the
// network, and stays there with the agent stopped.
func atOnce() []string {
	return []string{
		"at network time\ntable inet ipsecagent\nIn force now: no boot filters.",
		"Id=ipsecagent-boot.service\nActiveState=active", "Id=ipsecagent.service\nActiveState=active",
		"State      fine", "the agent is stopped\ntable inet ipsecagent\n",
	}
}

// TestUnits starts the units of packaging/ under systemd, on a host that had a
// policy before it was switched off: the policy is in force before the network;
// with settings that do not load the boot filters hold.
func TestUnits(t *testing.T) {
	startUnits(t, unitsCase{"userspace", "driver: user\n",
		append(atOnce(), "Id=ipsecagent-datapath.service\nActiveState=active", "Data path  userspace"), []string{"ActiveState=failed"}})
	startUnits(t, unitsCase{"settings that do not load", "driver: moon\n", []string{
		"at network time\ntable inet ipsecagent-boot\n", "In force now: boot filters of mode block",
		`driver "moon": auto, kernel or user`, "the boot filters (block) hold",
		"Result=exit-code\nId=ipsecagent-datapath.service\nActiveState=failed",
	}, []string{"State      fine", "table inet ipsecagent\n"}})
}

func startUnits(t *testing.T, c unitsCase) {
	t.Run(c.name, func(t *testing.T) {
		h, _ := newPair(t, "units")
		h.startAgent(nil)
		h.assign("secure-server", aKey("units"))
		h.switchOff()
		log := underSystemd(t, h, c.settings)
		for _, want := range c.has {
			if !strings.Contains(log, want) {
				t.Errorf("not there: %q", want)
			}
		}
		for _, bad := range c.hasNot {
			if strings.Contains(log, bad) {
				t.Errorf("there: %q", bad)
			}
		}
		if t.Failed() {
			t.Log(tail(log, 12000))
		}
	})
}

// underSystemd starts a host in h's network namespace with what h has assigned,
// and returns what its units printed.
func underSystemd(t *testing.T, h *host, settings string) string {
	t.Helper()
	work := t.TempDir()
	for dir, files := range map[string]string{"sbin": programs + "/.", "units": "../packaging/.", "lib": h.dir + "/state/.", "etc/secrets.d": h.dir + "/secrets.d/."} {
		must(t, "mkdir", "-p", filepath.Join(work, dir))
		must(t, "cp", "-rp", files, filepath.Join(work, dir))
	}
	must(t, "chmod", "700", filepath.Join(work, "etc/secrets.d"), filepath.Join(work, "lib"))
	for name, text := range map[string]string{"etc/agent.yaml": settings + "dataPath: {external: true}\n", "network": atNetwork, "report": atEnd} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	systemd := startProcess(t, "systemd", exec.Command("ip", "netns", "exec", h.ns, "./units-under-systemd", work))
	select {
	case <-systemd.done:
	case <-time.After(10 * time.Minute):
		t.Errorf("systemd does not end: %s", systemd.output())
	}
	log, err := os.ReadFile(filepath.Join(work, "log"))
	if err != nil {
		t.Fatal(err, systemd.output())
	}
	return fmt.Sprintf("%s\n%s", log, systemd.output())
}
