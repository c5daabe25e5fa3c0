package directory

import (
	"context"
)

// Session is a bound and protected connection to one server. It is used by one
// goroutine at a time, but for Close.
type Session struct{}

// Connect finds a server, connects and binds; one after the other until one
// does. The error is ErrUnreachable and says why for each.
func Connect(ctx context.Context, c Config) (*Session, error)

// Server returns the name of the server.
func (s *Session) Server() string

// Base, Configuration and Container return the names of the entries: the
// domain's, that of the forest's configuration ("" elsewhere than in Active
// Directory), and the one below which policies are written.
func (s *Session) Base() string
func (s *Session) Configuration() string
func (s *Session) Container() string

// Close ends the connection and whatever waits for it.
func (s *Session) Close()

// Entry is an entry as it was read: what the account may not read is not there.
type Entry struct {
	DN         string
	Attributes []Attribute
}

// Attribute is an attribute with its values. Names tell no case.
type Attribute struct {
	Name   string
	Values [][]byte
}

// Scope of a search.
type Scope uint8

// The entry itself, those right below it, or all of them.
const (
	BaseObject Scope = iota
	OneLevel
	Subtree
)

// Query is a search.
type Query struct {
	Base       string
	Scope      Scope
	Filter     string   // RFC 4515; values escaped by Escape
	Attributes []string // nil: all that are no operational ones
	// Limit bounds the entries; more are ErrTooLarge. 0: 10 000.
	Limit int
	// Security asks for nTSecurityDescriptor without its audit part (Active
	// Directory, LDAP_SERVER_SD_FLAGS).
	Security bool
}

// Search returns the entries of a query, in pages. Referrals are an error.
func (s *Session) Search(ctx context.Context, q Query) ([]Entry, error)

// Read returns one entry; ErrNotFound: it is not there, or not to be seen.
func (s *Session) Read(ctx context.Context, dn string, attributes ...string) (Entry, error)

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

// Add makes an entry, Modify changes one, Delete removes one without others
// below it.
func (s *Session) Add(ctx context.Context, dn string, attributes []Attribute) error
func (s *Session) Modify(ctx context.Context, dn string, changes ...Change) error
func (s *Session) Delete(ctx context.Context, dn string) error

// Resolve returns the resultant set of policy of a computer; "": this host.
// Names are as of Config.Computer.
func (s *Session) Resolve(ctx context.Context, computer string) (*Result, error)

// Fetch resolves what is assigned to this host and reads it.
func (s *Session) Fetch(ctx context.Context) (*Answer, error)

// Stored is an object of the policy container as it stands there.
type Stored struct {
	DN string
	// Entry is what was read of it.
	Entry
}

// Objects returns all policy objects below the container, those that this
// account may see but not read among them.
func (s *Session) Objects(ctx context.Context) ([]Stored, error)
