package directory

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"ipsecagent/auth/gss"
)

// dnsNaming answers every question for services with these servers, in this
// order.
func dnsNaming(targets ...string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe() // no packet connection: framed as over TCP
		go func() {
			defer theirs.Close()
			for answerDNS(theirs, targets) == nil {
			}
		}()
		return ours, nil
	}}
}

// answerDNS answers one question with SRV records of port 389.
func answerDNS(conn io.ReadWriter, targets []string) error {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	q := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, q); err != nil {
		return err
	}
	end := 12 // of the header; the name of the question, its type and class follow
	for q[end] != 0 {
		end += int(q[end]) + 1
	}
	a := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, byte(len(targets)), 0, 0, 0, 0}, q[12:end+5]...)
	for i, target := range targets {
		var name []byte
		for _, label := range strings.Split(target, ".") {
			name = append(append(name, byte(len(label))), label...)
		}
		name = append(name, 0)
		a = append(a, 0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, byte(6+len(name)), 0, byte(i), 0, 0, 389>>8, 389&0xff)
		a = append(a, name...)
	}
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
	return err
}

func names(servers []Server) string {
	var all []string
	for _, s := range servers {
		all = append(all, s.Name)
	}
	return strings.Join(all, " ")
}

// A name that DNS has made up is not the directory because it has a certificate,
// or a key of Kerberos, of its own name.
func TestServersThatDNSNamesAreOfTheDomain(t *testing.T) {
	tickets := func(context.Context, string, bool) (*gss.Credential, error) { return nil, errors.New("none") }
	const other = "name them (servers: [toy.test"
	for _, c := range []struct {
		name       string
		cfg        Config
		targets    []string
		want, says string
	}{
		{"password", Config{Kind: LDAP, Protection: TLS}, []string{"toy.test"}, "", other},
		{"password, StartTLS", Config{Kind: LDAP, Protection: StartTLS}, []string{"toy.test"}, "", other},
		{"password, Active Directory", Config{Protection: TLS}, []string{"toy.test"}, "", other},
		{"any member of the realm", Config{Kind: LDAP, Tickets: tickets}, []string{"toy.test"}, "", other},
		{"several", Config{Kind: LDAP, Protection: TLS}, []string{"toy.test", "ldap.bank.example.toy.test"}, "", other + ", ldap.bank.example.toy.test])"},
		{"the end of a label", Config{Kind: LDAP, Protection: TLS}, []string{"evilbank.example"}, "", "evilbank.example"},
		{"some", Config{Kind: LDAP, Protection: TLS}, []string{"toy.test", "LDAP1.bank.example", "bank.example"}, "ldap1.bank.example bank.example", ""},
		{"a controller proves its domain", Config{Tickets: tickets}, []string{"dc1.other.example"}, "dc1.other.example", ""},
		{"and over TLS too", Config{Tickets: tickets, Protection: TLS}, []string{"dc1.other.example"}, "dc1.other.example", ""},
		{"settings name it", Config{Kind: LDAP, Protection: TLS, Servers: []Server{{Name: "toy.test"}}}, nil, "toy.test", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Domain, c.cfg.Resolver = "Bank.example.", dnsNaming(c.targets...)
			c.cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no datagrams") }
			cfg := c.cfg.withDefaults()
			got, err := locate(soon(t), &cfg)
			if names(got) != c.want {
				t.Errorf("%q, not %q", names(got), c.want)
			}
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, which does not say %q", err, c.says)
			}
		})
	}
}

// The password of a host does not go where a forged answer of DNS points to,
// whatever certificate is shown there.
func TestAForgedDNSGetsNoPassword(t *testing.T) {
	s := newToy(t)
	s.answer = func(io.Writer, []byte, element) {}
	c := s.cfg()
	c.Servers, c.Domain, c.Resolver = nil, "bank.example", dnsNaming("toy.test")
	c.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
		t.Errorf("%s %s is asked", network, address)
		return nil, errors.New("no")
	}
	if _, err := Connect(soon(t), c); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
}
