package directory

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"ipsecagent/auth/gss"
)

// The ports of LDAP and LDAPS.
const (
	portLDAP = 389
	portTLS  = 636
)

// Bounds of one connection.
const (
	dialTimeout    = 5 * time.Second
	bindTimeout    = 20 * time.Second
	requestTimeout = 30 * time.Second
	changeTimeout  = 2 * time.Minute // a large value takes a server its time
)

// Check returns what is wrong with a configuration.
func (c *Config) Check() error {
	switch {
	case c.Kind == ActiveDirectory && c.Domain == "":
		return errors.New("directory: the DNS name of the domain is required")
	case c.Kind == LDAP && c.Domain == "" && len(c.Servers) == 0:
		return errors.New("directory: a server is required, or a domain whose servers DNS names")
	case c.Tickets != nil:
		return nil
	case c.Protection == Sealed:
		return errors.New("directory: a bind by password needs TLS or StartTLS: only Kerberos can seal a connection without")
	case c.BindDN == "" || c.Password.Len() == 0:
		return errors.New("directory: a bind by password needs a name and a password that is not empty: an empty one would be no proof at all")
	}
	return nil
}

// withDefaults fills in the system's.
func (c Config) withDefaults() Config {
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	if c.Resolver == nil {
		c.Resolver = &net.Resolver{PreferGo: true}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.Domain = strings.ToLower(strings.TrimSuffix(c.Domain, "."))
	return c
}

// Connect finds a server, connects and binds; one after the other until one
// does. The error is ErrUnreachable and says why for each.
func Connect(ctx context.Context, given Config) (*Session, error) {
	if err := given.Check(); err != nil {
		return nil, err
	}
	c := given.withDefaults()
	servers, err := locate(ctx, &c)
	if err != nil {
		return nil, fmt.Errorf("directory: %w: %w", ErrUnreachable, err)
	}
	var failed []error
	for _, server := range servers {
		s, err := connectTo(ctx, &c, server)
		if err == nil {
			return s, nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", server.Name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("directory: %w: %w", ErrUnreachable, joined(failed))
}

// joined puts reasons on one line.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return reasons(errs)
}

// reasons is several errors in one line.
type reasons []error

// Error separates them by semicolons.
func (r reasons) Error() string {
	words := make([]string, len(r))
	for i, err := range r {
		words[i] = err.Error()
	}
	return strings.Join(words, "; ")
}

// Unwrap returns all of them.
func (r reasons) Unwrap() []error { return r }

// connectTo connects to one server and binds. A ticket that the server does not
// take may be under a key that it no longer has, so it is fetched anew once.
func connectTo(ctx context.Context, c *Config, server Server) (*Session, error) {
	s, err := bindTo(ctx, c, server, false)
	var said *ldap.Error
	if c.Tickets == nil || !errors.As(err, &said) || said.ResultCode >= ldap.ErrorNetwork {
		return s, err
	}
	return bindTo(ctx, c, server, true)
}

func bindTo(ctx context.Context, c *Config, server Server, fresh bool) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	conn, err := c.Dial(ctx, "tcp", net.JoinHostPort(server.Name, strconv.Itoa(int(server.port(c.Protection)))))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	g, state, err := protect(ctx, c, server, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	l := ldap.NewConn(g, state != nil)
	l.Start() // its own timeout would end searches that wait for changes, too
	s := &Session{config: c, server: server.Name, gate: g, conn: l, hints: make(chan struct{}, 1), watched: map[place]bool{}}
	if err := s.bind(ctx, state, fresh); err != nil {
		s.Close()
		return nil, err
	}
	g.bound.Store(true)
	if err := s.readRoot(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s Server) port(p Protection) uint16 {
	switch {
	case s.Port != 0:
		return s.Port
	case p == TLS:
		return portTLS
	}
	return portLDAP
}

// protect begins TLS where that is to protect the connection; state is nil
// without.
func protect(ctx context.Context, c *Config, server Server, conn net.Conn) (*gate, *tls.ConnectionState, error) {
	if c.Protection == Sealed {
		return newGate(conn, conn), nil, nil
	}
	if c.Protection == StartTLS {
		if err := startTLS(conn); err != nil {
			return nil, nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	t := tls.Client(conn, &tls.Config{ServerName: server.Name, RootCAs: c.Roots, MinVersion: tls.VersionTLS12, Time: c.Clock})
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	state := t.ConnectionState()
	return newGate(t, conn), &state, nil
}

// startTLS has the server begin TLS (RFC 4511 §4.14). Exactly its answer is
// read, so that nothing said in clear is taken for what TLS protects.
func startTLS(conn net.Conn) error {
	const oid = "1.3.6.1.4.1.1466.20037"
	request := tlv(tagSequence, tlv(tagInteger, []byte{1}), tlv(0x77, tlv(0x80, []byte(oid))))
	if _, err := conn.Write(request); err != nil {
		return err
	}
	answer, err := readMessage(conn, func() int { return maxUnbound })
	if err != nil {
		return err
	}
	message, err := enter(answer, 0)
	if err != nil {
		return err
	}
	response, err := enter(message.content, 1)
	if err != nil {
		return err
	}
	code, err := enter(response.content, 0)
	if err != nil {
		return err
	}
	if response.tag != 0x78 || code.tag != tagEnumerated || string(code.content) != "\x00" {
		return errors.New("the server refuses it")
	}
	return nil
}

// bind proves this host and the server to each other.
func (s *Session) bind(ctx context.Context, state *tls.ConnectionState, fresh bool) error {
	c := s.config
	if c.Tickets == nil {
		return s.conn.Bind(c.BindDN, string(c.Password.Bytes()))
	}
	service := "ldap/" + s.server
	if c.provesDomain() {
		service += "/" + c.Domain // a name that controllers alone can have: a member that DNS was made to name has none
	}
	cred, err := c.Tickets(ctx, service, fresh)
	if err != nil {
		return err
	}
	s.self = cred.Client()
	config := gss.InitiatorConfig{Credential: cred, AllowRC4: c.AllowRC4, Clock: c.Clock}
	if state != nil {
		config.Bindings = bindings(*state)
	}
	initiator, err := gss.NewInitiator(config)
	if err != nil {
		return err
	}
	client := &saslClient{initiator: initiator, gate: s.gate, tls: state != nil}
	if err := s.conn.GSSAPIBind(client, service, ""); err != nil {
		return err
	}
	if !client.agreed { // the library takes a success for the end at any step
		return errors.New("the server ends the bind before protection is agreed on")
	}
	return nil
}
