package ike

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
)

// recording is a negotiation of two other daemons, with what they proved
// themselves by.
type recording struct {
	transcript
	SKEYID, SKEYID_d, SKEYID_a, SKEYID_e hexBytes
	HASH_I, HASH_R, Wrap_I, Wrap_R       hexBytes
	IDs                                  struct{ I, R hexBytes }
	Fragments                            []hexBytes
	Tokens                               struct{ I, R []hexBytes } `json:"gss_tokens"`
	Names                                struct{ I, R hexBytes }   `json:"gss_names_attr"`
}

func recordings(t *testing.T, file string, n int) map[string]recording {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]recording
	if err := json.Unmarshal(b, &all); err != nil || len(all) != n {
		t.Fatalf("%d recordings, %v", len(all), err)
	}
	return all
}

// recordedTicket proves by what was recorded, once it has seen that the hash it
// is given is the one that was recorded too.
type recordedTicket struct {
	recording
	anyID bool // believe an identity that is not the principal's
}

func (r *recordedTicket) Method() auth.Method { return auth.Kerberos }

func (r *recordedTicket) Start(q auth.Request) (auth.Session, error) {
	s := &recordedSession{recordedTicket: r, initiator: q.Initiator}
	s.own = side{r.IDs.I, r.Names.I, r.Tokens.I[0], r.HASH_I, r.Wrap_I}
	s.peer = side{r.IDs.R, r.Names.R, r.Tokens.R[0], r.HASH_R, r.Wrap_R}
	if !q.Initiator {
		s.own, s.peer = s.peer, s.own
	}
	return s, nil
}

type side struct{ id, name, token, hash, wrap []byte }

// extra is the name in ISO 8859-1 and the token, as that daemon hashes them.
func (s side) extra() []byte {
	return append(bytes.ReplaceAll(s.name, []byte{0}, nil), s.token...)
}

func (s side) host() string { return strings.TrimPrefix(string(s.extra()[:len(s.name)/2]), "host/") }

type recordedSession struct {
	*recordedTicket
	initiator bool
	own, peer side
}

func (s *recordedSession) Local() auth.Claim {
	return auth.Claim{IDType: s.own.id[0], ID: s.own.id[4:], GSS: s.own.name}
}

func (s *recordedSession) Remote(c auth.Claim) error {
	if !bytes.Equal(c.GSS, s.peer.name) {
		return errors.New("not the recorded name")
	}
	if c.ID != nil && string(c.ID) != s.peer.host() && !s.anyID {
		return &auth.Error{Code: "identity", Reason: "the identification is not the principal's"}
	}
	return nil
}

func (s *recordedSession) Trusted() bool { return true }

func (s *recordedSession) Seeds() [][]byte { return nil }

func (s *recordedSession) Token(in []byte) ([]byte, error) {
	switch {
	case s.initiator && in == nil:
		return s.own.token, nil
	case !bytes.Equal(in, s.peer.token):
		return nil, errors.New("not the recorded token")
	case s.initiator:
		return nil, nil
	}
	return s.own.token, nil
}

func (s *recordedSession) Prove(hash func([]byte) []byte) ([]byte, error) {
	if !bytes.Equal(hash(s.own.extra()), s.own.hash) {
		return nil, errors.New("our hash is not the recorded one")
	}
	return s.own.wrap, nil
}

func (s *recordedSession) Check(hash func([]byte) []byte, proof []byte) (auth.Principal, error) {
	if !bytes.Equal(hash(s.peer.extra()), s.peer.hash) || !bytes.Equal(proof, s.peer.wrap) {
		return "", errors.New("the peer's hash is not the recorded one")
	}
	return auth.Principal(s.peer.extra()[:len(s.peer.name)/2]), nil
}

func gssOffer(t *testing.T, scenario string) MainOffer {
	suite := "aes128-sha1-modp2048"
	for _, s := range []string{"aes256-sha256-modp2048", "3des-md5-modp1024"} {
		if strings.HasSuffix(scenario, s) {
			suite = s
		}
	}
	return MainOffer{Suites: mainSuite(t, suite), Auth: []auth.Requirement{{Method: auth.Kerberos}}}
}

