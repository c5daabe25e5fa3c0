package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/driver/xfrm"
	"ipsecagent/sadb"
)

func suitesNamed(t *testing.T, names ...string) []sadb.Suite {
	t.Helper()
	all := []sadb.Suite{}
	for _, name := range names {
		s, err := sadb.ParseSuite(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func TestChoiceOfDriver(t *testing.T) {
	some := suitesNamed(t, "esp-aes128gcm", "esp-aes128-sha256")
	old := suitesNamed(t, "esp-3des-sha1", "ah-sha1")
	none := errors.New("this kernel has no XFRM")
	tests := []struct {
		name, setting string
		suites        []sadb.Suite
		err           error
		want, words   string // want "": refused
	}{
		{"user asks for nothing", driverUser, nil, none, driverUser, settingSays},
		{"auto, all of it", driverAuto, sadb.Suites(), nil, driverKernel, "carries all"},
		{"auto, some of it", driverAuto, some, nil, driverKernel, "not esp-aes256gcm"},
		{"auto, old algorithms alone", driverAuto, old, nil, driverUser, "carries none of esp-aes256gcm"},
		{"auto, no ESP", driverAuto, suitesNamed(t), nil, driverUser, "neither ESP nor AH"},
		{"auto, no XFRM", driverAuto, nil, none, driverUser, "no XFRM"},
		{"kernel, some of it", driverKernel, some, nil, driverKernel, "not esp-aes256gcm"},
		{"kernel, old algorithms alone", driverKernel, old, nil, "", "set driver: user"},
		{"kernel, no ESP", driverKernel, suitesNamed(t), nil, "", "modprobe -a xfrm_user esp4"},
		{"kernel, no XFRM", driverKernel, nil, none, "", "no XFRM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := choose(tt.setting, func() ([]sadb.Suite, error) { return tt.suites, tt.err }, nothingLeft)
			words := c.why
			if err != nil {
				words = err.Error()
			}
			if (err != nil) != (tt.want == "") || c.driver != tt.want || !strings.Contains(words, tt.words) || strings.Contains(words, "\n") {
				t.Errorf("chose %q: %s", c.driver, words)
			}
		})
	}
}

func nothingLeft() (string, error) { return "", nil }

// TestChoiceBesideWhatAKernelDriverHasLeft: its policies want associations that
// the userspace driver does not make.
func TestChoiceBesideWhatAKernelDriverHasLeft(t *testing.T) {
	none, unknown := errors.New("out of memory"), errors.New("no answer")
	for _, c := range []struct {
		name, setting string
		probe         error
		left          string
		errLeft       error
		want, words   string
	}{
		{"auto, the kernel cannot now", driverAuto, none, "3 XFRM policies", nil, driverKernel, "3 XFRM policies are in force"},
		{"auto, it can", driverAuto, nil, "3 XFRM policies", nil, driverKernel, "carries all"},
		{"auto, it cannot be asked", driverAuto, none, "", unknown, "", "no answer"},
		{"user", driverUser, nil, "3 XFRM policies", nil, "", "ipsecagent datapath --stop"},
		{"user, it cannot be asked", driverUser, nil, "", unknown, "", "no answer"},
		{"kernel, it cannot now", driverKernel, none, "3 XFRM policies", nil, "", "out of memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := choose(c.setting, func() ([]sadb.Suite, error) { return sadb.Suites(), c.probe }, func() (string, error) { return c.left, c.errLeft })
			if words := fmt.Sprint(got.why, err); got.driver != c.want || (err == nil) != (c.want != "") || !strings.Contains(words, c.words) {
				t.Errorf("chose %q: %s", got.driver, words)
			}
		})
	}
}

// TestWhatAKernelDriverHasLeftIsFound in the kernel, where nothing else knows of
// it: the userspace driver is not put beside it, and --stop removes it.
func TestWhatAKernelDriverHasLeftIsFound(t *testing.T) {
	h := newHost(t, "boo-left")
	if out, err := exec.Command("ip", "netns", "exec", h.ns, "ip", "xfrm", "policy", "add", "dir", "out", "src", "192.0.2.1", "dst", "192.0.2.2",
		"action", "block", "mark", "0", "mask", fmt.Sprintf("%#x", defaults().DataPath.ExemptMark)).CombinedOutput(); err != nil {
		if _, errXFRM := xfrm.Preflight(); !withoutXFRM(errXFRM) {
			t.Fatalf("%v %s", err, out)
		}
		h.inside(append([]string{h.agent, "datapath", "--stop"}, folders(h.dir)...)...) // it needs no XFRM
		return
	}
	wanted := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent, "datapath", "--wanted"}, folders(h.dir)...)...)
	if out, _ := wanted.CombinedOutput(); wanted.ProcessState.ExitCode() != exitUndecided || !strings.Contains(string(out), "1 XFRM policy and 0 associations") {
		t.Errorf("driver: user beside it: exit code %d, %s", wanted.ProcessState.ExitCode(), out)
	}
	if out := h.stopDataPath(); !strings.Contains(out, "1 XFRM policies") || !strings.Contains(out, "NOT PROTECTED") {
		t.Errorf("datapath --stop: %s", out)
	}
	if left := h.inside("ip", "xfrm", "policy"); strings.Contains(left, "192.0.2.1") {
		t.Errorf("left: %s", left)
	}
}

