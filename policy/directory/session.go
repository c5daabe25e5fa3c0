package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"ipsecagent/auth/gss"
)

// Session is a bound and protected connection to one server. It is used by one
// goroutine at a time, but for Close.
type Session struct {
	config *Config
	server string
	gate   *gate
	conn   *ldap.Conn
	self   gss.Principal // whom the bind was for; zero: bound by password
	root   root
	cost   uint64 // operations

	hints   chan struct{}  // of changes
	watched map[place]bool // where the server tells of them
	deaf    atomic.Pointer[error]
}

// root is what the server says of itself.
type root struct {
	base, configuration string
	usn                 uint64 // of its last change (Active Directory)
	site                string // in which it sees this host
}

// Server returns the name of the server.
func (s *Session) Server() string { return s.server }

// Base returns the DN that all of the policy is below.
func (s *Session) Base() string { return s.root.base }

// Configuration returns the DN of the forest's configuration; "" elsewhere than
// in Active Directory.
func (s *Session) Configuration() string { return s.root.configuration }

// Site returns the site in which the server sees this connection; "": it knows
// none.
func (s *Session) Site() string { return s.root.site }

// Container returns the DN that policies are written below.
func (s *Session) Container() string {
	if s.config.Container != "" {
		return s.config.Container
	}
	return "CN=IP Security,CN=System," + s.root.base
}

// Cost is what a session has cost since it was bound, protection not counted.
type Cost struct{ Operations, Sent, Received uint64 }

// Cost returns the operations and bytes so far.
func (s *Session) Cost() Cost {
	return Cost{s.cost, s.gate.sent.Load(), s.gate.received.Load()}
}

// Ended is closed when the connection has ended.
func (s *Session) Ended() <-chan struct{} { return s.gate.ended }

// Close ends the connection and whatever waits for it.
func (s *Session) Close() {
	s.gate.Close() // first, so that nothing below waits for the server
	s.conn.Close()
}

// readRoot reads what the server says of itself and checks that it is what the
// settings mean.
func (s *Session) readRoot(ctx context.Context) error {
	e, err := s.Read(ctx, "", "defaultNamingContext", "configurationNamingContext", "namingContexts", "highestCommittedUSN")
	if err != nil {
		return fmt.Errorf("read the root: %w", err)
	}
	s.root.base = s.config.Base
	if s.config.Kind == LDAP {
		if s.root.base == "" {
			s.root.base, err = onlyOne(e.all("namingContexts"))
		}
		return err
	}
	s.root.configuration = e.get("configurationNamingContext")
	if s.root.usn, err = e.number("highestCommittedUSN"); err != nil {
		return err
	}
	domain := e.get("defaultNamingContext")
	if !sameDN(domain, domainDN(s.config.Domain)) {
		return fmt.Errorf("it serves the domain %q, not %s", domain, s.config.Domain)
	}
	if s.root.base == "" {
		s.root.base = domain
	}
	s.root.site, err = s.readSite(ctx)
	return err
}

func onlyOne(bases []string) (string, error) {
	if len(bases) != 1 {
		return "", fmt.Errorf("it holds %d trees (%s): name the one to use (base)", len(bases), strings.Join(bases, ", "))
	}
	return bases[0], nil
}

// readSite asks again what the ping by datagram has said, over the protected
// connection: policy can hang on it.
func (s *Session) readSite(ctx context.Context) (string, error) {
	e, err := s.one(ctx, Query{Filter: pingFilter(s.config.Domain), Attributes: []string{"netlogon"}})
	if err != nil {
		return "", fmt.Errorf("ask for the site of this host: %w", err)
	}
	n, err := parseNetlogon([]byte(e.get("netlogon")))
	if err != nil {
		return "", fmt.Errorf("ask for the site of this host: %w", err)
	}
	return n.clientSite, nil
}

// Scope of a search.
type Scope uint8

// The entry itself, those right below it, or it and all below it.
const (
	BaseObject Scope = iota
	OneLevel
	Subtree
)

