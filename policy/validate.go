package policy

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ipsecagent/sadb"
)

// Bounds of a policy. They keep a document from costing more than a host can
// bear; no policy seen in practice comes near.
const (
	maxFilters     = 100_000 // written, and again after the rules use them
	maxObjects     = 10_000  // rules, filter lists, filter actions
	maxMethods     = 32      // security methods, main-mode methods
	maxAuth        = 16
	maxPrincipals  = 1000
	maxTests       = 10_000
	maxNames       = 1000 // different DNS names
	maxName        = 255  // bytes
	maxDescription = 4096 // bytes

	minLifetime   = time.Minute
	maxLifetime   = 48 * time.Hour // as the Windows model
	minBytes      = 1_000_000
	maxBytes      = 4_000_000_000_000 // what 32 bits of kilobytes can say (RFC 2407 §4.5)
	minPolling    = time.Minute
	maxPolling    = 7 * 24 * time.Hour
	maxClearDelay = time.Minute
)

// Validate reports everything that is wrong with p at once: what it lets through
// is enforced whole. What a data path or an authentication method of a host cannot
// do, the agent refuses there. The error joins
// values of type *Problem; nil: p can be compiled.
func Validate(p *Policy) error {
	r := &report{}
	p.validateHeader(r)
	p.validateKeyExchange(r)
	p.validateLists(r)
	p.validateActions(r)
	p.validateRules(r)
	p.validateDefaultResponse(r)
	p.validateTests(r)
	p.validateReport(r)
	if n := len(p.Names()); n > maxNames {
		r.add("filterLists", "the rules name %d different DNS names, more than %d", n, maxNames)
	}
	return r.err()
}

func (p *Policy) validateHeader(r *report) {
	checkName(r, "name", "the policy", p.Name)
	checkText(r, "description", "the policy", p.Description)
	if p.PollingInterval != 0 && (p.PollingInterval < minPolling || p.PollingInterval > maxPolling) {
		r.add("pollingInterval", "%v is not between 1m and 7d", p.PollingInterval)
	}
}

func (p *Policy) validateKeyExchange(r *report) {
	k := p.KeyExchange
	if len(k.Methods) > maxMethods {
		r.add("keyExchange.methods", "%d methods, more than %d", len(k.Methods), maxMethods)
	}
	for i, s := range k.Methods {
		path := at("keyExchange.methods", i, "")
		if parsed, err := sadb.ParseISAKMPSuite(s.String()); err != nil || parsed != s {
			r.add(path, "%v is not a main-mode method", s)
		}
		for _, earlier := range k.Methods[:i] {
			if earlier == s {
				r.add(path, "main-mode method %v is listed twice", s)
			}
		}
	}
	checkLifetime(r, "keyExchange.lifetime", "main mode", k.Lifetime)
	if k.Sessions < 0 {
		r.add("keyExchange.sessions", "%d is negative; 0 means no limit", k.Sessions)
	}
}

func (p *Policy) validateActions(r *report) {
	seen := map[string]bool{}
	if len(p.FilterActions) > maxObjects {
		r.add("filterActions", "%d filter actions, more than %d", len(p.FilterActions), maxObjects)
		return
	}
	for i := range p.FilterActions {
		a := &p.FilterActions[i]
		path := at("filterActions", i, "")
		checkName(r, path, "the filter action", a.Name)
		checkText(r, path, fmt.Sprintf("filter action %q", a.Name), a.Description)
		if _, ok := builtin(a.Name); ok {
			r.add(path, "filter action %q is built in and cannot be defined again; use another name", a.Name)
		}
		if seen[a.Name] {
			r.add(path, "filter action %q is defined twice", a.Name)
		}
		seen[a.Name] = true
		validateAction(r, path, a)
	}
}

func validateAction(r *report, path string, a *FilterAction) {
	what := fmt.Sprintf("filter action %q", a.Name)
	path += ".negotiate"
	if a.Kind > sadb.Negotiate {
		r.add(path, "%s: unknown %v", what, a.Kind)
	}
	if a.Kind != sadb.Negotiate {
		if a.negotiates() {
			r.add(path, "%s is %v and has settings of a negotiation; remove one of the two", what, a.Kind)
		}
		return
	}
	if len(a.Methods) == 0 {
		r.add(path+".methods", "%s negotiates security without any method; list at least one, for example esp-aes256gcm", what)
	}
	validateMethods(r, path+".methods", what, a.Methods)
	validateClear(r, path, what, a)
	validatePFS(r, path, what, a.SessionKeyPFS, a.PFSGroup)
}

func validatePFS(r *report, path, what string, on bool, group sadb.Group) {
	if group != 0 && !on {
		r.add(path+".sessionKeyPFS", "%s names a group of session key PFS that is off", what)
	}
	if _, err := sadb.ParseGroup(group.String()); group != 0 && err != nil {
		r.add(path+".sessionKeyPFS", "%s: %v", what, err)
	}
}

// negotiates reports whether any setting of a negotiation is made.
func (a *FilterAction) negotiates() bool {
	return len(a.Methods) > 0 || a.AcceptUnsecured || a.AllowClear || a.ClearDelay != 0 || a.SessionKeyPFS || a.PFSGroup != 0
}

func validateClear(r *report, path, what string, a *FilterAction) {
	path += ".clearDelay"
	switch {
	case a.ClearDelay < 0 || a.ClearDelay > maxClearDelay:
		r.add(path, "%s: %v is not between 0s and 1m", what, a.ClearDelay)
	case a.ClearDelay != 0 && !a.AllowClear:
		r.add(path, "%s: a delay before traffic goes in clear needs allowClear: true", what)
	}
}

