package directory

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"ipsecagent/sadb"
)

// toy is an LDAP server that answers as a test says. Whoever can play it has the
// server's key, or is the server: it may harm nobody but itself.
type toy struct {
	t      *testing.T
	config *tls.Config
	roots  *x509.CertPool
	// answer answers the request with a number, to search; the bind and the
	// root are answered before. It may write what it likes.
	answer func(w io.Writer, id []byte, request element)
	// before is what it says on connecting, before TLS.
	before string
}

func newToy(t *testing.T) *toy {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "toy"}, DNSNames: []string{"toy.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	s := &toy{t: t, roots: x509.NewCertPool(), config: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}}
	s.roots.AddCert(leaf)
	return s
}

// cfg is how to connect to it.
func (s *toy) cfg() Config {
	return Config{Kind: LDAP, Servers: []Server{{Name: "toy.test"}}, Base: "dc=x", Computer: "cn=me,dc=x", Protection: TLS, Roots: s.roots,
		BindDN: "cn=me", Password: sadb.NewSecret([]byte("secret")), Dial: s.dial}
}

func (s *toy) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go s.serve(theirs)
	return ours, nil
}

// result encodes an LDAPResult.
func result(tag, code byte) []byte {
	return tlv(tag, tlv(tagEnumerated, []byte{code}), tlv(tagOctetString), tlv(tagOctetString))
}

// reply sends one message with the number of the request.
func reply(w io.Writer, id, operation []byte) {
	_, _ = w.Write(tlv4(tagSequence, tlv(tagInteger, id), operation))
}

