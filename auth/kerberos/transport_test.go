package kerberos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ipsecagent/auth/gss"
)

// recorder dials as the system does, to where it is told, and notes it.
type recorder struct {
	mu    sync.Mutex
	calls []string
	to    func(network, address string) string // nil: where it says
}

func (r *recorder) dial(ctx context.Context, network, address string) (net.Conn, error) {
	r.mu.Lock()
	r.calls = append(r.calls, network+" "+address)
	r.mu.Unlock()
	if r.to != nil {
		address = r.to(network, address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

// Every connection goes through the dialer, so that it can carry a mark.
func TestEveryConnectionIsDialled(t *testing.T) {
	w := newWorld(t, "")
	var r recorder
	w.confA.Dial = r.dial
	w.confB.Dial = func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("a responder needs no KDC")
	}
	w.mustPair(w.run())
	// AS-REQ twice, for the timestamp is asked for, and TGS-REQ.
	want := "tcp " + w.realm.Addr
	if n := r.count(); n < 2 || n > 3 || slices.ContainsFunc(r.calls, func(c string) bool { return c != want }) {
		t.Errorf("%q", r.calls)
	}
}

// udpServer is an address where nothing listens by TCP and something answers
// by UDP.
func udpServer(t *testing.T, answer func(n int, request []byte) []byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for n := 0; ; n++ {
			size, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if a := answer(n, b[:size]); a != nil {
				c.WriteTo(a, from)
			}
		}
	}()
	return c.LocalAddr().String()
}

func tcpServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

func askAt(t *testing.T, addrs ...string) ([]byte, error) {
	t.Helper()
	conf := &krb5Conf{values: map[string][]string{"realms\nR\nkdc": addrs}}
	var d net.Dialer
	return askBy(t.Context(), newTransport(conf, d.DialContext))
}

// askBy sends a request to the KDCs of R and takes every answer that is no
// error.
func askBy(ctx context.Context, tr *transport) (answer []byte, err error) {
	err = tr.try(ctx, "R", func(ask asker) (err error) {
		answer, err = ask([]byte("request"))
		return err
	})
	return answer, err
}

func TestUDPWhereTCPIsRefused(t *testing.T) {
	addr := udpServer(t, func(n int, request []byte) []byte {
		if n == 0 {
			return nil // lost
		}
		return append([]byte("answer to "), request...)
	})
	got, err := askAt(t, addr)
	if err != nil || string(got) != "answer to request" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTheNextKDCIsAsked(t *testing.T) {
	broken := tcpServer(t, func(net.Conn) {})
	endless := tcpServer(t, func(c net.Conn) { c.Write([]byte{0x7f, 0xff, 0xff, 0xff}); io.Copy(io.Discard, c) })
	good := tcpServer(t, func(c net.Conn) {
		b := make([]byte, 4+len("request"))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		c.Write(append(binary.BigEndian.AppendUint32(nil, 2), "ok"...))
	})
	got, err := askAt(t, broken, endless, good)
	if err != nil || string(got) != "ok" {
		t.Errorf("%q, %v", got, err)
	}
	_, err = askAt(t, broken)
	if !errors.Is(err, errUnreachable) || !strings.Contains(err.Error(), broken) || !strings.Contains(err.Error(), "realm R") {
		t.Errorf("%v", err)
	}
}

// A KDC that does not answer is asked last once another one did.
func TestTheKDCThatAnsweredIsAskedFirst(t *testing.T) {
	var first atomic.Int32
	broken := tcpServer(t, func(net.Conn) { first.Add(1) })
	good := tcpServer(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, 4+len("request"))); err == nil {
			c.Write(append(binary.BigEndian.AppendUint32(nil, 2), "ok"...))
		}
	})
	conf := &krb5Conf{values: map[string][]string{"realms\nR\nkdc": {broken, good}}}
	var d net.Dialer
	tr := newTransport(conf, d.DialContext)
	for range 5 {
		if got, err := askBy(t.Context(), tr); err != nil || string(got) != "ok" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if n := first.Load(); n != 1 {
		t.Errorf("the broken one was asked %d times", n)
	}
}

