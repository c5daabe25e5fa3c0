package cert

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
)

func der(t testing.TB, rdns ...pkix.RelativeDistinguishedNameSET) []byte {
	t.Helper()
	out, err := asn1.Marshal(pkix.RDNSequence(rdns))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func part(oid asn1.ObjectIdentifier, value any) pkix.RelativeDistinguishedNameSET {
	return pkix.RelativeDistinguishedNameSET{{Type: oid, Value: value}}
}

var (
	cn = asn1.ObjectIdentifier{2, 5, 4, 3}
	o  = asn1.ObjectIdentifier{2, 5, 4, 10}
	dc = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
)

func TestNamesAreWrittenAsInRFC2253(t *testing.T) {
	for want, name := range map[string][]byte{
		"CN=a.example,O=Bank":             der(t, part(o, "Bank"), part(cn, "a.example")),
		"CN=CA,DC=corp,DC=example":        der(t, part(dc, "example"), part(dc, "corp"), part(cn, "CA")),
		`O=Sue\, Grabbit \+ Runn\<\>\;\"`: der(t, part(o, `Sue, Grabbit + Runn<>;"`)),
		`CN=\#hash\\`:                     der(t, part(cn, `#hash\`)),
		`CN=\ space\ `:                    der(t, part(cn, " space ")),
		`CN=good\00evil\0A`:               der(t, part(cn, "good\x00evil\n")),
		"CN=Größe":                        der(t, part(cn, "Größe")),
		"CN=#04020102":                    der(t, part(cn, []byte{1, 2})),
		"1.2.3=x":                         der(t, part(asn1.ObjectIdentifier{1, 2, 3}, "x")),
		"CN=a+O=b":                        der(t, pkix.RelativeDistinguishedNameSET{{Type: cn, Value: "a"}, {Type: o, Value: "b"}}),
		"CN=BMP":                          der(t, part(cn, asn1.RawValue{Tag: tagBMPString, Bytes: []byte("\x00B\x00M\x00P")})),
		"CN=é":                            der(t, part(cn, asn1.RawValue{Tag: asn1.TagT61String, Bytes: []byte{0xe9}})),
		"#3000ff":                         {0x30, 0, 0xff},
		"#":                               {},
	} {
		if got := nameText(name); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAuthoritiesAreFoundByNameInBothOrders(t *testing.T) {
	name, err := foldDER(der(t, part(o, "Sue, Grabbit & Sons"), part(cn, "Root  CA")))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`CN=Root CA,O=Sue\, Grabbit & Sons`, `O=Sue\, Grabbit & Sons, CN=Root CA`, `O="Sue, Grabbit & Sons", cn = root ca`,
		`2.5.4.3=Root CA;OID.2.5.4.10=sue\2C grabbit & sons`,
	} {
		got, err := foldText(text)
		if err != nil || !sameName(got, name) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"CN=Root CA", "O=Sue,CN=Root CA", `CN=Root CA,O=Sue\, Grabbit & Sons,C=XX`, `CN=Root CA+O=Sue\, Grabbit & Sons`, `CN=RootCA,O=Sue\, Grabbit & Sons`} {
		if got, err := foldText(text); err == nil && sameName(got, name) {
			t.Errorf("%s is taken for another name", text)
		}
	}
}

func TestNamesThatAreNone(t *testing.T) {
	for _, text := range []string{"", "  ", "Root", "CN", "CN=a,", "XX=a", "CN=a\\", "=a", strings.Repeat("x", maxName+1)} {
		if got, err := foldText(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// FuzzName: text and DER of any kind are read or refused, and what is printed
// of a DER name is read as the same name.
func FuzzName(f *testing.F) {
	f.Add([]byte("CN=Root CA,O=\"a, b\"+C=\\2C"))
	f.Add(der(f, part(o, "Bank"), part(cn, "a.example")))
	f.Add(der(f, part(o, "+,\"\\<>;# \x00"), part(cn, " ")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if parts, err := foldText(string(data)); err == nil && len(parts) == 0 {
			t.Error("a name without parts")
		}
		want, err := foldDER(data)
		if err != nil || len(want) == 0 || strings.Contains(nameText(data), "=#") {
			return
		}
		got, err := foldText(nameText(data))
		slices.Reverse(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q is read as %q, not %q: %v", nameText(data), got, want, err)
		}
	})
}
