package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ipsecagent/agent"
	"ipsecagent/policy"
)

// TestSettingsThatDoNotLoadDoNotOpenTheHost at its start: each file is on a host
// where no policy was in force, on one where a strict one was, and on one whose
// settings said permit then.
func TestSettingsThatDoNotLoadDoNotOpenTheHost(t *testing.T) {
	strict := &bootMemory{Policy: "secure", Strict: true, Boot: bootSettings{Mode: bootAuto, Exempt: []string{"tcp:0:22:inbound"}}}
	open := &bootMemory{Policy: "secure", Strict: true, Boot: bootSettings{Mode: bootPermit}}
	for _, c := range []struct {
		name, text string
		m          *bootMemory
		want       string
	}{
		{"another mistake, nothing of boot", "driver: kernal", nil, "permit []"},
		{"another mistake, nothing of boot", "driver: kernal", strict, "block []"},
		{"another mistake, a mode", "driver: kernal\nboot: {mode: stateful, exempt: [\"udp:0:53:outbound\"]}", strict, "stateful [udp:0:53:outbound]"},
		{"another mistake, permit", "driver: kernal\nboot: {mode: permit}", strict, "permit []"},
		{"a setting there is not", "drivver: user", nil, "permit []"},
		{"no such mode", "boot:\n  mode: blok", nil, "block []"},
		{"no such mode", "boot:\n  mode: blok", strict, "block [tcp:0:22:inbound]"},
		{"no such mode", "boot:\n  mode: blok", open, "block []"},
		{"a text for a group", "boot: block", nil, "block []"},
		{"a list for a mode", "boot: {mode: [block]}", nil, "block []"},
		{"the name of the group mistyped", "bot: {mode: block}", nil, "block []"},
		{"the name of the mode mistyped", "boot: {moode: block}", nil, "block []"},
		{"a mode beside its group", "mode: block", nil, "block []"},
		{"no YAML", "boot:\n  mode: block\n  x: {", nil, "block []"},
		{"no YAML", "boot:\n  mode: permit\n  x: {", nil, "block []"},
		{"no YAML", "boot:\n  mode: block\n  x: {", open, "block []"},
		{"a second document", "boot: {mode: permit}\n---\nboot: {mode: block}", nil, "block []"},
		{"too large", "boot: {mode: permit}\n" + strings.Repeat("#", maxSettings), nil, "block []"},
		{"an exemption that is none", "boot: {mode: stateful, exempt: [ssh, \"udp:0:53:outbound\"]}", nil, "stateful [udp:0:53:outbound]"},
		{"an exemption that is none", "boot: {mode: stateful, exempt: [ssh, \"udp:0:53:outbound\"]}", strict, "stateful [tcp:0:22:inbound]"},
		{"a state folder that is none", "stateDir: here", nil, "block []"},
		{"the state folder mistyped", "statDir: /elsewhere", nil, "block []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "agent.yaml"), c.text+"\n")
			state := t.TempDir()
			s, err := loadSettings(file, func(s *settings) error {
				if filepath.IsAbs(s.StateDir) {
					s.StateDir = state
				}
				return nil
			})
			if err == nil {
				t.Fatal("the settings load")
			}
			if c.m != nil {
				memory := s
				memory.Boot = c.m.Boot
				if err := memory.remember(agent.Enforcement{State: policy.Assigned, Policy: c.m.Policy, Strict: c.m.Strict}); err != nil {
					t.Fatal(err)
				}
			}
			start := startOf(s, file, err)
			if got := fmt.Sprint(start.mode, " ", start.settings.Boot.Exempt); got != c.want || start.why == "" {
				t.Errorf("%q with %+v: %s (%s), want %s", c.text, c.m, got, start.why, c.want)
			}
		})
	}
}

// TestWhatASettingsFileSaysOfBoot is told from what it may mean.
func TestWhatASettingsFileSaysOfBoot(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "agent.yaml"), "boot: {mode: permit}\ndriver: x\n")
	boot := func() bool { return legible(file, "boot", "boot.mode", "boot.exempt") }
	if !boot() {
		t.Error("a file that says it is not read")
	}
	dropIn := write(t, filepath.Join(dir, "agent.d", "10.yaml"), "boot: {mode: blo")
	if boot() {
		t.Error("a drop-in that nobody can read is passed over")
	}
	write(t, dropIn, "# nothing\n")
	if !boot() || !legible("", "boot") || !legible(defaultConfig, "boot") || legible(filepath.Join(dir, "none.yaml"), "boot") {
		t.Error("comments alone, no file, or the one that may be missing")
	}
}

// FuzzSettingsSaid: no text of a settings file stops the start of the host, and
// one that says permit in nobody's words opens none.
func FuzzSettingsSaid(f *testing.F) {
	for _, text := range []string{"boot: {mode: block}", "boot:\n  mode: blok\n", "boot: &b {mode: permit}\nx: *b", "boot: {mode: permit, <<: {mode: block}}", "---\n---", "boot: {mode: permit}\nboot: {mode: block}", "? [a]\n: b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		names, err := settingsSaid([]byte(text))
		var s settings
		if errParse := parseSettings("x", []byte(text), &s); err != nil && errParse == nil {
			t.Errorf("%q is read as settings and not here: %v", text, err)
		}
		boot, _ := s.Boot.orElse(err == nil, nil, nil)
		if boot.Mode == bootPermit && !slices.Contains(names, "boot.mode") {
			t.Errorf("%q opens the host", text)
		}
	})
}
