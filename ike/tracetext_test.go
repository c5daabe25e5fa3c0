package ike

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"ipsecagent/ike/wire"
)

func TestTraceNamesSubjects(t *testing.T) {
	der, err := asn1.Marshal(pkix.Name{CommonName: "a\x1b[31m", Organization: []string{"Bank"}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := describeID(&b, wire.ID{Type: wire.IDDN, Data: der}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), `subject "CN=a\x1b[31m,O=Bank"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := nameWords([]byte{0x30, 1}); got != "3001" {
		t.Errorf("what is no name: %s", got)
	}
}
