package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ipsecagent/agent/control"
)

// hostUnderTest is a network namespace with the shipped program in it.
type hostUnderTest struct {
	t         *testing.T
	ns, dir   string
	agent     string
	processes []*exec.Cmd
}

// transcript collects what a process prints.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *transcript) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *transcript) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func newHost(t *testing.T, ns string) *hostUnderTest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace, a TUN device and nftables rules")
	}
	h := &hostUnderTest{t: t, ns: ns, dir: t.TempDir()}
	h.agent = filepath.Join(h.dir, "ipsecagent")
	build := exec.Command("go", "build", "-o", h.agent, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "agent.yaml"), []byte("driver: user\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.mustRun("ip", "netns", "add", ns)
	t.Cleanup(h.end)
	h.inside("ip", "link", "set", "lo", "up")
	return h
}

// end ends every process in the namespace and removes it. An agent that sees
// its data path die starts another before its own turn comes.
func (h *hostUnderTest) end() {
	for pids := h.pids(); len(pids) > 0; pids = h.pids() {
		exec.Command("kill", append([]string{"-KILL"}, pids...)...).Run()
	}
	for _, p := range h.processes {
		p.Wait()
	}
	exec.Command("ip", "netns", "del", h.ns).Run()
}

func (h *hostUnderTest) pids() []string {
	out, _ := exec.Command("ip", "netns", "pids", h.ns).Output()
	return strings.Fields(string(out))
}

func (h *hostUnderTest) mustRun(name string, args ...string) string {
	h.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (h *hostUnderTest) inside(args ...string) string {
	h.t.Helper()
	return h.mustRun("ip", append([]string{"netns", "exec", h.ns}, args...)...)
}

// start starts the agent and waits until it answers.
func (h *hostUnderTest) start() (*exec.Cmd, *transcript) {
	h.t.Helper()
	out := &transcript{}
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent, "--config", filepath.Join(h.dir, "agent.yaml")}, folders(h.dir)...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.processes = append(h.processes, cmd)
	h.eventually("the agent answers: "+out.String(), func() bool {
		_, err := h.client().Version(context.Background())
		return err == nil
	})
	return cmd, out
}

func (h *hostUnderTest) client() *control.Client {
	return control.NewClient(filepath.Join(h.dir, "run", "agent.sock"), 10*time.Second)
}

func (h *hostUnderTest) eventually(what string, f func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(h.dir, "run", "datapath.log"))
			h.t.Fatalf("not within 20 s: %s\ndata path: %s", what, log)
		}
		time.Sleep(20 * time.Millisecond) // polling, not synchronisation
	}
}

// stop stops the agent as a service manager does.
func (h *hostUnderTest) stop(cmd *exec.Cmd) {
	h.t.Helper()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		h.t.Errorf("the agent did not end well: %v", err)
	}
}

// inForce lists what a data path has in force outside of its process.
func (h *hostUnderTest) inForce() string {
	h.t.Helper()
	return h.inside("nft", "list", "tables") + h.inside("ip", "rule", "list", "pref", "900") +
		h.inside("ip", "-6", "rule", "list", "pref", "900") + h.inside("ip", "-o", "link", "show", "type", "tun")
}

// TestTheDataPathOutlivesTheAgent: stopping the agent removes nothing; a new
// one attaches to the same data path; a data path that dies is started anew;
// only 'datapath --stop' takes everything down.
func TestTheDataPathOutlivesTheAgent(t *testing.T) {
	h := newHost(t, "cmd-life")
	first, out := h.start()
	status, err := h.client().Status(t.Context())
	if err != nil || status.DataPath.Driver != "user" {
		t.Fatalf("status: %+v, %v", status.DataPath, err)
	}
	if _, err := h.client().Assign(t.Context(), control.AssignRequest{Policy: "server", Auth: control.AuthPSKFile, Keys: aKey + "\n"}); err != nil {
		t.Fatal(err)
	}
	h.stop(first)
	if !strings.Contains(out.String(), "stay in force") {
		t.Errorf("it does not say that what is in force stays:\n%s", out)
	}
	for _, want := range []string{"ipsecagent", "900:", "ipsec0"} {
		if !strings.Contains(h.inForce(), want) {
			t.Errorf("with the agent stopped %q is gone:\n%s", want, h.inForce())
		}
	}

	second, _ := h.start()
	again, err := h.client().Status(t.Context())
	if err != nil || !again.DataPath.Started.Equal(status.DataPath.Started) {
		t.Errorf("the second agent has another data path: %v and %v, %v", again.DataPath.Started, status.DataPath.Started, err)
	}
	if again.Policy.Name != "server" {
		t.Errorf("the second agent has the policy %q", again.Policy.Name)
	}

	h.killDataPath()
	h.eventually("a new data path is in force", func() bool {
		s, err := h.client().Status(context.Background())
		return err == nil && s.DataPath.Driver == "user" && s.DataPath.Started.After(status.DataPath.Started) && len(s.Problems) == 0
	})

	h.refusesToStop()
	h.stop(second)
	// The data path cleans up where it runs, wherever it is told to.
	said := h.mustRun(h.agent, append([]string{"datapath", "--stop"}, folders(h.dir)...)...)
	for _, want := range []string{"NOT PROTECTED", "not the one of this command", "nftables table ipsecagent", "ip rule 900 (IPv4)", "ip rule 900 (IPv6)", "routing table 900 (IPv4)"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
	if left := strings.TrimSpace(h.inForce()); left != "" {
		t.Errorf("left in force:\n%s", left)
	}
	if pids := h.pids(); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
	if said := h.stopDataPath(); !strings.Contains(said, "nothing was changed") {
		t.Errorf("with nothing to stop: %s", said)
	}
}

// TestWhatAKilledDataPathHasLeftIsRemoved: by name, and only what there was.
func TestWhatAKilledDataPathHasLeftIsRemoved(t *testing.T) {
	h := newHost(t, "cmd-left")
	agent, _ := h.start()
	h.stop(agent)
	h.killDataPath()
	h.eventually("the data path has ended", func() bool { return len(h.pids()) == 0 })
	said := h.stopDataPath()
	for _, want := range []string{"No data path runs", "ip rule 900 (IPv6)", "nftables table ipsecagent", "NOT PROTECTED"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
	if left := strings.TrimSpace(h.inForce()); left != "" {
		t.Errorf("left in force:\n%s", left)
	}
}

func (h *hostUnderTest) killDataPath() {
	h.t.Helper()
	pid, err := control.Listener(h.t.Context(), filepath.Join(h.dir, "run", "datapath.sock"))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hostUnderTest) stopDataPath() string {
	h.t.Helper()
	return h.inside(append([]string{h.agent, "datapath", "--stop"}, folders(h.dir)...)...)
}

// refusesToStop: while the agent runs it would start the data path again.
func (h *hostUnderTest) refusesToStop() {
	h.t.Helper()
	args := append([]string{"netns", "exec", h.ns, h.agent, "datapath", "--stop"}, folders(h.dir)...)
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "stop it first") {
		h.t.Errorf("datapath --stop beside an agent: %v\n%s", err, out)
	}
}

func TestASecondAgentIsRefused(t *testing.T) {
	h := newHost(t, "cmd-two")
	h.start()
	out, err := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent}, folders(h.dir)...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another agent answers") {
		t.Errorf("a second agent: %v\n%s", err, out)
	}
	if _, err := h.client().Status(t.Context()); err != nil {
		t.Errorf("the first one afterwards: %v", err)
	}
}

