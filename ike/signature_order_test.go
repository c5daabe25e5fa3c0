package ike

import (
	"testing"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
)

// TestNoOrderOfMessagesSkipsTheSignature: as TestNoOrderOfMessagesSkipsTheProof
// for certificates, where everybody who makes the key exchange has the keys: no
// sequence of four messages makes an ISAKMP SA without the signature.
func TestNoOrderOfMessagesSkipsTheSignature(t *testing.T) {
	r := recordings(t, "strongswan-rsa.json", 2)["v1-main-rsasig-aes128-sha1-modp2048"]
	begin := func() *actor {
		a := newActor(t, r.transcript, false)
		a.m.cfg.Rand = &fixedNonce{r.Nonces.R}
		a.m.cfg.Auth = []auth.Authenticator{signer{t, "b", "a"}}
		a.do(SetPolicy{policyOf(rsaOffer(t, ""), QuickOffer{Proposals: proposals(t, "esp-aes256gcm")})})
		return a
	}
	messages := [][]byte{r.phase1(1), r.phase1(3), r.phase1(7)}
	a := begin()
	for _, data := range messages[:2] {
		a.sequenceStep(r.transcript, data)
	}
	x := a.only()
	keys := x.candidates[0].keys
	genuine := openedWith(t, keys, keys.IV(), r.phase1(5))
	id := body(genuine, wire.IDPayload)
	for _, with := range []wire.Payload{
		{Type: wire.HashPayload, Body: keys.HashI(x.sai, id, nil)},
		{Type: wire.SignaturePayload, Body: keys.HashI(x.sai, id, nil)},
		{Type: wire.SignaturePayload, Body: body(openedWith(t, keys, lastBlock(r.phase1(5), 16), r.phase1(6)), wire.SignaturePayload)},
		{Type: wire.SignaturePayload},
	} {
		data, _, err := seal(keys, x.header(), keys.IV(), replaced(genuine, wire.SignaturePayload, with))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, data)
	}
	for sequence := range pow(len(messages), 4) {
		a := begin()
		for rest, n := sequence, 0; n < 4; n++ {
			a.sequenceStep(r.transcript, messages[rest%len(messages)])
			rest /= len(messages)
		}
		if len(a.m.sas) != 0 || len(a.m.quicks) != 0 {
			t.Fatalf("sequence %d: %+v", sequence, a.out)
		}
	}
	a = begin()
	for _, data := range [][]byte{messages[0], messages[1], messages[3], r.phase1(5)} {
		a.sequenceStep(r.transcript, data)
	}
	if len(a.m.sas) != 1 {
		t.Error("with the signature there is no ISAKMP SA either: the test proves nothing")
	}
}
