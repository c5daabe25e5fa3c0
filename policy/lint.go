package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/sadb"
)

// Severity is how much a finding matters.
type Severity uint8

// A note is about what may well be meant so, a warning about what is probably not
// meant, an error about what cannot work or does harm.
const (
	NoteSeverity Severity = iota + 1
	WarningSeverity
	ErrorSeverity
)

// String returns "note", "warning" or "error".
func (s Severity) String() string {
	switch s {
	case NoteSeverity:
		return "note"
	case WarningSeverity:
		return "warning"
	case ErrorSeverity:
		return "error"
	}
	return fmt.Sprintf("severity %d", uint8(s))
}

// Code says what kind of thing was found. The list is closed; docs/policy.md
// explains each.
type Code string

// The codes of findings.
const (
	FoundConflict       Code = "conflict"        // two filters of one place treat the same traffic differently
	FoundOverlap        Code = "overlap"         // likewise a part of their traffic
	FoundDuplicate      Code = "duplicate"       // two filters of the same traffic and treatment
	FoundShadowed       Code = "shadowed"        // a filter that never decides; others treat its traffic otherwise
	FoundRedundant      Code = "redundant"       // a filter that never decides; others treat its traffic alike
	FoundNotCompared    Code = "not-compared"    // too many filters to find what they shadow
	FoundNoAddress      Code = "no-address"      // a name or set that stands for nothing
	FoundNoIdentity     Code = "no-identity"     // this host cannot authenticate as the rule wants
	FoundNotCarried     Code = "not-carried"     // the data path has not what the rule needs
	FoundNoRoute        Code = "no-route"        // a tunnel whose other gateway cannot be reached
	FoundOldMainMode    Code = "old-main-mode"   // nothing that current systems accept
	FoundWeakMainMode   Code = "weak-main-mode"  // a weak main-mode method
	FoundWeakMethod     Code = "weak-method"     // a weak security method
	FoundLongKey        Code = "long-key"        // too many bytes under one key
	FoundCutOffSSH      Code = "cut-off-ssh"     // SSH to this host is blocked
	FoundSSHSecured     Code = "ssh-secured"     // SSH to this host needs an association
	FoundCutOffServer   Code = "cut-off-server"  // a server this host needs is blocked
	FoundServerSecured  Code = "server-secured"  // a server this host needs has to negotiate
	FoundSourcePort     Code = "source-port"     // a permit that anybody gets by choosing a source port
	FoundMisleading     Code = "misleading-name" // an action whose name promises more than it does
	FoundUnusedList     Code = "unused-list"     // no rule uses it
	FoundUnusedAction   Code = "unused-action"   // no rule uses it
	FoundDisabledRule   Code = "disabled-rule"   // not enforced
	FoundLoopbackFilter Code = "loopback"        // traffic that is never filtered
	FoundSuspicious     Code = "suspicious"      // anything else that is probably not meant
)

// Finding is one thing that Lint has to say about a policy.
type Finding struct {
	Code     Code
	Severity Severity
	// Problem is where and what, in words.
	Problem
	// Object names what it is about, for example `rule "database traffic"`.
	Object string
	// Do is what to do about it.
	Do string
}

