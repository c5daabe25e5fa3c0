package gpipsec

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// FuzzData: a value is refused or comes back as it was, its canonical form is
// one, and what it says in the model does not depend on unused bytes.
func FuzzData(f *testing.F) {
	for _, data := range samples(f) {
		f.Add(data)
	}
	objects, _, err := Encode(originals(f), Options{})
	if err != nil {
		f.Fatal(err)
	}
	for _, o := range objects {
		f.Add(extended(o.Data, extAction{}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := classOf(data)
		if c == "" {
			c = ClassFilter
		}
		b, err := parseBlob(c, data)
		if err != nil {
			return
		}
		if !bytes.Equal(b.Bytes(), data) {
			t.Fatalf("%x\ncomes back as\n%x", data, b.Bytes())
		}
		again, err := parseBlob(c, b.Canonical())
		if err != nil || !bytes.Equal(again.Canonical(), b.Canonical()) {
			t.Fatalf("canonical: %v", err)
		}
		inStore(t, c, data)
	})
}

// inStore: whatever one object of a store says, Decode returns, and what it takes
// can be written and is read as the same again.
func inStore(t *testing.T, c Class, data []byte) {
	objects := xpStore(t)
	for i := range objects {
		if objects[i].Class == c && objects[i].GUID != testGUID(6) && objects[i].GUID != testGUID(7) {
			objects[i].Data = data
		}
	}
	first := Decode(objects)
	written, _, err := Encode(first.Store, Options{KeyNames: true})
	if err != nil {
		return
	}
	if second := Decode(written); !reflect.DeepEqual(first.Store, second.Store) {
		t.Fatalf("%s\n%v", diff(first.Store, second.Store), second.Problems)
	}
}

func FuzzReadLDIF(f *testing.F) {
	for _, text := range ldifStyles(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := ReadLDIF(bytes.NewReader(text))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteLDIF(&out, "CN=x", all); err != nil {
			t.Fatal(err)
		}
		Decode(all)
	})
}

func FuzzReadReg(f *testing.F) {
	f.Add([]byte(regFile(xpStore(f)[:1])))
	f.Add(utf16File(strings.ReplaceAll(regFile(xpStore(f)[2:3]), "\r", "")))
	f.Add([]byte("REGEDIT4\n[" + RegistryKey + "]\n\"a\"=hex(7):41,\\\n00"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		if all, err := ReadReg(bytes.NewReader(text)); err == nil {
			Decode(all)
		}
	})
}

func FuzzReadEntry(f *testing.F) {
	f.Add("CN=ipsecNFA{72385232-70FA-11D1-864C-14A300000000},CN=IP Security", "ipsecFilterReference", []byte("CN=ipsecFilter{72385232-70FA-11D1-864C-14A300000000},DC=x"))
	f.Add("CN=ipsecNegotiationPolicy{72385232-70FA-11D1-864C-14A300000000}", "iPSECNegotiationPolicyType", []byte("{62F49E10-6C37-11D1-864C-14A300000000}"))
	f.Add("CN=ipsecPolicy{72385232-70FA-11D1-864C-14A300000000}", "ipsecOwnersReference", []byte("CN=x"))
	f.Fuzz(func(_ *testing.T, dn, name string, value []byte) {
		if o, err := ReadEntry(dn, map[string][][]byte{name: {value, value}}); err == nil {
			Decode([]Object{o})
		}
	})
}
