package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"ipsecagent/agent/control"
	"ipsecagent/auth/cert"
	"ipsecagent/auth/kerberos"
	"ipsecagent/driver/user"
	"ipsecagent/driver/xfrm"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
)

// defaultConfig is the settings file. That it is not there is no error.
const defaultConfig = "/etc/ipsecagent/agent.yaml"

// maxSettings bounds a settings file in bytes.
const maxSettings = 1 << 20

// settings is agent.yaml.
type settings struct {
	StateDir    string `yaml:"stateDir"`
	RunDir      string `yaml:"runDir"`
	Socket      string `yaml:"socket"`
	PoliciesDir string `yaml:"policiesDir"`
	SecretsDir  string `yaml:"secretsDir"`
	Readers     string `yaml:"readersGroup"`
	// Uplift: modern methods are offered before the old ones that policies of
	// Windows list.
	Uplift bool `yaml:"uplift"`
	// RefuseDowngrade: who was once met with modern methods is refused with
	// old ones.
	RefuseDowngrade bool `yaml:"refuseDowngrade"`
	// IdleTime is how long associations may carry nothing; 0: for ever.
	IdleTime time.Duration `yaml:"idleTime"`
	// SilentTime is how long a peer that is sent to may send nothing before it
	// is asked whether it lives; 0: it is not asked.
	SilentTime time.Duration `yaml:"silentTime"`
	// NoDefaultExempt is what passes before the policy is asked, 0 to 3 as the
	// Windows value of that name: policy.ExemptionsOf.
	NoDefaultExempt int `yaml:"noDefaultExempt"`
	// ForceEncapsulation: ESP goes in UDP with every peer that can, as if this
	// host were behind an address translator.
	ForceEncapsulation bool `yaml:"forceEncapsulation"`
	// RemoteAccess names the interfaces, with a star at the end for all names
	// that begin so, that count as remote access besides PPP and SLIP.
	RemoteAccess []string `yaml:"remoteAccess"`

	// Driver is who carries the associations: driverAuto, driverKernel or
	// driverUser.
	Driver string `yaml:"driver"`

	Boot bootSettings `yaml:"boot"`
	// PersistentPolicy names the policy that is in force where nothing else is
	// assigned; "": none.
	PersistentPolicy string `yaml:"persistentPolicy"`
	// Directory is where policy comes from, beside this host.
	Directory directory.Settings `yaml:"directory"`

	Certificates certificates     `yaml:"certificates"`
	Kerberos     kerberosSettings `yaml:"kerberos"`
	Log          logging          `yaml:"log"`
	DataPath     dataPath         `yaml:"dataPath"`
}

// logging is how the agent logs.
type logging struct {
	Level  slog.Level `yaml:"level"`
	Format string     `yaml:"format"`
}

// dataPath is what the data path is started with.
type dataPath struct {
	// External: the data path is started by something else (a systemd unit),
	// the agent only attaches to it.
	External       bool   `yaml:"external"`
	TUN            string `yaml:"tun"`
	Table          string `yaml:"table"`
	SteerMark      uint32 `yaml:"steerMark"`
	ExemptMark     uint32 `yaml:"exemptMark"`
	RulePreference int    `yaml:"rulePreference"`
	RouteTable     int    `yaml:"routeTable"`
	LogGroup       uint16 `yaml:"logGroup"`
	Workers        int    `yaml:"workers"`
}