// NeededServer is a server that a host needs: its directory, KDC or DNS.
type NeededServer struct {
	Role  string // in words, for example "DNS server"
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

// Environment is what Lint knows of the host that the policy is for. The zero
// value is nothing: what needs more is not looked at.
type Environment struct {
	// Host is the facts of the host; nil: none in particular, every tunnel
	// endpoint in reach.
	Host *Host
	// SSH is the administrator's own session, as packets come in; nil: not
	// known, and anybody's is looked at.
	SSH *Question
	// Servers are what the host must be able to reach.
	Servers []NeededServer
	// Unusable says why this host cannot authenticate by a method; "": it
	// can. nil: not known.
	Unusable func(AuthMethod) string
	// Suites is what the data path carries; nil: not known.
	Suites []sadb.Suite
	// NoTunnels: the data path carries no tunnels.
	NoTunnels bool
	// Secured reports whether traffic with a peer is secured now; nil: not
	// known.
	Secured func(netip.Addr) bool
}

// Lint reports what is allowed in a policy and probably not meant, the worst
// first. A policy that does not compile is an error.
func Lint(p *Policy, env Environment) ([]Finding, error) {
	h := Host{}.Reachable(p)
	if env.Host != nil {
		h = *env.Host
	}
	h.Carries = env.Suites
	c, err := Compile(p, h)
	if err != nil {
		return nil, err
	}
	l := &linter{policy: p, compiled: c, env: env, objects: p.objects(), rule: map[string]int{}, said: map[string]bool{}, probes: maxProbes}
	for i := range p.Rules {
		l.rule[p.Rules[i].label()] = i
	}
	l.filters()
	l.rules()
	l.reach()
	l.written()
	slices.SortStableFunc(l.found, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return l.found, nil
}

// linter collects findings.
type linter struct {
	policy   *Policy
	compiled *Compiled
	env      Environment
	objects  objects
	rule     map[string]int // by label
	found    []Finding
	said     map[string]bool
	probes   int // packets that may still be asked about
}

// add adds a finding, once.
func (l *linter) add(f Finding) {
	key := string(f.Code) + f.Path + f.Message
	if l.said[key] {
		return
	}
	l.said[key] = true
	l.found = append(l.found, f)
}

// pathOf returns where the rule of a filter stands.
func (l *linter) pathOf(f *CompiledFilter) string {
	if i, ok := l.rule[f.Rule]; ok {
		return at("rules", i, "")
	}
	return "rules"
}

// aboutFilter begins a finding about a filter.
func (l *linter) aboutFilter(code Code, s Severity, f *CompiledFilter, do, format string, args ...any) {
	l.add(Finding{Code: code, Severity: s, Problem: Problem{Path: l.pathOf(f), Message: fmt.Sprintf(format, args...)},
		Object: filterName(f), Do: do})
}

// filterName names a filter in the administrator's words.
func filterName(f *CompiledFilter) string {
	dir := ""
	if f.Dir != sadb.Both {
		dir = " " + f.Dir.String()
	}
	return fmt.Sprintf("filter %s%s (rule %q, list %q)", f.Selector, dir, f.Rule, f.FilterList)
}

// written turns the warnings about the policy as it is written into findings.
func (l *linter) written() {
	for _, w := range Warnings(l.policy) {
		code, severity, do := kindOf(w.Path)
		l.add(Finding{Code: code, Severity: severity, Problem: *w, Object: w.Path, Do: do})
	}
}

// kindOf tells from its path what a warning about a written policy is.
func kindOf(path string) (Code, Severity, string) {
	list, _, _ := strings.Cut(path, "[")
	switch {
	case list == "keyExchange.methods":
		return FoundWeakMainMode, WarningSeverity, "list it last, or leave it out when every peer can do better"
	case strings.HasSuffix(path, ".bytes"):
		return FoundLongKey, WarningSeverity, "let the key end sooner: bytes: 100MB"
	case strings.Contains(path, "methods["):
		return FoundWeakMethod, WarningSeverity, "list it last, or leave it out when every peer can do better"
	case list == "rules" && strings.HasSuffix(path, ".disabled"):
		return FoundDisabledRule, NoteSeverity, "delete the rule, or enable it"
	case list == "filterLists" && strings.Contains(path, ".filters["):
		return FoundLoopbackFilter, WarningSeverity, "remove the filter"
	case list == "filterLists":
		return FoundUnusedList, WarningSeverity, "delete the list, or give it a rule"
	case list == "filterActions":
		return FoundUnusedAction, WarningSeverity, "delete the action, or give it a rule"
	}
	return FoundSuspicious, WarningSeverity, "look at it"
}
