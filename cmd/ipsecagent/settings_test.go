package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func unchanged(*settings) error { return nil }

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWithoutASettingsFileDefaultsHold(t *testing.T) {
	got, err := loadSettings(filepath.Join(t.TempDir(), "agent.yaml"), unchanged)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Socket = "/run/ipsecagent/agent.sock"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLaterSettingsWinAndFlagsWinOverAll(t *testing.T) {
	dir := t.TempDir()
	main := write(t, filepath.Join(dir, "agent.yaml"), "runDir: /run/a\nlog: {level: warn}\ndataPath: {tun: tun7, steerMark: 0x10}\n")
	write(t, filepath.Join(dir, "agent.d", "20-later.yaml"), "runDir: /run/c\n")
	write(t, filepath.Join(dir, "agent.d", "10-earlier.yaml"), "runDir: /run/b\nstateDir: /var/b\n")
	write(t, filepath.Join(dir, "agent.d", "ignored.txt"), "runDir: /run/d\n")

	given := pflag.NewFlagSet("", pflag.ContinueOnError)
	mine := defaults()
	mine.flags(given)
	if err := given.Parse([]string{"--state-dir", "/var/flag", "--log-format=json"}); err != nil {
		t.Fatal(err)
	}
	got, err := loadSettings(main, overrides(given))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.RunDir, want.StateDir, want.Socket = "/run/c", "/var/flag", "/run/c/agent.sock"
	want.Log = logging{slog.LevelWarn, "json"}
	want.DataPath.TUN, want.DataPath.SteerMark = "tun7", 0x10
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDataPathGetsTheSettingsOfTheAgent: what the agent hands to the data path
// on its command line is read back as it was.
func TestDataPathGetsTheSettingsOfTheAgent(t *testing.T) {
	want := defaults()
	want.RunDir, want.Socket = "/run/x", "/run/x/control"
	want.Log = logging{slog.LevelDebug, "json"}
	want.DataPath = dataPath{TUN: "t0", Table: "tt", SteerMark: 0x10, ExemptMark: 0x20, RulePreference: 7, RouteTable: 8, LogGroup: 9, Workers: 3}
	want.RemoteAccess = []string{"wg0", "tun*"}
	args := want.arguments()
	if args[0] != "datapath" {
		t.Fatalf("the subcommand comes first: %v", args)
	}
	given := pflag.NewFlagSet("", pflag.ContinueOnError)
	config := "?"
	given.StringVar(&config, "config", "", "")
	mine := defaults()
	mine.flags(given)
	mine.dataPathFlags(given)
	if err := given.Parse(args[1:]); err != nil {
		t.Fatal(err)
	}
	got, err := loadSettings(config, overrides(given))
	if err != nil || config != "" {
		t.Fatalf("config %q: %v", config, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMistakesInSettingsAreNamedWithTheirLine(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"two unknown fields", "runDir: /run/a\ncolour: green\ndataPath:\n  tum: x\n", []string{"agent.yaml:2:1: unknown setting colour; the settings are stateDir, runDir,", "dataPath.workers", "agent.yaml:4:3: unknown setting dataPath.tum: did you mean dataPath.tun?"}},
		{"wrong type", "dataPath:\n  workers: many\n", []string{"agent.yaml:2:"}},
		{"a number too large", "dataPath: {steerMark: 0x1ffffffff}\n", []string{"agent.yaml:1:"}},
		{"repeated field", "runDir: /a\nrunDir: /b\n", []string{"agent.yaml:2:", "runDir"}},
		{"no YAML", "runDir: [\n", []string{"agent.yaml:"}},
		{"two documents", "runDir: /a\n---\nrunDir: /b\n", []string{"more than one document"}},
		{"relative folder", "stateDir: var\n", []string{"stateDir", "absolute"}},
		{"marks that collide", "dataPath: {steerMark: 3, exemptMark: 3}\n", []string{"mark"}},
		{"a mark that the kernel driver cannot have", "dataPath:\n  exemptMark: 0x40000000\n", []string{"agent.yaml:2:15: dataPath.exemptMark 0x40000000", "below 0x20000000", "driver: user"}},
		{"log format", "log: {format: xml}\n", []string{"xml", "json"}},
		{"log level", "log: {level: loud}\n", []string{"loud"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadSettings(write(t, filepath.Join(t.TempDir(), "agent.yaml"), tt.text), unchanged)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q:\n%v", w, err)
				}
			}
		})
	}
}

func TestEveryFileWithAMistakeIsReported(t *testing.T) {
	dir := t.TempDir()
	main := write(t, filepath.Join(dir, "agent.yaml"), "one: 1\n")
	write(t, filepath.Join(dir, "agent.d", "a.yaml"), "two: 2\n")
	_, err := loadSettings(main, unchanged)
	if err == nil || !strings.Contains(err.Error(), "agent.yaml:1:") || !strings.Contains(err.Error(), "a.yaml:1:") {
		t.Errorf("%v", err)
	}
}

// TestSampleSettings: the sample loads as it is and with every line enabled,
// and its values are the defaults.
func TestSampleSettings(t *testing.T) {
	sample, err := os.ReadFile("../../packaging/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var enabled []string
	for line := range strings.Lines(string(sample)) {
		// A setting is commented with one blank at most of its own indent.
		if text, ok := strings.CutPrefix(line, "# "); ok && isSetting(text) {
			enabled = append(enabled, text)
		}
	}
	s := defaults()
	if err := parseSettings("agent.yaml", sample, &s); err != nil {
		t.Errorf("as it is: %v", err)
	}
	var got settings
	if err := parseSettings("agent.yaml", []byte(strings.Join(enabled, "")), &got); err != nil {
		t.Fatalf("with every line: %v", err)
	}
	want := defaults()
	want.Socket = "/run/ipsecagent/agent.sock"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the sample does not show the defaults (-want +got):\n%s", diff)
	}
	names, _ := settingNames()
	for _, name := range names {
		_, last, _ := cutLast(name)
		if !strings.Contains(string(sample), " "+last+": ") {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestManualPageOfSettings: the page has every setting, with its default, and
// none that there is not.
func TestManualPageOfSettings(t *testing.T) {
	page, err := os.ReadFile("../../docs/man/ipsecagent.8")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), ".SH SETTINGS\n")
	section, _, _ = strings.Cut(section, "\n.SH ")
	text := strings.NewReplacer(`\-`, "-", `\(dq`, `"`)
	groups := map[string]string{}
	for entry := range strings.SplitSeq(section, "\n.TP\n.B ") {
		line, words, _ := strings.Cut(entry, "\n")
		name, value, ok := strings.Cut(text.Replace(line), ": ")
		if !ok {
			continue // what comes before the first
		}
		if len(strings.Fields(words)) < 2 {
			t.Errorf("of %s nothing is said", name)
		}
		group, name, _ := cutLast(name)
		groups[group] += name + ": " + value + "\n"
	}
	document := groups[""]
	delete(groups, "")
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		document += group + ":\n  " + strings.ReplaceAll(strings.TrimSpace(groups[group]), "\n", "\n  ") + "\n"
	}
	var got settings
	if err := parseSettings("ipsecagent.8", []byte(document), &got); err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Socket = "/run/ipsecagent/agent.sock"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the page does not show the defaults (-want +got):\n%s", diff)
	}
	names, _ := settingNames()
	for _, name := range names {
		if !strings.Contains(text.Replace(section), "\n.B "+name+": ") {
			t.Errorf("%s is missing", name)
		}
	}
}

