package directory

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"ipsecagent/sadb"
)

// Settings is how an administrator says where policy comes from, as the agent's
// settings file has it.
type Settings struct {
	// Kind is "none", "ad" (Active Directory) or "ldap".
	Kind string `yaml:"kind"`
	// Domain and Base are as in Config; Servers are NAME or NAME:PORT.
	Domain    string   `yaml:"domain"`
	Servers   []string `yaml:"servers"`
	Base      string   `yaml:"base"`
	Container string   `yaml:"container"`
	// Protection is "seal", "starttls" or "tls".
	Protection string `yaml:"protection"`
	// CA is a file of authorities of the server's certificate; "": the system's.
	CA string `yaml:"ca"`
	// BindDN and PasswordFile are for a bind by password; "": by Kerberos.
	BindDN       string `yaml:"bindDN"`
	PasswordFile string `yaml:"passwordFile"`
	Computer     string `yaml:"computer"`
	// Refresh, RefreshJitter and Watch are as in SourceConfig.
	Refresh       time.Duration `yaml:"refresh"`
	RefreshJitter time.Duration `yaml:"refreshJitter"`
	Watch         bool          `yaml:"watch"`
}

// The words of Settings.
const (
	kindNone, kindAD, kindLDAP      = "none", "ad", "ldap"
	wordSeal, wordStartTLS, wordTLS = "seal", "starttls", "tls"
)

// DefaultSettings take no policy from a directory.
func DefaultSettings() Settings {
	return Settings{Kind: kindNone, Servers: []string{}, Protection: wordSeal, Refresh: DefaultRefresh, RefreshJitter: DefaultJitter, Watch: true}
}

// Bounds of the settings.
const (
	leastRefresh = time.Minute
	mostRefresh  = 45 * 24 * time.Hour // as of Windows
	mostJitter   = 24 * time.Hour
	maxFile      = 1 << 20 // bytes of a file that they name
)

// Used reports whether policy comes from a directory.
func (s *Settings) Used() bool { return s.Kind != kindNone }

// Validate says what cannot be used, without a look at files.
func (s *Settings) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("directory."+format, args...)) }
	if s.Kind != kindNone && s.Kind != kindAD && s.Kind != kindLDAP {
		bad("kind %q: none, ad (Active Directory) or ldap", s.Kind)
	}
	if _, err := s.protection(); err != nil {
		errs = append(errs, err)
	}
	if _, err := s.servers(); err != nil {
		errs = append(errs, err)
	}
	if s.Refresh < leastRefresh || s.Refresh > mostRefresh {
		bad("refresh %v: between %v and %v", s.Refresh, leastRefresh, mostRefresh)
	}
	if s.RefreshJitter < 0 || s.RefreshJitter > mostJitter {
		bad("refreshJitter %v: up to %v, or 0 for none", s.RefreshJitter, mostJitter)
	}
	if (s.BindDN == "") != (s.PasswordFile == "") {
		bad("bindDN and directory.passwordFile: both for a bind by password, none for one by Kerberos")
	}
	if s.BindDN != "" && s.Protection == wordSeal {
		bad("protection %q: a bind by password needs starttls or tls, for only Kerberos can seal", s.Protection)
	}
	if s.Kind == kindLDAP && s.Domain == "" && len(s.Servers) == 0 {
		bad("servers: name one, or the domain whose servers DNS names")
	}
	return errors.Join(errs...)
}

func (s *Settings) protection() (Protection, error) {
	for i, word := range []string{wordSeal, wordStartTLS, wordTLS} {
		if s.Protection == word {
			return Protection(i), nil
		}
	}
	return 0, fmt.Errorf("directory.protection %q: seal, starttls or tls", s.Protection)
}

// servers reads NAME or NAME:PORT. Addresses are no names that a server could
// prove.
func (s *Settings) servers() ([]Server, error) {
	var all []Server
	for _, text := range s.Servers {
		server := Server{Name: strings.ToLower(text)}
		if name, port, err := net.SplitHostPort(text); err == nil {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("directory.servers: %q has no port from 1 to 65535", text)
			}
			server = Server{strings.ToLower(name), uint16(n)}
		}
		if net.ParseIP(server.Name) != nil || server.Name == "" || strings.ContainsAny(server.Name, "/:[] ") {
			return nil, fmt.Errorf("directory.servers: %q is not the DNS name of a server, which its identity is proven under", text)
		}
		all = append(all, server)
	}
	return all, nil
}

// Config reads the files that the settings name and returns what Connect takes.
// How to get tickets and to dial is the caller's.
func (s *Settings) Config() (Config, error) {
	if err := s.Validate(); err != nil {
		return Config{}, err
	}
	c := Config{Domain: s.Domain, Base: s.Base, Container: s.Container, BindDN: s.BindDN, Computer: s.Computer}
	if s.Kind == kindLDAP {
		c.Kind = LDAP
	}
	c.Protection, _ = s.protection() // they are valid
	c.Servers, _ = s.servers()
	if s.CA != "" {
		text, err := readFile(s.CA)
		if err != nil {
			return Config{}, fmt.Errorf("directory.ca: %w", err)
		}
		c.Roots = x509.NewCertPool()
		if !c.Roots.AppendCertsFromPEM(text) {
			return Config{}, fmt.Errorf("directory.ca: %s holds no certificate in PEM", s.CA)
		}
	}
	if s.PasswordFile != "" {
		text, err := readSecret(s.PasswordFile)
		if err != nil {
			return Config{}, fmt.Errorf("directory.passwordFile: %w", err)
		}
		password := bytes.TrimRight(text, "\r\n")
		if len(password) == 0 {
			return Config{}, fmt.Errorf("directory.passwordFile: %s is empty", s.PasswordFile)
		}
		c.Password = sadb.NewSecret(password)
	}
	return c, nil
}

// readSecret reads a file that nobody else may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others can read %s: chmod 600 it", path)
	}
	return readFile(path)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return text, err
}
