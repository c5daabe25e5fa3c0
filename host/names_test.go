package host

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameService answers over pipes what its table says.
type nameService struct {
	t      *testing.T
	a      map[string][]string // A and AAAA records
	alias  map[string]string
	ttl    uint32
	code   dnsmessage.RCode
	silent bool
	big    bool // datagrams are cut short
	forged bool // an answer to another question comes first
	asked  int
}

func (s *nameService) config() NamesConfig {
	return NamesConfig{Dial: s.dial, Servers: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")} }}
}

func (s *nameService) dial(_ context.Context, network, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go s.serve(theirs, network)
	return ours, nil
}

func (s *nameService) serve(c net.Conn, network string) {
	defer c.Close()
	text := make([]byte, 512)
	if network == "tcp" {
		io.ReadFull(c, text[:2])
		text = text[:binary.BigEndian.Uint16(text)]
		io.ReadFull(c, text)
	} else {
		n, err := c.Read(text)
		if err != nil {
			return
		}
		text = text[:n]
	}
	if s.silent {
		io.Copy(io.Discard, c) // until the asker gives up
		return
	}
	if s.forged {
		forged := slices.Clone(s.answer(text, network))
		forged[0] ^= 0xff
		c.Write(forged)
	}
	answer := s.answer(text, network)
	if network == "tcp" {
		answer = append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
	}
	c.Write(answer)
}

func (s *nameService) answer(text []byte, network string) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(text); err != nil {
		s.t.Error(err)
	}
	m.Response = true
	q := m.Questions[0]
	if q.Type == dnsmessage.TypeA {
		s.asked++
	}
	name := plainName(q.Name.String())
	if to, ok := s.alias[name]; ok {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: s.head(name), Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to + ".")}})
		name = to
	}
	m.RCode = s.code
	if _, ok := s.a[name]; !ok && s.code == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range s.a[name] {
		ip := netip.MustParseAddr(a)
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: s.head(name), Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: s.head(name), Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	if s.big && network == "udp" {
		m.Truncated, m.Answers = true, nil
	}
	out, err := m.Pack()
	if err != nil {
		s.t.Error(err)
	}
	return out
}

func (s *nameService) head(name string) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name + "."), Class: dnsmessage.ClassINET, TTL: s.ttl}
}