func isSetting(line string) bool {
	name, _, ok := strings.Cut(strings.TrimSpace(line), ":")
	return ok && !strings.ContainsAny(name, " /'.")
}

func TestLoggerFollowsTheSettings(t *testing.T) {
	var b bytes.Buffer
	s := defaults()
	s.Log = logging{slog.LevelWarn, "json"}
	log := s.logger(&b)
	log.Info("not this")
	log.Warn("this", "peer", "10.0.0.2")
	if got := b.String(); strings.Contains(got, "not this") || !strings.Contains(got, `"peer":"10.0.0.2"`) {
		t.Errorf("logged %s", got)
	}
}

// TestManualNamesEveryFlag: the manual page knows every flag of both commands.
func TestManualNamesEveryFlag(t *testing.T) {
	page, err := os.ReadFile("../../docs/man/ipsecagent.8")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(page), `\-`, "-")
	p := &program{out: &bytes.Buffer{}, err: &bytes.Buffer{}, getenv: func(string) string { return "" }}
	root := p.command(new(bool))
	var names []string
	collect := func(f *pflag.Flag) { names = append(names, f.Name) }
	root.Flags().VisitAll(collect)
	root.PersistentFlags().VisitAll(collect)
	for _, c := range root.Commands() {
		c.Flags().VisitAll(collect)
	}
	if !slices.Contains(names, "stop") || !slices.Contains(names, "tun") || !slices.Contains(names, "check") {
		t.Fatalf("flags: %v", names)
	}
	for _, n := range names {
		if n != "help" && !strings.Contains(text, "--"+n) {
			t.Errorf("--%s is missing in the manual", n)
		}
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add("runDir: /run/a\n")
	f.Add("dataPath: {steerMark: 0x10}\nlog: {level: debug}")
	f.Add("a: &a [*a]")
	f.Add("{}")
	f.Fuzz(func(t *testing.T, text string) {
		s := defaults()
		if err := parseSettings("agent.yaml", []byte(text), &s); err != nil && !strings.HasPrefix(err.Error(), "agent.yaml:") {
			t.Errorf("an error without its file: %v", err)
		}
	})
}

