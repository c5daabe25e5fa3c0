package directory

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Bounds of the search for a server.
const (
	maxServers  = 16              // tried for one connection
	maxPings    = 3               // asked for the site of this host
	pingTimeout = time.Second     // for one of them
	dnsTimeout  = 5 * time.Second // for one question
)

// locate returns the servers to try, the preferred first: those of the
// settings, else those that DNS names (RFC 2782), of which the ones of this
// host's site go first. What DNS and the ping say is believed for this order
// alone: each server proves itself when it is bound to, and where it would prove
// no more than its own name, one of another domain is not asked at all.
func locate(ctx context.Context, c *Config) ([]Server, error) {
	if len(c.Servers) > 0 {
		return c.Servers[:min(len(c.Servers), maxServers)], nil
	}
	if c.Kind != ActiveDirectory {
		return lookup(ctx, c, "_ldap._tcp."+c.Domain)
	}
	all, err := lookup(ctx, c, "_ldap._tcp.dc._msdcs."+c.Domain)
	if err != nil {
		return nil, err
	}
	site := findSite(ctx, c, all)
	if site == "" {
		return all, nil
	}
	near, _ := lookup(ctx, c, "_ldap._tcp."+site+"._sites.dc._msdcs."+c.Domain) // a site without controllers has none
	return merge(near, all), nil
}

// merge returns the servers of both lists in order, each once.
func merge(first, then []Server) []Server {
	var all []Server
	for _, s := range slices.Concat(first, then) {
		if !slices.Contains(all, s) && len(all) < maxServers {
			all = append(all, s)
		}
	}
	return all
}

// lookup returns what DNS names, in the order of priority and weight.
func lookup(ctx context.Context, c *Config, name string) ([]Server, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	_, records, err := c.Resolver.LookupSRV(ctx, "", "", name+".")
	if err != nil {
		return nil, fmt.Errorf("DNS names no directory server (%s): %w", name, err)
	}
	var all []Server
	var strangers []string
	for _, r := range records {
		target := strings.ToLower(strings.TrimSuffix(r.Target, "."))
		if target == "" || len(all) == maxServers {
			continue
		}
		if !c.provesDomain() && !inDomain(target, c.Domain) {
			strangers = append(strangers, target)
			continue
		}
		s := Server{Name: target, Port: r.Port}
		if c.Protection == TLS && s.Port == portLDAP {
			s.Port = portTLS // the records name the port of LDAP alone
		}
		all = append(all, s)
	}
	switch {
	case len(all) > 0:
		return all, nil
	case len(strangers) > 0:
		some := strings.Join(strangers[:min(len(strangers), maxServers)], ", ")
		return nil, fmt.Errorf("DNS names servers outside the domain %s alone (%s: %s), and a forged answer of DNS could do so: if they are the directory's, name them (servers: [%s])",
			c.Domain, name, some, some)
	}
	return nil, fmt.Errorf("DNS names no directory server (%s)", name)
}

// provesDomain reports whether a server proves that it serves the domain, by a
// service name that controllers alone have, and not just its own name, by a
// certificate or as a member of the realm.
func (c *Config) provesDomain() bool { return c.Kind == ActiveDirectory && c.Tickets != nil }

// inDomain reports whether a DNS name is that of a domain or below it; both are
// in small letters.
func inDomain(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// findSite asks controllers by datagram (CLDAP) in which site they see this
// host; "": none says.
func findSite(ctx context.Context, c *Config, servers []Server) string {
	for _, s := range servers[:min(len(servers), maxPings)] {
		if p, err := ping(ctx, c, s.Name); err == nil && safeLabel(p.clientSite) {
			return p.clientSite
		}
	}
	return ""
}

// safeLabel reports whether a name can be one label of a DNS name: what a
// datagram says must not become another question.
func safeLabel(s string) bool {
	return s != "" && len(s) <= 63 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}

// ping asks one controller for its sites ([MS-ADTS] 6.3.3).
func ping(ctx context.Context, c *Config, name string) (netlogon, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := c.Dial(ctx, "udp", net.JoinHostPort(name, "389"))
	if err != nil {
		return netlogon{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return netlogon{}, err
		}
	}
	if _, err := conn.Write(pingRequest(c.Domain)); err != nil {
		return netlogon{}, err
	}
	b := make([]byte, 8<<10)
	n, err := conn.Read(b)
	if err != nil {
		return netlogon{}, err
	}
	return parsePing(b[:n])
}
