package gss

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// reasons are all that an acceptor may answer to bytes from the network.
func reasons() []error {
	return []error{ErrMalformed, ErrIntegrity, ErrNoKey, ErrEtype, ErrSkew, ErrExpired, ErrNotYetValid,
		ErrReplay, ErrService, ErrMismatch, ErrTransit, ErrMutual, ErrSequence, ErrReplayCache}
}

func hasReason(err error) bool {
	for _, r := range reasons() {
		if errors.Is(err, r) {
			return true
		}
	}
	var peer *PeerError
	return errors.As(err, &peer)
}

func FuzzAccept(f *testing.F) {
	l := newLab(f, AES256SHA1)
	f.Add(l.request())
	for _, s := range samples(f) {
		f.Add(fromHex(f, s.Tokens["I"][0]))
		f.Add(fromHex(f, s.Tokens["R"][0]))
	}
	f.Fuzz(func(t *testing.T, tok []byte) {
		conf := l.config()
		out, done, err := NewAcceptor(conf).Step(tok)
		if err == nil && (!done || len(out) == 0 || len(conf.Replay.entries) != 1) {
			t.Error("accepted without a trace")
		}
		if err != nil && (!hasReason(err) || len(conf.Replay.entries) != 0) {
			t.Errorf("%v", err)
		}
	})
}

// Whoever has a ticket can seal what it likes: the sealed parts are fuzzed in
// clear.
func FuzzAuthenticator(f *testing.F) {
	l := newLab(f, AES256SHA1)
	good := types.Authenticator{AVNO: 5, CRealm: l.client.Realm, CName: l.client.Wire(), CTime: l.now.Truncate(time.Second),
		Cksum: authChecksum([16]byte{}, FlagMutual), SubKey: l.key().wire(), SeqNumber: 7}
	plain, err := good.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	cred := l.credential()
	seal := func(t testing.TB, plain []byte) []byte {
		sealed, err := l.session.Encrypt(plain, usageAuthenticator)
		if err != nil {
			t.Fatal(err)
		}
		req := messages.APReq{PVNO: 5, MsgType: 14, APOptions: types.NewKrbFlags(), Ticket: cred.ticket,
			EncryptedAuthenticator: types.EncryptedData{EType: l.etype, Cipher: sealed}}
		b, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		tok, err := frame(tokAPReq, b)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	if _, _, err := NewAcceptor(l.config()).Step(seal(f, plain)); err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(func(t *testing.T, plain []byte) {
		acc := NewAcceptor(l.config())
		if _, done, err := acc.Step(seal(t, plain)); err != nil && !hasReason(err) || done && !acc.Context().Peer().Equal(l.client) {
			t.Errorf("%v", err)
		}
	})
}

func FuzzReply(f *testing.F) {
	l := newLab(f, AES256SHA1)
	rep, _, err := NewAcceptor(l.config()).Step(l.request())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rep)
	f.Add([]byte("\x60\x0d" + mechanism + "\x03\x00"))
	f.Fuzz(func(t *testing.T, tok []byte) {
		m := *l
		m.t = t
		i := m.initiator()
		if _, _, err := i.Step(nil); err != nil {
			t.Fatal(err)
		}
		// The lab's clock stands still: the reply above fits every request.
		_, done, err := i.Step(tok)
		if done != (err == nil) || done != (i.Context() != nil) || bytes.Equal(tok, rep) && !done {
			t.Errorf("%v, %v", done, err)
		}
		if err != nil && !hasReason(err) {
			t.Errorf("%v", err)
		}
	})
}

func FuzzUnwrap(f *testing.F) {
	type pair struct{ from, to Context }
	var pairs []pair
	for _, etype := range Etypes(true) {
		i, a := newLab(f, etype).contexts()
		pairs = append(pairs, pair{*i, *a})
		for _, seal := range []bool{true, false} {
			tok, err := i.Wrap([]byte("message"), seal)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(len(pairs)-1), tok)
		}
		mic, err := i.MIC([]byte("message"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(len(pairs)-1), mic)
	}
	f.Fuzz(func(t *testing.T, which uint8, tok []byte) {
		p := pairs[int(which)%len(pairs)]
		c := p.to
		if _, _, err := c.Unwrap(tok); err != nil && !hasReason(err) {
			t.Errorf("%v", err)
		}
		c = p.to
		if err := c.VerifyMIC([]byte("another"), tok); err == nil || !hasReason(err) {
			t.Errorf("%v", err)
		}
	})
}

func FuzzParseKeytab(f *testing.F) {
	f.Add([]byte("\x05\x02"))
	f.Add([]byte("\x05\x02\x00\x00\x00\x35\x00\x01\x00\x08LAB.TEST\x00\x02A$\x00\x00\x00\x01\x6a\x00\x00\x00\x03\x00\x11\x00\x100123456789abcdef\x00\x00\x00\x03"))
	f.Add([]byte("\x05\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeytab(b)
		if err != nil {
			return
		}
		for _, p := range k.Principals() {
			if len(k.Etypes(p)) == 0 || p.check() != nil {
				t.Errorf("%s has no key", p)
			}
		}
	})
}

func FuzzReplayLog(f *testing.F) {
	f.Add([]byte(replayMagic))
	f.Add(appendRecord([]byte(replayMagic), ReplayID{1}, seen{2, clientTag{3}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := parseReplayLog(b)
		if err == nil && len(records) > (len(b)-len(replayMagic))/replayRecord {
			t.Errorf("%d records in %d bytes", len(records), len(b))
		}
	})
}

func FuzzParsePrincipal(f *testing.F) {
	f.Add("host/a.lab.test@LAB.TEST")
	f.Add(`a\/b\@c@R`)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrincipal(s)
		if err != nil {
			return
		}
		q, err := ParsePrincipal(p.String())
		if err != nil || !q.Equal(p) {
			t.Errorf("%q reads as %q, that as %q: %v", s, p, q, err)
		}
	})
}