// A KDC that takes the connection and is silent holds nobody for longer than
// its time.
func TestSilentKDC(t *testing.T) {
	silent := tcpServer(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	conf := &krb5Conf{values: map[string][]string{"realms\nR\nkdc": {silent}}}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := askBy(ctx, newTransport(conf, d.DialContext))
	if !errors.Is(err, errUnreachable) {
		t.Errorf("%v", err)
	}
}

// dnsServer answers for the realm NEAR.TEST: one KDC by TCP, the same and
// another by UDP.
func dnsServer(t *testing.T) string {
	return udpServer(t, func(_ int, request []byte) []byte {
		var m dnsmessage.Message
		if m.Unpack(request) != nil || len(m.Questions) != 1 {
			return nil
		}
		m.Response, m.Authoritative, m.Additionals = true, true, nil
		head := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 1}
		srv := func(host string, port uint16) {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head,
				Body: &dnsmessage.SRVResource{Priority: 1, Port: port, Target: dnsmessage.MustNewName(host)}})
		}
		switch q := m.Questions[0]; fmt.Sprint(q.Name, q.Type) {
		case "_kerberos._tcp.NEAR.TEST. TypeSRV":
			srv("kdc1.near.test.", 88)
		case "_kerberos._udp.NEAR.TEST. TypeSRV":
			srv("kdc1.near.test.", 88)
			srv("kdc2.near.test.", 750)
		case "kdc1.near.test. TypeA":
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 10}}})
		case "kdc2.near.test. TypeAAAA":
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::10").As16()}})
		case "kdc1.near.test. TypeAAAA", "kdc2.near.test. TypeA":
		default:
			m.RCode = dnsmessage.RCodeNameError
		}
		b, err := m.Pack()
		if err != nil {
			return nil
		}
		return b
	})
}

func TestKDCsFromDNS(t *testing.T) {
	server := dnsServer(t)
	r := recorder{to: func(string, string) string { return server }}
	dir := t.TempDir()
	kt := write(t, dir, "keytab", string(append([]byte{5, 2}, entry(t, "host/a.near.test@NEAR.TEST", 17)...)))
	a := host(t, Config{Keytab: kt, Krb5Conf: dir + "/none", Dial: r.dial, Realms: []string{"NOWHERE.TEST"}})
	got, err := a.KDCs(t.Context())
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.10:88"), netip.MustParseAddrPort("[2001:db8::10]:750")}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if !errors.Is(err, errUnreachable) || !strings.Contains(err.Error(), "NOWHERE.TEST") {
		t.Errorf("%v", err)
	}
	if r.count() == 0 {
		t.Error("nothing was dialled")
	}
	write(t, dir, "krb5.conf", "[libdefaults]\ndns_lookup_kdc = false\n")
	a = host(t, Config{Keytab: kt, Krb5Conf: dir + "/krb5.conf", Dial: r.dial})
	if got, err := a.KDCs(t.Context()); len(got) != 0 || !errors.Is(err, errUnreachable) {
		t.Errorf("with DNS switched off: %v, %v", got, err)
	}
}

