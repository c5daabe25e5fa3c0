// Package directory takes policy from a directory: Active Directory, by group
// policy as Windows hosts do it, or another LDAP server with the shipped
// schema. It finds a server, binds with protection, resolves which policy is
// assigned to a host, reads the policy and all it refers to, and notices
// changes. For administrators it publishes, assigns, deletes and checks policies
// there.
//
// It believes nothing that did not come over an authenticated and protected
// connection. It does not enforce a policy, does not keep one across restarts
// (the agent does both), and does not decode the values of objects
// (policy/gpipsec does).
package directory

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"ipsecagent/auth/gss"
	"ipsecagent/sadb"
)

// Kind is what a directory is.
type Kind uint8

// The zero Kind is ActiveDirectory.
const (
	ActiveDirectory Kind = iota
	// LDAP is a server that knows no group policy, OpenLDAP for one: a pointer
	// on the host's entry, its groups or an entry above it assigns a policy.
	LDAP
)

// Protection is how a connection is protected.
type Protection uint8

// The zero Protection is Sealed.
const (
	// Sealed: the connection is sealed by the SASL layer of a bind by Kerberos.
	Sealed Protection = iota
	// StartTLS: TLS on the port of LDAP, begun before anything else is said.
	StartTLS
	// TLS: LDAPS.
	TLS
)

// Server is a directory server by its DNS name, which its identity is proven
// under: never an address.
type Server struct {
	Name string
	// Port is a TCP port; 0: 389, or 636 with TLS.
	Port uint16
}

// Tickets returns a ticket for a service: "ldap/dc1.example.com"
// or, for a domain controller, "ldap/dc1.example.com/example.com". Fresh asks for
// one that was just fetched: the one so far may be under a key of before.
type Tickets func(ctx context.Context, service string, fresh bool) (*gss.Credential, error)

// Config says where a directory is and how to speak with it.
type Config struct {
	Kind Kind
	// Domain is the DNS name of the domain, whose controllers DNS names. It is
	// required for Active Directory.
	Domain string
	// Servers are asked in this order and no others; empty: those that DNS
	// names, the ones of this host's site first.
	Servers []Server
	// Base is the name of the entry that all of the policy is below; "": the
	// domain's, or the only one that the server has.
	Base string
	// Container is the entry that policies are written below; "": CN=IP
	// Security,CN=System below Base. Policies that are assigned may be
	// elsewhere below Base.
	Container string

	Protection Protection
	// Roots are the authorities of the server's certificate; nil: the system's.
	Roots *x509.CertPool
	// Tickets is how to bind by Kerberos; nil: by BindDN and Password, which
	// needs TLS or StartTLS.
	Tickets  Tickets
	AllowRC4 bool // as a session key of Kerberos
	BindDN   string
	Password sadb.Secret

	// Computer is this host in the directory: in Active Directory the name of
	// its account ("HOST1$") or host/NAME, else the name of its entry; "": in
	// Active Directory the principal of the tickets, else who the server says
	// this host is.
	Computer string

	// Dial opens connections and Resolver asks for names; nil: the system's.
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Resolver *net.Resolver
	Clock    func() time.Time // nil: time.Now
}

// The answers that are no policy; errors.Is tells them apart.
var (
	// ErrUnreachable: no server could be asked with protection, so that nothing
	// is known. What is in force stays.
	ErrUnreachable = errors.New("the directory cannot be asked")
	// ErrUnreadable: a policy is assigned, but this host cannot read it whole.
	// What is in force stays.
	ErrUnreadable = errors.New("the assigned policy cannot be read")
	// ErrChanging: the policy changed again and again while it was read. What
	// is in force stays.
	ErrChanging = errors.New("the policy is being changed")
	// ErrNotFound: there is no such entry, or this account may not see it.
	ErrNotFound = errors.New("there is no such entry in the directory, or this account may not see it")
	// ErrReferral: the server names another one, which is not followed.
	ErrReferral = errors.New("the directory refers to another server, which is not followed")
	// ErrTooLarge: the answer is larger than any that this program takes.
	ErrTooLarge = errors.New("the answer of the directory is too large")
)