func validateMethods(r *report, path, what string, methods []SecurityMethod) {
	if len(methods) > maxMethods {
		r.add(path, "%s has %d methods, more than %d", what, len(methods), maxMethods)
	}
	for i, m := range methods {
		here := at(path, i, "")
		if !validSuites(m.Suites) {
			r.add(here, "%s, method %d is not one ESP or AH suite, nor one of each", what, i+1)
		}
		checkLifetime(r, here+".lifetime", what, m.Lifetime)
		if m.Bytes != 0 && (m.Bytes < minBytes || m.Bytes > maxBytes) {
			r.add(here+".bytes", "%s: %d bytes is not between 1MB and 4TB", what, m.Bytes)
		}
	}
}

// validSuites: one suite, or AH and ESP in that order.
func validSuites(suites []sadb.Suite) bool {
	for _, s := range suites {
		if !s.Valid() {
			return false
		}
	}
	return len(suites) == 1 || len(suites) == 2 && suites[0].Proto == sadb.AH && suites[1].Proto == sadb.ESP
}

func (p *Policy) validateDefaultResponse(r *report) {
	d := p.DefaultResponse
	const what = "the default response rule"
	if d.Active && len(d.Authentication) == 0 {
		r.add("defaultResponse.authentication", "%s is active without an authentication method", what)
	}
	validateMethods(r, "defaultResponse.methods", what, d.Methods)
	validateAuthentication(r, "defaultResponse.authentication", what, d.Authentication)
	validatePFS(r, "defaultResponse", what, d.SessionKeyPFS, d.PFSGroup)
}

func validateAuthentication(r *report, path, what string, methods []AuthMethod) {
	if len(methods) > maxAuth {
		r.add(path, "%s has %d authentication methods, more than %d", what, len(methods), maxAuth)
	}
	for i, m := range methods {
		here := at(path, i, "")
		validateAuthMethod(r, here, what, m)
		for _, earlier := range methods[:i] {
			if earlier.Kind == m.Kind && earlier.CA == m.CA && earlier.Key == m.Key {
				r.add(here, "%s lists %v twice", what, m)
			}
		}
	}
}

func validateAuthMethod(r *report, path, what string, m AuthMethod) {
	switch {
	case m.Kind < Kerberos || m.Kind > PresharedKey:
		r.add(path, "%s: unknown authentication method %d", what, m.Kind)
	case m.Kind == Certificate && m.CA == "":
		r.add(path, "%s: a certificate method names its authority: ca: \"CN=…\"", what)
	case m.Kind == Certificate && !strings.Contains(m.CA, "="):
		r.add(path, "%s: the authority %q is no distinguished name: write, for example, \"CN=%s,O=Bank\"", what, m.CA, m.CA)
	case m.Kind != Certificate && (m.CA != "" || m.ExcludeCAName || m.MapToAccount):
		r.add(path, "%s: ca, excludeCAName and mapToAccount belong to a certificate method", what)
	case m.Kind != PresharedKey && m.Key != "":
		r.add(path, "%s: a key name belongs to a preshared-key method", what)
	}
	checkText(r, path, what, m.CA)
	checkText(r, path, what, m.Key)
	validatePrincipals(r, path+".acceptPrincipals", what, m.AcceptPrincipals)
}

func validatePrincipals(r *report, path, what string, names []string) {
	if len(names) > maxPrincipals {
		r.add(path, "%s accepts %d principals, more than %d", what, len(names), maxPrincipals)
	}
	for i, n := range names {
		checkName(r, at(path, i, ""), what+": an accepted principal", n)
	}
}

func (p *Policy) validateTests(r *report) {
	if len(p.Tests) > maxTests {
		r.add("tests", "%d tests, more than %d", len(p.Tests), maxTests)
	}
	for i, t := range p.Tests {
		if _, _, err := ParseFlow(t.Flow); err != nil {
			r.add(at("tests", i, "flow"), "%v", err)
		}
		switch t.Expect {
		case "permit", "block", "negotiate", "none":
		default:
			r.add(at("tests", i, "expect"), "%q is not permit, block, negotiate or none", t.Expect)
		}
	}
}

func checkLifetime(r *report, path, what string, d time.Duration) {
	if d != 0 && (d < minLifetime || d > maxLifetime) {
		r.add(path, "%s: a lifetime of %v is not between 1m and 48h", what, d)
	}
	if d%time.Second != 0 {
		r.add(path, "%s: a lifetime of %v is not a number of whole seconds", what, d)
	}
}

func checkName(r *report, path, what, name string) {
	switch {
	case strings.TrimSpace(name) == "":
		r.add(path, "%s needs a name", what)
	case len(name) > maxName:
		r.add(path, "%s has a name of %d bytes, more than %d", what, len(name), maxName)
	case !printable(name, ""):
		r.add(path, "%s has a name with control characters: %q", what, name)
	}
}

func checkText(r *report, path, what, text string) {
	if len(text) > maxDescription {
		r.add(path, "%s has a text of %d bytes, more than %d", what, len(text), maxDescription)
	}
	if !printable(text, "\n\t") {
		r.add(path, "%s has a text with control characters", what)
	}
}

// printable keeps what could forge a log line or move a terminal's cursor out
// of names.
func printable(s, also string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) && !strings.ContainsRune(also, c) {
			return false
		}
	}
	return true
}

// String returns the method as the document writes it, without options.
func (m AuthMethod) String() string {
	switch m.Kind {
	case Kerberos:
		return "kerberos"
	case Certificate:
		return fmt.Sprintf("certificate of %q", m.CA)
	case PresharedKey:
		if m.Key != "" {
			return fmt.Sprintf("psk %q", m.Key)
		}
		return "psk"
	}
	return fmt.Sprintf("authentication method %d", uint8(m.Kind))
}