// Query is a search.
type Query struct {
	Base       string
	Scope      Scope
	Filter     string   // RFC 4515, with values escaped by Escape; "": all
	Attributes []string // nil: all that are no operational ones
	// Limit bounds the entries; more are ErrTooLarge. 0: 10 000.
	Limit int
	// most bounds the bytes of memory; 0: maxBytes.
	most int
	// Security asks for nTSecurityDescriptor without its audit part, which only
	// auditors may read (Active Directory).
	Security bool
	// AllPartitions searches whatever partitions the server has below Base,
	// beyond that of Base (Active Directory).
	AllPartitions bool
}

// Bounds of one search.
const (
	maxEntries = 10_000
	maxBytes   = 32 << 20 // of memory for what comes (Entry.size)
	pageSize   = 500
	maxPages   = 1000 // servers may send fewer entries in one than they were asked for, or none
)

// Controls of Active Directory ([MS-ADTS] 3.1.1.3.4.1).
const (
	controlDomainScope   = "1.2.840.113556.1.4.1339" // no references to other servers
	controlSearchOptions = "1.2.840.113556.1.4.1340"
	phantomRoot          = "\x30\x03\x02\x01\x02" // its value: all partitions below
	// ownerGroupDACL is the value of LDAP_SERVER_SD_FLAGS.
	ownerGroupDACL = 7
)

// Escape escapes a value for a filter (RFC 4515 §3).
func Escape(value string) string { return ldap.EscapeFilter(value) }

// Search returns the entries of a query, fetched in pages. Referrals are an
// error: what they name has proven nothing.
func (s *Session) Search(ctx context.Context, q Query) ([]Entry, error) {
	c := collector{limit: q.Limit, most: q.most}
	if c.limit == 0 {
		c.limit = maxEntries
	}
	if c.most == 0 {
		c.most = maxBytes
	}
	if q.Filter == "" {
		q.Filter = "(objectClass=*)"
	}
	request := &ldap.SearchRequest{BaseDN: q.Base, Scope: int(q.Scope), Filter: q.Filter, Attributes: q.Attributes, Controls: s.controls(q)}
	var paging *ldap.ControlPaging
	if q.Scope != BaseObject {
		paging = ldap.NewControlPaging(pageSize)
		request.Controls = append(request.Controls, paging)
	}
	for range maxPages {
		cookie, err := s.page(ctx, request, &c)
		if err != nil {
			return nil, s.fail(ctx, q.Base, err)
		}
		if len(cookie) == 0 || paging == nil {
			return c.entries, nil
		}
		paging.SetCookie(cookie)
	}
	return nil, s.fail(ctx, q.Base, fmt.Errorf("%w: more than %d pages", ErrTooLarge, maxPages))
}

func (s *Session) controls(q Query) []ldap.Control {
	var all []ldap.Control
	if q.Security {
		all = append(all, &ldap.ControlMicrosoftSDFlags{Criticality: true, ControlValue: ownerGroupDACL})
	}
	switch {
	case s.config.Kind != ActiveDirectory || q.Scope == BaseObject:
	case q.AllPartitions:
		all = append(all, ldap.NewControlString(controlSearchOptions, true, phantomRoot))
	default:
		all = append(all, ldap.NewControlString(controlDomainScope, true, ""))
	}
	return all
}