// TestKerberosRecordingsAsInitiator: with the cookies, nonces, key exchange
// values and tokens of the recording, our messages are the recorded ones: 3
// byte for byte, 1 but for the order of attributes and the vendor IDs, 5 but
// for padding; and the keys are the recorded ones.
func TestKerberosRecordingsAsInitiator(t *testing.T) {
	for name, r := range recordings(t, "gssapi.json", 4) {
		a := newActor(t, r.transcript, true, r.Cookies[0], r.Nonces.I)
		a.m.cfg.Auth = []auth.Authenticator{&recordedTicket{recording: r, anyID: true}}
		sent := a.do(Initiate{Request: 1, Local: a.local.Addr(), Remote: a.remote.Addr(), Main: gssOffer(t, name),
			Quick: quickOffer(t, a.local.Addr(), a.remote.Addr())})
		checkSameOffer(t, name, sent[0], r.Messages[0].ISAKMP)
		a.only().sai = r.SAi_b
		sent = a.receive(r.Messages[1].ISAKMP)
		if len(sent) != 1 || !bytes.Equal(sent[0], r.Messages[2].ISAKMP) {
			t.Errorf("%s: message 3 is\n%x, not\n%x", name, sent, []byte(r.Messages[2].ISAKMP))
		}
		sent = a.receive(r.Messages[3].ISAKMP)
		if len(sent) != 1 {
			t.Fatalf("%s: message 5: %x, %+v", name, sent, a.out)
		}
		checkKeys(t, name, a.only().keys, r)
		ours := opened5(t, a.only().keys, sent[0])
		theirs := opened5(t, a.only().keys, r.Messages[4].ISAKMP)
		if !slices.EqualFunc(ours[:2], theirs, samePayload) {
			t.Errorf("%s: message 5 is\n%x, not\n%x", name, ours, theirs)
		}
		a.only().iv = lastBlock(r.Messages[4].ISAKMP, a.only().keys.BlockLen())
		a.receive(r.Messages[5].ISAKMP)
		if sas := a.m.SAs(); len(sas) != 1 || sas[0].Principal != "host/b.ike.test" {
			t.Errorf("%s: %+v, %+v", name, sas, a.out)
		}
	}
}

// TestKerberosRecordingsAsResponder: the same in the other role; message 2 is
// the recorded one but for vendor IDs, message 4 byte for byte.
func TestKerberosRecordingsAsResponder(t *testing.T) {
	for name, r := range recordings(t, "gssapi.json", 4) {
		a := newActor(t, r.transcript, false, make([]byte, 32), r.Nonces.R)
		a.m.cfg.Auth = []auth.Authenticator{&recordedTicket{recording: r}}
		a.do(SetPolicy{policyOf(gssOffer(t, name), QuickOffer{})})
		sent := a.receive(r.Messages[0].ISAKMP)
		if len(sent) != 1 || !samePayload(clearPayloads(t, sent[0])[0], clearPayloads(t, r.Messages[1].ISAKMP)[0]) {
			t.Fatalf("%s: message 2 is\n%x, not\n%x", name, sent, []byte(r.Messages[1].ISAKMP))
		}
		a.takeCookie(r.Cookies[1])
		sent = a.receive(r.Messages[2].ISAKMP)
		if len(sent) != 1 || !bytes.Equal(sent[0], r.Messages[3].ISAKMP) {
			t.Fatalf("%s: message 4 is\n%x, not\n%x; %+v", name, sent, []byte(r.Messages[3].ISAKMP), a.out)
		}
		keys := a.only().candidates[0].keys
		checkKeys(t, name, keys, r)
		sent = a.receive(r.Messages[4].ISAKMP)
		if name == "idspoof" {
			if len(a.m.SAs()) != 0 {
				t.Error("who claims an identity that is not its principal's is believed")
			}
			continue
		}
		if len(sent) != 1 || len(a.m.SAs()) != 1 || a.m.SAs()[0].Principal != "host/a.ike.test" {
			t.Fatalf("%s: message 6: %x, %+v", name, sent, a.out)
		}
		iv := lastBlock(r.Messages[4].ISAKMP, keys.BlockLen())
		ours, theirs := openedWith(t, keys, iv, sent[0]), openedWith(t, keys, iv, r.Messages[5].ISAKMP)
		if !slices.EqualFunc(ours, theirs, samePayload) {
			t.Errorf("%s: message 6 is\n%x, not\n%x", name, ours, theirs)
		}
	}
}

func samePayload(a, b wire.Payload) bool { return a.Type == b.Type && bytes.Equal(a.Body, b.Body) }

func clearPayloads(t *testing.T, data []byte) []wire.Payload {
	t.Helper()
	h, body, err := wire.ParseHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := wire.ParseChain(h.Next, body)
	if err != nil {
		t.Fatal(err)
	}
	return chain.Payloads
}

func opened5(t *testing.T, keys *crypt.Keys, data []byte) []wire.Payload {
	t.Helper()
	return openedWith(t, keys, keys.IV(), data)
}

