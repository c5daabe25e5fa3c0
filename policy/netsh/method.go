package netsh

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// modern is the word of ours for the methods of a policy that lists none.
const modern = "modern"

// What Windows takes where a security method says nothing of its lifetime.
const (
	defaultSeconds   = 3600
	defaultKilobytes = 100_000
)

const maxMethods = 32

// quickModes sets the security methods that qmsecmethods= gives.
func (a *args) quickModes(into *[]policy.SecurityMethod) {
	text, ok := a.get("qmsecmethods")
	if !ok {
		return
	}
	if strings.EqualFold(text, modern) {
		*into = nil
		return
	}
	words := strings.Fields(strings.ReplaceAll(text, ", ", ","))
	if len(words) == 0 || len(words) > maxMethods {
		a.fail(fmt.Errorf("qmsecmethods= lists %d methods, not 1 to %d", len(words), maxMethods))
		return
	}
	var methods []policy.SecurityMethod
	for _, w := range words {
		method, err := parseQuickMode(w)
		if err != nil {
			a.fail(fmt.Errorf("qmsecmethods=, %q: %w", w, err))
			return
		}
		methods = append(methods, method)
	}
	*into = methods
}

// parseQuickMode reads "ESP[3DES,SHA1]:100000k/3600s", "AH[MD5]+ESP[DES,SHA1]",
// and in words of ours "esp-aes256gcm:97656250k/3600s".
func parseQuickMode(word string) (policy.SecurityMethod, error) {
	suites, life, limited := strings.Cut(word, ":")
	var m policy.SecurityMethod
	windows := false
	for _, name := range strings.Split(suites, "+") {
		s, err := parseSuite(name)
		if err != nil {
			return m, err
		}
		windows = windows || strings.Contains(name, "[")
		m.Suites = append(m.Suites, s)
	}
	if len(m.Suites) == 2 && m.Suites[0].Proto == sadb.ESP {
		m.Suites[0], m.Suites[1] = m.Suites[1], m.Suites[0] // AH outside, however it is written
	}
	if limited {
		if err := parseLimits(life, &m); err != nil {
			return m, err
		}
	}
	if windows {
		m = withDefaults(m)
	}
	return m, nil
}

// withDefaults writes out what Windows takes where a method says nothing.
func withDefaults(m policy.SecurityMethod) policy.SecurityMethod {
	if m.Lifetime == 0 {
		m.Lifetime = defaultSeconds * time.Second
	}
	if m.Bytes == 0 {
		m.Bytes = defaultKilobytes << 10
	}
	return m
}

// parseSuite reads "ESP[3DES,SHA1]" or "AH[SHA1]", else the name of a suite.
func parseSuite(name string) (sadb.Suite, error) {
	head, rest, ok := strings.Cut(strings.ToLower(name), "[")
	if !ok {
		return sadb.ParseSuite(strings.ToLower(name))
	}
	inside, closed := strings.CutSuffix(rest, "]")
	parts := strings.Split(inside, ",")
	hash := hashWord(parts[len(parts)-1])
	switch {
	case !closed || !(head == "ah" && len(parts) == 1 || head == "esp" && len(parts) == 2):
		return sadb.Suite{}, errors.New("it is not of the form ESP[3DES,SHA1]:100000k/3600s, AH[SHA1] or AH[SHA1]+ESP[3DES,SHA1], nor the name of a suite such as esp-aes256gcm")
	case hash == "none":
		return sadb.Suite{}, errors.New("ESP without integrity is not carried, not even inside AH: an attacker could change what it hides; write, for example, ESP[3DES,SHA1]")
	case hash != "md5" && hash != "sha1":
		return sadb.Suite{}, errors.New("in brackets the integrity is MD5 or SHA1; modern suites are written by their names, such as esp-aes256-sha256")
	case head == "ah":
		return sadb.ParseSuite("ah-" + hash)
	case parts[0] == "des" || parts[0] == "3des":
		return sadb.ParseSuite("esp-" + parts[0] + "-" + hash)
	case parts[0] == "none":
		return sadb.ParseSuite("esp-null-" + hash)
	}
	return sadb.Suite{}, errors.New("in brackets the encryption is 3DES, DES or None; modern suites are written by their names, such as esp-aes256gcm")
}

// hashWord takes the SHA of older tools for SHA1.
func hashWord(s string) string {
	if s == "sha" {
		return "sha1"
	}
	return s
}

// parseLimits reads "100000k/3600s", one of the two, and bytes with a "b".
func parseLimits(text string, m *policy.SecurityMethod) error {
	for _, part := range strings.Split(strings.ToLower(text), "/") {
		if part == "" {
			return errors.New("a lifetime is missing beside the slash")
		}
		unit := part[len(part)-1]
		n, err := strconv.ParseUint(part[:len(part)-1], 10, 43)
		switch {
		case err == nil && unit == 's' && n < 1<<31:
			m.Lifetime = time.Duration(n) * time.Second
		case err == nil && unit == 'k':
			m.Bytes = n << 10
		case err == nil && unit == 'b':
			m.Bytes = n
		default:
			return fmt.Errorf("the lifetime %q is not a number of kilobytes (100000k) or of seconds (3600s)", part)
		}
	}
	return nil
}

