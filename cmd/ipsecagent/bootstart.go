package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// bootStart is what a start of the host puts in force until a policy is.
type bootStart struct {
	settings settings
	mode     string // bootPermit, bootBlock or bootStateful
	why      string // in words
}

// startOf returns what the next start does with the settings that were read from
// a file and its drop-ins. err is why they do not load: then nothing is open
// because of it.
func startOf(s settings, file string, err error) bootStart {
	if err != nil {
		return startWithout(s, file)
	}
	start := bootStart{settings: s}
	start.mode, start.why = s.Boot.bootMode(s.recall())
	return start
}

// bootMode returns the mode for this start, and why in words. errMemory is why
// the memory could not be read; then nothing may pass that a policy could forbid.
func (b bootSettings) bootMode(m *bootMemory, errMemory error) (mode, why string) {
	switch {
	case b.Mode != bootAuto:
		return b.Mode, "the setting boot.mode says so"
	case errMemory != nil:
		return bootBlock, errMemory.Error()
	case m == nil:
		return bootPermit, "no policy was in force on this host"
	case m.Strict:
		return bootBlock, fmt.Sprintf("policy %q was in force, which blocks traffic or wants it secured", m.Policy)
	}
	return bootStateful, fmt.Sprintf("policy %q was in force, which blocks nothing and lets traffic pass in clear", m.Policy)
}

// startWithout is the start with settings that do not load: a mistake in a file
// must not open the host.
func startWithout(broken settings, file string) bootStart {
	s := broken.usable()
	m, errMemory := s.recall()
	if errMemory == nil && m == nil && (s.StateDir != broken.StateDir || !legible(file, "stateDir")) {
		errMemory = errors.New("the settings do not say where the state folder is, so that the policy of last time is not known")
	}
	boot, why := broken.Boot.orElse(legible(file, "boot", "boot.mode", "boot.exempt"), m, errMemory)
	s.Boot = boot
	start := bootStart{settings: s}
	start.mode, start.why = boot.bootMode(m, errMemory)
	if why != "" && boot.Mode != bootAuto {
		start.why = why
	}
	return start
}

// usable returns defaults with those of the settings that a start of the host
// stands on, where they can be used.
func (s *settings) usable() settings {
	u := defaults()
	if filepath.IsAbs(s.StateDir) {
		u.StateDir = s.StateDir
	}
	if filepath.IsAbs(s.RunDir) {
		u.RunDir = s.RunDir
	}
	u.DataPath = s.DataPath
	if u.userConfig(nil).Validate() != nil || s.wrongMark() != nil {
		u.DataPath = defaults().DataPath
	}
	return u
}

// orElse returns what to go by where b is of settings that do not load, and why
// where that is not what they say. said is false where it is not known what the
// files say. permit is taken from nothing but files that say it.
func (b bootSettings) orElse(said bool, m *bootMemory, errMemory error) (boot bootSettings, why string) {
	if said && b.validate() == nil {
		return b, ""
	}
	boot, why = bootSettings{Mode: bootBlock, Exempt: b.readable()}, "what the settings say of boot cannot be read"
	if errMemory == nil && m != nil && m.Boot.validate() == nil {
		boot, why = m.Boot, why+"; the setting boot.mode said so when the last policy was put in force"
		if boot.Mode == bootPermit {
			boot.Mode = bootAuto
		}
	}
	if said && (bootSettings{Mode: b.Mode}).validate() == nil {
		boot.Mode, why = b.Mode, ""
	}
	return boot, why
}

// readable returns those exemptions that can be read.
func (b bootSettings) readable() []string {
	return slices.DeleteFunc(slices.Clone(b.Exempt), func(text string) bool {
		_, err := parseBootExemption(text)
		return err != nil
	})
}

// legible reports that it is known what the settings file and its drop-ins say of
// some settings: each can be read, and no unknown setting may be meant for one.
func legible(file string, names ...string) bool {
	return !slices.ContainsFunc(settingsFiles(file), func(path string) bool {
		text, err := readBounded(path, maxSettings)
		if errors.Is(err, fs.ErrNotExist) {
			return path != defaultConfig // the one that may be missing
		}
		said, errSaid := settingsSaid(text)
		return errors.Join(err, errSaid) != nil || slices.ContainsFunc(said, func(name string) bool { return meant(name, names) })
	})
}

// settingsSaid names what a settings file sets, of groups no more than is in
// boot. The values of boot and stateDir have the types that they must have.
func settingsSaid(text []byte) (names []string, err error) {
	var typed struct {
		StateDir string       `yaml:"stateDir"`
		Boot     bootSettings `yaml:"boot"`
	}
	var all map[string]yaml.Node
	var boot struct {
		Boot map[string]yaml.Node `yaml:"boot"`
	}
	for _, into := range []any{&typed, &all, &boot} {
		if err := decodeOne(text, into); err != nil {
			return nil, err
		}
	}
	for name := range all {
		names = append(names, name)
	}
	for name := range boot.Boot {
		names = append(names, "boot."+name)
	}
	return names, nil
}

// decodeOne reads the one document of a text; nothing but comments is one.
func decodeOne(text []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && !errors.Is(dec.Decode(new(yaml.Node)), io.EOF) {
		err = errors.New("the file holds more than one document")
	}
	return err
}

// meant reports that a name is not the name of a setting and may be meant for one
// of these: it resembles one, or is in the group of that name.
func meant(name string, these []string) bool {
	names, groups := settingNames()
	return !slices.Contains(slices.Concat(names, groups), name) && slices.ContainsFunc(these, func(known string) bool {
		return resembles(name, known) || strings.HasPrefix(name, known+".")
	})
}
