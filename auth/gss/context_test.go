package gss

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/types"
)

// sample is a main mode that was recorded between two racoons.
type sample struct {
	Key    string              `json:"krb_session_key"`
	HashI  string              `json:"HASH_I"`
	HashR  string              `json:"HASH_R"`
	WrapI  string              `json:"wrap_I"`
	WrapR  string              `json:"wrap_R"`
	Tokens map[string][]string `json:"gss_tokens"`
}

func samples(t testing.TB) map[string]sample {
	t.Helper()
	files, err := filepath.Glob("testdata/ike/*.json")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	all := map[string]sample{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var s sample
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(f, err)
		}
		all[filepath.Base(f)] = s
	}
	return all
}

// contexts returns both ends of the recorded context, before their first token.
func (s sample) contexts(t *testing.T, rc4 bool) (initiator, acceptor *Context) {
	t.Helper()
	etype := AES256SHA1
	if rc4 {
		etype = RC4
	}
	key, err := NewKey(etype, fromHex(t, s.Key))
	if err != nil {
		t.Fatal(err)
	}
	initiator = &Context{key: key, initiator: true, acceptorSubkey: !rc4}
	acceptor = &Context{key: key, acceptorSubkey: !rc4}
	acceptor.recv = s.number(t, acceptor, s.WrapI)
	initiator.recv = s.number(t, initiator, s.WrapR)
	return initiator, acceptor
}

// number returns the recorded sequence number, which the AP exchange set.
func (s sample) number(t *testing.T, c *Context, tok string) uint64 {
	t.Helper()
	b := fromHex(t, tok)
	if c.key.Etype() != RC4 {
		return binary.BigEndian.Uint64(b[8:])
	}
	p, err := c.parseRC4(b, tokWrapRC4)
	if err != nil {
		t.Fatal(err)
	}
	return p.number()
}

func TestRecordedWrapTokensOpen(t *testing.T) {
	for name, s := range samples(t) {
		t.Run(name, func(t *testing.T) {
			initiator, acceptor := s.contexts(t, strings.Contains(name, "rc4"))
			for _, one := range []struct {
				ctx       *Context
				tok, hash string
			}{{acceptor, s.WrapI, s.HashI}, {initiator, s.WrapR, s.HashR}} {
				msg, err := one.ctx.Unseal(fromHex(t, one.tok))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(msg, fromHex(t, one.hash)) {
					t.Errorf("hash %x, want %s", msg, one.hash)
				}
				if _, err := one.ctx.Unseal(fromHex(t, one.tok)); !errors.Is(err, ErrSequence) {
					t.Errorf("a second time: %v", err)
				}
			}
			for role, id := range map[string]uint16{"I": tokAPReq, "R": tokAPRep} {
				if got, _, err := unframe(fromHex(t, s.Tokens[role][0]), MaxToken); err != nil || got != id {
					t.Errorf("token of %s: %04x, %v", role, got, err)
				}
			}
		})
	}
}

// The recorded RC4 token comes out octet by octet when its confounder is put in.
func TestRecordedRC4WrapIsReproduced(t *testing.T) {
	s := samples(t)["v1-main-gss-krb5rc4-3des-md5-modp1024.json"]
	initiator, acceptor := s.contexts(t, true)
	initiator.send = acceptor.recv
	p, err := acceptor.parseRC4(fromHex(t, s.WrapI), tokWrapRC4)
	if err != nil {
		t.Fatal(err)
	}
	plain := rc4Crypt(rc4SealKey(acceptor.key.value(), p.seq[:4]), p.data)
	tok, err := initiator.wrapRC4With(plain[:rc4Confounder], fromHex(t, s.HashI), true)
	if err != nil || hexed(tok) != s.WrapI {
		t.Errorf("%x, %v\nwant %s", tok, err, s.WrapI)
	}
}