func defaults() settings {
	return settings{
		StateDir:        "/var/lib/ipsecagent",
		RunDir:          "/run/ipsecagent",
		PoliciesDir:     "/etc/ipsecagent/policies.d",
		SecretsDir:      "/etc/ipsecagent/secrets.d",
		Readers:         control.DefaultGroup,
		Uplift:          true,
		IdleTime:        5 * time.Minute,
		Certificates:    certificates{Dir: "/etc/ipsecagent/certificates", Revocation: "known", Usage: "windows", Identity: "strict", Accounts: map[string]string{}, AccountRealms: []string{}},
		NoDefaultExempt: 3,
		SilentTime:      30 * time.Second,
		RemoteAccess:    []string{},
		Driver:          driverAuto,
		Directory:       directory.DefaultSettings(),
		Boot:            bootSettings{Mode: bootAuto, Exempt: []string{}},
		Kerberos:        kerberosSettings{Keytab: kerberos.DefaultKeytab, Krb5Conf: kerberos.DefaultKrb5Conf, Realms: []string{}},
		Log:             logging{Level: slog.LevelInfo, Format: "text"},
		DataPath: dataPath{
			TUN: user.DefaultTUN, Table: user.DefaultTable, SteerMark: user.DefaultSteer, ExemptMark: user.DefaultExempt,
			RulePreference: user.DefaultPreference, RouteTable: user.DefaultRouteTable, LogGroup: user.DefaultLogGroup,
		},
	}
}

// flags binds the settings that the command line can set.
func (s *settings) flags(f *pflag.FlagSet) {
	f.StringVar(&s.StateDir, "state-dir", s.StateDir, "folder of the state (what is assigned, which associations are whose)")
	f.StringVar(&s.RunDir, "run-dir", s.RunDir, "folder of sockets and of the data path's log")
	f.StringVar(&s.Socket, "socket", s.Socket, "control socket (default RUN-DIR/agent.sock)")
	f.StringVar(&s.PoliciesDir, "policies-dir", s.PoliciesDir, "folder of the policies that can be assigned")
	f.StringVar(&s.SecretsDir, "secrets-dir", s.SecretsDir, "folder of the preshared keys, readable by root alone")
	f.StringVar(&s.Certificates.Dir, "certificates-dir", s.Certificates.Dir, "folder of certificates, with ca, own and crls in it")
	f.Var(levelFlag{&s.Log.Level}, "log-level", "what is logged: debug, info, warn or error")
	f.StringVar(&s.Log.Format, "log-format", s.Log.Format, "how it is logged: text or json")
}

// dataPathFlags binds the settings of the data path. The agent hands its own
// to the data path it starts, so that both always agree.
func (s *settings) dataPathFlags(f *pflag.FlagSet) {
	d := &s.DataPath
	f.StringVar(&d.TUN, "tun", d.TUN, "name of the TUN device")
	f.StringVar(&d.Table, "table", d.Table, "name of the nftables table")
	f.Uint32Var(&d.SteerMark, "steer-mark", d.SteerMark, "mark bit of packets that go to the data path")
	f.Uint32Var(&d.ExemptMark, "exempt-mark", d.ExemptMark, "mark bit of the agent's own sockets")
	f.IntVar(&d.RulePreference, "rule-preference", d.RulePreference, "preference of the ip rule")
	f.IntVar(&d.RouteTable, "route-table", d.RouteTable, "number of the routing table")
	f.Uint16Var(&d.LogGroup, "log-group", d.LogGroup, "netfilter log group of first packets in clear")
	f.Var(listFlag{&s.RemoteAccess}, "remote-access", "interfaces that count as remote access besides PPP and SLIP, such as wg0,tun*")
	f.IntVar(&d.Workers, "workers", d.Workers, "threads that seal packets (default one for each processor)")
}

// arguments is the command line of a data path with these settings.
func (s *settings) arguments() []string {
	return append([]string{
		"datapath", "--config", "", "--run-dir", s.RunDir, "--socket", s.Socket,
		"--log-level", s.Log.Level.String(), "--log-format", s.Log.Format,
	}, s.dataPathArguments()...)
}

// dataPathArguments are those that say what the data path does.
func (s *settings) dataPathArguments() []string {
	return append(s.DataPath.arguments(), "--remote-access="+strings.Join(s.RemoteAccess, ","))
}

func (d *dataPath) arguments() []string {
	return []string{
		"--tun=" + d.TUN, "--table=" + d.Table,
		fmt.Sprintf("--steer-mark=%#x", d.SteerMark), fmt.Sprintf("--exempt-mark=%#x", d.ExemptMark),
		fmt.Sprintf("--rule-preference=%d", d.RulePreference), fmt.Sprintf("--route-table=%d", d.RouteTable),
		fmt.Sprintf("--log-group=%d", d.LogGroup), fmt.Sprintf("--workers=%d", d.Workers),
	}
}

