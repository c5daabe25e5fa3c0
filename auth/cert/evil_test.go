package cert

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"testing"
	"time"

	"ipsecagent/auth"
)

// world is a host that verifies, with a rule, and the authorities there are.
type world struct {
	root, issuing, other *entity
	keeper               *Keeper
}

func newWorld(t *testing.T, set Settings) *world {
	t.Helper()
	w := &world{root: newAuthority(t, "Root", nil), other: newAuthority(t, "Other", nil)}
	w.issuing = newAuthority(t, "Issuing", w.root)
	w.keeper = newKeeper(t, storeOf(t, []*entity{w.root, w.other}, []*entity{newHost(t, "me.example", w.root, auth.ECDSA256)}), set)
	return w
}

// claims returns the claim of a peer by its subject, with certificates.
func claims(certs ...*entity) auth.Claim {
	c := auth.Claim{IDType: idDN, ID: certs[0].RawSubject}
	for _, e := range certs {
		c.Certs = append(c.Certs, append([]byte{encodingX509}, e.Raw...))
	}
	return c
}

// meet lets a peer claim and sign, and returns how that ends.
func (w *world) meet(t *testing.T, method auth.Method, c auth.Claim, signer *entity) (auth.Principal, error) {
	t.Helper()
	rule := under(auth.ECDSA256, w.root)
	s, err := begin(w.keeper, rule, false)
	if err != nil {
		t.Fatal(err)
	}
	s.(*session).request.Requirement.Method = method // whatever ours is
	if err := s.Remote(c); err != nil {
		return "", err
	}
	sign, _, err := newSigner(signer.key)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := sign(rand.Reader, hashOf("I")(nil))
	if err != nil {
		t.Fatal(err)
	}
	return s.Check(hashOf("I"), proof)
}

func TestCertificatesThatAreRefused(t *testing.T) {
	w := newWorld(t, Settings{})
	host := func(changes ...change) []*entity {
		return []*entity{newHost(t, "peer.example", w.root, auth.ECDSA256, changes...)}
	}
	expiredCA := newAuthority(t, "Expired", w.root, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Hour) })
	noCA := newAuthority(t, "NoCA", w.root, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	nameless := newAuthority(t, "Constrained", w.root, func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"bank.example"}, true
	})
	impostor := newAuthority(t, "Root", nil) // same name, other key
	deep := w.root
	chain := []*entity{}
	for _, n := range []string{"1", "2", "3", "4"} {
		deep = newAuthority(t, n, deep)
		chain = append([]*entity{deep}, chain...)
	}
	for name, c := range map[string]struct {
		certs []*entity
		code  string
		says  string
	}{
		"expired":               {host(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), codeExpired, "2026-06-15 11:59 UTC"},
		"not yet valid":         {host(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }), codeNotYetValid, "peer.example"},
		"expired intermediate":  {[]*entity{newHost(t, "peer.example", expiredCA, auth.ECDSA256), expiredCA}, codeExpired, "CN=Expired"},
		"of another authority":  {[]*entity{newHost(t, "peer.example", w.other, auth.ECDSA256), w.other}, codeUntrusted, "CN=Other,O=Bank, not to CN=Root,O=Bank"},
		"of an impostor":        {[]*entity{newHost(t, "peer.example", impostor, auth.ECDSA256), impostor}, codeUntrusted, "CN=Root"},
		"of no authority":       {[]*entity{newHost(t, "peer.example", noCA, auth.ECDSA256), noCA}, codeUntrusted, ""},
		"intermediate not sent": {[]*entity{newHost(t, "peer.example", w.issuing, auth.ECDSA256)}, codeUntrusted, "CN=Issuing"},
		"too deep":              {append([]*entity{newHost(t, "peer.example", deep, auth.ECDSA256)}, chain...), codeUntrusted, "6 certificates"},
		"names not permitted":   {[]*entity{newHost(t, "peer.example", nameless, auth.ECDSA256), nameless}, codeUntrusted, ""},
		"self-signed":           {[]*entity{newHost(t, "peer.example", nil, auth.ECDSA256)}, codeUntrusted, "peer.example"},
		"for encryption":        {host(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), codeUsage, ""},
		"for code":              {host(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), codeUsage, "1.3.6.1.5.5.7.3.3"},
		"unknown critical": {host(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), codeUsage, "1.2.3.4"},
		"NUL in the subject": {host(func(c *x509.Certificate) { c.Subject.CommonName = "good.example\x00.evil" }), codeMalformed, "NUL"},
		"NUL in a name":      {host(func(c *x509.Certificate) { c.DNSNames = []string{"good.example\x00.evil"} }), codeMalformed, ""},
	} {
		_, err := w.meet(t, auth.ECDSA256, claims(c.certs...), c.certs[0])
		if code(err) != c.code {
			t.Errorf("%s: code %q, want %q: %v", name, code(err), c.code, err)
			continue
		}
		wantCode(t, err, c.code, c.says)
	}
}

