package directory

import (
	"context"
	"errors"

	"github.com/go-ldap/ldap/v3"
)

// maxNotifications is how many searches for changes a controller takes on one
// connection: Windows 5 (MaxNotificationPerConn), and Samba one less.
const maxNotifications = 4

// place is where a server watches for changes.
type place struct {
	dn    string
	scope Scope
}

// Watch has the server tell of changes near what an answer was made of, beside
// what it already watches on this connection, until the connection ends. The
// channel, always the same one, has a value when there was a change. It is a
// hint: what was deleted, and what is elsewhere, polling finds. Began: something
// is watched that was not before, and no server says from when on, so it is to be
// looked for changes once more. Not all: there is no room for what matters most
// now; a new connection has it.
func (s *Session) Watch(ctx context.Context, a *Answer) (hints <-chan struct{}, began, all bool) {
	if s.config.Kind == LDAP {
		if root := (place{s.root.base, Subtree}); !s.watched[root] {
			s.watched[root], began = true, true
			go s.follow(ctx)
		}
		return s.hints, began, true
	}
	for _, p := range s.places(a) {
		switch {
		case s.watched[p]:
		case len(s.watched) == maxNotifications:
			return s.hints, began, false
		default:
			s.watched[p], began = true, true
			go s.listen(ctx, p)
		}
	}
	return s.hints, began, true
}

// places returns where to watch: where policies are, where group policy objects
// are, the assignment, and the entries with links, the nearest first: as many as
// the server takes.
func (s *Session) places(a *Answer) []place {
	container := s.Container()
	if w := a.Result.Won(); w != nil {
		_, container = cutRDN(w.Policy)
	}
	all := []place{{container, OneLevel}, {policiesPath + s.root.base, OneLevel}}
	if a.seen.assignment != "" {
		all = append(all, place{a.seen.assignment, BaseObject})
	}
	for _, dn := range a.seen.scopes {
		all = append(all, place{dn, BaseObject})
	}
	return all[:min(len(all), maxNotifications)]
}

// listen asks for notifications ([MS-ADTS] 3.1.1.3.4.1.9) and hints at each.
func (s *Session) listen(ctx context.Context, p place) {
	r := s.conn.SearchAsync(ctx, &ldap.SearchRequest{BaseDN: p.dn, Scope: int(p.scope), Filter: "(objectClass=*)", Attributes: []string{"1.1"},
		Controls: []ldap.Control{ldap.NewControlMicrosoftNotification()}}, 1)
	for r.Next() {
		hint(s.hints)
	}
	s.deafened(ctx, r.Err())
}

// follow keeps a search of the objects and pointers up to date (RFC 4533,
// refreshAndPersist), and hints at what comes after their first state.
func (s *Session) follow(ctx context.Context) {
	request := &ldap.SearchRequest{BaseDN: s.root.base, Scope: int(Subtree), Filter: "(|(objectClass=ipsecBase)(" + attrPointer + "=*))", Attributes: []string{"1.1"}}
	r := s.conn.Syncrepl(ctx, request, 1, ldap.SyncRequestModeRefreshAndPersist, nil, false)
	refreshed := false
	for r.Next() {
		if refreshed {
			hint(s.hints)
		}
		refreshed = refreshed || ldap.FindControl(r.Controls(), ldap.ControlTypeSyncInfo) != nil
	}
	s.deafened(ctx, r.Err())
}

// errNotTold is the end of a search for changes without a reason.
var errNotTold = errors.New("it has ended the search for them")

// deafened notes that the server tells of no more changes, unless the connection
// has ended, and hints at it, so that it is said.
func (s *Session) deafened(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		err = errNotTold
	case !answered(err):
		return
	}
	s.deaf.Store(&err)
	hint(s.hints)
}

// Deaf returns why the server does not tell of changes, though it was asked to;
// nil: it does, or was not asked.
func (s *Session) Deaf() error {
	if err := s.deaf.Load(); err != nil {
		return *err
	}
	return nil
}

// hint says that something has changed, unless that was said already.
func hint(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}