// following runs Names over s in a bubble.
func following(t *testing.T, s *nameService, names map[string]Answer, f func(n *Names)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.t = t
		ctx, cancel := context.WithCancel(t.Context())
		n := NewNames(s.config())
		ended := make(chan error)
		go func() { ended <- n.Run(ctx) }()
		n.Follow(names)
		synctest.Wait()
		f(n)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func expectAnswer(t *testing.T, n *Names, name, want string, stale bool) {
	t.Helper()
	a := n.Answers()[name]
	var got []string
	for _, x := range a.Addresses {
		got = append(got, x.String())
	}
	if strings.Join(got, " ") != want || a.Stale.IsZero() == stale || (a.Problem != "") != stale {
		t.Errorf("%s is %v, stale since %v (%s); want %s, stale %v", name, got, a.Stale, a.Problem, want, stale)
	}
}

func one(name string) map[string]Answer { return map[string]Answer{name: {}} }

func TestNamesResolveInBothFamilies(t *testing.T) {
	for what, s := range map[string]*nameService{
		"datagram": {}, "stream": {big: true}, "after a forged answer": {forged: true},
	} {
		s.ttl, s.a = 300, map[string][]string{"dc.example": {"10.0.0.2", "10.0.0.1", "2001:db8::1"}}
		following(t, s, one("dc.example"), func(n *Names) {
			t.Log(what)
			expectAnswer(t, n, "dc.example", "10.0.0.1 10.0.0.2 2001:db8::1", false)
			select {
			case <-n.Changed():
			default:
				t.Error("no hint")
			}
		})
	}
}

func TestNamesFollowAliases(t *testing.T) {
	s := &nameService{ttl: 300, a: map[string][]string{"real.example": {"10.0.0.1"}}, alias: map[string]string{"www.example": "real.example"}}
	following(t, s, one("www.example"), func(n *Names) { expectAnswer(t, n, "www.example", "10.0.0.1", false) })
}

func TestNamesAreAskedForAgainAfterTheirTTL(t *testing.T) {
	for ttl, every := range map[uint32]time.Duration{0: 30 * time.Second, 120: 2 * time.Minute, 86400: time.Hour} {
		s := &nameService{ttl: ttl, a: map[string][]string{"a.example": {"10.0.0.1"}}}
		following(t, s, one("a.example"), func(n *Names) {
			s.a = map[string][]string{"a.example": {"10.0.0.2"}}
			time.Sleep(every - time.Second)
			synctest.Wait()
			expectAnswer(t, n, "a.example", "10.0.0.1", false)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			expectAnswer(t, n, "a.example", "10.0.0.2", false)
		})
	}
}

func TestANameThatStopsResolvingKeepsItsAddresses(t *testing.T) {
	for what, breaks := range map[string]func(*nameService){
		"it does not exist":    func(s *nameService) { s.a = nil },
		"it has no address":    func(s *nameService) { s.a = map[string][]string{"a.example": {}} },
		"the server is silent": func(s *nameService) { s.silent = true },
		"the server fails":     func(s *nameService) { s.code = dnsmessage.RCodeServerFailure },
		"it is this host":      func(s *nameService) { s.a = map[string][]string{"a.example": {"127.0.0.1", "0.0.0.0", "224.0.0.1"}} },
	} {
		s := &nameService{ttl: 60, a: map[string][]string{"a.example": {"10.0.0.1"}}}
		following(t, s, one("a.example"), func(n *Names) {
			t.Log(what)
			breaks(s)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			expectAnswer(t, n, "a.example", "10.0.0.1", true)
			since := n.Answers()["a.example"].Stale
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if again := n.Answers()["a.example"].Stale; again != since {
				t.Errorf("stale since %v, then since %v", since, again)
			}
			s.silent, s.code, s.a = false, 0, map[string][]string{"a.example": {"10.0.0.3"}}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			expectAnswer(t, n, "a.example", "10.0.0.3", false)
		})
	}
}

func TestANameNeverResolvedStandsForNothing(t *testing.T) {
	s := &nameService{}
	following(t, s, one("a.example"), func(n *Names) {
		expectAnswer(t, n, "a.example", "", true)
		if p := n.Answers()["a.example"].Problem; !strings.Contains(p, "does not exist") {
			t.Errorf("problem %q", p)
		}
	})
}

// After a restart the DNS may be out of reach.
func TestWhatWasKnownEarlierHolds(t *testing.T) {
	s := &nameService{silent: true}
	known := Answer{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, Resolved: time.Unix(1, 0)}
	following(t, s, map[string]Answer{"a.example": known}, func(n *Names) {
		expectAnswer(t, n, "a.example", "10.0.0.9", false)
		time.Sleep(time.Minute)
		synctest.Wait()
		expectAnswer(t, n, "a.example", "10.0.0.9", true)
	})
}

func TestOneFamilyThatFailsKeepsItsAddresses(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	now := time.Unix(1000, 0)
	a, _ := Answer{}.after(now, [2]family{{addrs: []netip.Addr{v4}, ttl: time.Minute}, {err: errors.New("broken")}})
	if len(a.Addresses) != 1 || !a.Stale.IsZero() {
		t.Errorf("a server that never answers for IPv6: %+v", a)
	}
	a, _ = Answer{Addresses: []netip.Addr{v4, v6}}.after(now, [2]family{{addrs: []netip.Addr{v4}, ttl: time.Minute}, {err: errors.New("broken")}})
	if len(a.Addresses) != 2 || a.Stale != now || a.Problem != "broken" {
		t.Errorf("IPv6 is lost: %+v", a)
	}
	a, _ = a.after(now, [2]family{{addrs: []netip.Addr{v4}, ttl: time.Minute}, {}})
	if len(a.Addresses) != 1 || !a.Stale.IsZero() {
		t.Errorf("IPv6 is taken back, not lost: %+v", a)
	}
}

func TestOnlyNamesThatAreWantedAreFollowed(t *testing.T) {
	s := &nameService{ttl: 60, a: map[string][]string{"a.example": {"10.0.0.1"}, "b.example": {"10.0.0.2"}}}
	following(t, s, one("a.example"), func(n *Names) {
		n.Follow(one("b.example"))
		synctest.Wait()
		if got := n.Answers(); len(got) != 1 {
			t.Errorf("answers %v", got)
		}
		expectAnswer(t, n, "b.example", "10.0.0.2", false)
	})
}

// Hundreds of names are asked for a few at a time, and all of them.
func TestManyNames(t *testing.T) {
	s := &nameService{ttl: 3600, a: map[string][]string{}}
	names := map[string]Answer{}
	for i := range 300 {
		name := strings.Repeat("x", i%60+1) + "." + string(rune('a'+i%26)) + ".example"
		s.a[name], names[name] = []string{"10.0.0.1"}, Answer{}
	}
	following(t, s, names, func(n *Names) {
		for name := range names {
			expectAnswer(t, n, name, "10.0.0.1", false)
		}
		if s.asked != len(names) {
			t.Errorf("%d questions for %d names", s.asked, len(names))
		}
	})
}

// FuzzAnswer: nothing that a name server sends makes more than a bounded set of
// addresses of hosts of the family asked for.
func FuzzAnswer(f *testing.F) {
	s := &nameService{ttl: 1, a: map[string][]string{"real.example": {"10.0.0.1", "2001:db8::1"}}, alias: map[string]string{"a.example": "real.example"}}
	q := question{"a.example", dnsmessage.TypeA, 7}
	text, err := q.pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.answer(text, "udp"))
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ours := q.read(text)
		if !ours && (got.err != nil || got.addrs != nil) {
			t.Error("an answer to another question says something")
		}
		for _, a := range got.addrs {
			if !a.Is4() || a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() {
				t.Errorf("address %v", a)
			}
		}
		if len(got.addrs) > maxSet {
			t.Errorf("%d addresses", len(got.addrs))
		}
	})
}

func TestEveryPrefixOfAnAnswerIsNone(t *testing.T) {
	s := &nameService{t: t, ttl: 1, a: map[string][]string{"a.example": {"10.0.0.1"}}}
	q := question{"a.example", dnsmessage.TypeA, 7}
	text, _ := q.pack()
	whole := s.answer(text, "udp")
	if f, ours := q.read(whole); !ours || f.err != nil || len(f.addrs) != 1 {
		t.Fatalf("%+v", f)
	}
	for i := range whole {
		if f, ours := q.read(whole[:i]); ours && f.err == nil {
			t.Errorf("%d bytes are read as %+v", i, f)
		}
	}
}
