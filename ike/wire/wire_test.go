package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// transcript is a message of two strongSwan daemons, as captured and decrypted.
type transcript struct {
	Frame     int
	ISAKMP    string
	Plaintext string
}

func transcripts(t testing.TB) map[string][]transcript {
	t.Helper()
	b, err := os.ReadFile("testdata/strongswan.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string][]transcript
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// payloadsOf returns header, chain and the bytes that hold the chain.
func payloadsOf(t *testing.T, m transcript) (Header, Chain, []byte) {
	t.Helper()
	raw := unhex(t, m.ISAKMP)
	h, rest, err := ParseHeader(raw)
	if err != nil {
		t.Fatalf("frame %d: %v", m.Frame, err)
	}
	if !bytes.Equal(h.Append(nil, len(rest)), raw[:HeaderLen]) {
		t.Errorf("frame %d: the header does not survive a round trip", m.Frame)
	}
	if h.Next == FragmentPayload {
		return h, Chain{}, nil
	}
	parse := ParseChain
	if h.Encrypted() {
		rest, parse = unhex(t, m.Plaintext), ParsePadded
	}
	chain, err := parse(h.Next, rest)
	if err != nil {
		t.Fatalf("frame %d: %v", m.Frame, err)
	}
	return h, chain, rest
}

// reencode parses a body by its type and appends it again.
func reencode(p Payload) ([]byte, error) {
	switch p.Type {
	case SAPayload:
		sa, err := ParseSA(p.Body)
		return sa.Append(nil), err
	case IDPayload:
		id, err := ParseID(p.Body)
		return id.Append(nil), err
	case NotifyPayload:
		n, err := ParseNotify(p.Body)
		return n.Append(nil), err
	case DeletePayload:
		d, err := ParseDelete(p.Body)
		return d.Append(nil), err
	case CertPayload, CertRequestPayload:
		c, err := ParseCert(p.Body)
		return c.Append(nil), err
	}
	return p.Body, nil
}

func TestStrongSwanTranscriptsSurviveARoundTrip(t *testing.T) {
	parsed := map[PayloadType]int{}
	for name, messages := range transcripts(t) {
		for _, m := range messages {
			_, chain, body := payloadsOf(t, m)
			var again []Payload
			for _, p := range chain.Payloads {
				b, err := reencode(p)
				if err != nil {
					t.Fatalf("%s frame %d: %s: %v", name, m.Frame, p.Type, err)
				}
				parsed[p.Type]++
				again = append(again, Payload{p.Type, b})
			}
			raw := AppendChain(nil, again)
			if !bytes.Equal(raw, chain.Raw) || !bytes.HasPrefix(body, raw) {
				t.Errorf("%s frame %d:\n got %x\nwant %x", name, m.Frame, raw, chain.Raw)
			}
		}
	}
	for _, want := range []PayloadType{SAPayload, KEPayload, IDPayload, CertPayload, HashPayload,
		SignaturePayload, NoncePayload, NotifyPayload, DeletePayload, VendorPayload, NATDPayload} {
		if parsed[want] == 0 {
			t.Errorf("the transcripts hold no %s", want)
		}
	}
}

func TestEveryPrefixOfAMessageIsRefused(t *testing.T) {
	for name, messages := range transcripts(t) {
		for _, m := range messages {
			raw := unhex(t, m.ISAKMP)
			for n := range raw {
				if _, _, err := ParseHeader(raw[:n]); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s frame %d: prefix of %d: %v", name, m.Frame, n, err)
				}
			}
			h, chain, _ := payloadsOf(t, m)
			for n := range chain.Raw {
				if _, err := ParsePadded(h.Next, chain.Raw[:n]); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s frame %d: chain of %d bytes: %v", name, m.Frame, n, err)
				}
			}
		}
	}
}

