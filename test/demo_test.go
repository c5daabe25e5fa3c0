package test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const demoMarker = "ipsecagent-demo-this-must-not-be-read"

// demoAllowed is what may be in clear in the secured phases: permitted ICMP and
// alice's SYNs, which inbound pass-through lets in.
func demoAllowed(p packet) bool {
	alice := p.src == netip.MustParseAddr("10.66.0.1") || p.src == netip.MustParseAddr("fd66::1")
	return p.icmp() || p.syn && alice
}

func holdsMarker(p packet) bool { return bytes.Contains(p.data, []byte(demoMarker)) }

// TestDemo runs the demo and judges its captures, phase by phase.
func TestDemo(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	out, err := exec.Command("./demo", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("the demo: %v\n%s", err, tail(string(out), 8000))
	}
	took := time.Since(begin)
	t.Logf("figure: the demo took %.0f s", took.Seconds())
	if took > time.Minute {
		t.Errorf("the demo took %v", took)
	}
	phase := func(name string) []packet { return readCapture(t, filepath.Join(dir, name+".pcap"), false) }

	for _, name := range []string{"phase1", "phase3"} {
		if found := leaks(phase(name), demoAllowed); len(found) > 0 {
			t.Errorf("%s: in clear: %v", name, found)
		}
	}
	if n := count(phase("phase1"), packet.ike); n == 0 {
		t.Error("phase 1: bob must ask alice by IKE")
	}

	secured := phase("phase2")
	if found := leaks(secured, demoAllowed); len(found) > 0 {
		t.Errorf("secured phase: in clear: %v", found)
	}
	if n := count(secured, holdsMarker); n > 0 {
		t.Errorf("secured phase: the file's text is in %d packets", n)
	}
	t.Logf("figure: secured phase: %d packets, %d of them ESP, %d IKE, %d in clear that may not be, %d with the file's text",
		len(secured), count(secured, packet.esp), count(secured, packet.ike), len(leaks(secured, demoAllowed)), count(secured, holdsMarker))
	// 100 MB in packets of at most 64 KiB.
	if n := count(secured, packet.esp); n < 1600 {
		t.Errorf("secured phase: only %d ESP packets", n)
	}
	if n := count(secured, packet.ike); n < 9 {
		t.Errorf("secured phase: only %d IKE packets", n)
	}

	// The same judgement must be able to see the file in clear.
	if n := count(phase("phase4"), holdsMarker); n == 0 {
		t.Error("phase 4 goes in clear, and the capture does not show the file")
	}
	status, err := os.ReadFile(filepath.Join(dir, "status-clear.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10.66.0.1", "clear"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("bob's status does not say %q:\n%s", want, status)
		}
	}
	nothingLeft(t)
}

// TestDemoKerberos runs the demo of Kerberos and judges what it shows: the
// principals, nothing in clear but the agents' own questions to the KDC, and
// the two reasons.
func TestDemoKerberos(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	if out, err := exec.Command("./demo-kerberos", dir).CombinedOutput(); err != nil {
		t.Fatalf("the demo: %v\n%s", err, tail(string(out), 8000))
	}
	t.Logf("figure: the demo of Kerberos took %.0f s", time.Since(begin).Seconds())
	for file, want := range map[string]string{
		"status-alice.txt":     "host/bob.demo.test@DEMO.TEST",
		"status-bob.txt":       "host/alice.demo.test@DEMO.TEST",
		"why-skew.txt":         "clock-skew",
		"why-keytab.txt":       "key-version",
		"why-keytab-alice.txt": "10.66.2.2 says it cannot authenticate us",
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), want) {
			t.Errorf("%s does not say %q:\n%s", file, want, b)
		}
	}
	secured := readCapture(t, filepath.Join(dir, "secured.pcap"), false)
	kdc := func(p packet) bool {
		other := p.sport
		if p.dport == 88 {
			other = p.dport
		}
		return other == 88 && (p.src.String() == "10.66.3.1" || p.dst.String() == "10.66.3.1")
	}
	if found := leaks(secured, func(p packet) bool { return kdc(p) || p.icmp() }); len(found) > 0 {
		t.Errorf("in clear: %v", found)
	}
	if count(secured, packet.esp) == 0 || count(secured, packet.ike) < 9 || count(secured, kdc) == 0 {
		t.Errorf("%d ESP, %d IKE, %d Kerberos packets", count(secured, packet.esp), count(secured, packet.ike), count(secured, kdc))
	}
	nothingLeft(t)
}

// TestDemoLeavesNothingOnInterrupt stops the demo in its middle by Ctrl-C.
func TestDemoLeavesNothingOnInterrupt(t *testing.T) {
	cmd := exec.Command("./demo")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := startProcess(t, "demo", cmd)
	eventually(t, 40*time.Second, "the demo is at step 2", func() bool { return strings.Contains(p.output(), "2. alice") })
	aSecondDemoIsRefused(t, cmd.Process.Pid)
	// Ctrl-C goes to the whole group of the terminal.
	syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
	time.Sleep(150 * time.Millisecond) // an impatient second one
	syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("the demo does not end:\n%s", p.output())
	}
	nothingLeft(t)
}

// aSecondDemoIsRefused: it names the one that runs and leaves it alone.
func aSecondDemoIsRefused(t *testing.T, first int) {
	t.Helper()
	for _, demo := range []string{"./demo", "./demo-kerberos"} {
		out, err := exec.Command(demo).CombinedOutput()
		want := fmt.Sprintf("Another demo runs: process %d (bash ./demo)", first)
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s beside a demo that runs: %v, it does not say %q:\n%s", demo, err, want, out)
		}
	}
	if out := must(t, "ip", "netns", "list"); !strings.Contains(out, "alice") {
		t.Error("the second demo has removed hosts of the first")
	}
}

// nothingLeft looks for what the demo makes: namespaces, processes, files.
func nothingLeft(t *testing.T) {
	t.Helper()
	out := must(t, "ip", "netns", "list")
	for line := range strings.Lines(out) {
		if name := strings.Fields(line); len(name) > 0 && (name[0] == "alice" || name[0] == "bob" || name[0] == "kdc" || name[0] == "dc") {
			t.Errorf("namespace %s is left", name[0])
		}
	}
	if left, _ := filepath.Glob("/tmp/ipsecagent-demo.*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if out, err := exec.Command("pgrep", "-f", "ipsecagent-demo").Output(); err == nil {
		t.Errorf("processes are left: %s", out)
	}
}
