package kerberos

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"ipsecagent/auth/gss"
)

// facts are what the files of this host say, as of one moment.
type facts struct {
	conf    *krb5Conf
	keytab  *gss.Keytab
	self    gss.Principal // whom this host logs in as, and whom peers ask tickets for
	realms  []string      // trusted; the own one first
	tickets *tickets
	stamps  []stamp
}

// stamp tells one version of a file from the next.
type stamp struct {
	path string
	size int64
	at   time.Time
}

// stampOf returns the zero stamp with the path if there is no file.
func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{path: path}
	}
	return stamp{path, info.Size(), info.ModTime()}
}

// current reports whether no file has changed.
func (f *facts) current() bool {
	return f != nil && !slices.ContainsFunc(f.stamps, func(s stamp) bool { return stampOf(s.path) != s })
}

// facts returns what the files say now. They are read again when they changed;
// tickets of before are dropped with them.
func (a *Authenticator) facts() (*facts, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known.current() {
		return a.known, nil
	}
	f, err := readFacts(a.config)
	if err != nil {
		a.known = nil
		return nil, err
	}
	a.known = f
	return f, nil
}

func readFacts(c Config) (*facts, error) {
	f := &facts{stamps: []stamp{stampOf(c.Keytab), stampOf(c.Krb5Conf)}}
	var err error
	if f.keytab, err = gss.ReadKeytab(c.Keytab); err != nil {
		return nil, noKeytab(c.Keytab, err)
	}
	if f.conf, err = loadConf(c.Krb5Conf); err != nil {
		return nil, refuse("", err, "Kerberos is not configured")
	}
	for _, file := range f.conf.files {
		f.stamps = append(f.stamps, stampOf(file))
	}
	if err := f.choose(c); err != nil {
		return nil, err
	}
	f.realms = slices.Concat([]string{f.self.Realm}, c.Realms)
	f.tickets = newTickets(&client{
		kdc:  newTransport(f.conf, c.Dial),
		self: f.self, keytab: f.keytab, rc4: c.AllowRC4, skew: f.skew(), now: c.Clock,
	})
	return f, nil
}

// skew returns how far clocks may be apart: what krb5.conf says, up to the
// usual.
func (f *facts) skew() time.Duration {
	if d := f.conf.skew(); d > 0 && d < gss.DefaultSkew {
		return d
	}
	return gss.DefaultSkew
}

func noKeytab(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return refuse(codeNoKeytab, nil, "there is no keytab %s", path)
	}
	return refuse(codeNoKeytab, err, "the keytab %s cannot be read", path)
}

// choose picks this host's name from the keytab: NAME$, by which a Windows
// domain knows the computer, else host/NAME. It is one name for both roles, so
// that a peer sees the same principal whoever begins.
func (f *facts) choose(c Config) error {
	all := f.keytab.Principals()
	if c.Principal != "" {
		return f.chooseConfigured(all, c)
	}
	realm := f.conf.defaultRealm()
	for _, fitting := range []func(gss.Principal) bool{
		isAccount,
		func(p gss.Principal) bool { return isHost(p) && strings.EqualFold(p.Name[1], c.Host) },
		func(p gss.Principal) bool { return isHost(p) && strings.Contains(p.Name[1], ".") },
		isHost,
	} {
		if p, ok := pick(all, realm, fitting); ok {
			f.self = p
			return nil
		}
	}
	return refuse(codeNoKeytab, nil, "the keytab %s has a key of neither host/NAME nor NAME$", c.Keytab)
}

// chooseConfigured finds the principal that the settings name.
func (f *facts) chooseConfigured(all []gss.Principal, c Config) error {
	p, err := gss.ParsePrincipal(c.Principal)
	if err != nil {
		return refuse(codeNoKeytab, err, "the configured principal cannot be read")
	}
	i := slices.IndexFunc(all, func(q gss.Principal) bool {
		return slices.Equal(p.Name, q.Name) && (p.Realm == "" || p.Realm == q.Realm)
	})
	if i < 0 {
		return refuse(codeNoKeytab, nil, "the keytab %s has no key of the configured principal %s", c.Keytab, p)
	}
	f.self = all[i]
	return nil
}

// pick returns the first principal that is fitting, one of the default realm
// if there is one.
func pick(all []gss.Principal, realm string, fitting func(gss.Principal) bool) (gss.Principal, bool) {
	for _, want := range []string{realm, ""} {
		for _, p := range all {
			if fitting(p) && (p.Realm == want || want == "") {
				return p, true
			}
		}
	}
	return gss.Principal{}, false
}

// names returns the principals whose keys may open a peer's ticket: those of
// this computer, not those of services that share the keytab.
func (f *facts) names() []gss.Principal {
	return slices.DeleteFunc(f.keytab.Principals(), func(p gss.Principal) bool {
		return !isComputer(p) && !p.Equal(f.self)
	})
}

// isAccount reports whether a principal is NAME$.
func isAccount(p gss.Principal) bool {
	return len(p.Name) == 1 && len(p.Name[0]) > 1 && strings.HasSuffix(p.Name[0], "$")
}

// isHost reports whether a principal is host/NAME. Windows does not tell case.
func isHost(p gss.Principal) bool {
	return len(p.Name) == 2 && strings.EqualFold(p.Name[0], "host") && p.Name[1] != ""
}

// isComputer reports whether a principal is a computer and no person.
func isComputer(p gss.Principal) bool { return isAccount(p) || isHost(p) }

// hostName returns the DNS name that a computer's principal stands for:
// that of host/NAME, or NAME with the realm as its domain for NAME$.
func hostName(p gss.Principal) string {
	if isHost(p) {
		return strings.ToLower(p.Name[1])
	}
	if !isAccount(p) {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(p.Name[0], "$") + "." + p.Realm)
}
