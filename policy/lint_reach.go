package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"ipsecagent/sadb"
)

const sshPort = 22

// stand is how a connection fares under a policy.
type stand uint8

const (
	passes  stand = iota // in clear, if it has to
	secured              // with a peer that negotiates alone
	blocked
)

// fares says how a connection fares, both directions together, and which filter
// says so.
func (l *linter) fares(q Question) (stand, *CompiledFilter) {
	worst, by := passes, (*CompiledFilter)(nil)
	for _, d := range []sadb.Directions{sadb.In, sadb.Out} {
		q.Dir = d
		x := Explain(l.compiled, q)
		if s := standOf(x.Decided, d); x.Exempt == "" && s > worst {
			worst, by = s, x.Decided
		}
	}
	return worst, by
}

// standOf says how a packet of a peer that does not negotiate fares.
func standOf(f *CompiledFilter, d sadb.Directions) stand {
	switch {
	case f == nil || f.Action.Kind == sadb.Permit:
		return passes
	case f.Action.Kind == sadb.Block:
		return blocked
	case f.Action.AllowClear && (d == sadb.Out || f.Action.PassThrough):
		return passes
	}
	return secured
}

// reach finds a policy that cuts off its administrator, or the host from servers
// that it needs.
func (l *linter) reach() {
	if l.env.SSH != nil {
		l.ownSSH(*l.env.SSH)
	} else {
		l.anySSH()
	}
	for _, s := range l.env.Servers {
		l.server(s)
	}
}

// ownSSH looks at the session of the administrator who asks.
func (l *linter) ownSSH(q Question) {
	peer := q.Flow.Remote
	const do = "permit it: a filter from me to your address, protocol tcp, sourcePort 22; or put the policy in force from the console"
	s, by := l.fares(q)
	if s == secured && l.env.Secured != nil && l.env.Secured(peer) {
		s = passes
	}
	switch {
	case s == blocked:
		l.aboutFilter(FoundCutOffSSH, ErrorSeverity, by, do, "blocks your own SSH session from %s", peer)
	case s == secured && l.env.Secured != nil:
		l.aboutFilter(FoundCutOffSSH, ErrorSeverity, by, do, "requires security for your own SSH session from %s, with which no association is in force: it ends unless that host negotiates", peer)
	case s == secured:
		l.aboutFilter(FoundSSHSecured, WarningSeverity, by, do, "requires security for your own SSH session from %s: it lasts only if that host negotiates", peer)
	}
}

// anySSH looks at SSH from anywhere: somebody has to get in.
func (l *linter) anySSH() {
	const do = "permit port 22 for the network of the administrators, if the host has no console"
	worst, by := blocked, (*CompiledFilter)(nil)
	for _, a := range []string{"198.51.100.1", "2001:db8:1::1"} { // RFC 5737, RFC 3849
		q := Question{Flow: sadb.Flow{LocalMe: true, Remote: netip.MustParseAddr(a), Proto: sadb.TCP, LocalPort: sshPort, RemotePort: ephemeralPort}}
		if s, f := l.fares(q); s <= worst {
			worst, by = s, f
		}
	}
	switch {
	case worst == passes || l.admits():
	case worst == blocked:
		l.aboutFilter(FoundCutOffSSH, ErrorSeverity, by, do, "blocks SSH to this host from everywhere")
	default:
		l.aboutFilter(FoundSSHSecured, NoteSeverity, by, do, "lets SSH to this host through only from peers that negotiate security")
	}
}

// admits reports whether some filter lets SSH in for somebody.
func (l *linter) admits() bool {
	for i := range l.compiled.Filters {
		f := &l.compiled.Filters[i]
		s := f.Selector
		if f.Action.Kind == sadb.Permit && f.Dir == sadb.Both && f.Rule != ExemptRule && (s.Local.IsMe() || s.Local.IsAny()) &&
			(s.Proto == 0 || s.Proto == sadb.TCP) && s.LocalPorts.Matches(sshPort) && s.RemotePorts.IsAny() {
			return true
		}
	}
	return false
}

// server looks at a server that this host needs.
func (l *linter) server(s NeededServer) {
	q := Question{Flow: sadb.Flow{LocalMe: true, Remote: s.Addr, Proto: s.Proto, LocalPort: ephemeralPort, RemotePort: s.Port}}
	what := fmt.Sprintf("the %s %s (%s port %d)", s.Role, s.Addr, sadb.ProtoName(s.Proto), s.Port)
	const do = "permit it: a filter from me to the server, with its protocol and destinationPort"
	switch how, by := l.fares(q); {
	case how == blocked:
		l.aboutFilter(FoundCutOffServer, ErrorSeverity, by, do, "blocks %s, which this host needs", what)
	case how == secured && !(l.env.Secured != nil && l.env.Secured(s.Addr)):
		l.aboutFilter(FoundServerSecured, WarningSeverity, by, do, "requires security for %s, which this host needs: other programs than the agent reach it only if it negotiates", what)
	}
}

// ParseServer reads a server that a host needs, "dns=10.0.0.53", "kdc=…" or
// "ldap=…", as the connections that the host makes to it.
func ParseServer(text string) ([]NeededServer, error) {
	role, host, _ := strings.Cut(text, "=")
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return nil, fmt.Errorf("server %q: write ROLE=ADDRESS, for example dns=10.0.0.53", text)
	}
	addr = addr.Unmap()
	switch role {
	case "dns":
		return DNSServer(addr), nil
	case "kdc":
		return []NeededServer{{"KDC", addr, sadb.UDP, 88}, {"KDC", addr, sadb.TCP, 88}}, nil
	case "ldap":
		return []NeededServer{{"directory server", addr, sadb.TCP, 389}, {"directory server", addr, sadb.TCP, 636}}, nil
	}
	return nil, fmt.Errorf("server %q: the roles are dns, kdc and ldap", text)
}

// DNSServer returns the connections that a host makes to a DNS server.
func DNSServer(addr netip.Addr) []NeededServer {
	return []NeededServer{{"DNS server", addr, sadb.UDP, 53}, {"DNS server", addr, sadb.TCP, 53}}
}
