package kerberos

import (
	"context"

	"ipsecagent/auth/gss"
)

// Ticket returns a ticket of this host for a service other than a peer's, such
// as "ldap/dc1.example.com"; without a realm, in this host's own. With fresh it
// is one that was just fetched: the one so far may be under a key that the
// service no longer has. A failure of a moment ago does not answer: who asks has
// pauses of its own, and may know that the KDC is back. The error is an
// *auth.Error.
func (a *Authenticator) Ticket(ctx context.Context, service string, fresh bool) (*gss.Credential, error) {
	f, err := a.facts()
	if err != nil {
		return nil, err
	}
	p, err := gss.ParsePrincipal(service)
	if err != nil {
		return nil, refuse(codeUnknownService, err, "the name of the service cannot be read")
	}
	p.Type = gss.NameService
	if p.Realm == "" {
		p.Realm = f.self.Realm
	}
	ctx, cancel := context.WithTimeout(ctx, overall)
	defer cancel()
	f.tickets.forgive(p)
	cred, err := f.tickets.get(ctx, p, fresh)
	if err != nil {
		return nil, explain(err, "no ticket for %s", p)
	}
	return cred, nil
}