// TestADataPathOfItsOwnUnit: with dataPath.external the agent attaches and never
// starts one.
func TestADataPathOfItsOwnUnit(t *testing.T) {
	h := newHost(t, "cmd-ext")
	write(t, filepath.Join(h.dir, "agent.yaml"), "dataPath: {external: true, tun: own0}\n")
	out, err := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent}, folders(h.dir)...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "systemctl start ipsecagent-datapath") {
		t.Errorf("without a data path: %v\n%s", err, out)
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent, "datapath"}, folders(h.dir)...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.processes = append(h.processes, cmd)
	h.eventually("the data path listens", func() bool {
		_, err := control.Listener(context.Background(), filepath.Join(h.dir, "run", "datapath.sock"))
		return err == nil
	})
	h.start()
	if got := h.inside("ip", "-o", "link", "show", "type", "tun"); !strings.Contains(got, "own0") {
		t.Errorf("the data path does not follow the settings file:\n%s", got)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the data path did not end well: %v", err)
	}
	h.eventually("the status says that the data path is gone", func() bool {
		s, err := h.client().Status(context.Background())
		return err == nil && len(s.Problems) > 0 && strings.Contains(strings.Join(s.Problems, " "), "data path")
	})
}

func TestADataPathWithOtherSettingsIsReported(t *testing.T) {
	h := newHost(t, "cmd-oth")
	first, _ := h.start()
	h.stop(first)
	write(t, filepath.Join(h.dir, "agent.yaml"), "dataPath: {exemptMark: 0x10000000}\n")
	_, out := h.start()
	if !strings.Contains(out.String(), "other settings") || !strings.Contains(out.String(), "--exempt-mark=0x10000000") {
		t.Errorf("it says nothing:\n%s", out)
	}
}

// TestHangupReloads: SIGHUP reads the keys again, and says so if they do not
// load; ipsecctl's reload tells its caller.
func TestHangupReloads(t *testing.T) {
	h := newHost(t, "cmd-hup")
	cmd, out := h.start()
	bad := write(t, filepath.Join(h.dir, "secrets.d", "bad.yaml"), "x\n")
	cmd.Process.Signal(syscall.SIGHUP)
	h.eventually("the log names the key file", func() bool { return strings.Contains(out.String(), bad) })
	if _, err := h.client().Reload(t.Context()); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("reload with a bad key file: %v", err)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client().Reload(t.Context()); err != nil {
		t.Errorf("reload: %v", err)
	}
}

// TestACertificateCountsForTheAssignmentThatFollows: at once, also where there
// was no folder of certificates when the agent started.
func TestACertificateCountsForTheAssignmentThatFollows(t *testing.T) {
	h := newHost(t, "cmd-fresh")
	dir := filepath.Join(h.dir, "certificates")
	write(t, filepath.Join(h.dir, "agent.yaml"), "certificates: {dir: "+dir+"}\n")
	h.start()
	assign := control.AssignRequest{Policy: "server", Auth: "cert:CN=Bank"}
	if _, err := h.client().Assign(t.Context(), assign); err == nil {
		t.Fatal("assigned without any certificate")
	}
	certificateOf(t, dir, time.Now().Add(900*time.Hour))
	if _, err := h.client().Assign(t.Context(), assign); err != nil {
		t.Error(err)
	}
}