func TestEveryPrefixOfAnSAIsRefused(t *testing.T) {
	body := sampleSA().Append(nil)
	for n := range body {
		if _, err := ParseSA(body[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("prefix of %d bytes: %v", n, err)
		}
	}
}

func sampleSA() SA {
	return SA{DOI: DOIIPsec, Situation: SituationIdentityOnly, Proposals: []Proposal{
		{Number: 1, Protocol: ProtoAH, SPI: []byte{1, 2, 3, 4}, Transforms: []Transform{{Number: 1, ID: 3,
			Attributes: []Attribute{Uint16(5, 2), Uint32(2, 100_001)}}}},
		{Number: 1, Protocol: ProtoESP, SPI: []byte{5, 6, 7, 8}, Transforms: []Transform{
			{Number: 1, ID: 12, Attributes: []Attribute{Uint16(6, 256), Uint32(2, 100_000)}},
			{Number: 2, ID: 3, Attributes: []Attribute{{Type: 9, Value: []byte{1, 2, 3}}}}}},
	}}
}

func TestHeaderRefuses(t *testing.T) {
	good := AppendClear(nil, Header{Version: Version1, Exchange: MainMode}, []Payload{{NoncePayload, make([]byte, 16)}})
	cases := map[string]func([]byte) []byte{
		"version 2":      func(b []byte) []byte { b[17] = 0x20; return b },
		"length short":   func(b []byte) []byte { b[27]--; return b },
		"length long":    func(b []byte) []byte { b[27]++; return b },
		"length zero":    func(b []byte) []byte { b[27] = 0; return b },
		"length huge":    func(b []byte) []byte { b[24] = 0xff; return b },
		"datagram huge":  func(b []byte) []byte { return append(b, make([]byte, MaxMessage)...) },
		"trailing bytes": func(b []byte) []byte { return append(b, 0) },
	}
	for name, damage := range cases {
		if _, _, err := ParseHeader(damage(bytes.Clone(good))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h, _, err := ParseHeader(good); err != nil || h.Next != NoncePayload || h.Encrypted() {
		t.Errorf("the undamaged message: %+v %v", h, err)
	}
}

func TestChainRefuses(t *testing.T) {
	nonce := []byte{0, 0, 0, 5, 1}
	many := func(n int) []byte {
		p := make([]Payload, n)
		for i := range p {
			p[i] = Payload{VendorPayload, nil}
		}
		return AppendChain(nil, p)
	}
	cases := map[string]struct {
		first PayloadType
		b     []byte
	}{
		"nothing":             {NoPayload, nil},
		"nothing but bytes":   {NoPayload, nonce},
		"length 0":            {NoncePayload, []byte{0, 0, 0, 0}},
		"length 3":            {NoncePayload, []byte{0, 0, 0, 3, 0}},
		"length beyond":       {NoncePayload, []byte{0, 0, 0xff, 0xff, 0}},
		"reserved":            {NoncePayload, []byte{0, 1, 0, 5, 1}},
		"proposal outside":    {ProposalPayload, nonce},
		"transform outside":   {TransformPayload, nonce},
		"65 payloads":         {VendorPayload, many(MaxPayloads + 1)},
		"chain into nowhere":  {NoncePayload, []byte{10, 0, 0, 5, 1}},
		"header cut in chain": {NoncePayload, []byte{10, 0, 0, 5, 1, 0, 0}},
	}
	for name, c := range cases {
		if _, err := ParsePadded(c.first, c.b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, behind := range []string{"\x00\x00\x00\x00", "\x01", "\x00\x00\x07"} {
		if _, err := ParseChain(NoncePayload, append(nonce, behind...)); !errors.Is(err, ErrMalformed) {
			t.Errorf("a clear message with %q behind the chain is accepted", behind)
		}
	}
	for _, fill := range []string{"\x00", "\x00\x00", "\x00\x00\x00"} {
		if _, err := ParseChain(NoncePayload, append(nonce, fill...)); err != nil {
			t.Errorf("a message filled up with %q: %v", fill, err)
		}
	}
	if chain, err := ParsePadded(VendorPayload, append(many(MaxPayloads), 9, 9)); err != nil || len(chain.Payloads) != MaxPayloads {
		t.Errorf("64 payloads and padding: %v", err)
	}
}

func TestSARefuses(t *testing.T) {
	proposals := func(n int) SA {
		sa := SA{DOI: DOIIPsec, Situation: SituationIdentityOnly}
		for range n {
			sa.Proposals = append(sa.Proposals, Proposal{Number: 1})
		}
		return sa
	}
	transforms := func(n int) SA {
		sa := proposals(2)
		sa.Proposals[0].Transforms = make([]Transform, n/2)
		sa.Proposals[1].Transforms = make([]Transform, n-n/2)
		return sa
	}
	attributes := func(n int) SA {
		sa := transforms(2)
		sa.Proposals[0].Transforms[0].Attributes = make([]Attribute, n)
		return sa
	}
	damaged := func(offset int, v byte) []byte {
		b := sampleSA().Append(nil)
		b[offset] = v
		return b
	}
	cases := map[string][]byte{
		"33 proposals":             proposals(MaxProposals + 1).Append(nil),
		"129 transforms":           transforms(MaxTransforms + 1).Append(nil),
		"65 attributes":            attributes(MaxAttributes + 1).Append(nil),
		"no proposal":              proposals(0).Append(nil),
		"proposal then nonce":      damaged(8, 10),
		"proposal reserved":        damaged(9, 1),
		"proposal length 0":        {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
		"more transforms said":     damaged(15, 2),
		"fewer transforms said":    damaged(15, 0),
		"transform then proposal":  damaged(20, 2),
		"transform reserved":       damaged(26, 1),
		"SPI longer than proposal": damaged(14, 0xff),
		"attribute overruns":       damaged(35, 0xff),
	}
	for name, b := range cases {
		if _, err := ParseSA(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, sa := range map[string]SA{"32 proposals": proposals(MaxProposals),
		"128 transforms": transforms(MaxTransforms), "64 attributes": attributes(MaxAttributes)} {
		if _, err := ParseSA(sa.Append(nil)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSAOfAnotherDOIOrSituationIsReadNoFurther(t *testing.T) {
	sa, err := ParseSA([]byte{0, 0, 0, 2, 9, 9})
	if err != nil || sa.DOI != 2 || sa.Proposals != nil {
		t.Errorf("DOI 2: %+v %v", sa, err)
	}
	sa, err = ParseSA([]byte{0, 0, 0, 1, 0, 0, 0, 4, 9, 9})
	if err != nil || sa.Situation != 4 || sa.Proposals != nil {
		t.Errorf("situation 4: %+v %v", sa, err)
	}
}

func TestAttributeNumbers(t *testing.T) {
	cases := []struct {
		value []byte
		want  uint64
		ok    bool
	}{
		{[]byte{0x70, 0x80}, 28800, true},
		{[]byte{0, 0, 0x70, 0x80}, 28800, true},
		{[]byte{7}, 7, true},
		{bytes.Repeat([]byte{0xff}, 8), 1<<64 - 1, true},
		{bytes.Repeat([]byte{0}, 9), 0, false},
		{nil, 0, false},
	}
	for _, c := range cases {
		if v, ok := (Attribute{Value: c.value}).Uint(); v != c.want || ok != c.ok {
			t.Errorf("%x: %d %v", c.value, v, ok)
		}
	}
	if got := AppendAttributes(nil, []Attribute{Uint16(1, 1), Uint32(2, 86400)}); hex.EncodeToString(got) != "800100010002000400015180" {
		t.Errorf("the example of RFC 2408 is %x", got)
	}
	attrs, err := ParseAttributes(unhex(t, "80010001000c000400007080"))
	if err != nil || len(attrs) != 2 || attrs[1].Type != 12 {
		t.Errorf("Windows 2000's lifetime: %+v %v", attrs, err)
	}
	if _, err := ParseAttributes([]byte{0, 1, 0, 9}); !errors.Is(err, ErrMalformed) {
		t.Error("an attribute beyond its list is accepted")
	}
}

func TestIDBounds(t *testing.T) {
	cases := map[string]struct {
		id       string
		from, to string // "" refused
	}{
		"address":         {"01000000c0000201", "192.0.2.1", "192.0.2.1"},
		"subnet":          {"04000000c0000201ffffff00", "192.0.2.0", "192.0.2.255"},
		"everything":      {"040000000000000000000000", "0.0.0.0", "255.255.255.255"},
		"odd subnet":      {"04000000c0000280ffffff80", "192.0.2.128", "192.0.2.255"},
		"range":           {"07000000c0000201c0000209", "192.0.2.1", "192.0.2.9"},
		"v6":              {"0500000020010db8000000000000000000000001", "2001:db8::1", "2001:db8::1"},
		"v6 range":        {"0800000020010db800000000000000000000000120010db8000000000000000000000002", "2001:db8::1", "2001:db8::2"},
		"v6 subnet":       {"0600000020010db8000000000000000000000001ffffffff000000000000000000000000", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
		"mask with hole":  {"04000000c0000201ff00ff00", "", ""},
		"mask bit hole":   {"04000000c0000201fffffff5", "", ""},
		"range descends":  {"07000000c0000209c0000201", "", ""},
		"mapped":          {"0500000000000000000000000000ffffc0000201", "", ""},
		"mapped in range": {"0800000000000000000000000000ffffc000020120010db8000000000000000000000002", "", ""},
		"name":            {"020000006162", "", ""},
	}
	for name, c := range cases {
		id, err := ParseID(unhex(t, c.id))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		from, to, err := id.Bounds()
		if c.from == "" {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: accepted as %s-%s", name, from, to)
			}
			continue
		}
		if err != nil || from.String() != c.from || to.String() != c.to {
			t.Errorf("%s: %s-%s %v", name, from, to, err)
		}
	}
	if _, _, err := (ID{Type: IDIPv4, Data: []byte{1}}).Bounds(); !errors.Is(err, ErrMalformed) {
		t.Error("an address of one byte is accepted")
	}
}

func TestBodiesRefuse(t *testing.T) {
	parse := map[string]func([]byte) error{
		"id":     func(b []byte) error { _, err := ParseID(b); return err },
		"notify": func(b []byte) error { _, err := ParseNotify(b); return err },
		"delete": func(b []byte) error { _, err := ParseDelete(b); return err },
		"cert":   func(b []byte) error { _, err := ParseCert(b); return err },
	}
	cases := []struct{ kind, name, body string }{
		{"id", "empty", ""},
		{"id", "cut", "010000"},
		{"id", "IPv4 of 3 bytes", "01000000c00002"},
		{"id", "IPv4 of 5 bytes", "01000000c000020100"},
		{"id", "subnet of 4 bytes", "04000000c0000201"},
		{"id", "IPv6 of 4 bytes", "05000000c0000201"},
		{"notify", "empty", ""},
		{"notify", "SPI beyond", "0000000101100018aabb"},
		{"delete", "empty", ""},
		{"delete", "no SPI", "0000000103040000"},
		{"delete", "SPIs of 0 bytes", "0000000103000005"},
		{"delete", "count beyond", "000000010304000211223344"},
		{"delete", "count below", "00000001030400011122334455667788"},
		{"delete", "count 65535", "000000010304ffff11223344"},
		{"cert", "empty", ""},
	}
	for _, c := range cases {
		if err := parse[c.kind](unhex(t, c.body)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s %s: %v", c.kind, c.name, err)
		}
	}
}

func TestParsersKeepNothingOfTheBuffer(t *testing.T) {
	raw := AppendChain(nil, []Payload{{SAPayload, sampleSA().Append(nil)}, {NoncePayload, bytes.Repeat([]byte{7}, 16)}})
	chain, err := ParseChain(SAPayload, raw)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := chain.Find(SAPayload)
	sa, err := ParseSA(body)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(chain.Raw)
	clear(raw)
	clear(body)
	if !bytes.Equal(chain.Raw, want) || !bytes.Equal(sa.Append(nil), sampleSA().Append(nil)) {
		t.Error("what was parsed changed with the buffer")
	}
}

func TestChainLookups(t *testing.T) {
	chain, err := ParseChain(HashPayload, AppendChain(nil, []Payload{{HashPayload, []byte{1, 2}}, {IDPayload, []byte{3}}, {IDPayload, []byte{4}}}))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(chain.AfterFirst()); got != "05000005030000000504" {
		t.Errorf("behind the hash: %s", got)
	}
	if ids := chain.All(IDPayload); len(ids) != 2 || ids[1][0] != 4 {
		t.Errorf("IDs: %x", ids)
	}
	if _, ok := chain.Find(NoncePayload); ok {
		t.Error("a nonce is found that is not there")
	}
	if (Chain{}).AfterFirst() != nil || First(nil) != NoPayload {
		t.Error("an empty chain has something behind its first payload")
	}
}

func TestNames(t *testing.T) {
	if SAPayload.String() != "SA" || PayloadType(99).String() != "payload 99" {
		t.Error("payload names")
	}
	if !NoProposalChosen.IsError() || InitialContact.IsError() {
		t.Error("error types of notify")
	}
}

// FuzzMessage: nothing panics, limits hold, and what parses is stable: encoded
// again and parsed again it is the same.
func FuzzMessage(f *testing.F) {
	for _, messages := range transcripts(f) {
		for _, m := range messages {
			f.Add(unhex(f, m.ISAKMP))
			if m.Plaintext != "" {
				raw := unhex(f, m.ISAKMP)
				h, _, _ := ParseHeader(raw)
				plain := unhex(f, m.Plaintext)
				f.Add(append(h.Append(nil, len(plain)), plain...))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := ParseHeader(b)
		if err != nil {
			return
		}
		chain, err := ParsePadded(h.Next, rest)
		if err != nil {
			return
		}
		if len(chain.Payloads) > MaxPayloads || !bytes.Equal(AppendChain(nil, chain.Payloads), chain.Raw) {
			t.Fatalf("chain does not survive: %x", chain.Raw)
		}
		for _, p := range chain.Payloads {
			checkBody(t, p)
		}
	})
}

func checkBody(t *testing.T, p Payload) {
	once, err := reencode(p)
	if err != nil {
		return
	}
	if p.Type == SAPayload {
		if sa, _ := ParseSA(p.Body); sa.Proposals == nil {
			return // another DOI
		}
	}
	twice, err := reencode(Payload{p.Type, once})
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%s %x: %x then %x, %v", p.Type, p.Body, once, twice, err)
	}
	if p.Type == IDPayload {
		id, _ := ParseID(p.Body)
		if from, to, err := id.Bounds(); err == nil && (to.Less(from) || from.BitLen() != to.BitLen()) {
			t.Fatalf("ID %x spans %s-%s", p.Body, from, to)
		}
	}
}