func TestOrderAndCompanyOfCertificatesDoNotMatter(t *testing.T) {
	w := newWorld(t, Settings{})
	peer := newHost(t, "peer.example", w.issuing, auth.ECDSA256)
	stranger := newHost(t, "stranger.example", w.other, auth.ECDSA256)
	for name, certs := range map[string][]*entity{
		"in order": {peer, w.issuing}, "with the root": {peer, w.issuing, w.root}, "turned": {w.root, w.issuing, peer},
		"twice": {peer, peer, w.issuing, w.issuing}, "among others": {stranger, w.other, w.issuing, peer},
	} {
		c := claims(certs...)
		c.ID = peer.RawSubject
		got, err := w.meet(t, auth.ECDSA256, c, peer)
		if err != nil || got != "CN=peer.example,O=Bank" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if name != "in order" {
			continue
		}
		// The key of one certificate proves no other.
		_, err = w.meet(t, auth.ECDSA256, c, stranger)
		wantCode(t, err, codeSignature)
	}
}

func TestRenewedCertificatesOfOneNameAreTriedInTurn(t *testing.T) {
	w := newWorld(t, Settings{})
	old := newHost(t, "peer.example", w.root, auth.ECDSA256, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Hour) })
	a, b := newHost(t, "peer.example", w.root, auth.ECDSA256), newHost(t, "peer.example", w.root, auth.ECDSA256)
	for _, signer := range []*entity{a, b} {
		if _, err := w.meet(t, auth.ECDSA256, claims(old, a, b), signer); err != nil {
			t.Error(err)
		}
	}
	_, err := w.meet(t, auth.ECDSA256, claims(old, a, b), old)
	wantCode(t, err, codeExpired)
}

func TestIdentification(t *testing.T) {
	w := newWorld(t, Settings{})
	lax := *w
	lax.keeper = newKeeper(t, w.keeper.Store(), Settings{IDCheck: IDChainOnly})
	peer := newHost(t, "peer.example", w.root, auth.ECDSA256, func(c *x509.Certificate) {
		c.DNSNames = append(c.DNSNames, "*.wild.example")
		c.EmailAddresses = []string{"ops@bank.example"}
		c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}
	})
	turned := append(bytes.Clone(peer.RawSubject), 0)
	longer := der(t, part(o, "Bank"), part(cn, "peer.example"), part(cn, "root"))
	for name, c := range map[string]struct {
		kind uint8
		id   []byte
		ok   bool
	}{
		"subject":                 {idDN, peer.RawSubject, true},
		"name":                    {idFQDN, []byte("peer.example"), true},
		"name in capitals":        {idFQDN, []byte("Peer.EXAMPLE"), true},
		"mail":                    {idUserFQDN, []byte("ops@bank.example"), true},
		"IPv4":                    {idIPv4, []byte{192, 0, 2, 1}, true},
		"IPv6":                    {idIPv6, net.ParseIP("2001:db8::1"), true},
		"subject and more":        {idDN, turned, false},
		"subject, longer":         {idDN, longer, false},
		"subject, a part":         {idDN, der(t, part(cn, "peer.example")), false},
		"subject, other order":    {idDN, der(t, part(cn, "peer.example"), part(o, "Bank")), false},
		"subject, other case":     {idDN, der(t, part(o, "Bank"), part(cn, "Peer.example")), false},
		"subject as a name":       {idFQDN, peer.RawSubject, false},
		"name as a subject":       {idDN, []byte("peer.example"), false},
		"empty":                   {idFQDN, nil, false},
		"empty subject":           {idDN, []byte{0x30, 0}, false},
		"wildcard":                {idFQDN, []byte("*.wild.example"), false},
		"covered by the wildcard": {idFQDN, []byte("a.wild.example"), false},
		"name with a NUL":         {idFQDN, []byte("peer.example\x00"), false},
		"name with a dot":         {idFQDN, []byte("peer.example."), false},
		"name as mail":            {idUserFQDN, []byte("peer.example"), false},
		"mail in capitals":        {idUserFQDN, []byte("OPS@bank.example"), false},
		"other IPv4":              {idIPv4, []byte{192, 0, 2, 2}, false},
		"IPv4 as IPv6":            {idIPv6, net.IPv4(192, 0, 2, 1), false},
		"IPv4 too short":          {idIPv4, []byte{192, 0, 2}, false},
		"IPv4 as a name":          {idFQDN, []byte("192.0.2.1"), false},
		"key ID":                  {11, []byte("peer.example"), false},
		"no type":                 {0, []byte("peer.example"), false},
		"common name":             {idFQDN, []byte("Bank"), false},
	} {
		claim := claims(peer)
		claim.IDType, claim.ID = c.kind, c.id
		got, err := w.meet(t, auth.ECDSA256, claim, peer)
		if c.ok && (err != nil || got != "CN=peer.example,O=Bank") || !c.ok && code(err) != codeIdentity {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		// Where only the chain counts, the principal is the certificate's.
		if got, err := lax.meet(t, auth.ECDSA256, claim, peer); err != nil || got != "CN=peer.example,O=Bank" {
			t.Errorf("%s, chain only: %q, %v", name, got, err)
		}
	}
}

