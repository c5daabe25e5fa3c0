package kerberos

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of krb5.conf and what it includes.
const (
	maxConf      = 1 << 20 // bytes of one file
	maxConfDepth = 4
	maxConfFiles = 64
)

// krb5Conf is what this package reads of krb5.conf. The first of several
// values counts, as in MIT Kerberos; KDCs add up.
type krb5Conf struct {
	values map[string][]string // by section and names, joined with newlines
	files  []string            // all that were read, and the directories
}

// loadConf reads krb5.conf. That there is none is no error: MIT's defaults do.
func loadConf(path string) (*krb5Conf, error) {
	c := &krb5Conf{values: map[string][]string{}}
	err := c.load(path, 0)
	if errors.Is(err, fs.ErrNotExist) && len(c.files) == 0 {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("kerberos: read krb5.conf: %w", err)
	}
	return c, nil
}

func (c *krb5Conf) load(path string, depth int) error {
	if depth > maxConfDepth || len(c.files) >= maxConfFiles {
		return fmt.Errorf("%s: included too deeply, or too many files", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c.files = append(c.files, path)
	return c.parse(b, path, func(directive, arg string) error { return c.include(directive, arg, depth+1) })
}

// include obeys "include FILE" and "includedir DIR".
func (c *krb5Conf) include(directive, arg string, depth int) error {
	if directive == "include" {
		return c.load(arg, depth)
	}
	c.files = append(c.files, arg) // it changes when a file comes or goes
	entries, err := os.ReadDir(arg)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && includable(e.Name()) {
			if err := c.load(filepath.Join(arg, e.Name()), depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// includable is MIT's rule: letters, digits, dashes and underscores, or a name
// that ends in ".conf" and is not hidden.
func includable(name string) bool {
	if strings.HasSuffix(name, ".conf") {
		return !strings.HasPrefix(name, ".")
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}

// parse reads one file. name is for errors.
func (c *krb5Conf) parse(b []byte, name string, include func(directive, arg string) error) error {
	if len(b) > maxConf {
		return fmt.Errorf("%s: larger than %d bytes", name, maxConf)
	}
	var at []string // section, then the names of open braces
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxConf+1)
	for n := 1; lines.Scan(); n++ {
		next, err := c.line(at, strings.TrimSpace(lines.Text()), include)
		if err != nil {
			return fmt.Errorf("%s line %d: %w", name, n, err)
		}
		at = next
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(at) > 1 {
		return fmt.Errorf("%s: a brace of %q is not closed", name, at[len(at)-1])
	}
	return nil
}

// line takes one line and returns the place that the next one is in.
func (c *krb5Conf) line(at []string, s string, include func(directive, arg string) error) ([]string, error) {
	if s == "" || s[0] == '#' || s[0] == ';' {
		return at, nil
	}
	word, arg, _ := strings.Cut(s, " ")
	switch {
	case word == "include" || word == "includedir":
		return at, include(word, strings.TrimSpace(arg))
	case word == "module":
		return at, nil
	case s[0] == '[':
		end := strings.IndexByte(s, ']')
		if end < 0 || len(at) > 1 {
			return nil, fmt.Errorf("no section header: %q", s)
		}
		return []string{s[1:end]}, nil
	case s[0] == '}':
		if len(at) < 2 {
			return nil, errors.New("a closing brace without an open one")
		}
		return at[:len(at)-1], nil
	}
	return c.relation(at, s)
}

// relation takes "name = value" or "name = {".
func (c *krb5Conf) relation(at []string, s string) ([]string, error) {
	name, value, ok := strings.Cut(s, "=")
	name, value = strings.TrimSuffix(strings.TrimSpace(name), "*"), strings.TrimSpace(value)
	if !ok || len(at) == 0 || len(at) > 8 {
		return nil, fmt.Errorf("neither a section nor name = value: %q", s)
	}
	place := append(at[:len(at):len(at)], name)
	if value == "{" {
		return place, nil
	}
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	key := strings.Join(place, "\n")
	c.values[key] = append(c.values[key], value)
	return at, nil
}

// all returns the values at a place, and get the first of them.
func (c *krb5Conf) all(place ...string) []string { return c.values[strings.Join(place, "\n")] }

func (c *krb5Conf) get(place ...string) string {
	if v := c.all(place...); len(v) > 0 {
		return v[0]
	}
	return ""
}

// defaultRealm returns the realm of names without one; "" if there is none.
func (c *krb5Conf) defaultRealm() string { return c.get("libdefaults", "default_realm") }

// lookupKDC reports whether DNS may be asked for KDCs.
func (c *krb5Conf) lookupKDC() bool {
	switch strings.ToLower(c.get("libdefaults", "dns_lookup_kdc")) {
	case "false", "no", "n", "f", "off", "nil", "0":
		return false
	}
	return true
}

// skew returns how far clocks may be apart; 0 if nothing is said.
func (c *krb5Conf) skew() time.Duration {
	s := c.get("libdefaults", "clockskew")
	if d, err := time.ParseDuration(s); err == nil {
		return d
	}
	d, err := time.ParseDuration(s + "s")
	if err != nil {
		return 0
	}
	return d
}

// realmOf returns the realm of a host by [domain_realm]: the host itself, then
// its domains from the inside; "" if none is named.
func (c *krb5Conf) realmOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if r := c.get("domain_realm", host); r != "" {
		return r
	}
	for i := strings.IndexByte(host, '.'); i >= 0; {
		if r := c.get("domain_realm", host[i:]); r != "" {
			return r
		}
		if r := c.get("domain_realm", host[i+1:]); r != "" {
			return r
		}
		next := strings.IndexByte(host[i+1:], '.')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return ""
}
