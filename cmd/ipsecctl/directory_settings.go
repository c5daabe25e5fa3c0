package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"ipsecagent/auth/kerberos"
	"ipsecagent/policy/directory"
)

// agentSettings is the settings file of the agent, which says how the directory
// is reached.
const agentSettings = "/etc/ipsecagent/agent.yaml"

// directoryOptions are the flags of every command that asks a directory.
type directoryOptions struct {
	settings directory.Settings
	file     string // settings of the agent
	given    func(flag string) bool

	keytab, principal, ccache, krb5conf string
	allowRC4                            bool
	exemptMark                          uint32
	// person: it is asked in the name of somebody who is no computer.
	person bool
}

// add binds the flags of a command and those below it.
func (o *directoryOptions) add(c *cobra.Command) {
	f, s := c.PersistentFlags(), &o.settings
	f.StringVar(&o.file, "config", agentSettings, "settings of the agent")
	f.StringVar(&s.Kind, "kind", "", "kind of directory: ad (Active Directory, the default) or ldap")
	f.StringVar(&s.Domain, "domain", "", "DNS name of the domain (default: that of the Kerberos principal)")
	f.StringArrayVar(&s.Servers, "server", nil, "DNS name of a server, NAME or NAME:PORT; repeat it for more; without, DNS is asked")
	f.StringVar(&s.Base, "base", "", "DN that everything is below; without, the server says")
	f.StringVar(&s.Container, "container", "", "DN that policies are below (default CN=IP Security,CN=System below the base)")
	f.StringVar(&s.Protection, "protection", "", "of the connection: seal (by Kerberos, the default), starttls (the default of --bind-dn) or tls")
	f.StringVar(&s.CA, "ca", "", "file with the certificates of the servers' authorities (default: the system's)")
	f.StringVar(&s.BindDN, "bind-dn", "", "bind by password, as this entry")
	f.StringVar(&s.PasswordFile, "password-file", "", "file with the password of --bind-dn")
	f.StringVar(&o.keytab, "keytab", "", "bind by Kerberos with a key of this key table")
	f.StringVar(&o.principal, "principal", "", "with a key table: whose key")
	f.StringVar(&o.ccache, "ccache", "", "bind by Kerberos with the tickets of this credential cache")
	f.StringVar(&o.krb5conf, "krb5-conf", "", "configuration of Kerberos (default "+kerberos.DefaultKrb5Conf+")")
	o.given = func(flag string) bool { return f.Changed(flag) }
}

// check reports flags that do not go together.
func (o *directoryOptions) check() error {
	names := 0
	for _, flag := range []string{"bind-dn", "keytab", "ccache"} {
		if o.given(flag) {
			names++
		}
	}
	switch {
	case names > 1:
		return usage("--bind-dn, --keytab and --ccache each say in whose name to ask: give one")
	case o.given("bind-dn") != o.given("password-file"):
		return usage("--bind-dn and --password-file go together")
	}
	return nil
}

// written is what counts here of the settings of the agent.
type written struct {
	Directory directory.Settings `yaml:"directory"`
	Kerberos  struct {
		Keytab    string `yaml:"keytab"`
		Krb5Conf  string `yaml:"krb5conf"`
		Principal string `yaml:"principal"`
		AllowRC4  bool   `yaml:"allowRC4"`
	} `yaml:"kerberos"`
	DataPath struct {
		ExemptMark uint32 `yaml:"exemptMark"`
	} `yaml:"dataPath"`
}

