package kerberos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"ipsecagent/auth/gss"
)

// Bounds of what KDCs are asked for.
const (
	maxTickets  = 1024            // kept
	maxAtOnce   = 4               // requests under way
	keepFailure = 3 * time.Second // a target that failed is not asked for again
	keepFresh   = 10 * time.Second
	spare       = time.Minute // what a ticket must still last
	maxHops     = 5           // realms between ours and the service's
)

// tickets is the cache of tickets of one principal, in memory alone. Several
// workers use it at once: whoever wants a ticket that is being fetched waits
// for that one.
type tickets struct {
	client *client
	slots  chan struct{}

	mu       sync.Mutex
	granting map[string]*gss.Credential // by realm
	held     map[string]holding         // by service
	flights  map[string]*flight         // by service

	login sync.Mutex // held while a first ticket is fetched
	last  holding    // of the last login that failed
}

// holding is a ticket, or a failure to get one, and since when.
type holding struct {
	cred  *gss.Credential
	err   error
	since time.Time
}

// flight is a request under way.
type flight struct {
	done chan struct{}
	holding
}

func newTickets(c *client) *tickets {
	return &tickets{client: c, slots: make(chan struct{}, maxAtOnce),
		granting: map[string]*gss.Credential{}, held: map[string]holding{}, flights: map[string]*flight{}}
}

// get returns a ticket for a service. With fresh one that was just fetched:
// the one so far may be under a key that the service no longer has.
func (t *tickets) get(ctx context.Context, service gss.Principal, fresh bool) (*gss.Credential, error) {
	name := service.String()
	t.mu.Lock()
	if h, ok := t.held[name]; ok && t.good(h, fresh) {
		t.mu.Unlock()
		return h.cred, h.err
	}
	f, under := t.flights[name]
	if !under {
		f = &flight{done: make(chan struct{})}
		t.flights[name] = f
	}
	t.mu.Unlock()
	if !under {
		t.fly(ctx, f, service)
	}
	select {
	case <-f.done:
		return f.cred, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w in time: %w", errUnreachable, ctx.Err())
	}
}

// forgive forgets that a service's ticket, or the login, has just failed.
func (t *tickets) forgive(service gss.Principal) {
	t.mu.Lock()
	if t.held[service.String()].err != nil {
		delete(t.held, service.String())
	}
	t.mu.Unlock()
	t.login.Lock()
	t.last = holding{}
	t.login.Unlock()
}

// good reports whether what is held still answers.
func (t *tickets) good(h holding, fresh bool) bool {
	now := t.client.now()
	age := now.Sub(h.since)
	if h.err != nil {
		return age >= 0 && age < keepFailure
	}
	return h.cred.Ends().Sub(now) > spare && !(fresh && age > keepFresh)
}

// fly fetches a ticket and tells all who wait.
func (t *tickets) fly(ctx context.Context, f *flight, service gss.Principal) {
	select {
	case t.slots <- struct{}{}:
		f.cred, f.err = t.fetch(ctx, service)
		<-t.slots
	case <-ctx.Done():
		f.err = fmt.Errorf("%w in time: too many requests are under way", errUnreachable)
	}
	f.since = t.client.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flights, service.String())
	if len(t.held) >= maxTickets {
		t.makeRoom()
	}
	t.held[service.String()] = f.holding
	close(f.done)
}

// makeRoom forgets what is of no use any more; if that is nothing, the oldest.
func (t *tickets) makeRoom() {
	var oldest string
	for name, h := range t.held {
		if !t.good(h, false) {
			delete(t.held, name)
			continue
		}
		if first, ok := t.held[oldest]; !ok || h.since.Before(first.since) {
			oldest = name
		}
	}
	if len(t.held) >= maxTickets {
		delete(t.held, oldest)
	}
}

// fetch asks the KDCs. Should they no longer take the ticket for the
// ticket-granting service, it starts anew, once.
func (t *tickets) fetch(ctx context.Context, service gss.Principal) (*gss.Credential, error) {
	cred, err := t.walk(ctx, service)
	var said *gss.PeerError
	if !errors.As(err, &said) || !stale(said.Code) {
		return cred, err
	}
	t.mu.Lock()
	clear(t.granting)
	t.mu.Unlock()
	return t.walk(ctx, service)
}

// stale reports whether a KDC's error can mean that a ticket of before is of no
// use any more. MIT's KDC has no better word than the generic one once its own
// key has changed.
func stale(code int32) bool {
	switch code {
	case errorcode.KRB_AP_ERR_TKT_EXPIRED, errorcode.KRB_AP_ERR_BAD_INTEGRITY, errorcode.KRB_AP_ERR_MODIFIED,
		errorcode.KRB_AP_ERR_BADKEYVER, errorcode.KRB_AP_ERR_NOKEY, errorcode.KDC_ERR_TGT_REVOKED, errorcode.KRB_ERR_GENERIC:
		return true
	}
	return false
}

// walk goes from the own realm to the service's, from one ticket-granting
// service to the next, as far as each KDC knows the way (RFC 4120 §1.2).
func (t *tickets) walk(ctx context.Context, service gss.Principal) (*gss.Credential, error) {
	tgt, err := t.first(ctx)
	if err != nil {
		return nil, err
	}
	realm := t.client.self.Realm
	for range maxHops {
		if realm == service.Realm {
			return t.client.service(ctx, tgt, service)
		}
		if tgt, err = t.next(ctx, tgt, realm, service.Realm); err != nil {
			return nil, err
		}
		if realm = tgt.Service().Name[1]; realm == tgt.Service().Realm {
			break
		}
	}
	return nil, errNoWay(t.client.self.Realm, service.Realm)
}

func errNoWay(from, to string) error {
	return refuse(codeWrongRealm, nil, "no way from realm %s to realm %s: the KDCs know of no trust", from, to)
}

// first returns the ticket for the own realm's ticket-granting service.
func (t *tickets) first(ctx context.Context) (*gss.Credential, error) {
	t.login.Lock()
	defer t.login.Unlock()
	realm := t.client.self.Realm
	if c := t.grantingFor(realm); c != nil {
		return c, nil
	}
	if t.last.err != nil && t.good(t.last, false) {
		return nil, t.last.err
	}
	c, err := t.client.login(ctx)
	if err != nil {
		err = explain(err, "%s cannot log in at realm %s", t.client.self, realm)
		t.last = holding{err: err, since: t.client.now()}
		return nil, err
	}
	t.keepGranting(realm, c)
	return c, nil
}

// next returns a ticket for the ticket-granting service of realm to, or of one
// on the way there, from the KDC of realm at.
func (t *tickets) next(ctx context.Context, tgt *gss.Credential, at, to string) (*gss.Credential, error) {
	if c := t.grantingFor(to); c != nil {
		return c, nil
	}
	c, err := t.client.service(ctx, tgt, krbtgt(to, at))
	var said *gss.PeerError
	if errors.As(err, &said) && said.Code == errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN {
		return nil, errNoWay(at, to)
	}
	if err != nil {
		return nil, err
	}
	t.keepGranting(c.Service().Name[1], c)
	return c, nil
}

func (t *tickets) grantingFor(realm string) *gss.Credential {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.granting[realm]
	if c == nil || c.Ends().Sub(t.client.now()) <= spare {
		return nil
	}
	return c
}

func (t *tickets) keepGranting(realm string, c *gss.Credential) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.granting) >= maxTickets {
		clear(t.granting)
	}
	t.granting[realm] = c
}
