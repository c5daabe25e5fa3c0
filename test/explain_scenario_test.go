package test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

// peerKind is what the peer of the host under test does.
type peerKind int

const (
	// peerMirrors: it has the same policy seen from the other side, without what
	// is blocked, so that it asks for security as well as answering.
	peerMirrors peerKind = iota
	// peerAnswers: it has the default response rule alone.
	peerAnswers
	// peerAsks: it requires security of what askedDocument lists.
	peerAsks
	// peerMute: it has no agent.
	peerMute
)

// scenario is a policy and the surroundings in which it is put to the test.
type scenario struct {
	name   string
	file   string // under examples; "": predefined
	peer   peerKind
	ca     pkix.Name    // of the certificates; zero: preshared keys
	self   string       // the common names of the two certificates, if it matters
	other  string       //
	silent int          // of so many peers that are asked one does not answer; 0: all answer
	falls  bool         // the policy falls back to clear with those
	clear  bool         // the policy negotiates nothing
	inside netip.Prefix // behind the gateway that has the policy
}

// gateways are the ends of the tunnels of the examples, the one under test first.
func (s scenario) gateways() [2]netip.Addr {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if s.self == "gateway-south" {
		return [2]netip.Addr{two, one}
	}
	return [2]netip.Addr{one, two}
}