// read fills in what no flag says from the settings of the agent.
func (o *directoryOptions) read() error {
	w := written{Directory: directory.DefaultSettings()}
	data, err := os.ReadFile(o.file)
	if errors.Is(err, fs.ErrNotExist) && !o.given("config") {
		err = nil
	}
	if err != nil {
		return unreadable(o.file, err)
	}
	if err := yaml.Unmarshal(data, &w); err != nil {
		return invalid("%s: %v", o.file, err)
	}
	s, d := &o.settings, w.Directory
	if !o.given("bind-dn") && !o.given("keytab") && !o.given("ccache") {
		s.BindDN, s.PasswordFile = d.BindDN, d.PasswordFile
	}
	if !d.Used() {
		d.Kind = "ad"
	}
	for _, f := range []struct {
		to   *string
		from string
	}{{&s.Kind, d.Kind}, {&s.Domain, d.Domain}, {&s.Base, d.Base}, {&s.Container, d.Container}, {&s.CA, d.CA},
		{&s.Protection, d.Protection}, {&o.krb5conf, w.Kerberos.Krb5Conf}} {
		fill(f.to, f.from)
	}
	s.Computer, s.Refresh = d.Computer, d.Refresh
	if len(s.Servers) == 0 {
		s.Servers = d.Servers
	}
	if o.keytab == "" {
		o.keytab = w.Kerberos.Keytab
		fill(&o.principal, w.Kerberos.Principal)
	}
	o.allowRC4, o.exemptMark = w.Kerberos.AllowRC4, w.DataPath.ExemptMark
	return nil
}

// fill sets what is not set.
func fill(to *string, from string) {
	if *to == "" {
		*to = from
	}
}

// config returns how to reach the directory, and in whose name.
func (o *directoryOptions) config(e *env) (directory.Config, error) {
	if err := errors.Join(o.check(), o.read()); err != nil {
		return directory.Config{}, err
	}
	s, person := &o.settings, o.cache(e)
	if person != "" && !o.given("bind-dn") {
		s.BindDN, s.PasswordFile = "", ""
	}
	if s.BindDN != "" && !o.given("protection") && s.Protection == directory.DefaultSettings().Protection {
		s.Protection = "starttls" // only Kerberos can seal
	}
	c, err := s.Config()
	if err != nil {
		return c, invalid("how to reach the directory: %v", err)
	}
	dialer := directoryDialer(o.exemptMark)
	c.AllowRC4, c.Dial, c.Resolver = o.allowRC4, dialer.DialContext, dialer.Resolver
	if c.BindDN == "" {
		realm := ""
		if c.Tickets, realm, err = o.tickets(person); err != nil {
			return c, invalid("%v", err)
		}
		fill(&c.Domain, strings.ToLower(realm))
		o.person = person != "" && c.Computer == ""
	}
	if err := c.Check(); err != nil {
		return c, usage("%v; say so by flags or under 'directory:' in %s", err, o.file)
	}
	return c, nil
}

// cache returns the credential cache to use; "": none.
func (o *directoryOptions) cache(e *env) string {
	if o.given("ccache") {
		return strings.TrimPrefix(o.ccache, "FILE:")
	}
	if o.given("bind-dn") || o.given("keytab") {
		return ""
	}
	if name := e.getenv("KRB5CCNAME"); name != "" {
		return strings.TrimPrefix(name, "FILE:")
	}
	usual := fmt.Sprintf("/tmp/krb5cc_%d", os.Getuid())
	if _, err := os.Stat(usual); err != nil {
		return ""
	}
	return usual
}

// tickets returns how to get tickets, by a person's cache or a key table, and
// the realm of whose they are.
func (o *directoryOptions) tickets(cache string) (t directory.Tickets, realm string, err error) {
	c := kerberos.Config{Keytab: o.keytab, Krb5Conf: o.krb5conf, Principal: o.principal, AllowRC4: o.allowRC4,
		Dial: directoryDialer(o.exemptMark).DialContext}
	if kind, _, ok := strings.Cut(cache, ":"); ok && !strings.Contains(kind, "/") {
		return nil, "", fmt.Errorf("credential caches of the kind %s cannot be read; make a file: kinit -c FILE, and give it by --ccache", kind)
	}
	if cache != "" {
		tickets, err := kerberos.OpenCache(c, cache)
		if err != nil {
			return nil, "", err
		}
		return tickets.Ticket, tickets.Principal().Realm, nil
	}
	host, err := kerberos.New(c)
	if err != nil {
		return nil, "", err
	}
	self, err := host.Identity()
	if err != nil {
		return nil, "", fmt.Errorf("%w; run kinit, or give --keytab or --bind-dn", err)
	}
	_, realm, _ = strings.Cut(string(self), "@")
	return host.Ticket, realm, nil
}