// page fetches one page and returns the cookie for the next; nil: it was the
// last.
func (s *Session) page(ctx context.Context, request *ldap.SearchRequest, c *collector) (cookie []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s.cost++
	r := s.conn.SearchAsync(ctx, request, 1)
	for r.Next() {
		if r.Referral() != "" {
			return nil, fmt.Errorf("%w: %s", ErrReferral, r.Referral())
		}
		if e := r.Entry(); e != nil {
			if err := c.take(e); err != nil {
				return nil, err
			}
		}
		if p, ok := ldap.FindControl(r.Controls(), ldap.ControlTypePaging).(*ldap.ControlPaging); ok {
			cookie = p.Cookie
		}
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return cookie, ctx.Err()
}

// collector gathers entries within bounds.
type collector struct {
	entries []Entry
	limit   int
	most    int // bytes
	bytes   int
}

func (c *collector) take(e *ldap.Entry) error {
	taken := Entry{DN: e.DN}
	for _, a := range e.Attributes {
		taken.Attributes = append(taken.Attributes, Attribute{a.Name, a.ByteValues})
	}
	c.bytes += taken.size()
	c.entries = append(c.entries, taken)
	if len(c.entries) > c.limit || c.bytes > c.most {
		return fmt.Errorf("%w: %d entries of %d bytes", ErrTooLarge, len(c.entries), c.bytes)
	}
	return nil
}

// fail says what became of an operation on an entry. After anything but an
// answer of the server, the connection is of no use any more: what was asked may
// still come.
func (s *Session) fail(ctx context.Context, dn string, err error) error {
	if ctx.Err() != nil || !answered(err) {
		s.Close()
	}
	what := "the root"
	if dn != "" {
		what = fmt.Sprintf("%q", dn)
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case s.gate.refused.Load() != nil:
		err = *s.gate.refused.Load()
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		err = ErrNotFound
	case ldap.IsErrorWithCode(err, ldap.LDAPResultReferral):
		err = ErrReferral
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded):
		err = fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// answered reports an error that is what the server has said.
func answered(err error) bool {
	var said *ldap.Error
	return errors.As(err, &said) && said.ResultCode < ldap.ErrorNetwork
}

// Read returns one entry. ErrNotFound: it is not there, or not to be seen.
func (s *Session) Read(ctx context.Context, dn string, attributes ...string) (Entry, error) {
	return s.one(ctx, Query{Base: dn, Attributes: attributes})
}

// one returns the one entry that a query finds.
func (s *Session) one(ctx context.Context, q Query) (Entry, error) {
	q.Limit = 1
	found, err := s.Search(ctx, q)
	switch {
	case err != nil:
		return Entry{}, err
	case len(found) == 0:
		return Entry{}, fmt.Errorf("%q: %w", q.Base, ErrNotFound)
	}
	return found[0], nil
}

// Change is one change of an entry.
type Change struct {
	Kind ChangeKind
	Attribute
}

// ChangeKind is what a Change does with the values.
type ChangeKind uint8

// As in RFC 4511 §4.6.
const (
	AddValues ChangeKind = iota
	DeleteValues
	ReplaceValues
)

// Add makes an entry.
func (s *Session) Add(ctx context.Context, dn string, attributes []Attribute) error {
	r := ldap.NewAddRequest(dn, nil)
	for _, a := range attributes {
		r.Attribute(a.Name, text(a.Values))
	}
	return s.write(ctx, dn, func() error { return s.conn.Add(r) })
}

// Modify changes an entry: all of the changes, or none.
func (s *Session) Modify(ctx context.Context, dn string, changes ...Change) error {
	r := ldap.NewModifyRequest(dn, nil)
	for _, c := range changes {
		switch c.Kind {
		case AddValues:
			r.Add(c.Name, text(c.Values))
		case DeleteValues:
			r.Delete(c.Name, text(c.Values))
		case ReplaceValues:
			r.Replace(c.Name, text(c.Values))
		}
	}
	return s.write(ctx, dn, func() error { return s.conn.Modify(r) })
}

// Delete removes an entry that has none below it.
func (s *Session) Delete(ctx context.Context, dn string) error {
	return s.write(ctx, dn, func() error { return s.conn.Del(ldap.NewDelRequest(dn, nil)) })
}

// write runs an operation that changes an entry.
func (s *Session) write(ctx context.Context, dn string, operation func() error) error {
	if err := s.do(ctx, changeTimeout, operation); err != nil {
		return s.fail(ctx, dn, err)
	}
	return nil
}

// do runs an operation that knows no context, and ends the connection if it takes
// too long.
func (s *Session) do(ctx context.Context, most time.Duration, operation func() error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.gate.Close() })
	defer stop()
	s.cost++
	err := operation()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// text returns values as the library takes them.
func text(values [][]byte) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = string(v)
	}
	return all
}
