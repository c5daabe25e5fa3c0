package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"ipsecagent/agent"
	"ipsecagent/agent/control"
	"ipsecagent/agent/doctor"
	"ipsecagent/auth"
	"ipsecagent/auth/gss"
	"ipsecagent/auth/kerberos"
	"ipsecagent/policy"
)

// checkupWithin bounds the talk with KDCs.
const checkupWithin = 15 * time.Second

// identities looks at what this host proves itself by.
func (p *patient) identities(ctx context.Context) []control.Check {
	s := *p.settings
	if p.driver != "" {
		s.Driver = p.driver // sockets are exempted in its way
	}
	var found []control.Check
	if groups, notes, err := checkKeys(s.SecretsDir); err != nil {
		found = append(found, doctor.Problem("preshared keys", "correct the file", "%s", lines(err)))
	} else {
		found = append(found, doctor.Fine("preshared keys", "%s", plural(groups, "group", "groups")))
		for _, n := range notes {
			found = append(found, doctor.Warning("preshared keys", "use a long random key", "%s", n))
		}
	}
	ids, problem, err := openIdentities(&s, nil, "")
	if err != nil {
		return append(found, doctor.Problem("identities", "correct the settings", "%s", lines(err)))
	}
	defer ids.kerberos.Close()
	found = append(found, certificateChecks(ids, problem, time.Now())...)
	found = append(found, keytabChecks(s.Kerberos.Keytab)...)
	if _, err := ids.kerberos.Identity(); err == nil {
		ctx, cancel := context.WithTimeout(ctx, checkupWithin)
		defer cancel()
		result, err := ids.kerberos.Checkup(ctx)
		found = append(found, kdcChecks(result, err)...)
	}
	return append(found, p.provable(ctx, ids)...)
}

// certificateChecks says what does not load, fit or last.
func certificateChecks(ids *identities, problem error, now time.Time) []control.Check {
	const name = "certificates"
	var found []control.Check
	if problem != nil {
		for line := range strings.SplitSeq(lines(problem), "\n") {
			found = append(found, doctor.Problem(name, "correct the file; what was read before stays in use until the agent starts anew", "%s", line))
		}
	}
	for _, n := range ids.certs.Expiring(now) {
		do := "put a new one into its place"
		if n.Days == 0 {
			found = append(found, doctor.Problem(name, do, "%s", n))
			continue
		}
		found = append(found, doctor.Warning(name, do, "%s", n))
	}
	authorities, own, lists := ids.certs.Store().Size()
	return append(found, doctor.Fine(name, "%s, %s, %s", plural(own, "certificate of this host with its key", "certificates of this host with their keys"),
		plural(authorities, "authority", "authorities"), plural(lists, "revocation list", "revocation lists")))
}

// keytabChecks looks at the key table as a file. None is fine: a policy that asks
// for one is checked by itself.
func keytabChecks(path string) []control.Check {
	const name = "key table"
	table, err := gss.ReadKeytab(path)
	info, errStat := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []control.Check{doctor.Fine(name, "there is none (%s): this host does not authenticate by Kerberos", path)}
	case err != nil:
		return []control.Check{doctor.Problem(name, "join the domain again, or fetch it anew", "%v", err)}
	case len(table.Principals()) == 0:
		return []control.Check{doctor.Problem(name, "join the domain again, or fetch it anew", "%s holds no key", path)}
	case errStat == nil && info.Mode().Perm()&0o077 != 0:
		return []control.Check{doctor.Problem(name, "chmod 600 "+path+", and fetch new keys: others may have read these", "%s may be read by others than root (mode %04o)", path, info.Mode().Perm())}
	}
	var old []string
	for _, p := range table.Principals() {
		if e := table.Etypes(p); len(e) == 1 && e[0] == gss.RC4 {
			old = append(old, p.String())
		}
	}
	if len(old) > 0 {
		return []control.Check{doctor.Warning(name, "have the domain make AES keys for this host, and fetch it anew", "%s has RC4 keys alone of %s", path, firstOf(old))}
	}
	return []control.Check{doctor.Fine(name, "%s has keys of %s", path, plural(len(table.Principals()), "principal", "principals"))}
}

// warnAhead is how far a KDC's clock may be apart before it is said: Kerberos
// allows five minutes.
const warnAhead = time.Minute

// kdcChecks says what a login has shown.
func kdcChecks(c kerberos.Checkup, err error) []control.Check {
	const name = "Kerberos"
	var found []control.Check
	if c.Timed && c.Ahead.Abs() > warnAhead {
		found = append(found, doctor.Warning("clock", "set this host's clock, or the KDC's: timedectl says what keeps it", "the KDC of %s says it is %s %s this host; Kerberos refuses more than 5 minutes", c.Realm, c.Ahead.Abs(), aheadWord(c.Ahead)))
	}
	if err != nil {
		return append(found, doctor.Problem(name, kdcHint(err), "%v", err))
	}
	return append(found, doctor.Fine(name, "%s logs in at %s; its key there is version %d (%s), which the key table has", c.Principal, c.Realm, c.Version, c.Etype))
}

// kdcHint says what to do about a login that failed.
func kdcHint(err error) string {
	var e *auth.Error
	if errors.As(err, &e) && e.Hint != "" {
		return e.Hint
	}
	return "the log of the KDC says why"
}

func aheadWord(d time.Duration) string {
	if d < 0 {
		return "behind"
	}
	return "ahead of"
}

// provable finds rules of the policy in use that ask for an identity which this
// host has not got.
func (p *patient) provable(ctx context.Context, ids *identities) []control.Check {
	const name = "authentication"
	inUse, err := policyInUse(ctx, p.settings)
	if errors.Is(err, agent.ErrInUse) {
		return nil // an agent that does not answer, which was said
	}
	if err != nil {
		return []control.Check{doctor.Unknown(name, fmt.Errorf("the policy in use cannot be read: %w", err))}
	}
	if inUse == nil {
		return nil
	}
	return ruleChecks(name, inUse, agent.UnprovableRules(inUse, p.unusable(ids)))
}

// unusable says why this host cannot satisfy a requirement, keys that are not
// there included.
func (p *patient) unusable(ids *identities) func(auth.Requirement) string {
	keys := newKeys(p.settings)
	_, err := keys.load()
	return func(r auth.Requirement) string {
		switch {
		case r.Method != auth.PSK:
			return ids.unusable(r)
		case err != nil:
			return "" // which was said; an agent that runs goes on with those it had
		}
		return keys.missing(r.Key)
	}
}

// alike puts rules into one that lack the same.
func alike(lacking []agent.Unprovable) []agent.Unprovable {
	var all []agent.Unprovable
	for _, u := range lacking {
		i := slices.IndexFunc(all, func(o agent.Unprovable) bool { return o.All == u.All && slices.Equal(o.Why, u.Why) })
		if i < 0 {
			all = append(all, u)
			continue
		}
		all[i].Rule += " and " + u.Rule
	}
	return all
}

func ruleChecks(name string, p *policy.Policy, lacking []agent.Unprovable) []control.Check {
	var found []control.Check
	for _, u := range alike(lacking) {
		c := doctor.Warning(name, "give this host that identity, or the rule another method", "policy %q: %s", p.Name, lackingWords(u))
		if u.All {
			c.State = control.CheckProblem
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return []control.Check{doctor.Fine(name, "this host has an identity for every rule of policy %q", p.Name)}
	}
	return found
}
