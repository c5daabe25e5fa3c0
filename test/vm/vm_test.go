package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inVM runs a command in a machine of its own.
func inVM(t *testing.T, flags []string, command ...string) (output string, status int) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "vm")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	c := exec.Command(program, append(append(flags, "--"), command...)...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	t.Log(errs.String())
	return out.String(), c.ProcessState.ExitCode()
}

// One machine shows all that callers rely on: arguments as they were given,
// the status, what is written and what is lost, and a kernel with ESP and AH.
func TestMachineRunsACommandOnAKernelWithESP(t *testing.T) {
	share, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "lost")
	script := `set -e
printf '%s|' "$@"
echo "$NAME" >"$SHARE/kept"
echo x >"$ELSEWHERE"
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport \
  aead 'rfc4106(gcm(aes))' 0x0123456789012345678901234567890123456789 128
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto ah spi 1 mode transport auth 'hmac(sha1)' 0x0123456789012345678901234567890123456789
ip xfrm state count
exit 7`
	output, status := inVM(t, []string{"-module", "esp4", "-module", "ah4", "-share", share,
		"-env", "NAME=a b", "-env", "SHARE=" + share, "-env", "ELSEWHERE=" + elsewhere},
		"bash", "-c", script, "bash", "one two", "", "it's\n\"odd\"")
	if want := "one two||it's\n\"odd\"|"; !strings.HasPrefix(output, want) || !strings.Contains(output, "SAD count 2") {
		t.Errorf("output %q", output)
	}
	if status != 7 {
		t.Errorf("status %d", status)
	}
	if b, err := os.ReadFile(filepath.Join(share, "kept")); err != nil || string(b) != "a b\n" {
		t.Errorf("what was written to the share: %q, %v", b, err)
	}
	if _, err := os.Stat(elsewhere); err == nil {
		t.Error("the guest has written to the host")
	}
}

// The command is named from the working folder, as callers may.
func TestTimeIsLimited(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := filepath.Rel(here, "/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if _, status := inVM(t, []string{"-timeout", "8s"}, sleep, "1000"); status != statusTime {
		t.Errorf("status %d", status)
	}
}

func TestJobSurvivesItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "job")
	want := job{Version: "6.1", Dir: "/a b", Command: []string{"x", "", "\n"}}
	if err := want.write(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got job
	if err := json.Unmarshal(b, &got); err != nil || strings.Join(got.Command, "|") != strings.Join(want.Command, "|") || got.Dir != want.Dir {
		t.Errorf("%+v, %v", got, err)
	}
}
