package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
	"ipsecagent/sadb"
)

// Names of the tree.
const (
	hostsOU   = "ou=hosts," + dirtest.SlapdBase
	treeRealm = "EXAMPLE.ORG"
)

// startSlapd makes a tree with the fleet's entries, and a realm with its keys.
func startSlapd(ctx context.Context, o options, dir string) (*lab, error) {
	ns, err := dirtest.NewNamespace()
	if err != nil {
		return nil, err
	}
	l := &lab{name: "slapd", net: ns, keys: filepath.Join(dir, "keys"), close: ns.Close,
		account: func(n int) string { return "host/" + hostName(n) },
		target:  directory.Target{OU: hostsOU}}
	if err := l.fillTree(ctx, o, dir); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) fillTree(ctx context.Context, o options, dir string) error {
	r, err := startRealm(l.net, treeRealm, filepath.Join(dir, "realm"))
	if err != nil {
		return err
	}
	l.close = func() { r.stop(); l.net.Close() }
	l.conf = r.conf()
	all, service, err := r.fill(o.agents, "ldap/"+dirtest.SlapdName)
	if err != nil {
		return err
	}
	if err := l.split(all, o.agents); err != nil {
		return err
	}
	s, err := dirtest.StartSlapd(filepath.Join(dir, "slapd"), dirtest.SlapdConfig{Net: l.net,
		Schema: directory.Schema(false), LDIF: treeLDIF(o.agents),
		Options: []string{"sasl-host " + dirtest.SlapdName, "sasl-realm " + treeRealm,
			"authz-regexp uid=host/([^,]*),.*cn=gssapi,cn=auth cn=$1," + hostsOU},
		// Without these each host that reads its policy makes the server look at
		// every entry.
		Database: []string{"index uniqueMember eq", "index ipsecPolicyReference pres,eq"},
		Env:      []string{"KRB5_CONFIG=" + l.conf, "KRB5_KTNAME=" + service, "KRB5RCACHENAME=none:"}})
	if err != nil {
		return err
	}
	l.close = func() { s.Close(); r.stop(); l.net.Close() }
	return l.reach(s)
}

// reach says how hosts and the administrator reach a server.
func (l *lab) reach(s *dirtest.Slapd) error {
	text, err := os.ReadFile(s.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("no certificate in %s", s.CA)
	}
	l.config = directory.Config{Kind: directory.LDAP, Servers: []directory.Server{{Name: dirtest.SlapdName, Port: s.Port}}}
	l.admin = l.config
	l.admin.Protection, l.admin.Roots, l.admin.Dial = directory.StartTLS, roots, l.net.Dial
	l.admin.BindDN, l.admin.Password = dirtest.SlapdAdmin, sadb.NewSecret([]byte("secret"))
	return nil
}

// treeLDIF is the fleet's entries and the place of policies.
func treeLDIF(hosts int) string {
	var b strings.Builder
	for _, e := range []string{"CN=System,", "CN=IP Security,CN=System,"} {
		fmt.Fprintf(&b, "dn: %s%s\nobjectClass: container\n\n", e, dirtest.SlapdBase)
	}
	fmt.Fprintf(&b, "dn: %s\nobjectClass: organizationalUnit\nou: hosts\n\n", hostsOU)
	for n := range hosts {
		fmt.Fprintf(&b, "dn: cn=%s,%s\nobjectClass: device\ncn: %[1]s\n\n", hostName(n), hostsOU)
	}
	return b.String()
}
