package main

import (
	"errors"
	"os"
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
			c, err := choose(tt.setting, func() ([]sadb.Suite, error) { return tt.suites, tt.err })
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
	auto, err := choose(driverAuto, xfrm.Preflight)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := choose(driverKernel, xfrm.Preflight)
	if (auto.driver == driverKernel) != (err == nil) || err == nil && kernel.driver != driverKernel {
		t.Errorf("auto %+v, kernel %+v, %v", auto, kernel, err)
	}
	if err != nil && !strings.Contains(err.Error(), "set driver: user") {
		t.Errorf("refused without what to do: %v", err)
	}
	t.Logf("auto: %s, because %s; kernel: %v", auto.driver, auto.why, err)
}