// levelFlag lets a slog.Level be a flag.
type levelFlag struct{ *slog.Level }

// Set reads a level.
func (l levelFlag) Set(text string) error {
	if l.UnmarshalText([]byte(text)) != nil {
		return errors.New("the levels are debug, info, warn and error")
	}
	return nil
}

// Type names the flag's argument in help.
func (l levelFlag) Type() string { return "level" }

// listFlag lets a list of words be a flag: they stand between commas.
type listFlag struct{ list *[]string }

// Set reads a list.
func (l listFlag) Set(text string) error {
	*l.list = strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	return nil
}

// String is what Set reads.
func (l listFlag) String() string { return strings.Join(*l.list, ",") }

// Type names the flag's argument in help.
func (l listFlag) Type() string { return "list" }

// dataPathSocket is where the data path listens for the agent.
func (s *settings) dataPathSocket() string { return filepath.Join(s.RunDir, "datapath.sock") }

// holderSocket is where the holder listens for the data path.
func (s *settings) holderSocket() string { return filepath.Join(s.RunDir, "holder.sock") }

func (s *settings) stateFile() string { return filepath.Join(s.StateDir, "state.db") }

// assignedKeys is the file that keeps the keys of 'ipsecctl assign --auth'.
func (s *settings) assignedKeys() string { return filepath.Join(s.SecretsDir, "assigned.yaml") }

// userConfig is the data path's configuration in its own words.
func (s *settings) userConfig(log *slog.Logger) user.Config {
	d := s.DataPath
	return user.Config{
		Socket: s.dataPathSocket(), TUN: d.TUN, Table: d.Table, Steer: d.SteerMark, Exempt: d.ExemptMark,
		Preference: d.RulePreference, RouteTable: d.RouteTable, LogGroup: d.LogGroup, Workers: d.Workers, Log: log,
		RemoteAccess: s.RemoteAccess,
	}
}

// loadSettings reads the settings file and its drop-ins (FOLDER/agent.d/*.yaml
// in the order of their names); later ones win, and changed flags over all. It
// reports every error of every file.
func loadSettings(path string, changed func(*settings) error) (settings, error) {
	s := defaults()
	var errs []error
	var files []settingsText
	for _, name := range settingsFiles(path) {
		text, err := readSettings(name, &s)
		files, errs = append(files, settingsText{name, text}), append(errs, err)
	}
	ofFiles := s.validate()
	errs = append(errs, changed(&s))
	if s.Socket == "" {
		s.Socket = filepath.Join(s.RunDir, "agent.sock")
	}
	errs = append(errs, placed(files, ofFiles, s.validate()))
	return s, errors.Join(errs...)
}

func settingsFiles(path string) []string {
	if path == "" {
		return nil
	}
	// The pattern is well formed, so there is no error.
	dropIns, _ := filepath.Glob(filepath.Join(escapeGlob(filepath.Dir(path)), "agent.d", "*.yaml"))
	return append([]string{path}, dropIns...)
}

