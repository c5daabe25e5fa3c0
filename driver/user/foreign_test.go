package user

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
)

// TestLeaks: other programs remove and change what they like.
func TestLeaks(t *testing.T) {
	h := harness("")
	h.Steering = "ip rule 900 (IPv4)"
	for _, f := range []drivertest.Foreign{
		{Command: "ip rule del pref 900", Tampered: "ip rule 900 (IPv4)"},
		{Command: "ip -6 rule del pref 900", Tampered: "ip rule 900 (IPv6)"},
		{Command: "ip rule del pref 899", Tampered: "ip rule 899 (IPv4)"},
		{Command: "ip route flush table 900", Tampered: "routing table 900 (IPv4)"},
		{Command: "ip -6 route flush table 900", Tampered: "routing table 900 (IPv6)"},
		{Command: "ip link set ipsec0 down", Tampered: "link ipsec0"},
		{Command: "ip link set ipsec0 mtu 1400", Tampered: "link ipsec0"},
		{Command: "ip link del ipsec0", Tampered: "link ipsec0"},
	} {
		f.Within = time.Second
		h.Foreign = append(h.Foreign, f)
	}
	drivertest.Leaks(t, h)
}

// TestKilled: kill -9 of the agent, and of the data path.
func TestKilled(t *testing.T) {
	h := harness("")
	h.Carrier, h.Moments, h.Steps = true, drivertest.Moments(20), 60
	drivertest.Killed(t, h)
}

// agentEnv tells an agent that is to be killed where its data path listens.
const agentEnv = "IPSECAGENT_TEST_AGENT_SOCKET"

// agent returns a command that works on the data path of h.
func (h *host) agent(t *testing.T) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), agentEnv+"="+h.socket)
	return cmd
}

// work does such an agent's job and returns why it could not go on.
func work(text string) error {
	job, err := drivertest.ParseJob(text)
	if err != nil {
		return err
	}
	return job.Do(func() (driver.Driver, error) { return Dial(context.Background(), os.Getenv(agentEnv)) }, os.Stdout)
}