func TestPrincipalsWithoutSubject(t *testing.T) {
	w := newWorld(t, Settings{IDCheck: IDChainOnly})
	nobody := func(c *x509.Certificate) { c.Subject, c.DNSNames = pkix.Name{}, nil }
	for want, more := range map[string]change{
		"dns:x.example":       func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} },
		"email:ops@x.example": func(c *x509.Certificate) { c.EmailAddresses = []string{"ops@x.example"} },
		"ip:192.0.2.7":        func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 7)} },
		"":                    func(*x509.Certificate) {},
	} {
		peer := newHost(t, "", w.root, auth.ECDSA256, nobody, more)
		got, err := w.meet(t, auth.ECDSA256, claims(peer), peer)
		if string(got) != want || want == "" && code(err) != codeIdentity {
			t.Errorf("%q, want %q: %v", got, want, err)
		}
		kind, id := claimID(peer.Certificate)
		if want != "" && !matchesID(peer.Certificate, kind, id) {
			t.Errorf("%s: our own claim does not match", want)
		}
	}
}

func TestExtendedUsages(t *testing.T) {
	ike, intermediate := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 8, 2, 2}
	mail := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}
	for name, c := range map[string]struct {
		usages               []asn1.ObjectIdentifier
		windows, strict, any bool
	}{
		"none":         {nil, true, true, true},
		"ike":          {[]asn1.ObjectIdentifier{mail, ike}, true, true, true},
		"any":          {[]asn1.ObjectIdentifier{{2, 5, 29, 37, 0}}, true, true, true},
		"intermediate": {[]asn1.ObjectIdentifier{intermediate}, true, false, true},
		"client":       {[]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}, true, false, true},
		"server":       {[]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}}, true, false, true},
		"end system":   {[]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 5}}, true, false, true},
		"mail":         {[]asn1.ObjectIdentifier{mail}, false, false, true},
	} {
		for usage, want := range map[Usage]bool{UsageWindows: c.windows, UsageRFC4945: c.strict, UsageAny: c.any} {
			w := newWorld(t, Settings{Usage: usage})
			limit := func(x *x509.Certificate) { x.UnknownExtKeyUsage = c.usages }
			peer := newHost(t, "peer.example", w.root, auth.ECDSA256, limit)
			if _, err := w.meet(t, auth.ECDSA256, claims(peer), peer); (err == nil) != want || err != nil && code(err) != codeUsage {
				t.Errorf("%s by %d: %v", name, usage, err)
			}
			between := newAuthority(t, "Limited", w.root, limit)
			peer = newHost(t, "peer.example", between, auth.ECDSA256)
			if _, err := w.meet(t, auth.ECDSA256, claims(peer, between), peer); (err == nil) != want {
				t.Errorf("%s on the authority between, by %d: %v", name, usage, err)
			}
		}
	}
}

func TestWeakCertificates(t *testing.T) {
	strict, lax := newWorld(t, Settings{}), newWorld(t, Settings{LeastRSA: 1024})
	for _, w := range []*world{strict, lax} {
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: nextSerial(), Subject: subject("weak"), NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0)}
		peer := sign(t, template, key, w.root)
		_, err = w.meet(t, auth.RSA, claims(peer), peer)
		if w == strict {
			wantCode(t, err, codeWeak, "1024 bits")
		} else if err != nil {
			t.Error(err)
		}
	}
	old := newHost(t, "old.example", strict.root, auth.ECDSA256)
	old.Certificate.SignatureAlgorithm = x509.ECDSAWithSHA1
	v := verifier{now: noon}
	wantCode(t, v.standing(old.Certificate), codeWeak, "ECDSA-SHA1")
}

func TestAPeerWithAKeyOfAnotherMethod(t *testing.T) {
	w := newWorld(t, Settings{})
	for _, has := range methods() {
		peer := newHost(t, "peer.example", w.root, has)
		for _, method := range methods() {
			_, err := w.meet(t, method, claims(peer), peer)
			if has == method && err != nil || has != method && code(err) != codeUsage {
				t.Errorf("a key for %d, method %d: %v", has, method, err)
			}
		}
	}
}

