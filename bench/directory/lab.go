package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/jcmturner/gokrb5/v8/keytab"

	"ipsecagent/auth/kerberos"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
)

// lab is a directory server with the accounts of a fleet.
type lab struct {
	name    string
	net     *dirtest.Namespace
	conf    string           // krb5.conf
	keys    string           // directory of the hosts' keytabs
	account func(int) string // principal of a host
	config  directory.Config // of all hosts, without what is each one's own
	admin   directory.Config
	target  directory.Target // what the policy is assigned to
	close   func()
}

func serverNames() []string { return []string{"samba", "slapd"} }

// newLab starts a server with so many accounts.
func newLab(ctx context.Context, o options, name, dir string) (*lab, error) {
	dir = filepath.Join(dir, name)
	keys := filepath.Join(dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, err
	}
	start := startSamba
	if name == "slapd" {
		start = startSlapd
	}
	l, err := start(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	if err := l.publish(ctx, ""); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// hostName is the name of a host of the fleet.
func hostName(n int) string { return fmt.Sprintf("h%05d", n) }

// host is how a host reaches the server; what it does is counted.
func (l *lab) host(n int, t *traffic) (directory.Config, error) {
	k, err := kerberos.New(kerberos.Config{Keytab: l.keytab(n), Krb5Conf: l.conf, Principal: l.account(n),
		Host: hostName(n), Dial: counted(l.net.Dial, &t.tickets)})
	if err != nil {
		return directory.Config{}, err
	}
	c := l.config
	c.Tickets, c.Dial = k.Ticket, t.dial(l.net.Dial)
	if c.Resolver != nil {
		c.Resolver = &net.Resolver{PreferGo: true, Dial: counted(c.Resolver.Dial, &t.names)}
	}
	return c, nil
}

func (l *lab) keytab(n int) string { return filepath.Join(l.keys, hostName(n)) }

// split gives each host a keytab of its own, with its keys out of one that has
// the keys of all.
func (l *lab) split(all string, hosts int) error {
	from, err := keytab.Load(all)
	if err != nil {
		return err
	}
	own := make(map[string]*keytab.Keytab, hosts)
	for n := range hosts {
		own[l.account(n)] = keytab.New()
	}
	for _, e := range from.Entries {
		if to := own[strings.Join(e.Principal.Components, "/")]; to != nil {
			to.Entries = append(to.Entries, e)
		}
	}
	for n := range hosts {
		k := own[l.account(n)]
		if len(k.Entries) == 0 {
			return fmt.Errorf("%s has no key of %s", all, l.account(n))
		}
		text, err := k.Marshal()
		if err != nil {
			return err
		}
		if err := os.WriteFile(l.keytab(n), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// policyName is the policy of the fleet.
const policyName = "Fleet"

// publish writes the policy with a description as an administrator does, and
// assigns it if that is new.
func (l *lab) publish(ctx context.Context, description string) error {
	s, err := directory.Connect(ctx, l.admin)
	if err != nil {
		return err
	}
	defer s.Close()
	p, ok := policy.Original("secure-server")
	if !ok {
		return fmt.Errorf("there is no predefined policy secure-server")
	}
	p.Name, p.GUID, p.Description = policyName, fleetGUID, description
	plan, err := s.PlanPublish(ctx, *p, directory.PublishOptions{})
	if err != nil {
		return err
	}
	// Once it is in force, what is left of the one before does not matter here.
	if inForce, err := s.Apply(ctx, plan); !inForce {
		return err
	}
	if description != "" {
		return nil
	}
	if plan, err = s.PlanAssign(ctx, policyName, l.target); err != nil {
		return err
	}
	_, err = s.Apply(ctx, plan)
	return err
}

const fleetGUID = "{f1ee7000-0000-4000-8000-000000000001}"