// Many sessions that need one ticket cause one request; a failure is not
// repeated at once.
func TestOneRequestPerTarget(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	var r recorder
	w.confA.Dial = r.dial
	a, _ := w.hosts()
	f, err := a.facts()
	if err != nil {
		t.Fatal(err)
	}
	target, err := gss.ParsePrincipal(hostB + "@MIT.TEST")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := f.tickets.get(t.Context(), target, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := r.count(); n > 3 {
		t.Errorf("%d connections", n)
	}
	before := r.count()
	unknown := gss.Principal{Name: []string{"host", "nobody.mit.test"}, Realm: "MIT.TEST"}
	for range 5 {
		if _, err := f.tickets.get(t.Context(), unknown, true); err == nil || codeOf(err) != codeUnknownService {
			t.Errorf("%v", err)
		}
	}
	if n := r.count() - before; n != 1 {
		t.Errorf("%d requests for a name that the KDC does not know", n)
	}
}

// A login that failed is not repeated for every target.
func TestOneLoginAtADeadKDC(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	w.realm.StopKDC()
	var r recorder
	w.confA.Dial = r.dial
	a, _ := w.hosts()
	f, err := a.facts()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			p := gss.Principal{Name: []string{"host", fmt.Sprint(n)}, Realm: "MIT.TEST"}
			if _, err := f.tickets.get(t.Context(), p, false); err == nil || codeOf(err) != codeKDCUnreachable {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if r.count() > 2 { // TCP and UDP
		t.Errorf("%q", r.calls)
	}
}

// Who asks for a ticket by name is not answered with a failure of before.
func TestAKDCThatIsBackIsAskedAtOnce(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	w.realm.StopKDC()
	a, _ := w.hosts()
	if _, err := a.Ticket(t.Context(), hostB, false); codeOf(err) != codeKDCUnreachable {
		t.Fatal(err)
	}
	w.realm.StartKDC()
	if _, err := a.Ticket(t.Context(), hostB, false); err != nil {
		t.Error(err)
	}
}

func TestTicketsAreBounded(t *testing.T) {
	now := at(0)
	tk := newTickets(&client{now: func() time.Time { return now }})
	for n := range maxTickets {
		tk.held[fmt.Sprint(n)] = holding{err: errUnreachable, since: now}
	}
	now = at(10)
	tk.makeRoom()
	if len(tk.held) != 0 {
		t.Errorf("%d failures of before are kept", len(tk.held))
	}
	for n := range maxTickets {
		tk.held[fmt.Sprint(n)] = holding{err: errUnreachable, since: at(9).Add(time.Duration(n) * time.Microsecond)}
	}
	tk.makeRoom()
	if _, there := tk.held["0"]; there || len(tk.held) != maxTickets-1 {
		t.Errorf("%d left, or not the oldest gave way", len(tk.held))
	}
}

func at(s int) time.Time { return time.Unix(1_800_000_000+int64(s), 0) }

// The KDC's database starts anew with another key of its own: the ticket for
// it is of no use any more, and a new one is fetched without anybody's help.
func TestTicketGrantingKeyChanges(t *testing.T) {
	w := newWorld(t, "")
	w.mustPair(w.run())
	w.realm.Admin("cpw -randkey krbtgt/MIT.TEST")
	w.realm.Add("host/c.mit.test", "")
	f, err := w.a.facts()
	if err != nil {
		t.Fatal(err)
	}
	c := gss.Principal{Name: []string{"host", "c.mit.test"}, Realm: "MIT.TEST"}
	if _, err := f.tickets.get(t.Context(), c, false); err != nil {
		t.Error(err)
	}
}

func FuzzKDCAnswers(f *testing.F) {
	kt, err := gss.ParseKeytab(append([]byte{5, 2}, entry(f, "A$@LAB.TEST", 17)...))
	if err != nil {
		f.Fatal(err)
	}
	c := &client{self: gss.Principal{Name: []string{"A$"}, Realm: "LAB.TEST"}, keytab: kt, now: func() time.Time { return at(0) }, skew: gss.DefaultSkew}
	body, err := c.body(krbtgt("LAB.TEST", "LAB.TEST"), []int32{17})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x6b\x03\x30\x01\x00"))
	f.Add([]byte("\x30\x11\x30\x0f\xa1\x03\x02\x01\x13\xa2\x08\x04\x06\x30\x04\x30\x02\xa0\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if cred, err := c.takeAS(b, body); err == nil {
			t.Errorf("a ticket: %v", cred)
		}
		if pa, err := c.timestamp(b, []int32{17}); err == nil && len(pa) != 1 {
			t.Errorf("%v", pa)
		}
		if err := refusal(b); err != nil && codeOf(err) == "" {
			t.Errorf("%v has no code", err)
		}
	})
}
