package gpipsec

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// nfa is what the data of a rule says; the default response rule has one too.
type nfa struct {
	auth        []policy.AuthMethod
	keys        []string // preshared keys beside auth, "" where none is
	named       bool     // auth says what its keys are called
	tunnel      policy.TunnelSetting
	connections sadb.ConnectionType
	active      bool
}

func (r *report) nfa(o *Object) nfa {
	d, ok := parse(r, ParseNFA, o.Data)
	if !ok {
		return nfa{}
	}
	n := nfa{active: d.Active != 0, connections: r.connections(d), tunnel: r.tunnel(d)}
	r.authentication(d, &n)
	x := extRule{}
	if r.extend(o.Data, d.Tail, &x) {
		n.auth, n.named = x.model(), true
		n.keys = append(n.keys, make([]string, len(n.auth))...)[:len(n.auth)]
	} else if len(n.auth) == 0 {
		r.fail("none of its authentication methods is known here")
	}
	return n
}

func (r *report) connections(d *NFAData) sadb.ConnectionType {
	if name := d.InterfaceName.text(); name != "" {
		r.fail("it applies to the network interface %q alone, which a rule here cannot say", clean(name))
	}
	switch d.Interface {
	case interfaceAll:
		return sadb.AllConnections
	case interfaceLAN:
		return sadb.LAN
	case interfaceRemote:
		return sadb.RemoteAccess
	}
	r.fail("connection type %#x is neither all, LAN nor remote access", d.Interface)
	return 0
}

func connectionNumber(c sadb.ConnectionType) uint32 {
	switch c {
	case sadb.LAN:
		return interfaceLAN
	case sadb.RemoteAccess:
		return interfaceRemote
	}
	return interfaceAll
}

// tunnel reads the tunnel endpoint. An IPv6 address supersedes the IPv4 one, a
// name the address it had once.
func (r *report) tunnel(d *NFAData) policy.TunnelSetting {
	if d.IsTunnel == 0 {
		return policy.TunnelSetting{}
	}
	if name := d.TunnelName.text(); name != "" {
		return policy.TunnelSetting{Name: clean(name)}
	}
	a := netip.AddrFrom4(d.Tunnel)
	if d.Tunnel6 != nil && *d.Tunnel6 != [16]byte{} {
		a = netip.AddrFrom16(*d.Tunnel6).Unmap()
	}
	if a.IsUnspecified() {
		r.fail("it is a tunnel without an endpoint")
		return policy.TunnelSetting{}
	}
	return policy.TunnelSetting{Endpoint: a}
}

func (r *report) authentication(d *NFAData, n *nfa) {
	for i, a := range d.Auth {
		m := policy.AuthMethod{}
		key := ""
		switch a.Kind {
		case authKerberos:
			m.Kind = policy.Kerberos
		case authCertificate:
			m.Kind, m.CA = policy.Certificate, a.Text.text()
		case authPreshared:
			m.Kind, key = policy.PresharedKey, a.Text.text()
		default:
			r.warn("authentication method %d is of kind %d, which is not known here, and is left out", i+1, a.Kind)
			continue
		}
		if i < len(d.Flags) && m.Kind == policy.Certificate {
			m.MapToAccount, m.ExcludeCAName = d.Flags[i]&flagMapToAccount != 0, d.Flags[i]&flagExcludeCA != 0
		}
		n.auth, n.keys = append(n.auth, m), append(n.keys, key)
	}
	for i, a := range d.Auth2 {
		if i >= len(d.Auth) || a.Kind != d.Auth[i].Kind {
			r.warn("its authentication methods of Windows Vista and later are others than those of the first version, which are taken")
			return
		}
	}
}

func (x extRule) model() []policy.AuthMethod {
	var all []policy.AuthMethod
	for _, a := range x.Authentication {
		all = append(all, policy.AuthMethod{
			Kind: policy.AuthKind(a.Kind), CA: a.CA, Key: a.Key,
			AcceptPrincipals: a.AcceptPrincipals, ExcludeCAName: a.ExcludeCAName, MapToAccount: a.MapToAccount,
		})
	}
	return all
}

func extOfRule(auth []policy.AuthMethod) extRule {
	x := extRule{}
	for _, a := range auth {
		x.Authentication = append(x.Authentication, extAuth{
			Kind: authKind(a.Kind), CA: a.CA, Key: a.Key,
			AcceptPrincipals: a.AcceptPrincipals, ExcludeCAName: a.ExcludeCAName, MapToAccount: a.MapToAccount,
		})
	}
	return x
}

// encodeNFA writes a rule. The preshared keys stand in it in clear, as Windows
// has them; n.keys are empty unless the caller wants that.
func (r *report) encodeNFA(n nfa, names map[string][]netip.Addr) []byte {
	d := &NFAData{Interface: connectionNumber(n.connections), InterfaceName: NewWide(""), TunnelName: NewWide(n.tunnel.Name), Tail: trailer()}
	if n.active {
		d.Active = 1
	}
	r.encodeTunnel(d, n.tunnel, names)
	r.encodeAuth(d, n)
	value := d.Canonical()
	read := (&report{}).nfa(&Object{Data: value})
	if same(extOfRule(read.auth), extOfRule(n.auth)) && !slices.ContainsFunc(n.auth, preshared) {
		return value
	}
	return extended(value, extOfRule(n.auth))
}

// preshared methods have a name, were it the empty one, that Windows has not.
func preshared(m policy.AuthMethod) bool { return m.Kind == policy.PresharedKey }

func (r *report) encodeAuth(d *NFAData, n nfa) {
	flagged := false
	for i, m := range n.auth {
		a := NFAAuth{Kind: authKerberos, Text: NewWide("")}
		flags := uint32(0)
		switch m.Kind {
		case policy.Certificate:
			a = NFAAuth{authCertificate, NewWide(r.authority(m.CA))}
			if m.MapToAccount {
				flags |= flagMapToAccount
			}
			if m.ExcludeCAName {
				flags |= flagExcludeCA
			}
		case policy.PresharedKey:
			a = NFAAuth{authPreshared, NewWide(n.keys[i])}
		}
		d.Auth, d.Flags = append(d.Auth, a), append(d.Flags, flags)
		flagged = flagged || flags != 0
	}
	if !flagged {
		d.Flags = nil
	}
	if len(d.Auth) == 0 { // Windows has no rule without one
		d.Auth = []NFAAuth{{authKerberos, NewWide("")}}
	}
}

func (r *report) authority(name string) string {
	text, ok := windowsName(name)
	if !ok {
		r.warn("Windows may not know the authority %q: write it with the country first, as Windows does", name)
	}
	return text
}

func (r *report) encodeTunnel(d *NFAData, t policy.TunnelSetting, names map[string][]netip.Addr) {
	if t.IsZero() {
		return
	}
	d.IsTunnel = 1
	e := t.Endpoint
	for _, a := range names[t.Name] {
		if t.Name != "" && !e.IsValid() {
			e = a.Unmap()
		}
	}
	switch {
	case e.Is4():
		d.Tunnel = e.As4()
	case e.Is6():
		six := e.As16()
		d.Tunnel6 = &six
	default:
		r.warn("Windows keeps the address of the tunnel endpoint %s, and none was found: it cannot use the rule", t.Name)
	}
}

// clean takes out of a text what no name or description of the model may have.
func clean(s string) string { return strings.ReplaceAll(s, "\r", "") }

// keyName is what a rule calls a preshared key that it carried itself.
func keyName(rule GUID) string {
	return fmt.Sprintf("windows-%s", strings.ToLower(strings.Trim(rule.String(), "{}")[:8]))
}
