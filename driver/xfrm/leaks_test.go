//go:build esp

package xfrm

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
)

// TestKernelLeaks: other programs remove and change what they like.
func TestKernelLeaks(t *testing.T) {
	h := harness()
	h.Sample = []string{"nft flush ruleset"} // the machine is emulated
	h.Foreign = []drivertest.Foreign{
		{Command: "ip xfrm policy flush", Tampered: policiesName},
		{Command: "ip xfrm policy deleteall dir out", Tampered: policiesName},
		{Command: "ip xfrm policy deleteall dir in", Tampered: policiesName},
		{Command: "ip xfrm state flush", Associations: true},
		{Command: "ip xfrm state deleteall proto esp", Associations: true},
		// A policy above all of ours lets nothing pass that the table drops.
		{Command: "ip xfrm policy add src 0.0.0.0/0 dst 10.77.0.2/32 dir out priority 1 action allow",
			Undo: "ip xfrm policy delete src 0.0.0.0/0 dst 10.77.0.2/32 dir out"},
		{Command: "ip xfrm policy add src ::/0 dst fd77::2/128 dir out priority 1 action allow",
			Undo: "ip xfrm policy delete src ::/0 dst fd77::2/128 dir out"},
	}
	drivertest.Leaks(t, h)
}

const policiesName = "policies of XFRM"

// TestKernelKilled: kill -9 of the agent.
func TestKernelKilled(t *testing.T) {
	h := harness()
	h.Moments, h.Steps = drivertest.Moments(5), 15
	drivertest.Killed(t, h)
}

// bookEnv tells an agent that is to be killed where its driver keeps its book.
const bookEnv = "IPSECAGENT_TEST_AGENT_BOOK"

// tableFile is the descriptor by which such an agent has the socket that owns
// the table.
const tableFile = 3

// agent returns a command that opens the driver of h.
func (h *host) agent(t *testing.T) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", h.ns, os.Args[0])
	cmd.Env = append(os.Environ(), bookEnv+"="+h.dir)
	table, err := unix.Dup(h.table)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(table), "table")
	t.Cleanup(func() { f.Close() })
	cmd.ExtraFiles = []*os.File{f}
	return cmd
}

func TestMain(m *testing.M) {
	text := os.Getenv(drivertest.JobEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, work(text))
	os.Exit(1)
}

// work does the job of an agent that is to be killed, and returns why it could
// not go on.
func work(text string) error {
	job, err := drivertest.ParseJob(text)
	if err != nil {
		return err
	}
	c := Config{Dir: os.Getenv(bookEnv), TableSocket: func() (int, error) { return unix.Dup(tableFile) }}
	return job.Do(func() (driver.Driver, error) { return Open(c) }, os.Stdout)
}