// escapeGlob makes a folder's name stand for itself in a pattern.
func escapeGlob(dir string) string {
	var b bytes.Buffer
	for _, r := range dir {
		if r == '*' || r == '?' || r == '[' || r == '\\' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// readSettings reads one file over s. One that is not there changes nothing.
func readSettings(path string, s *settings) (text []byte, err error) {
	text, err = readBounded(path, maxSettings)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("settings: %s: %w", path, cause(err))
	}
	return text, parseSettings(path, text, s)
}

// parseSettings reads a document over s: unknown fields and a second document
// are errors. Each error has its place, and an excerpt of the file, where that is
// known.
func parseSettings(path string, text []byte, s *settings) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err := dec.Decode(s)
	if errors.Is(err, io.EOF) {
		return nil // nothing but comments
	}
	if err != nil {
		doc := new(yaml.Node)
		if yaml.Unmarshal(text, doc) != nil {
			doc = nil
		}
		return settingsErrors{settingsText{path, text}, doc}.words(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: the file holds more than one document", path)
	}
	return nil
}

// validate says what cannot be used.
func (s *settings) validate() error {
	var errs []error
	bad := func(name, format string, args ...any) { errs = append(errs, wrong(name, format, args...)) }
	for name, dir := range map[string]string{"stateDir": s.StateDir, "runDir": s.RunDir, "policiesDir": s.PoliciesDir, "secretsDir": s.SecretsDir, "certificates.dir": s.Certificates.Dir} {
		if !filepath.IsAbs(dir) {
			bad(name, " %q is not an absolute path", dir)
		}
	}
	if s.Log.Format != "text" && s.Log.Format != "json" {
		bad("log.format", " %q: the formats are text and json%s", s.Log.Format, meantWord(s.Log.Format, []string{"text", "json"}))
	}
	if !slices.Contains(drivers(), s.Driver) {
		bad("driver", " %q: auto, kernel or user%s", s.Driver, meantWord(s.Driver, drivers()))
	}
	if s.IdleTime != 0 && (s.IdleTime < time.Minute || s.IdleTime > time.Hour) {
		bad("idleTime", " %v: between 1m and 1h, or 0 for no end", s.IdleTime)
	}
	if s.SilentTime != 0 && (s.SilentTime < 10*time.Second || s.SilentTime > time.Hour) {
		bad("silentTime", " %v: between 10s and 1h, or 0 to ask nobody", s.SilentTime)
	}
	if _, err := policy.ExemptionsOf(s.NoDefaultExempt); err != nil {
		bad("noDefaultExempt", ": %w", err)
	}
	errs = append(errs, s.Boot.validate())
	set, err := s.Certificates.settings(nil)
	errs = append(errs, err)
	if err == nil {
		if _, err := cert.New(nil, set); err != nil {
			bad("certificates", ": %w", err)
		}
	}
	if err := s.Directory.Validate(); err != nil {
		errs = append(errs, err)
	}
	if err := s.userConfig(nil).Validate(); err != nil {
		bad("dataPath", ": %w", err)
	}
	errs = append(errs, s.wrongMark())
	return errors.Join(errs...)
}

// wrongMark says that the kernel driver, where it may be chosen, has no use for
// the exempt mark.
func (s *settings) wrongMark() error {
	if s.Driver == driverUser || s.DataPath.ExemptMark < xfrm.MarkLimit {
		return nil
	}
	return wrong("dataPath.exemptMark", " %#x: the kernel driver needs it below %#x; choose another bit, or set driver: user", s.DataPath.ExemptMark, uint32(xfrm.MarkLimit))
}

// orDefaults returns settings to look at the host with where s is not valid:
// defaults in the place of what is not.
func (s settings) orDefaults() settings {
	d, usable := defaults(), s.usable()
	if s.RunDir != usable.RunDir && s.Socket == filepath.Join(s.RunDir, "agent.sock") {
		s.Socket = filepath.Join(usable.RunDir, "agent.sock")
	}
	s.StateDir, s.RunDir, s.DataPath = usable.StateDir, usable.RunDir, usable.DataPath
	for _, path := range []struct {
		own *string
		or  string
	}{{&s.PoliciesDir, d.PoliciesDir}, {&s.SecretsDir, d.SecretsDir}, {&s.Certificates.Dir, d.Certificates.Dir}} {
		if !filepath.IsAbs(*path.own) {
			*path.own = path.or
		}
	}
	if s.Directory.Validate() != nil {
		s.Directory = d.Directory
	}
	if !slices.Contains(drivers(), s.Driver) {
		s.Driver = d.Driver
	}
	set, err := s.Certificates.settings(nil)
	if err == nil {
		_, err = cert.New(nil, set)
	}
	if err != nil {
		s.Certificates = d.Certificates
	}
	return s
}

// logger logs to w as the settings say.
func (s *settings) logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: s.Log.Level}
	if s.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