func scenarios() []scenario {
	bank := bankName()
	company := pkix.Name{CommonName: "Company Root CA", Organization: []string{"Company"}}
	site := func(n int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", n)) }
	return []scenario{
		{name: "block-list", file: "block-list.yaml", peer: peerMute, clear: true},
		{name: "clients", file: "clients.yaml", peer: peerAsks},
		{name: "database-servers", file: "database-servers.yaml", silent: 8},
		{name: "fleet", file: "fleet.yaml", silent: 8},
		{name: "request", file: "request.yaml", silent: 2, falls: true},
		{name: "zurich-bern", file: "two-sites.yaml", ca: company, self: "gateway-zurich", other: "gateway-bern", inside: site(1)},
		{name: "bank-branch-north", file: "bank/branch-north.yaml", ca: bank, self: "gateway-north", other: "gateway-south", inside: site(1)},
		{name: "bank-branch-south", file: "bank/branch-south.yaml", ca: bank, self: "gateway-south", other: "gateway-north", inside: site(2)},
		{name: "bank-clients", file: "bank/clients.yaml", peer: peerAsks, ca: bank},
		{name: "bank-secure-servers", file: "bank/secure-servers.yaml", peer: peerAnswers, ca: bank, silent: 8},
		{name: "bank-secure-servers-windows2000", file: "bank/secure-servers-windows2000.yaml", ca: bank, silent: 8},
		{name: "client", peer: peerAsks},
		{name: "server", peer: peerAnswers, silent: 2, falls: true},
		{name: "secure-server", peer: peerAnswers, ca: bank, silent: 8},
	}
}

// askedRule is the rule by which a peer asks.
const askedRule = "asked by the peer"

// askedDocument is what a peer that asks for security requires it of, as the
// other side sees it.
const askedDocument = `apiVersion: ipsecagent/v1
kind: Policy
name: asked
filterLists:
  asked:
    - {from: me, to: any, protocol: tcp, destinationPort: 1433}
    - {from: me, to: any, protocol: udp, destinationPort: 5000-5010}
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm], acceptUnsecured: true}}
rules:
  - {name: asked by the peer, filterList: asked, filterAction: require, authentication: [psk]}
`

func parsePolicy(t *testing.T, document string) *policy.Policy {
	t.Helper()
	p, err := file.Parse("policy.yaml", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// document is the policy under test.
func (s scenario) document(t *testing.T) *policy.Policy {
	t.Helper()
	if s.file == "" {
		p, _ := policy.Predefined(s.name)
		return p
	}
	p, err := file.Load(examples(s.file))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start starts both agents and assigns the policies.
func (s scenario) start(t *testing.T, l *lab, p *policy.Policy) {
	t.Helper()
	auth := s.identify(t, l.a, l.b)
	ours := map[string]string{}
	if s.file != "" {
		text, err := os.ReadFile(examples(s.file))
		if err != nil {
			t.Fatal(err)
		}
		ours[filepath.Base(s.file)] = string(text)
	}
	l.a.startAgent(ours, "--certificates-dir", filepath.Join(l.a.dir, "certificates"))
	if s.file != "" {
		l.a.mustCtl("assign", s.name) // as it stands in the example
	} else {
		l.a.mustCtl("assign", s.name, "--auth", auth)
	}
	if s.peer == peerMute {
		return
	}
	text, err := file.Marshal(s.peerPolicy(t, l, p))
	if err != nil {
		t.Fatal(err)
	}
	l.b.startAgent(map[string]string{"peer.yaml": string(text)}, "--certificates-dir", filepath.Join(l.b.dir, "certificates"))
	l.b.mustCtl("assign", "peer")
}

// identify gives both hosts what they prove themselves with, and returns it as
// ipsecctl assign takes it.
func (s scenario) identify(t *testing.T, hosts ...*host) string {
	t.Helper()
	if s.ca.CommonName != "" {
		names := []string{s.self, s.other}
		if s.self == "" {
			names = []string{"one", "two"}
		}
		root := newRoot(t, s.ca)
		for i, h := range hosts {
			root.identity(t, names[i]).writeAgent(h)
		}
		return "cert:" + s.ca.String()
	}
	keys := fmt.Sprintf("apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n"+
		"  - {name: default, keys: [%q]}\n  - {name: fleet, keys: [%q]}\n  - {name: fleet-next, keys: [%q]}\n", aKey("default"), aKey("fleet"), aKey("fleet-next"))
	for _, h := range hosts {
		if err := os.MkdirAll(filepath.Join(h.dir, "certificates"), 0o700); err != nil {
			t.Fatal(err)
		}
		h.write("key", keys, 0o600)
		if s.file != "" || h == hosts[1] {
			if err := os.MkdirAll(filepath.Join(h.dir, "secrets.d"), 0o700); err != nil {
				t.Fatal(err)
			}
			h.write("secrets.d/keys.yaml", keys, 0o600)
		}
	}
	return "psk-file:" + filepath.Join(hosts[0].dir, "key")
}

// methods are those by which the peer proves itself.
func (s scenario) methods() []policy.AuthMethod {
	if s.ca.CommonName != "" {
		return []policy.AuthMethod{{Kind: policy.Certificate, CA: s.ca.String()}}
	}
	return []policy.AuthMethod{{Kind: policy.PresharedKey}}
}

// otherHalf reports whether a rule is the half of a tunnel that names the gateway
// under test: the two halves are one filter, by the name of the first.
func (s scenario) otherHalf(p *policy.Policy, rule string) bool {
	return slices.ContainsFunc(p.Rules, func(r policy.Rule) bool {
		return r.Name == rule && r.Tunnel.Endpoint == s.gateways()[0]
	})
}

// peerPolicy is that of the other host.
func (s scenario) peerPolicy(t *testing.T, l *lab, p *policy.Policy) *policy.Policy {
	t.Helper()
	var m policy.Policy
	switch s.peer {
	case peerAnswers:
		client := policy.Client()
		m = *policy.WithAuthentication(&policy.Policy{DefaultResponse: client.DefaultResponse, KeyExchange: client.KeyExchange}, s.methods())
	case peerAsks:
		m = *policy.WithAuthentication(l.mirrored(parsePolicy(t, askedDocument)), s.methods())
	default:
		m = *l.mirrored(p)
	}
	m.Name = "peer"
	return &m
}

// mirrored is a policy as the host at the other end has it: "me" is this host by
// its addresses, there, and the other gateway is this one.
func (l *lab) mirrored(p *policy.Policy) *policy.Policy {
	m := &policy.Policy{KeyExchange: p.KeyExchange, FilterActions: p.FilterActions, DefaultResponse: p.DefaultResponse, Uplift: p.Uplift}
	for _, list := range p.FilterLists {
		m.FilterLists = append(m.FilterLists, policy.FilterList{Name: list.Name, Filters: named(list.Filters)})
	}
	for _, r := range p.Rules {
		if actionOf(p, r.FilterAction).Kind == sadb.Block {
			continue
		}
		if r.Tunnel.Endpoint.IsValid() {
			if listOf(p, r.FilterList).Filters[0].Mirrored {
				r.Tunnel.Endpoint = l.s.gateways()[0]
			}
			r.Authentication = append([]policy.AuthMethod(nil), r.Authentication...)
			r.Authentication[0].AcceptPrincipals = nil
		}
		m.Rules = append(m.Rules, r)
	}
	return m
}

// named returns filters with "me" replaced by the addresses of this host; those
// of a tunnel are turned round, unless they are of one direction and the same on
// both gateways.
func named(filters []policy.Filter) []policy.Filter {
	var all []policy.Filter
	for _, f := range filters {
		if f.From.Kind != policy.Me && f.To.Kind != policy.Me {
			if f.Mirrored {
				f.From, f.To = f.To, f.From
			}
			all = append(all, f)
			continue
		}
		for v6, own := range mine {
			me := policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(own)}
			n := f
			if f.From.Kind == policy.Me {
				n.From = me
			} else {
				n.To = me
			}
			if s := (shape{local: n.From, remote: n.To, proto: f.Protocol}); s.has(v6 == 1) {
				all = append(all, n)
			}
		}
	}
	return all
}

// root is an authority that certifies hosts.
type root struct {
	name pkix.Name
	key  crypto.Signer
	cert *x509.Certificate
	next int64
}

func newRoot(t *testing.T, name pkix.Name) *root {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ca := template(1, "")
	ca.Subject, ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = name, true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	cert, err := x509.ParseCertificate(certify(t, ca, ca, key, key))
	if err != nil {
		t.Fatal(err)
	}
	return &root{name: name, key: key, cert: cert, next: 2}
}

// identity certifies a host of the authority's own organization.
func (r *root) identity(t *testing.T, commonName string) identity {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(r.next), Subject: r.name, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	leaf.Subject.CommonName = commonName
	r.next++
	return identity{caName: r.name.String(), ca: pemBlock("CERTIFICATE", r.cert.Raw),
		own: pemBlock("CERTIFICATE", certify(t, leaf, r.cert, key, r.key)), pkc: pemBlock("PRIVATE KEY", private)}
}
