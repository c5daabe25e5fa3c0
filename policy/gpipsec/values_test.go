package gpipsec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What Values writes, Take reads.
func TestValuesComeBack(t *testing.T) {
	objects, _, err := Encode(originals(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	dn := func(r Ref) string { return "CN=" + r.String() + ",CN=IP Security,DC=example,DC=test" }
	for _, want := range objects {
		got := Object{Ref: want.Ref}
		for _, v := range want.Values(dn) {
			if err := got.Take(v); err != nil {
				t.Error(err)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", want.Ref, d)
		}
	}
}

func TestReferencesToNothingAreRefused(t *testing.T) {
	o := Object{Ref: Ref{Class: ClassNFA}}
	if err := o.Take(Value{"ipsecFilterReference", []byte("CN=nothing")}); err == nil {
		t.Error("a reference to nothing is taken")
	}
	if err := o.Take(Value{"cn", []byte("x")}); err != nil {
		t.Error(err)
	}
}

// A deleted owner is no reason to refuse an object; a deleted part is.
func TestDeletedObjects(t *testing.T) {
	const deleted = `CN=ipsecNFA{489D3FB5-9EDC-8E43-9BE2-2B81990BADFA}\0ADEL:b9293734-3d4c-4ee3-8692-c80162994e9d,CN=Deleted Objects,DC=example,DC=test`
	const list = "CN=ipsecFilter{7238523A-70FA-11D1-864C-14A300000000},CN=IP Security"
	o, err := ReadEntry(list, map[string][][]byte{"ipsecOwnersReference": {[]byte(deleted)}})
	if err != nil || len(o.Owners) != 0 {
		t.Errorf("%v, %v", o.Owners, err)
	}
	if _, err := ReadEntry("CN=ipsecPolicy{7238523C-70FA-11D1-864C-14A300000000},CN=IP Security", map[string][][]byte{"ipsecNFAReference": {[]byte(deleted)}}); err == nil {
		t.Error("a policy is read without one of its rules")
	}
	if c, ok := ReferredClass("IPSECNFAREFERENCE"); !ok || c != ClassNFA {
		t.Error(c, ok)
	}
	if _, ok := ReferredClass(OwnersAttribute); ok {
		t.Error("owners are no need")
	}
}