func openedWith(t *testing.T, keys *crypt.Keys, iv, data []byte) []wire.Payload {
	t.Helper()
	h, body, err := wire.ParseHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := open(keys, message{Header: h, body: body}, iv)
	if err != nil {
		t.Fatal(err)
	}
	return chain.Payloads
}

func checkKeys(t *testing.T, name string, k *crypt.Keys, r recording) {
	t.Helper()
	for i, pair := range [][2][]byte{{k.ID().Bytes(), r.SKEYID}, {k.D().Bytes(), r.SKEYID_d}, {k.A().Bytes(), r.SKEYID_a}, {k.E().Bytes(), r.SKEYID_e}} {
		if !bytes.Equal(pair[0], pair[1]) {
			t.Errorf("%s: key %d is %x, not %x", name, i, pair[0], pair[1])
		}
	}
}

// checkSameOffer compares what two first messages offer, whatever the order of
// the attributes.
func checkSameOffer(t *testing.T, name string, ours, theirs []byte) {
	t.Helper()
	var read [2]received
	for i, data := range [][]byte{ours, theirs} {
		var err error
		if read[i], err = readMainSA(clearPayloads(t, data)[0].Body, true); err != nil || len(read[i].choices) != 1 {
			t.Fatalf("%s: %v", name, err)
		}
	}
	a, b := read[0].choices[0], read[1].choices[0]
	if a.Suite != b.Suite || a.Method != b.Method || !bytes.Equal(a.name, b.name) || !bytes.Equal(ours[:16], theirs[:16]) {
		t.Errorf("%s: offer %v %q, recorded %v %q", name, a, a.name, b, b.name)
	}
}

// signer proves by RSA signatures with the keys of the recording.
type signer struct {
	t    *testing.T
	name string // of the files
	peer string
}

func (s signer) Method() auth.Method                      { return auth.RSA }
func (s signer) Start(auth.Request) (auth.Session, error) { return s, nil }
func (s signer) Trusted() bool                            { return true }

func (s signer) Seeds() [][]byte              { return nil }
func (s signer) Token([]byte) ([]byte, error) { return nil, nil }

func (s signer) der(name string) []byte {
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	return block.Bytes
}

