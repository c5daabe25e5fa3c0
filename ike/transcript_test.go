package ike

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) error {
	*h = make([]byte, hex.DecodedLen(len(b)))
	_, err := hex.Decode(*h, b)
	return err
}

// transcript is a negotiation of two strongSwan 5.9.8 daemons.
type transcript struct {
	PSK      string
	GXY      hexBytes
	Nonces   struct{ I, R hexBytes }
	KE       struct{ I, R hexBytes }
	Cookies  []hexBytes
	SAi_b    hexBytes
	Messages []struct {
		Frame  int
		Frm    string
		ISAKMP hexBytes
	}
}

func transcripts(t *testing.T) map[string]transcript {
	t.Helper()
	b, err := os.ReadFile("testdata/strongswan.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]transcript
	if err := json.Unmarshal(b, &all); err != nil || len(all) != 3 {
		t.Fatalf("%d transcripts, %v", len(all), err)
	}
	return all
}

// recordedDH gives the values of the recording.
type recordedDH struct{ public, shared []byte }

func (d recordedDH) Public() []byte                     { return d.public }
func (d recordedDH) Zero()                              {}
func (d recordedDH) Shared(peer []byte) ([]byte, error) { return bytes.Clone(d.shared), nil }

// actor is a machine in a role of a recording.
type actor struct {
	t      *testing.T
	m      *Machine
	local  netip.AddrPort
	remote netip.AddrPort
	out    []Output
}

func newActor(t *testing.T, r transcript, initiator bool, random ...[]byte) *actor {
	a := &actor{t: t, local: netip.MustParseAddrPort("192.0.2.2:500"), remote: netip.MustParseAddrPort("192.0.2.1:500")}
	public := r.KE.R
	if initiator {
		a.local, a.remote, public = a.remote, a.local, r.KE.I
	}
	script := io.MultiReader(bytes.NewReader(bytes.Join(random, nil)), randomFrom(1))
	a.m = New(Config{Rand: script})
	if r.PSK != "" {
		a.m.cfg.Auth = []auth.Authenticator{psk.New(keyring(t, r.PSK))}
	}
	a.m.anonymous, a.m.nonceLen = true, len(r.Nonces.I)
	a.m.newDH = func(sadb.Group, io.Reader) (keyExchange, error) { return recordedDH{public, r.GXY}, nil }
	return a
}

// do handles an input and all the work it leads to; it returns what is sent.
func (a *actor) do(in Input) (sent [][]byte) {
	a.m.Handle(epoch, in)
	for o, ok := a.m.Poll(); ok; o, ok = a.m.Poll() {
		switch o := o.(type) {
		case Send:
			sent = append(sent, o.Data)
		case Work:
			a.m.Handle(epoch, WorkDone{o.ID, o.Run()})
		default:
			a.out = append(a.out, o)
		}
	}
	return sent
}

func (a *actor) receive(data []byte) (sent [][]byte) {
	return a.do(Packet{Local: a.local, Remote: a.remote, Data: data})
}

// only returns the one main mode under way.
func (a *actor) only() *mainMode {
	a.t.Helper()
	for _, x := range a.m.mains {
		return x
	}
	a.t.Fatalf("no main mode is under way: %+v", a.out)
	return nil
}

func suitesOf(t *testing.T, scenario string) MainOffer {
	name := strings.TrimSuffix(strings.TrimPrefix(scenario, "v1-main-psk-"), "-pfs")
	return MainOffer{Suites: mainSuite(t, name), Auth: []auth.Requirement{{Method: auth.PSK}}}
}

// TestAsInitiatorOfARecording: with the cookie, nonce and key exchange of the
// recording our message 5 is strongSwan's but for padding, and its message 6
// proves the responder.
func TestAsInitiatorOfARecording(t *testing.T) {
	for name, r := range transcripts(t) {
		a := newActor(t, r, true, r.Cookies[0], r.Nonces.I)
		sent := a.do(Initiate{Request: 1, Local: a.local.Addr(), Remote: a.remote.Addr(), Main: suitesOf(t, name),
			Quick: quickOffer(t, a.local.Addr(), a.remote.Addr())})
		if len(sent) != 1 || !bytes.HasPrefix(sent[0], r.Cookies[0]) {
			t.Fatalf("%s: message 1: %x", name, sent)
		}
		a.only().sai = r.SAi_b // its attributes stand in another order than ours
		a.receive(r.Messages[1].ISAKMP)
		sent = a.receive(r.Messages[3].ISAKMP)
		if len(sent) != 1 || !samePayloads(sent[0], r.Messages[4].ISAKMP) {
			t.Errorf("%s: message 5 is\n%x, strongSwan's\n%x", name, sent, []byte(r.Messages[4].ISAKMP))
		}
		a.only().iv = lastBlock(r.Messages[4].ISAKMP, a.only().keys.BlockLen())
		damaged := bytes.Clone(r.Messages[5].ISAKMP)
		damaged[40] ^= 1
		a.receive(damaged)
		if len(a.m.SAs()) != 0 {
			t.Errorf("%s: a damaged message 6 is a proof", name)
		}
		a.receive(r.Messages[5].ISAKMP)
		if sas := a.m.SAs(); len(sas) != 1 || sas[0].Principal != "psk:default" {
			t.Errorf("%s: ISAKMP SAs %+v, %+v", name, sas, a.out)
		}
	}
}

// TestAsResponderOfARecording: our message 6 is strongSwan's but for padding;
// its quick mode and its deletes are verified. (The recorded quick modes are
// for UDP encapsulation, which is not negotiated yet: they are refused, with
// an authenticated notify, and not dropped as forged.)
func TestAsResponderOfARecording(t *testing.T) {
	for name, r := range transcripts(t) {
		a := newActor(t, r, false, make([]byte, 32), r.Nonces.R)
		a.do(SetPolicy{policyOf(suitesOf(t, name), QuickOffer{Proposals: proposals(t, "esp-aes256gcm")})})
		first := a.receive(r.Messages[0].ISAKMP)
		if len(first) != 1 || len(first[0]) > len(r.Messages[0].ISAKMP) {
			t.Fatalf("%s: message 2: %x", name, first)
		}
		a.takeCookie(r.Cookies[1])
		a.receive(r.Messages[2].ISAKMP)
		sent := a.receive(r.Messages[4].ISAKMP)
		if len(sent) != 1 || !samePayloads(sent[0], r.Messages[5].ISAKMP) {
			t.Fatalf("%s: message 6 is\n%x, strongSwan's\n%x", name, sent, []byte(r.Messages[5].ISAKMP))
		}
		s := a.m.established()[0]
		s.last = lastBlock(r.Messages[5].ISAKMP, s.keys.BlockLen())
		a.out = nil
		damaged := bytes.Clone(r.Messages[6].ISAKMP)
		damaged[len(damaged)-20] ^= 1
		if sent = a.receive(damaged); len(sent) != 0 || len(a.out) != 0 {
			t.Errorf("%s: a damaged quick mode is answered", name)
		}
		if sent = a.receive(r.Messages[6].ISAKMP); len(sent) != 1 || sent[0][18] != byte(wire.Informational) {
			t.Errorf("%s: quick mode: %x", name, sent)
		}
		if f, ok := a.out[0].(Failed); !ok || f.Code != FailNoProposal || f.Step != "quick mode message 1" {
			t.Errorf("%s: quick mode: %+v", name, a.out)
		}
		for _, m := range r.Messages[len(r.Messages)-3:] {
			a.receive(m.ISAKMP)
		}
		if len(a.m.SAs()) != 0 {
			t.Errorf("%s: the recorded delete is not honoured", name)
		}
	}
}

// samePayloads compares ciphertexts. strongSwan pads by a whole block what
// needs no padding.
func samePayloads(ours, theirs []byte) bool {
	n := len(ours)
	return n >= wire.HeaderLen+32 && len(theirs) >= n && bytes.Equal(ours[wire.HeaderLen:], theirs[wire.HeaderLen:n])
}

func lastBlock(data []byte, n int) []byte {
	return bytes.Clone(data[len(data)-n:])
}

// takeCookie gives the responder's exchange the cookie of the recording.
func (a *actor) takeCookie(cookie []byte) {
	x := a.only()
	delete(a.m.mains, x.key())
	copy(x.rcookie[:], cookie)
	a.m.mains[x.key()] = x
}

// TestNoOrderOfMessagesSkipsTheProof: every sequence of five messages, among
// them ones encrypted under the right keys but without a proof that holds,
// never makes an ISAKMP SA. With the proof they do.
func TestNoOrderOfMessagesSkipsTheProof(t *testing.T) {
	r := transcripts(t)["v1-main-psk-aes128-sha1-modp2048"]
	m := r.Messages
	messages := [][]byte{m[0].ISAKMP, m[2].ISAKMP, m[6].ISAKMP, m[len(m)-1].ISAKMP}
	messages = append(messages, unproven(t, r)...)
	depth := 5
	for sequence := range pow(len(messages), depth) {
		a := newSequenceActor(t, r)
		for rest, n := sequence, 0; n < depth; n++ {
			a.sequenceStep(r, messages[rest%len(messages)])
			rest /= len(messages)
		}
		if len(a.m.sas) != 0 || len(a.m.quicks) != 0 {
			t.Fatalf("sequence %d: %+v", sequence, a.out)
		}
	}
	a := newSequenceActor(t, r)
	for _, data := range [][]byte{messages[4], messages[0], messages[1], messages[5], m[4].ISAKMP} {
		a.sequenceStep(r, data)
	}
	if len(a.m.sas) != 1 {
		t.Error("with the proof there is no ISAKMP SA either: the test proves nothing")
	}
}

func newSequenceActor(t *testing.T, r transcript) *actor {
	a := newActor(t, r, false)
	a.m.cfg.Rand = &fixedNonce{r.Nonces.R}
	a.m.Handle(epoch, SetPolicy{policyOf(suitesOf(t, "aes128-sha1-modp2048"), QuickOffer{Proposals: proposals(t, "esp-aes256gcm")})})
	return a
}

func (a *actor) sequenceStep(r transcript, data []byte) {
	a.receive(data)
	if len(a.m.mains) == 1 {
		a.takeCookie(r.Cookies[1])
	}
}

// fixedNonce always gives the nonce of the recording.
type fixedNonce struct{ nonce []byte }

func (f *fixedNonce) Read(b []byte) (int, error) { return copy(b, f.nonce), nil }

func pow(n, e int) int {
	p := 1
	for range e {
		p *= n
	}
	return p
}

// unproven are messages 5 under the keys of the recording whose proof is
// wrong, missing or of the other side.
func unproven(t *testing.T, r transcript) [][]byte {
	x := &mainMode{icookie: [8]byte(r.Cookies[0]), rcookie: [8]byte(r.Cookies[1])}
	x.choice.Suite = mainSuite(t, "aes128-sha1-modp2048")[0]
	values := x.exchange()
	values.KEi, values.KEr, values.Ni, values.Nr, values.Shared = r.KE.I, r.KE.R, r.Nonces.I, r.Nonces.R, r.GXY
	keys, err := deriveKeys(*values, []byte(r.PSK))
	if err != nil {
		t.Fatal(err)
	}
	id := wire.Payload{Type: wire.IDPayload, Body: []byte{1, 0, 0, 0, 192, 0, 2, 1}}
	wrong := keys.HashI(r.SAi_b, id.Body, nil)
	wrong[0] ^= 1
	mirrored := keys.HashR(r.SAi_b, id.Body, nil)
	var all [][]byte
	for _, p := range [][]wire.Payload{
		{id, {Type: wire.HashPayload, Body: wrong}},
		{id},
		{id, {Type: wire.HashPayload, Body: mirrored}},
	} {
		data, _, err := seal(keys, x.header(), keys.IV(), p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}
