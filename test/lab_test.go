package test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// programs are where TestMain put the shipped binaries.
const programs = "../bin"

// What the environment may say: which driver the agents are to have (the setting
// driver, by default user), that the programs are built already, as where the
// tests run in a virtual machine, and that this is one (test/vm sets it), in which
// everything is many times slower.
const (
	driverEnv  = "IPSECAGENT_TEST_DRIVER"
	builtEnv   = "IPSECAGENT_TEST_BUILT"
	machineEnv = "VM"
)

// The drivers.
const (
	byKernel = "kernel"
	byUser   = "user"
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of the whole system make network namespaces: run them as root")
		os.Exit(1)
	}
	if os.Getenv(builtEnv) != "" {
		os.Exit(m.Run())
	}
	build := exec.Command("go", "build", "-trimpath", "-o", "bin/", "./cmd/...")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// host is a network namespace with, at most, one agent.
type host struct {
	t        *testing.T
	ns       string
	v4, v6   string
	seen     string   // its IPv4 address as others see it, behind a translator; else ""
	driver   string   // of its agent; "": what the environment says
	settings []string // of its agent, further ones: lines of agent.yaml
	dir      string
	agent    *process
}

// newPair makes two hosts joined by a wire (device "wire" on both). tag is
// part of the namespaces' names and at most 8 bytes.
func newPair(t *testing.T, tag string) (a, b *host) {
	t.Helper()
	hosts := []*host{
		{t: t, ns: tag + "-a", v4: "10.77.0.1", v6: "fd77::1"},
		{t: t, ns: tag + "-b", v4: "10.77.0.2", v6: "fd77::2"},
	}
	for _, h := range hosts {
		exec.Command("ip", "netns", "del", h.ns).Run()
		h.dir = t.TempDir()
		must(t, "ip", "netns", "add", h.ns)
		t.Cleanup(h.remove)
	}
	must(t, "ip", "link", "add", "wire", "netns", hosts[0].ns, "type", "veth", "peer", "name", "wire", "netns", hosts[1].ns)
	for _, h := range hosts {
		must(t, "ip", "-n", h.ns, "link", "set", "lo", "up")
		must(t, "ip", "-n", h.ns, "addr", "add", h.v4+"/24", "dev", "wire")
		must(t, "ip", "-n", h.ns, "addr", "add", h.v6+"/64", "dev", "wire", "nodad")
		must(t, "ip", "-n", h.ns, "link", "set", "wire", "up")
	}
	return hosts[0], hosts[1]
}

// remove ends every process of the namespace, then the namespace.
func (h *host) remove() {
	for range 100 {
		out, _ := exec.Command("ip", "netns", "pids", h.ns).Output()
		pids := strings.Fields(string(out))
		if len(pids) == 0 {
			break
		}
		exec.Command("kill", append([]string{"-KILL"}, pids...)...).Run()
		time.Sleep(20 * time.Millisecond) // the kernel takes its time to reap
	}
	exec.Command("ip", "netns", "del", h.ns).Run()
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// command is a command on the host.
func (h *host) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.ns, name}, args...)...)
}

// run runs a command on the host for at most d.
func (h *host) run(d time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	out, err := h.command(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// must runs a command on the host that has to succeed.
func (h *host) must(name string, args ...string) string {
	h.t.Helper()
	out, err := h.run(time.Minute, name, args...)
	if err != nil {
		h.t.Fatalf("%s: %s %s: %v\n%s", h.ns, name, strings.Join(args, " "), err, out)
	}
	return out
}

// process is a command that runs beside the test; its output is kept.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	out  bytes.Buffer
}

// Write keeps what the process prints.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// output returns what was printed so far.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start starts a command on the host; it is killed when the test ends, and
// its output shown if the test failed.
func (h *host) start(name string, args ...string) *process {
	h.t.Helper()
	return startProcess(h.t, h.ns+" "+filepath.Base(name), h.command(context.Background(), name, args...))
}

func startProcess(t *testing.T, label string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", label, err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s printed:\n%s", label, tail(p.output(), 6000))
		}
	})
	return p
}

// signal sends a signal and waits for the end.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	p.cmd.Process.Signal(s)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		t.Fatalf("process did not end on %v:\n%s", s, tail(p.output(), 3000))
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// patient is how long what takes at most d may take here: in an emulated machine,
// four times that.
func patient(d time.Duration) time.Duration {
	if os.Getenv(machineEnv) != "" {
		return 4 * d
	}
	return d
}

// eventually waits until ok holds, at most d.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	d = patient(d)
	deadline := time.Now().Add(d)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(50 * time.Millisecond) // polling, not synchronisation
	}
}

func (h *host) socket() string { return filepath.Join(h.dir, "agent.sock") }