func (s signer) certificate(name string) *x509.Certificate {
	c, err := x509.ParseCertificate(s.der(name + ".pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s signer) Local() auth.Claim {
	c := s.certificate(s.name)
	return auth.Claim{IDType: uint8(wire.IDDN), ID: c.RawSubject, Certs: [][]byte{append([]byte{4}, c.Raw...)}, CAs: [][]byte{c.RawIssuer}}
}

func (s signer) Remote(c auth.Claim) error {
	for _, ca := range c.CAs {
		if !bytes.Equal(ca, s.certificate("ca").RawSubject) {
			return errors.New("asks for another authority")
		}
	}
	if c.Certs != nil && !bytes.Equal(c.Certs[0][1:], s.certificate(s.peer).Raw) {
		return errors.New("not the recorded certificate")
	}
	return nil
}

func (s signer) Prove(hash func([]byte) []byte) ([]byte, error) {
	key, err := x509.ParsePKCS1PrivateKey(s.der(s.name + ".key"))
	if err != nil {
		return nil, err
	}
	return rsa.SignPKCS1v15(nil, key, crypto.Hash(0), hash(nil))
}

func (s signer) Check(hash func([]byte) []byte, proof []byte) (auth.Principal, error) {
	c := s.certificate(s.peer)
	if err := rsa.VerifyPKCS1v15(c.PublicKey.(*rsa.PublicKey), crypto.Hash(0), hash(nil), proof); err != nil {
		return "", err
	}
	return auth.Principal(c.Subject.String()), nil
}

func rsaOffer(t *testing.T, name string) MainOffer {
	suite := "aes128-sha1-modp2048"
	if strings.HasSuffix(name, "frag") {
		suite = "aes128-sha256-modp2048"
	}
	return MainOffer{Suites: mainSuite(t, suite), Auth: []auth.Requirement{{Method: auth.RSA}}}
}

// phase1 returns the recorded message n of main mode.
func (r recording) phase1(n int) []byte { return r.Messages[n-1].ISAKMP }

// TestRSARecordingsAsInitiator: identity, certificate and signature of our
// message 5 are strongSwan's, on the port for address translation, and its
// message 6 proves it.
func TestRSARecordingsAsInitiator(t *testing.T) {
	for name, r := range recordings(t, "strongswan-rsa.json", 2) {
		a := newActor(t, r.transcript, true, r.Cookies[0], r.Nonces.I)
		a.m.anonymous = false
		a.m.cfg.Auth = []auth.Authenticator{signer{t, "a", "b"}}
		sent := a.do(Initiate{Request: 1, Local: a.local.Addr(), Remote: a.remote.Addr(), Main: rsaOffer(t, name),
			Quick: quickOffer(t, a.local.Addr(), a.remote.Addr())})
		checkSameOffer(t, name, sent[0], r.phase1(1))
		a.only().sai = r.SAi_b
		sent = a.receive(r.phase1(2))
		if p := clearPayloads(t, sent[0]); !slices.EqualFunc(p[:2], clearPayloads(t, r.phase1(3))[:2], samePayload) ||
			!samePayload(p[2], clearPayloads(t, r.phase1(4))[2]) || !samePayload(p[3], clearPayloads(t, r.phase1(3))[2]) {
			t.Errorf("%s: message 3: %x", name, p)
		}
		sent = whole(t, a.receive(r.phase1(4)))
		checkKeys(t, name, a.only().keys, r)
		if x := a.only(); x.local.Port() != natPort || x.remote.Port() != natPort {
			t.Errorf("%s: %+v", name, x.path)
		}
		ours, theirs := opened5(t, a.only().keys, sent[0]), opened5(t, a.only().keys, r.phase1(5))
		if !slices.EqualFunc(ours[:3], theirs[:3], samePayload) {
			t.Errorf("%s: message 5 is\n%x, not\n%x", name, ours, theirs)
		}
		a.only().iv = lastBlock(r.phase1(5), a.only().keys.BlockLen())
		a.local, a.remote = netip.AddrPortFrom(a.local.Addr(), natPort), netip.AddrPortFrom(a.remote.Addr(), natPort)
		a.receive(r.phase1(6))
		if sas := a.m.SAs(); len(sas) != 1 || !strings.Contains(string(sas[0].Principal), "b.example") || sas[0].Remote.Port() != natPort {
			t.Errorf("%s: %+v, %+v", name, sas, a.out)
		}
	}
}

// whole joins the fragments of a message.
func whole(t *testing.T, sent [][]byte) [][]byte {
	t.Helper()
	var all []byte
	for _, data := range sent {
		h, body, err := wire.ParseHeader(data)
		if err != nil || h.Next != wire.FragmentPayload {
			return sent
		}
		f, err := wire.ParseFragment(body)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f.Data...)
	}
	return [][]byte{all}
}

// TestRSARecordingsAsResponder: the recorded message 5, whole or in the
// recorded fragments, proves the initiator; our message 6 has strongSwan's
// identity, certificate and signature.
func TestRSARecordingsAsResponder(t *testing.T) {
	for name, r := range recordings(t, "strongswan-rsa.json", 2) {
		a := newActor(t, r.transcript, false, make([]byte, 32), r.Nonces.R)
		a.m.anonymous = false
		a.m.cfg.Auth = []auth.Authenticator{signer{t, "b", "a"}}
		a.do(SetPolicy{policyOf(rsaOffer(t, name), QuickOffer{})})
		if sent := a.receive(r.phase1(1)); !samePayload(clearPayloads(t, sent[0])[0], clearPayloads(t, r.phase1(2))[0]) {
			t.Errorf("%s: message 2 is\n%x, not\n%x", name, sent, r.phase1(2))
		}
		a.takeCookie(r.Cookies[1])
		sent := a.receive(r.phase1(3))
		if !slices.EqualFunc(clearPayloads(t, sent[0])[:4], clearPayloads(t, r.phase1(4))[:4], samePayload) {
			t.Fatalf("%s: message 4 is\n%x, not\n%x", name, sent, r.phase1(4))
		}
		keys := a.only().candidates[0].keys
		checkKeys(t, name, keys, r)
		a.local, a.remote = netip.AddrPortFrom(a.local.Addr(), natPort), netip.AddrPortFrom(a.remote.Addr(), 4511)
		fifth := r.Fragments
		if len(fifth) == 0 {
			fifth = []hexBytes{r.phase1(5)}
		}
		for _, data := range fifth {
			sent = a.receive(data)
		}
		if len(a.m.SAs()) != 1 || len(sent) == 0 || a.m.SAs()[0].Remote != a.remote {
			t.Fatalf("%s: message 6: %x, %+v", name, sent, a.out)
		}
		iv := lastBlock(r.phase1(5), keys.BlockLen())
		ours, theirs := openedWith(t, keys, iv, whole(t, sent)[0]), openedWith(t, keys, iv, r.phase1(6))
		if !slices.EqualFunc(ours, theirs, samePayload) {
			t.Errorf("%s: message 6 is\n%x, not\n%x", name, ours, theirs)
		}
	}
}
