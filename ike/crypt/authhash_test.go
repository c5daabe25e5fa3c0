package crypt

import (
	"bytes"
	"testing"

	"ipsecagent/sadb"
)

// A method with a hash of its own changes HASH_I and HASH_R, and no key.
func TestHashOfTheMethod(t *testing.T) {
	x := Exchange{Suite: sadb.ISAKMPSuite{Encryption: sadb.AESCBC, KeyBits: 256, Hash: sadb.SHA1, Group: sadb.ECP256},
		Ni: []byte("ni"), Nr: []byte("nr"), KEi: []byte("kei"), KEr: []byte("ker"), Shared: []byte("shared")}
	plain, err := x.Signature()
	if err != nil {
		t.Fatal(err)
	}
	x.AuthHash = sadb.SHA384
	own, err := x.Signature()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain.ID().Bytes(), own.ID().Bytes()) || !bytes.Equal(plain.Ka().Bytes(), own.Ka().Bytes()) {
		t.Error("the keys are others")
	}
	zero := make([]byte, 8)
	want := PRF(sadb.SHA384, plain.ID().Bytes(), []byte("kei"), []byte("ker"), zero, zero, []byte("sa"), []byte("id"))
	if got := own.HashI([]byte("sa"), []byte("id"), nil); !bytes.Equal(got, want) {
		t.Errorf("HASH_I %x", got)
	}
	want = PRF(sadb.SHA384, plain.ID().Bytes(), []byte("ker"), []byte("kei"), zero, zero, []byte("sa"), []byte("id"))
	if got := own.HashR([]byte("sa"), []byte("id"), nil); !bytes.Equal(got, want) {
		t.Errorf("HASH_R %x", got)
	}
	if n := len(plain.HashI(nil, nil, nil)); n != HashLen(sadb.SHA1) {
		t.Errorf("without one: %d bytes", n)
	}
}