func TestSettingsErrorsSayWhatIsKnown(t *testing.T) {
	for text, want := range map[string]string{
		"log: {level: loud}\n":                 "agent.yaml:1:14: log.level: \"loud\" is no level; the levels are debug, info, warn and error",
		"idleTime: 5x\n":                       `agent.yaml:1:11: idleTime: "5x" is not a duration with a unit, as in 5m or 30s`,
		"idleTime: 5\n":                        `agent.yaml:1:11: idleTime: "5" is not a duration with a unit, as in 5m or 30s`,
		"uplift: maybe\n":                      `agent.yaml:1:9: uplift: "maybe" is not true or false`,
		"dataPath: {workers: many}\n":          `agent.yaml:1:21: dataPath.workers: "many" is not a whole number`,
		"dataPath: {logGroup: 70000}\n":        "dataPath.logGroup: \"70000\" is not a whole number from 0 to 65535",
		"kerberos: {realms: X}\n":              `kerberos.realms: "X" is not a list of texts`,
		"log: debug\n":                         `log: "debug" is not a group of settings`,
		"runDir: [a]\n":                        "runDir: a list is not one text",
		"certificates: {accounts: {a: [1]}}":   "certificates.accounts.a: a list is not one text",
		"hello\n":                              "agent.yaml:1:1: the file holds no settings",
		"RunDir: /x\n":                         "unknown setting RunDir: did you mean runDir?",
		"keytab: /x\n":                         "unknown setting keytab: it is of the group kerberos: put it below 'kerberos:'",
		"keytap: /x\n":                         "unknown setting keytap: did you mean kerberos.keytab?",
		"directory:\nkind: ad\n":               "agent.yaml:2:1: unknown setting kind: it is of the group directory: put it below 'directory:' with two blanks before it, or write directory: {kind: value}\n    kind: ad\n    ^",
		"directory: kind: ad\n":                "agent.yaml:1:16: mapping values are not allowed in this context: two names with a colon on one line",
		"directory: {kind:ad}\n":               "agent.yaml:1:13: unknown setting directory.kind:ad: between a name and its value stand a colon and a blank, as in kind: ad",
		"directory:{kind: ad}\n":               "as in directory: {name: value}",
		"directory:\n  kind:ad\n":              "agent.yaml:2:3: directory: \"kind:ad\" is not a group of settings, as in {name: value}: is a blank missing after the colon, kind: ad?",
		"directory:\n\tkind: ad\n":             "agent.yaml:2:1: found character that cannot start any token: the line is indented with a tab",
		"log:\n    level: info\n  format: x\n": "agent.yaml:3:3: did not find expected key: the line begins at another column",
		"dataPath.tun: x\n":                    "unknown setting dataPath.tun: settings of a group are written below it, or as dataPath: {tun: value}",
		"logs: {level: info}\n":                "unknown setting logs: did you mean log?",
		"log: {colour: red}\n":                 "unknown setting log.colour; the settings are log.level, log.format",
	} {
		s := defaults()
		err := parseSettings("agent.yaml", []byte(text), &s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// A value that cannot be used is shown where it stands: in the file that counts,
// not on the command line, which wins over it.
func TestValuesThatCannotBeUsedAreShownInTheirFile(t *testing.T) {
	dir := t.TempDir()
	main := write(t, filepath.Join(dir, "agent.yaml"), "# a comment\ndriver: kernal\nboot:\n  mode: blok\n")
	dropIn := write(t, filepath.Join(dir, "agent.d", "a.yaml"), "certificates: {revocation: on}\ndataPath:\n  steerMark: 3\n")
	_, err := loadSettings(main, unchanged)
	for _, want := range []string{
		main + ":2:9: driver \"kernal\": auto, kernel or user: did you mean kernel?\n    driver: kernal\n            ^",
		main + ":4:9: boot.mode \"blok\": auto, permit, block or stateful: did you mean block?\n      mode: blok\n            ^",
		dropIn + ":1:28: certificates.revocation \"on\": it is one of known, off, strict\n",
		dropIn + ":3:3: dataPath: ",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwithout\n%s", err, want)
		}
	}
	expectChecks(t, settingsChecks(err), "problem settings: did you mean kernel?", "problem settings: did you mean block?", "problem settings: revocation", "problem settings: dataPath")

	override := func(driver string) func(*settings) error {
		return func(s *settings) error { s.Driver = driver; return nil }
	}
	if _, err := loadSettings(main, override("usr")); err == nil || !strings.Contains(err.Error(), "settings: driver \"usr\"") || strings.Contains(err.Error(), "agent.yaml:2") {
		t.Errorf("of the command line: %v", err)
	}
	if _, err := loadSettings(main, override(driverUser)); err == nil || strings.Contains(err.Error(), "kernal") {
		t.Errorf("what the command line has mended: %v", err)
	}
}

func TestManyMistakesInSettingsAreNotAllListed(t *testing.T) {
	var text strings.Builder
	for i := range 500 {
		fmt.Fprintf(&text, "colour%d: green\n", i)
	}
	s := defaults()
	err := parseSettings("agent.yaml", []byte(text.String()), &s)
	if err == nil || !strings.Contains(err.Error(), "agent.yaml: and 480 more") || strings.Count(err.Error(), "\n") != 3*20 {
		t.Errorf("got %v", err)
	}
}
