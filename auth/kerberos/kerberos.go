// Package kerberos authenticates IKE peers by Kerberos, as the GSS-API method
// 65001 of IKEv1 main mode (draft-ietf-ipsec-isakmp-gss-auth): this host's
// keys come from a keytab, tickets from the KDCs of its realm, and each end's
// proof is its hash, sealed by the security context of both.
//
// It owns the choice of names, the talk with KDCs, the ticket cache and what
// differs from peer to peer in this method. It does not derive IKE's keys;
// and whether a proven principal may stand at an address, policy decides.
package kerberos

import (
	"net"
	"os"
	"sync"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/gss"
)

// Config is what the method works with. The zero value is this host as it
// stands, with a replay cache in memory.
type Config struct {
	Keytab   string // "": /etc/krb5.keytab; read again when it changes
	Krb5Conf string // "": /etc/krb5.conf; read again when it changes
	// Principal is whom this host logs in as and is known as; "": NAME$ of the
	// keytab, else host/NAME.
	Principal string
	Host      string   // DNS name of this host; "": what the system says
	Realms    []string // trusted beside this host's own
	AllowRC4  bool
	// LooseID takes any identification that a peer sends beside its proof.
	// Without it, it must be the name of the proven principal or the peer's
	// address.
	LooseID bool
	// ReplayCache is the file that remembers authenticators across restarts;
	// "": memory alone.
	ReplayCache string
	Clock       func() time.Time // nil: time.Now
	// Dial opens every connection to a KDC and to a name server; nil: the
	// system's.
	Dial DialFunc
}

// The files of a host.
const (
	DefaultKeytab   = "/etc/krb5.keytab"
	DefaultKrb5Conf = "/etc/krb5.conf"
)

func (c Config) withDefaults() Config {
	if c.Keytab == "" {
		c.Keytab = DefaultKeytab
	}
	if c.Krb5Conf == "" {
		c.Krb5Conf = DefaultKrb5Conf
	}
	if c.Host == "" {
		c.Host, _ = os.Hostname() // without a name, the keytab's order decides
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Dial == nil {
		var d net.Dialer
		c.Dial = d.DialContext
	}
	return c
}

// Authenticator is the method "Kerberos". Sessions run in a pool of workers,
// so what they share stands behind a lock.
type Authenticator struct {
	config Config
	replay *gss.ReplayCache

	mu     sync.Mutex
	known  *facts
	quirks quirks
}

// New returns an authenticator. A keytab may come later; that the replay cache
// cannot be opened is an error.
func New(c Config) (*Authenticator, error) {
	c = c.withDefaults()
	a := &Authenticator{config: c, replay: gss.NewReplayCache()}
	if c.ReplayCache == "" {
		return a, nil
	}
	var err error
	a.replay, err = gss.OpenReplayCache(c.ReplayCache, c.Clock())
	return a, err
}

// Close closes the replay cache; nothing is accepted afterwards.
func (a *Authenticator) Close() error { return a.replay.Close() }

// Warning says what was wrong with the replay cache when it was opened; empty:
// nothing.
func (a *Authenticator) Warning() string { return a.replay.Warning() }

// Identity returns the principal of this host. The error, an *auth.Error, says
// why it has none.
func (a *Authenticator) Identity() (auth.Principal, error) {
	f, err := a.facts()
	if err != nil {
		return "", err
	}
	return auth.Principal(f.self.String()), nil
}

// Method returns auth.Kerberos.
func (a *Authenticator) Method() auth.Method { return auth.Kerberos }

// Start begins an authentication. It asks no KDC. Without a usable keytab
// there is an *auth.Error.
func (a *Authenticator) Start(r auth.Request) (auth.Session, error) {
	if r.Requirement.Method != auth.Kerberos {
		return nil, refuse("", nil, "%v is not Kerberos", r.Requirement.Method)
	}
	f, err := a.facts()
	if err != nil {
		return nil, err
	}
	return &session{host: a, facts: f, request: r, quirk: a.quirkOf(r)}, nil
}