// startAgent starts the shipped agent with the given policies (file name to
// document) and further flags, and waits until it answers.
func (h *host) startAgent(policies map[string]string, flags ...string) {
	h.t.Helper()
	for _, sub := range []string{"policies.d", "secrets.d", "state"} {
		if err := os.MkdirAll(filepath.Join(h.dir, sub), 0o700); err != nil {
			h.t.Fatal(err)
		}
	}
	for name, doc := range policies {
		h.write(filepath.Join("policies.d", name), doc, 0o644)
	}
	h.agent = h.launchAgent(flags...)
	eventually(h.t, 40*time.Second, h.ns+": the agent answers", func() bool {
		_, code := h.ctl("version")
		return code == 0
	})
}

// launchAgent starts the shipped agent and does not wait for it.
func (h *host) launchAgent(flags ...string) *process {
	h.t.Helper()
	return h.start(filepath.Join(programs, "ipsecagent"), append([]string{
		"--state-dir", filepath.Join(h.dir, "state"), "--run-dir", h.dir, "--socket", h.socket(),
		"--policies-dir", filepath.Join(h.dir, "policies.d"), "--secrets-dir", filepath.Join(h.dir, "secrets.d"),
		"--config", h.config()}, flags...)...)
}

// drivenBy returns the driver of the host's agent.
func (h *host) drivenBy() string {
	switch {
	case h.driver != "":
		return h.driver
	case os.Getenv(driverEnv) != "":
		return os.Getenv(driverEnv)
	}
	return byUser
}

// config writes the settings file of the agent.
func (h *host) config() string {
	h.t.Helper()
	lines := append([]string{"driver: " + h.drivenBy()}, h.settings...)
	return h.write("agent.yaml", strings.Join(lines, "\n")+"\n", 0o600)
}

// die ends agent and data path at once. What the policy requires stays required.
func (h *host) die() {
	h.t.Helper()
	h.agent.signal(h.t, syscall.SIGKILL)
	if h.drivenBy() == byKernel {
		h.must("ip", "xfrm", "state", "flush")
		return
	}
	syscall.Kill(datapath(h), syscall.SIGKILL)
}

// forget ends every process of ours and removes every policy: the host is as if
// it had never had one.
func (h *host) forget() {
	h.t.Helper()
	h.die()
	for _, pid := range h.ours("") {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	h.must("ip", "xfrm", "policy", "flush")
	h.run(5*time.Second, "nft", "flush", "ruleset")
	h.run(5*time.Second, "nft", "delete", "table", "inet", "ipsecagent")
}

// ours returns the processes on the host of one of the agent's subcommands; "":
// of all.
func (h *host) ours(subcommand string) []int {
	h.t.Helper()
	var all []int
	for _, field := range strings.Fields(must(h.t, "ip", "netns", "pids", h.ns)) {
		cmdline, _ := os.ReadFile("/proc/" + field + "/cmdline")
		words := strings.Split(string(cmdline), "\x00")
		if filepath.Base(words[0]) != "ipsecagent" || subcommand != "" && (len(words) < 2 || words[1] != subcommand) {
			continue
		}
		if pid, err := strconv.Atoi(field); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// datapath returns the process ID of the host's data path.
func datapath(h *host) int {
	h.t.Helper()
	all := h.ours("datapath")
	if len(all) == 0 {
		h.t.Fatalf("%s has no data path process", h.ns)
	}
	return all[0]
}

func (h *host) write(name, content string, mode os.FileMode) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// ctl runs ipsecctl against the host's agent and returns its output and exit
// code.
func (h *host) ctl(args ...string) (string, int) {
	h.t.Helper()
	cmd := exec.Command(filepath.Join(programs, "ipsecctl"), append([]string{"--socket", h.socket()}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("ipsecctl: %v", err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// mustCtl runs ipsecctl, which has to succeed.
func (h *host) mustCtl(args ...string) string {
	h.t.Helper()
	out, code := h.ctl(args...)
	if code != 0 {
		h.t.Fatalf("%s: ipsecctl %s: exit code %d\n%s", h.ns, strings.Join(args, " "), code, out)
	}
	return out
}

// assign assigns a policy with one preshared key.
func (h *host) assign(policy, key string) {
	h.t.Helper()
	h.mustCtl("assign", policy, "--auth", "psk-file:"+h.write("key", key+"\n", 0o600))
}

// aKey is a preshared key of the right length, different for each label.
func aKey(label string) string {
	return base64.StdEncoding.EncodeToString([]byte("key for tests only: " + label))
}

// ping sends count echo requests and returns how many were answered.
func (h *host) ping(to string, count int) int {
	h.t.Helper()
	out, _ := h.run(patient(time.Duration(count+5)*time.Second), "ping", "-n", "-i", "0.2", "-W", "1", "-c", fmt.Sprint(count), to)
	received := 0
	for _, field := range strings.Split(out, ",") {
		if strings.Contains(field, " received") {
			fmt.Sscan(strings.TrimSpace(field), &received)
		}
	}
	return received
}
