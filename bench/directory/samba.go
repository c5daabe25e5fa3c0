package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"ipsecagent/auth/kerberos"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
)

// Names of the domain.
const (
	fleetOU  = "OU=fleet," + dirtest.Base
	fleetGPO = "CN={F1EE7000-0000-4000-8000-000000000002},CN=Policies,CN=System," + dirtest.Base
)

// domainLDIF is the organizational unit of the fleet with its group policy
// object.
const domainLDIF = `dn: GPO
changetype: add
objectClass: groupPolicyContainer
displayName: Fleet
flags: 0
versionNumber: 0
gPCFunctionalityVersion: 2

dn: OU
changetype: add
objectClass: organizationalUnit
gPLink: [LDAP://GPO;0]
`

// startSamba makes a domain with the fleet's accounts.
func startSamba(_ context.Context, o options, dir string) (*lab, error) {
	ad, err := dirtest.StartAD(filepath.Join(dir, "ad"), dirtest.Loopback)
	if err != nil {
		return nil, err
	}
	l := &lab{name: "samba", net: ad.Net, conf: ad.Conf, keys: filepath.Join(dir, "keys"), close: func() { closeSamba(ad) },
		account: func(n int) string { return strings.ToUpper(hostName(n)) + "$" },
		config:  directory.Config{Domain: dirtest.Domain, Resolver: ad.Resolver()},
		target:  directory.Target{GPO: "Fleet"}}
	if err := l.fillDomain(o, ad); err != nil {
		l.close()
		return nil, fmt.Errorf("make the accounts: %w", err)
	}
	return l, nil
}

// closeSamba ends a domain, and lets the processes that Samba has made end before
// their files are removed.
func closeSamba(ad *dirtest.AD) {
	ad.Stop()
	for began := time.Now(); loadOf(ad.Net).processes > 0 && time.Since(began) < farewell; {
		time.Sleep(look)
	}
	ad.Close()
}

const farewell = 20 * time.Second

func (l *lab) fillDomain(o options, ad *dirtest.AD) error {
	// What the administrator of every domain has to do: computers may read policies.
	if err := ad.Do("ace", "CN=IP Security,CN=System,"+dirtest.Base, "(A;CI;RPLCLORC;;;DC)"); err != nil {
		return err
	}
	if err := ad.Do("ldif", strings.NewReplacer("GPO", fleetGPO, "OU", fleetOU).Replace(domainLDIF)); err != nil {
		return err
	}
	all, err := ad.Hosts(o.agents, fleetOU)
	if err != nil {
		return err
	}
	if err := l.split(all, o.agents); err != nil {
		return err
	}
	k, err := kerberos.New(kerberos.Config{Keytab: ad.Administrator(), Krb5Conf: ad.Conf, Dial: ad.Net.Dial, Principal: "Administrator"})
	if err != nil {
		return err
	}
	l.admin = l.config
	l.admin.Tickets, l.admin.Dial = k.Ticket, ad.Net.Dial
	ad.Stop()
	ad.Model = o.model
	return ad.Start()
}