func TestContextsBothWays(t *testing.T) {
	for _, etype := range Etypes(true) {
		t.Run(EtypeName(etype), func(t *testing.T) {
			l := newLab(t, etype)
			i, a := l.contexts()
			if !i.key.Equal(a.key) || i.Etype() != etype {
				t.Fatal("keys differ")
			}
			if !a.Peer().Equal(l.client) || !a.Self().Equal(l.service) || !i.Peer().Equal(l.service) || !i.Self().Equal(l.client) {
				t.Errorf("peers: %s, %s", a.Peer(), i.Peer())
			}
			if want := l.now.Add(time.Hour).Truncate(time.Second); !a.Expires().Equal(want) {
				t.Errorf("acceptor's context ends %s, want %s", a.Expires(), want)
			}
			if i.acceptorSubkey == (etype == RC4) {
				t.Error("the acceptor asserts a key with AES and none with RC4")
			}
			for _, pair := range [][2]*Context{{i, a}, {a, i}} {
				exchange(t, pair[0], pair[1])
			}
		})
	}
}

func exchange(t *testing.T, from, to *Context) {
	t.Helper()
	for n := range 40 {
		msg := bytes.Repeat([]byte{byte(n)}, n*n)
		for _, seal := range []bool{true, false} {
			tok, err := from.Wrap(msg, seal)
			if err != nil {
				t.Fatal(err)
			}
			got, sealed, err := to.Unwrap(tok)
			if err != nil || !bytes.Equal(got, msg) || sealed != seal {
				t.Fatalf("%d bytes: %x, %v, %v", len(msg), got, sealed, err)
			}
		}
		mic, err := from.MIC(msg)
		if err != nil {
			t.Fatal(err)
		}
		if err := to.VerifyMIC(msg, mic); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChangedTokensAreRefused(t *testing.T) {
	for _, etype := range Etypes(true) {
		t.Run(EtypeName(etype), func(t *testing.T) {
			i, a := newLab(t, etype).contexts()
			for _, seal := range []bool{true, false} {
				tok, err := i.Wrap([]byte("message"), seal)
				if err != nil {
					t.Fatal(err)
				}
				for n := range tok {
					bad := slices.Clone(tok)
					bad[n] ^= 0x04
					if msg, _, err := a.Unwrap(bad); err == nil {
						t.Errorf("octet %d changed, sealed %v: %q", n, seal, msg)
					}
					if _, _, err := a.Unwrap(tok[:n]); err == nil {
						t.Errorf("the first %d octets suffice", n)
					}
				}
				if _, _, err := i.Unwrap(tok); err == nil {
					t.Error("an initiator takes its own token for its peer's")
				}
				if _, _, err := a.Unwrap(tok); err != nil {
					t.Errorf("the real one, after all that: %v", err)
				}
				if _, _, err := a.Unwrap(tok); !errors.Is(err, ErrSequence) {
					t.Errorf("the real one again: %v", err)
				}
			}
			checkMIC(t, i, a)
		})
	}
}

func checkMIC(t *testing.T, i, a *Context) {
	t.Helper()
	mic, err := i.MIC([]byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range mic {
		bad := slices.Clone(mic)
		bad[n] ^= 0x10
		if a.VerifyMIC([]byte("message"), bad) == nil {
			t.Errorf("octet %d of the MIC changed", n)
		}
		if a.VerifyMIC([]byte("message"), mic[:n]) == nil {
			t.Errorf("the first %d octets of the MIC suffice", n)
		}
	}
	if err := a.VerifyMIC([]byte("massage"), mic); !errors.Is(err, ErrIntegrity) {
		t.Errorf("another message: %v", err)
	}
	if err := a.VerifyMIC([]byte("message"), mic); err != nil {
		t.Error(err)
	}
}

func TestUnsealRefusesClearMessages(t *testing.T) {
	i, a := newLab(t, AES256SHA1).contexts()
	tok, err := i.Wrap([]byte("message"), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Unseal(tok); !errors.Is(err, ErrNotSealed) {
		t.Error(err)
	}
}

// A sender may rotate by any number of octets and fill up as it likes.
func TestRotationAndFiller(t *testing.T) {
	for _, rrc := range []int{0, 1, 12, 28, 76, 65535} {
		for _, ec := range []int{0, 1, 16} {
			i, a := newLab(t, AES256SHA1).contexts()
			h := header(tokWrap, i.cfxFlags(true)|cfxSealed, i.send)
			binary.BigEndian.PutUint16(h[4:], uint16(ec))
			body, err := i.key.Encrypt(slices.Concat([]byte("message"), make([]byte, ec), h), usageInitiatorSeal)
			if err != nil {
				t.Fatal(err)
			}
			binary.BigEndian.PutUint16(h[6:], uint16(rrc))
			n := len(body) - rrc%len(body)
			msg, err := a.Unseal(slices.Concat(h, body[n:], body[:n]))
			if err != nil || string(msg) != "message" {
				t.Errorf("RRC %d, EC %d: %q, %v", rrc, ec, msg, err)
			}
		}
	}
}

func TestRequestsRefused(t *testing.T) {
	other := Principal{Name: []string{"host", "c.lab.test"}, Realm: "LAB.TEST"}
	cases := map[string]struct {
		change func(*lab)
		later  time.Duration // of the acceptor's clock
		config func(*AcceptorConfig)
		want   error
	}{
		"clock ahead":         {later: 5*time.Minute + time.Second, want: ErrSkew},
		"clock behind":        {later: -5*time.Minute - time.Second, want: ErrSkew},
		"expired":             {change: func(l *lab) { l.part.EndTime = l.now.Add(-6 * time.Minute) }, want: ErrExpired},
		"not yet valid":       {change: func(l *lab) { l.part.StartTime = l.now.Add(6 * time.Minute) }, want: ErrNotYetValid},
		"postdated":           {change: func(l *lab) { types.SetFlag(&l.part.Flags, flags.Invalid) }, want: ErrNotYetValid},
		"another version":     {change: func(l *lab) { l.keytab.entries[0].kvno = 2 }, want: ErrNoKey},
		"another key":         {change: func(l *lab) { l.keytab.entries[0].key = l.key() }, want: ErrIntegrity},
		"empty keytab":        {change: func(l *lab) { l.keytab = &Keytab{} }, want: ErrNoKey},
		"foreign client name": {change: func(l *lab) { l.part.CName = other.Wire() }, want: ErrMismatch},
		"foreign realm":       {change: func(l *lab) { l.part.CRealm = "EVIL.TEST" }, want: ErrMismatch},
		"another session key": {change: func(l *lab) { l.part.Key = l.key().wire() }, want: ErrIntegrity},
		"another service":     {config: func(c *AcceptorConfig) { c.Names = []Principal{other} }, want: ErrService},
		"unchecked realms": {change: func(l *lab) {
			l.client.Realm, l.part.CRealm = "FAR.TEST", "FAR.TEST"
			l.part.Transited.Contents = []byte("MIDDLE.TEST")
		}, want: ErrTransit},
		"name with a line break": {change: func(l *lab) {
			l.client.Name = []string{"host", "a\nb"}
			l.part.CName = l.client.Wire()
		}, want: ErrMalformed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, AES256SHA1)
			if c.change != nil {
				c.change(l)
			}
			tok := l.request()
			l.now = l.now.Add(c.later)
			conf := l.config()
			if c.config != nil {
				c.config(&conf)
			}
			acc := NewAcceptor(conf)
			out, done, err := acc.Step(tok)
			if !errors.Is(err, c.want) || done || out != nil || acc.Context() != nil {
				t.Errorf("%v; want %v", err, c.want)
			}
			if len(conf.Replay.entries) != 0 {
				t.Error("a refused authenticator is remembered")
			}
			if _, _, err := acc.Step(tok); !errors.Is(err, ErrState) {
				t.Errorf("a second try on the same acceptor: %v", err)
			}
		})
	}
}

// Clocks four minutes apart are fine, and every key of the keytab is tried for
// a name that the keytab does not have.
func TestRequestsAccepted(t *testing.T) {
	l := newLab(t, AES256SHA384)
	tok := l.request()
	l.now = l.now.Add(4 * time.Minute)
	if err := l.accept(tok); err != nil {
		t.Error(err)
	}
	l = newLab(t, AES256SHA1)
	machine := Principal{Name: []string{"B$"}, Realm: "LAB.TEST"}
	l.keytab.entries = []keytabEntry{{machine, 3, l.key()}, {machine, 3, l.long}}
	if err := l.accept(l.request()); err != nil {
		t.Error(err)
	}
}

func TestRC4OnlyWhenAllowed(t *testing.T) {
	l := newLab(t, RC4)
	tok := l.request()
	conf := l.config()
	conf.AllowRC4 = false
	if _, _, err := NewAcceptor(conf).Step(tok); !errors.Is(err, ErrEtype) {
		t.Error(err)
	}
	if _, err := NewInitiator(InitiatorConfig{Credential: l.credential()}); !errors.Is(err, ErrEtype) {
		t.Error(err)
	}
}

// An acceptor must prove itself: neither an AP-REP for another AP-REQ nor one
// under another key finishes the context.
func TestRepliesRefused(t *testing.T) {
	l := newLab(t, AES256SHA1)
	i, a := l.initiator(), NewAcceptor(l.config())
	if _, _, err := i.Step(nil); err != nil {
		t.Fatal(err)
	}
	l.now = l.now.Add(time.Microsecond)
	other, _, err := a.Step(l.request())
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := i.Step(other); !errors.Is(err, ErrMismatch) || done || i.Context() != nil {
		t.Errorf("the answer to another AP-REQ: %v", err)
	}
	i = l.initiator()
	req, _, err := i.Step(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := i.Step(req); !errors.Is(err, ErrMalformed) || done {
		t.Errorf("its own AP-REQ: %v", err)
	}
	rep, _, err := NewAcceptor(l.config()).Step(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := i.Step(rep); err != nil || !done {
		t.Errorf("its own answer, after others: %v", err)
	}
	if _, _, err := i.Step(rep); !errors.Is(err, ErrState) {
		t.Errorf("once it is done: %v", err)
	}
}

func TestInitiatorLeavesEndedTicketsAlone(t *testing.T) {
	l := newLab(t, AES256SHA1)
	i := l.initiator()
	l.now = l.now.Add(11 * time.Hour)
	if _, _, err := i.Step(nil); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
}

// Every octet of an AP-REQ counts, but for the service's name, which is in
// clear: rewriting that must not make a replay look new.
func TestChangedRequestsAreRefused(t *testing.T) {
	l := newLab(t, AES128SHA1)
	tok := l.request()
	conf := l.config()
	if _, _, err := NewAcceptor(conf).Step(tok); err != nil {
		t.Fatal(err)
	}
	for n := range tok {
		for _, bit := range []byte{1, 0x80} {
			bad := slices.Clone(tok)
			bad[n] ^= bit
			if _, done, err := NewAcceptor(conf).Step(bad); err == nil || done {
				t.Errorf("octet %d changed by %02x: accepted", n, bit)
			}
		}
		if _, _, err := NewAcceptor(conf).Step(tok[:n]); err == nil {
			t.Errorf("the first %d octets suffice", n)
		}
	}
}

func TestRewrittenServiceIsStillAReplay(t *testing.T) {
	l := newLab(t, AES256SHA1)
	machine := Principal{Name: []string{"B$"}, Realm: "LAB.TEST"}
	l.keytab.entries = append(l.keytab.entries, keytabEntry{machine, 3, l.long})
	tok := l.request()
	conf := l.config()
	if _, _, err := NewAcceptor(conf).Step(tok); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Replace(tok, []byte("b.lab.test"), []byte("x.lab.test"), 1)
	if _, _, err := NewAcceptor(conf).Step(bad); !errors.Is(err, ErrReplay) {
		t.Errorf("%v", err)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	l := newLab(t, AES256SHA1)
	i, _ := l.contexts()
	secret := hexed(i.key.value())
	for _, v := range []any{i, *i, i.key, l.keytab, l.credential().key} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s"} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, secret) || strings.Contains(out, fmt.Sprint(i.key.value())) {
				t.Errorf("%s of %T prints a key", verb, v)
			}
		}
	}
}

func TestPrincipalStrings(t *testing.T) {
	for _, s := range []string{"host/a.lab.test@LAB.TEST", "A$@LAB.TEST", `we\/ird\@name@R`, `back\\slash@R`, "norealm"} {
		p, err := ParsePrincipal(s)
		if err != nil || p.String() != s {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "/", "a//b@R", "a@R@S", `a\`, "a\x00@R", "a\n@R", strings.Repeat("a", 1025)} {
		if p, err := ParsePrincipal(s); err == nil {
			t.Errorf("%q is taken for %q", s, p)
		}
	}
	sly := Principal{Name: []string{"host", "a.lab.test@LAB.TEST"}, Realm: "EVIL.TEST"}
	if got := sly.String(); got != `host/a.lab.test\@LAB.TEST@EVIL.TEST` {
		t.Errorf("%s", got)
	}
}