func TestCertificatePayloadsThatAreRefused(t *testing.T) {
	w := newWorld(t, Settings{})
	peer := newHost(t, "peer.example", w.root, auth.ECDSA256)
	good := claims(peer)
	many := make([][]byte, 20)
	for i := range many {
		many[i] = good.Certs[0]
	}
	var nine [][]byte
	for range 9 {
		nine = append(nine, peer.Raw)
	}
	wrapped, err := wrapPKCS7([][]byte{peer.Raw})
	if err != nil {
		t.Fatal(err)
	}
	nested, err := wrapPKCS7([][]byte{wrapped})
	if err != nil {
		t.Fatal(err)
	}
	ninefold, err := wrapPKCS7(nine)
	if err != nil {
		t.Fatal(err)
	}
	x, p7 := encodingX509, encodingPKCS7
	for name, certs := range map[string][][]byte{
		"twenty":             many,
		"empty body":         {{}},
		"no certificate":     {{byte(x)}},
		"cut":                {good.Certs[0][:len(good.Certs[0])-1]},
		"and more":           {append(bytes.Clone(good.Certs[0]), 0)},
		"too large":          {append([]byte{byte(x)}, make([]byte, maxCertSize+1)...)},
		"nested wrapping":    {append([]byte{byte(p7)}, nested...)},
		"nine in one":        {append([]byte{byte(p7)}, ninefold...)},
		"wrapping too large": {append([]byte{byte(p7)}, make([]byte, maxWrapped)...)},
		"wrapping and more":  {append(append([]byte{byte(p7)}, wrapped...), 0)},
		"one good, one bad":  {good.Certs[0], {byte(x), 0x30, 0}},
	} {
		_, err := w.meet(t, auth.ECDSA256, auth.Claim{IDType: idDN, ID: peer.RawSubject, Certs: certs}, peer)
		if code(err) != codeMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, certs := range map[string][][]byte{"none": nil, "another encoding": {append([]byte{7}, peer.Raw...)}} {
		_, err := w.meet(t, auth.ECDSA256, auth.Claim{IDType: idDN, ID: peer.RawSubject, Certs: certs}, peer)
		if code(err) != codeMissing {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range len(wrapped) {
		if got, err := unwrapPKCS7(wrapped[:n]); err == nil {
			t.Fatalf("%d bytes of a wrapping: %d certificates", n, len(got))
		}
	}
}

// What was claimed first does not stand in for a later claim that is refused.
func TestALaterClaimReplacesTheFirst(t *testing.T) {
	w := newWorld(t, Settings{})
	peer := newHost(t, "peer.example", w.root, auth.ECDSA256)
	s, err := begin(w.keeper, under(auth.ECDSA256, w.root), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remote(claims(peer)); err != nil {
		t.Fatal(err)
	}
	second := claims(peer)
	second.IDType, second.ID = idFQDN, []byte("other.example")
	wantCode(t, s.Remote(second), codeIdentity)
	sign, _, err := newSigner(peer.key)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := sign(rand.Reader, hashOf("I")(nil))
	if err != nil {
		t.Fatal(err)
	}
	who, err := s.Check(hashOf("I"), proof)
	wantCode(t, err, codeSignature)
	if who != "" {
		t.Errorf("proven: %q", who)
	}
}

func TestBoundsOfCertificates(t *testing.T) {
	w := newWorld(t, Settings{})
	large := newHost(t, "peer.example", w.root, auth.ECDSA256, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, maxCertSize)}}
	})
	_, err := w.meet(t, auth.ECDSA256, claims(large), large)
	wantCode(t, err, codeMalformed)
	small := newHost(t, "peer.example", w.root, auth.ECDSA256)
	c := claims(small)
	for range maxCerts {
		c.Certs = append(c.Certs, []byte{7, 1}) // an encoding that is passed over
	}
	_, err = w.meet(t, auth.ECDSA256, c, small)
	wantCode(t, err, codeMalformed)
	var nine [][]byte
	for range maxCerts + 1 {
		nine = append(nine, []byte{0x30, 0})
	}
	wrapped, err := wrapPKCS7(nine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unwrapPKCS7(wrapped); err == nil {
		t.Error("any number of certificates is unwrapped")
	}
}

func TestAnEmptySubjectIsNoIdentification(t *testing.T) {
	w := newWorld(t, Settings{})
	peer := newHost(t, "", w.root, auth.ECDSA256, func(c *x509.Certificate) { c.Subject, c.DNSNames = pkix.Name{}, []string{"x.example"} })
	_, err := w.meet(t, auth.ECDSA256, claims(peer), peer)
	wantCode(t, err, codeIdentity)
}