// tlv4 is tlv for long contents.
func tlv4(tag byte, contents ...[]byte) []byte {
	n := 0
	for _, c := range contents {
		n += len(c)
	}
	return append([]byte{tag, 0x84, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, bytes.Join(contents, nil)...)
}

// found encodes an entry with one attribute.
func found(dn, attribute string, values ...[]byte) []byte {
	var all [][]byte
	for _, v := range values {
		all = append(all, tlv4(tagOctetString, v))
	}
	return tlv4(0x64, tlv(tagOctetString, []byte(dn)), tlv4(tagSequence, tlv4(tagSequence, tlv(tagOctetString, []byte(attribute)), tlv4(0x31, all...))))
}

func (s *toy) serve(raw net.Conn) {
	defer raw.Close()
	if s.before != "" {
		go io.Copy(io.Discard, raw) //nolint:errcheck // it ends with the connection
		_, _ = io.WriteString(raw, s.before)
		return
	}
	conn := tls.Server(raw, s.config)
	defer conn.Close()
	searches := 0
	for {
		m, err := readMessage(conn, anySize)
		if err != nil {
			return
		}
		inner, _ := enter(m, 0)
		id, _ := enter(inner.content, 0)
		request, _ := enter(inner.content, 1)
		switch {
		case request.tag == 0x60:
			reply(conn, id.content, result(0x61, 0))
		case request.tag == 0x63 && searches == 0: // the root
			searches++
			reply(conn, id.content, found("", "namingContexts", []byte("dc=x")))
			reply(conn, id.content, result(0x65, 0))
		default:
			s.answer(conn, id.content, request)
		}
	}
}

func (s *toy) connect(ctx context.Context) *Session {
	s.t.Helper()
	session, err := Connect(ctx, s.cfg())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(session.Close)
	return session
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// anotherPage answers a search with no entry and that there is more.
func anotherPage(w io.Writer, id []byte, _ element) {
	value := tlv(tagSequence, tlv(tagInteger, []byte{0}), tlv(tagOctetString, []byte("more")))
	control := tlv(tagSequence, tlv(tagOctetString, []byte(ldap.ControlTypePaging)), tlv(tagOctetString, value))
	_, _ = w.Write(tlv(tagSequence, tlv(tagInteger, id), result(0x65, 0), tlv(tagControls, control)))
}

func TestAPageThatNobodyAskedForIsTheLast(t *testing.T) {
	s := newToy(t)
	s.answer = anotherPage
	ctx := soon(t)
	if _, err := s.connect(ctx).Read(ctx, "cn=a,dc=x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestAHostileDirectoryHarmsNobody(t *testing.T) {
	done := func(w io.Writer, id []byte) { reply(w, id, result(0x65, 0)) }
	for _, c := range []struct {
		name   string
		answer func(w io.Writer, id []byte, request element)
		is     error
		says   string
	}{
		{"entries without end", func(w io.Writer, id []byte, _ element) {
			for i := range 100_000 {
				m := tlv4(tagSequence, tlv(tagInteger, id), found(fmt.Sprintf("cn=%d,dc=x", i), "cn", []byte("x")))
				if _, err := w.Write(m); err != nil {
					return
				}
			}
			done(w, id)
		}, ErrTooLarge, "10001 entries"},
		{"attributes without values, without end", func(w io.Writer, id []byte, _ element) {
			var all [][]byte
			for range 30_000 {
				all = append(all, tlv(tagSequence, tlv(tagOctetString, bytes.Repeat([]byte("a"), 100)), tlv(0x31)))
			}
			for i := range 1000 {
				m := tlv4(tagSequence, tlv(tagInteger, id), tlv4(0x64, tlv(tagOctetString, fmt.Appendf(nil, "cn=%d,dc=x", i)), tlv4(tagSequence, all...)))
				if _, err := w.Write(m); err != nil {
					return
				}
			}
		}, ErrTooLarge, "entries of"},
		{"values without end", func(w io.Writer, id []byte, _ element) {
			for i := range 100 {
				m := tlv4(tagSequence, tlv(tagInteger, id), found(fmt.Sprintf("cn=%d,dc=x", i), "cn", make([]byte, 1<<20)))
				if _, err := w.Write(m); err != nil {
					return
				}
			}
			done(w, id)
		}, ErrTooLarge, "bytes"},
		{"a message that is too large", func(w io.Writer, id []byte, _ element) {
			_, _ = w.Write([]byte{0x30, 0x84, 0x10, 0, 0, 0})
			for range 100 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, ErrTooLarge, "268435456 bytes"},
		{"elements within elements", func(w io.Writer, id []byte, _ element) {
			deep := []byte{0x30, 0x80}
			for range 100_000 {
				deep = append(deep, 0x30, 0x80)
			}
			_, _ = w.Write(deep)
		}, errBER, ""},
		{"pages without end", anotherPage, ErrTooLarge, "pages"},
		{"truncated", func(w io.Writer, id []byte, _ element) {
			m := tlv4(tagSequence, tlv(tagInteger, id), found("cn=a,dc=x", "cn", []byte("x")))
			_, _ = w.Write(m[:len(m)-3])
			w.(net.Conn).Close()
		}, nil, "EOF"},
		{"an entry that is none", func(w io.Writer, id []byte, _ element) {
			reply(w, id, tlv(0x64))
			done(w, id)
		}, nil, ""},
		{"an attribute that is none", func(w io.Writer, id []byte, _ element) {
			reply(w, id, tlv(0x64, tlv(tagOctetString, []byte("cn=a")), tlv(tagSequence, tlv(tagSequence))))
			done(w, id)
		}, nil, ""},
		{"an operation that is none", func(w io.Writer, id []byte, _ element) { reply(w, id, tlv(0x7f-0x20, []byte{1})) }, nil, ""},
		{"a reference to another server", func(w io.Writer, id []byte, _ element) {
			reply(w, id, tlv(0x73, tlv(tagOctetString, []byte("ldap://evil.test/dc=x"))))
			done(w, id)
		}, ErrReferral, "ldap://evil.test/dc=x"},
		{"a referral", func(w io.Writer, id []byte, _ element) { reply(w, id, result(0x65, 10)) }, ErrReferral, ""},
		{"size limit exceeded", func(w io.Writer, id []byte, _ element) { reply(w, id, result(0x65, 4)) }, ErrTooLarge, ""},
		{"no such object", func(w io.Writer, id []byte, _ element) { reply(w, id, result(0x65, 32)) }, ErrNotFound, ""},
		{"the answer to another request", func(w io.Writer, id []byte, _ element) {
			reply(w, []byte{0x7f}, found("cn=forged,dc=x", "cn", []byte("x")))
			reply(w, id, result(0x65, 32))
		}, ErrNotFound, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newToy(t)
			s.answer = c.answer
			ctx := soon(t)
			got, err := s.connect(ctx).Search(ctx, Query{Base: "dc=x", Scope: Subtree})
			if err == nil || ctx.Err() != nil {
				t.Fatalf("%d entries, %v", len(got), err)
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, which is not %v or does not say %q", err, c.is, c.says)
			}
		})
	}
}

// TestADirectoryThatDoesNotAnswerIsGivenUp: one that says nothing, and one that
// says a byte now and then.
func TestADirectoryThatDoesNotAnswerIsGivenUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(w io.Writer, id []byte, request element)
	}{
		{"nothing", func(io.Writer, []byte, element) {}},
		{"a byte now and then", func(w io.Writer, id []byte, _ element) {
			for _, b := range tlv4(tagSequence, tlv(tagInteger, id), found("cn=a,dc=x", "cn", []byte("x"))) {
				if _, err := w.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newToy(t)
			s.answer = c.answer
			session := s.connect(soon(t))
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := session.Read(ctx, "cn=a,dc=x"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			select {
			case <-session.Ended():
			case <-time.After(10 * time.Second):
				t.Error("the connection is still there")
			}
		})
	}
}

// A server that answers all but who this host is does not stop the source.
func TestAServerThatDoesNotSayWhoThisHostIsIsGivenUp(t *testing.T) {
	s := newToy(t)
	s.answer = func(io.Writer, []byte, element) {}
	c := s.cfg()
	c.Computer = ""
	session, err := Connect(soon(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := session.Resolve(ctx, "", "")
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it still waits")
	}
}

// policyOf plays a directory that assigns a policy; object answers what is asked
// of each of its objects.
func policyOf(t *testing.T, object func(w io.Writer, id []byte, filter string)) *Session {
	t.Helper()
	const policyDN = "cn=ipsecPolicy{72385236-70FA-11D1-864C-14A300000000},dc=x"
	s := newToy(t)
	s.answer = func(w io.Writer, id []byte, request element) {
		defer func() { reply(w, id, result(0x65, 0)) }()
		base, _ := enter(request.content, 0)
		switch text := string(request.content); {
		case strings.Contains(text, "contextCSN"):
			reply(w, id, found("dc=x", "contextCSN", []byte("1")))
		case strings.Contains(text, attrPointer) && strings.EqualFold(string(base.content), "cn=me,dc=x"):
			reply(w, id, found("cn=me,dc=x", attrPointer, []byte(policyDN)))
		case strings.Contains(text, "ipsecDataType"):
			object(w, id, text)
		}
	}
	return s.connect(soon(t))
}

// What is wrong with the policy alone, another server would say too: it is
// unreadable, and the directory not unreachable.
func TestAPolicyThatIsTooMuchIsUnreadable(t *testing.T) {
	chain := 0
	for _, c := range []struct {
		name   string
		object func(w io.Writer, id []byte, filter string)
		is     error
	}{
		{"a reference to another server", func(w io.Writer, id []byte, _ string) {
			reply(w, id, tlv(0x73, tlv(tagOctetString, []byte("ldap://evil.test/dc=x"))))
		}, ErrReferral},
		{"one object that is too large", func(w io.Writer, id []byte, _ string) {
			reply(w, id, found("cn=ipsecPolicy{72385236-70FA-11D1-864C-14A300000000},dc=x", "ipsecData", make([]byte, 5<<20)))
		}, ErrTooLarge},
		{"objects without end, each of them large", func(w io.Writer, id []byte, _ string) {
			// Each refers to the next: no single question is answered at length.
			name := "ipsecPolicy{72385236-70FA-11D1-864C-14A300000000}"
			if chain > 0 {
				name = fmt.Sprintf("ipsecNFA{%08X-70FA-11D1-864C-14A300000000}", chain)
			}
			if chain++; chain > 100 {
				return
			}
			next := fmt.Sprintf("cn=ipsecNFA{%08X-70FA-11D1-864C-14A300000000},dc=x", chain)
			data := tlv4(tagSequence, tlv(tagOctetString, []byte("ipsecData")), tlv4(0x31, tlv4(tagOctetString, make([]byte, 1<<20))))
			refs := tlv4(tagSequence, tlv(tagOctetString, []byte("ipsecNFAReference")), tlv4(0x31, tlv(tagOctetString, []byte(next))))
			reply(w, id, tlv4(0x64, tlv(tagOctetString, []byte("cn="+name+",dc=x")), tlv4(tagSequence, data, refs)))
		}, ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := policyOf(t, c.object).Fetch(soon(t))
			if !errors.Is(err, ErrUnreadable) || !errors.Is(err, c.is) || errors.Is(err, ErrUnreachable) {
				t.Errorf("%v", err)
			}
		})
	}
	if chain > maxBytes>>20+2 {
		t.Errorf("%d objects of a MiB were read", chain)
	}
}

// TestNothingIsSaidInClear: neither a name nor a password, to a server that does
// not begin TLS, or says something before.
func TestNothingIsSaidInClear(t *testing.T) {
	for _, before := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", "\x30\x05", "\x15\x03\x03\x00\x02\x02\x28"} {
		s := newToy(t)
		s.before = before
		if _, err := Connect(soon(t), s.cfg()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%q: %v", before, err)
		}
	}
	// A server that refuses StartTLS is told no more.
	ours, theirs := net.Pipe()
	heard := make(chan []byte, 1)
	go func() {
		m, _ := readMessage(theirs, anySize)
		_, _ = theirs.Write(tlv(tagSequence, tlv(tagInteger, []byte{1}), result(0x78, 53)))
		rest, _ := io.ReadAll(theirs)
		heard <- append(m, rest...)
	}()
	s := newToy(t)
	c := s.cfg()
	c.Protection = StartTLS
	c.Dial = func(context.Context, string, string) (net.Conn, error) { return ours, nil }
	if _, err := Connect(soon(t), c); err == nil || !strings.Contains(err.Error(), "StartTLS: the server refuses it") {
		t.Errorf("%v", err)
	}
	if got := <-heard; bytes.Contains(got, []byte("secret")) || bytes.Contains(got, []byte("cn=me")) || !bytes.Contains(got, []byte("1.3.6.1.4.1.1466.20037")) {
		t.Errorf("it was told %q", got)
	}
}