// mainModes sets the main-mode methods that mmsecmethods= gives.
func (a *args) mainModes(into *[]sadb.ISAKMPSuite) {
	text, ok := a.get("mmsecmethods")
	if !ok {
		return
	}
	if strings.EqualFold(text, modern) {
		*into = nil
		return
	}
	words := strings.Fields(text)
	if len(words) == 0 || len(words) > maxMethods {
		a.fail(fmt.Errorf("mmsecmethods= lists %d methods, not 1 to %d", len(words), maxMethods))
		return
	}
	var methods []sadb.ISAKMPSuite
	for _, w := range words {
		s, err := parseMainMode(w)
		if err != nil {
			a.fail(fmt.Errorf("mmsecmethods=, %q: %w", w, err))
			return
		}
		methods = append(methods, s)
	}
	*into = methods
}

// parseMainMode reads "3DES-SHA1-2", and in words of ours
// "aes256-sha256-ecp256".
func parseMainMode(word string) (sadb.ISAKMPSuite, error) {
	parts := strings.Split(strings.ToLower(word), "-")
	if len(parts) != 3 {
		return sadb.ISAKMPSuite{}, errors.New("it is not of the form 3DES-SHA1-2, nor of the form aes256-sha256-ecp256")
	}
	parts[1] = hashWord(parts[1])
	if n, err := strconv.Atoi(parts[2]); err == nil && windowsGroups()[n] == 0 {
		return sadb.ISAKMPSuite{}, errors.New("the groups of netsh are 1 (768 bits), 2 (1024) and 3 (2048); others are written by their names, such as aes256-sha256-ecp256")
	}
	for number, g := range windowsGroups() {
		if parts[2] == strconv.Itoa(number) {
			parts[2] = g.String()
		}
	}
	return sadb.ParseISAKMPSuite(strings.Join(parts, "-"))
}

// windowsGroups returns the Diffie-Hellman groups by the numbers of netsh.
func windowsGroups() map[int]sadb.Group {
	return map[int]sadb.Group{1: sadb.MODP768, 2: sadb.MODP1024, 3: sadb.MODP2048}
}

// formatMainMode writes what parseMainMode reads; windows is false where only
// this project's words say it.
func formatMainMode(s sadb.ISAKMPSuite) (word string, windows bool) {
	for number, g := range windowsGroups() {
		old := s.KeyBits == 0 && (s.Hash == sadb.MD5 || s.Hash == sadb.SHA1)
		if old && s.Group == g {
			return strings.ToUpper(fmt.Sprintf("%v-%v-%d", s.Encryption, s.Hash, number)), true
		}
	}
	return s.String(), false
}

// formatQuickMode writes what parseQuickMode reads.
func formatQuickMode(m policy.SecurityMethod) (word string, windows bool) {
	windows = m.Bytes%1024 == 0
	var names []string
	for _, s := range m.Suites {
		name, ok := windowsSuite(s)
		windows = windows && ok
		names = append(names, name)
	}
	if windows {
		m = withDefaults(m)
		return fmt.Sprintf("%s:%dk/%ds", strings.Join(names, "+"), m.Bytes>>10, m.Lifetime/time.Second), true
	}
	names = nil
	for _, s := range m.Suites {
		names = append(names, s.String())
	}
	return strings.Join(names, "+") + formatLimits(m), false
}

// formatLimits writes the limits that a method in words of ours has.
func formatLimits(m policy.SecurityMethod) string {
	var parts []string
	switch {
	case m.Bytes == 0:
	case m.Bytes%1024 == 0:
		parts = append(parts, fmt.Sprintf("%dk", m.Bytes>>10))
	default:
		parts = append(parts, fmt.Sprintf("%db", m.Bytes))
	}
	if m.Lifetime != 0 {
		parts = append(parts, fmt.Sprintf("%ds", m.Lifetime/time.Second))
	}
	if parts == nil {
		return ""
	}
	return ":" + strings.Join(parts, "/")
}

// windowsSuite returns the words of Windows for a suite, if it has some.
func windowsSuite(s sadb.Suite) (string, bool) {
	old := s.KeyBits == 0 && (s.Integrity == sadb.HMACMD5 || s.Integrity == sadb.HMACSHA1)
	if !old {
		return "", false
	}
	hash := "SHA1"
	if s.Integrity == sadb.HMACMD5 {
		hash = "MD5"
	}
	if s.Proto == sadb.AH {
		return "AH[" + hash + "]", true
	}
	enc := strings.ToUpper(s.Encryption.String())
	if s.Encryption == sadb.Null {
		enc = "None"
	}
	return "ESP[" + enc + "," + hash + "]", true
}
