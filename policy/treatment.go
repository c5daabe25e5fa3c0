package policy

import (
	"fmt"
	"strings"

	"ipsecagent/sadb"
)

// treatment is what a filter does with a packet, in words that are equal for
// equal treatment. The zero value: no filter, the packet passes unmodified.
type treatment struct {
	action                       string
	tunnel, methods, auth, other string
}

// treatmentOf returns the treatment by a filter; nil: none matches.
func treatmentOf(f *CompiledFilter) treatment {
	if f == nil {
		return treatment{action: "no filter"}
	}
	t := treatment{action: f.ActionWords()}
	if f.Action.ClearDelay > 0 {
		t.action += " after " + f.Action.ClearDelay.String()
	}
	if f.Mode == sadb.Tunnel {
		t.tunnel = fmt.Sprintf("tunnel %s - %s", f.TunnelLocal, f.TunnelRemote)
	}
	n := f.Negotiation
	if n == nil {
		return t
	}
	var methods, auth []string
	for _, p := range n.Proposals {
		methods = append(methods, SecurityMethod{Suites: p.Suites, Lifetime: p.Lifetime.Time, Bytes: p.Lifetime.Bytes}.String())
	}
	for _, m := range n.Authentication {
		auth = append(auth, m.words())
	}
	t.methods, t.auth = strings.Join(methods, ", "), strings.Join(auth, ", ")
	if n.PFS {
		t.other = "PFS " + n.PFSGroup.String()
	}
	return t
}

// words returns an authentication method with all its options.
func (m AuthMethod) words() string {
	s := m.String()
	if m.ExcludeCAName {
		s += ", CA name excluded"
	}
	if m.MapToAccount {
		s += ", mapped to an account"
	}
	if len(m.AcceptPrincipals) > 0 {
		s += " of " + strings.Join(m.AcceptPrincipals, ", ")
	}
	return s
}

// against says what of t differs from u: the action, or what is beside it when
// that is the same.
func (t treatment) against(u treatment) string {
	if t.action != u.action {
		return t.action
	}
	words := []string{t.action}
	for _, p := range [][2]string{{t.tunnel, u.tunnel}, {t.methods, u.methods}, {t.auth, u.auth}, {t.other, u.other}} {
		switch {
		case p[0] == p[1]:
		case p[0] == "":
			words = append(words, "without "+p[1])
		default:
			words = append(words, p[0])
		}
	}
	return strings.Join(words, ", ")
}