// TestWantedTellsAnErrorFromAnAnswer: systemd passes over a unit at every exit
// code of its condition from 1 to 254.
func TestWantedTellsAnErrorFromAnAnswer(t *testing.T) {
	for _, c := range []struct {
		text string
		code int
		said string
	}{
		{"driver: kernel", 1, "no data path is needed"},
		{"driver: kernal", 0, "it is to be started"},
		{"{", 0, "it is to be started"},
	} {
		var said strings.Builder
		p := &program{out: &said, err: &said, getenv: func(string) string { return "" }}
		file := write(t, filepath.Join(t.TempDir(), "agent.yaml"), c.text+"\n")
		if code := p.main(t.Context(), []string{"datapath", "--wanted", "--config", file, "--run-dir", t.TempDir()}); code != c.code || !strings.Contains(said.String(), c.said) {
			t.Errorf("%s: %d, %s", c.text, code, said.String())
		}
	}
	var said strings.Builder
	p := &program{out: &said, err: &said, getenv: func(string) string { return "" }}
	if code := p.main(t.Context(), []string{"datapath", "--wanted", "--stop", "--config", ""}); code != 2 || !strings.Contains(said.String(), "give one of them") {
		t.Errorf("two that exclude each other: %d, %s", code, said.String())
	}
}

// A driver that cannot be used here is a note of --check: the settings are valid.
func TestCheckNotesADriverThatThisHostCannotHave(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: asks XFRM")
	}
	s := defaults()
	s.RunDir, s.Driver = t.TempDir(), driverKernel
	_, err := choose(driverKernel, xfrm.Preflight, nothingLeft)
	notes := driverNotes(t.Context(), &s)
	if (err != nil) != (len(notes) == 1 && strings.Contains(notes[0], "would not start: driver: kernel: ")) {
		t.Errorf("%q, %v", notes, err)
	}
	s.Driver = driverAuto
	if notes := driverNotes(t.Context(), &s); len(notes) > 0 {
		t.Errorf("auto: %q", notes)
	}
}

func TestChoiceBesideARunningDataPath(t *testing.T) {
	for setting, want := range map[string]string{driverAuto: driverUser, driverUser: driverUser, driverKernel: ""} {
		c, err := chooseBeside(setting, 7)
		if c.driver != want || (err != nil) != (want == "") {
			t.Errorf("%s: %+v, %v", setting, c, err)
		}
	}
}

// The kernel of this machine, whatever it has: auto finds a driver for it, and
// kernel is refused in words where it cannot be.
func TestChoiceOnThisKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: asks XFRM")
	}
	auto, err := choose(driverAuto, xfrm.Preflight, nothingLeft)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := choose(driverKernel, xfrm.Preflight, nothingLeft)
	if (auto.driver == driverKernel) != (err == nil) || err == nil && kernel.driver != driverKernel {
		t.Errorf("auto %+v, kernel %+v, %v", auto, kernel, err)
	}
	if err != nil && !strings.Contains(err.Error(), "set driver: user") {
		t.Errorf("refused without what to do: %v", err)
	}
	t.Logf("auto: %s, because %s; kernel: %v", auto.driver, auto.why, err)
}
