package kerberos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
	"ipsecagent/auth/gss"
)

// Cache is the credential cache of a person, as kinit fills it: for what an
// administrator asks of a directory in his own name.
type Cache struct {
	path    string
	tickets *tickets
}

// errCache: a file that is no credential cache.
var errCache = errors.New("it is no credential cache of version 3 or 4")

// maxCache bounds a credential cache in bytes.
const maxCache = 4 << 20

// OpenCache reads a credential cache file and takes from it the ticket that
// others are got with. Of the configuration Krb5Conf, Clock, Dial and AllowRC4
// count.
func OpenCache(c Config, path string) (*Cache, error) {
	c = c.withDefaults()
	b, err := readOwn(path, maxCache)
	if err != nil {
		return nil, fmt.Errorf("kerberos: open credential cache: %w", err)
	}
	cred, err := grantingTicket(b)
	if err != nil {
		return nil, fmt.Errorf("kerberos: open credential cache %s: %w", path, err)
	}
	if now := c.Clock(); cred.Ends().Sub(now) <= spare {
		return nil, fmt.Errorf("kerberos: open credential cache %s: the ticket of %s ended at %s: run kinit", path, cred.Client(), cred.Ends().Format(time.RFC3339))
	}
	conf, err := loadConf(c.Krb5Conf)
	if err != nil {
		return nil, err
	}
	self := cred.Client()
	t := newTickets(&client{kdc: newTransport(conf, c.Dial), self: self, keytab: &gss.Keytab{}, rc4: c.AllowRC4, skew: gss.DefaultSkew, now: c.Clock})
	t.keepGranting(self.Realm, cred)
	return &Cache{path: path, tickets: t}, nil
}

// readOwn reads a file of no more than max bytes that belongs to who asks: in
// folders that everybody may write to, others could put one there.
func readOwn(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to somebody else", path)
	}
	if info.Size() > max || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: no file of at most %d bytes", path, max)
	}
	return io.ReadAll(io.LimitReader(f, max))
}

// Principal returns whom the cache is of.
func (c *Cache) Principal() gss.Principal { return c.tickets.client.self }

// Ticket returns a ticket for a service such as "ldap/dc1.example.com"; without
// a realm, in that of the cache. Fresh is as of Authenticator.Ticket. The error
// is an *auth.Error.
func (c *Cache) Ticket(ctx context.Context, service string, fresh bool) (*gss.Credential, error) {
	p, err := gss.ParsePrincipal(service)
	if err != nil {
		return nil, refuse(codeUnknownService, err, "the name of the service cannot be read")
	}
	p.Type = gss.NameService
	if p.Realm == "" {
		p.Realm = c.Principal().Realm
	}
	if c.tickets.grantingFor(c.Principal().Realm) == nil {
		return nil, refuse("", nil, "the ticket of %s in %s has ended: run kinit", c.Principal(), c.path)
	}
	ctx, cancel := context.WithTimeout(ctx, overall)
	defer cancel()
	cred, err := c.tickets.get(ctx, p, fresh)
	if err != nil {
		return nil, explain(err, "no ticket for %s", p)
	}
	return cred, nil
}

// grantingTicket finds the ticket for the ticket-granting service of the
// client's own realm in a cache; of several, the one that lasts longest.
func grantingTicket(b []byte) (*gss.Credential, error) {
	r, err := openCache(b)
	if err != nil {
		return nil, err
	}
	self := r.principal()
	var best *gss.Credential
	for r.err == nil && len(r.b) > 0 {
		c := r.credential()
		if r.err != nil || !c.client.Equal(self) || !c.server.Equal(krbtgt(self.Realm, self.Realm)) {
			continue
		}
		cred, err := c.take()
		if err != nil {
			return nil, err
		}
		if best == nil || cred.Ends().After(best.Ends()) {
			best = cred
		}
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case best == nil:
		return nil, fmt.Errorf("it has no ticket of %s for krbtgt/%s: run kinit", self, self.Realm)
	}
	return best, nil
}

// cacheReader reads a credential cache (MIT Kerberos, "Credential cache file
// format").
type cacheReader struct {
	b   []byte
	err error
}

// openCache checks the version and passes over the header.
func openCache(b []byte) (*cacheReader, error) {
	if len(b) < 2 || b[0] != 5 || b[1] != 3 && b[1] != 4 {
		return nil, errCache
	}
	r := &cacheReader{b: b[2:]}
	if b[1] == 4 {
		r.take(int(binary.BigEndian.Uint16(r.take(2))))
	}
	return r, r.err
}

// take returns the next n bytes; after an error, zeroes or nothing.
func (r *cacheReader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err = errCache
		return make([]byte, min(n, 8))
	}
	t := r.b[:n]
	r.b = r.b[n:]
	return t
}

func (r *cacheReader) number() uint32 { return binary.BigEndian.Uint32(r.take(4)) }

func (r *cacheReader) data() []byte {
	n := r.number()
	if int64(n) > int64(len(r.b)) {
		r.err = errCache
		return nil
	}
	return r.take(int(n))
}

func (r *cacheReader) principal() gss.Principal {
	p := gss.Principal{Type: int32(r.number())}
	n := r.number()
	p.Realm = string(r.data())
	for range n {
		if r.err != nil {
			break
		}
		p.Name = append(p.Name, string(r.data()))
	}
	return p
}

// cached is one credential of a cache.
type cached struct {
	client, server gss.Principal
	key            types.EncryptionKey
	ends           time.Time
	ticket         []byte
}

func (r *cacheReader) credential() cached {
	c := cached{client: r.principal(), server: r.principal()}
	c.key.KeyType = int32(binary.BigEndian.Uint16(r.take(2)))
	c.key.KeyValue = r.data()
	r.take(4 + 4) // when it was issued and begins
	c.ends = time.Unix(int64(r.number()), 0)
	r.take(4 + 1 + 4) // renewal, kind, flags
	for range 2 {     // addresses, authorization data
		for n := r.number(); n > 0 && r.err == nil; n-- {
			r.take(2)
			r.data()
		}
	}
	c.ticket = r.data()
	r.data() // a second ticket
	return c
}

// take decodes the ticket.
func (c *cached) take() (cred *gss.Credential, err error) {
	defer guard(&err)
	var t messages.Ticket
	if err := t.Unmarshal(c.ticket); err != nil {
		return nil, fmt.Errorf("%w: its ticket for %s: %w", errCache, strings.Join(c.server.Name, "/"), err)
	}
	return gss.NewCredential(c.client, t, c.key, c.ends)
}
