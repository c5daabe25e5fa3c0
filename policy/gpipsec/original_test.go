package gpipsec

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func originals(t testing.TB) policy.Store {
	t.Helper()
	var s policy.Store
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Original(name)
		s.Policies = append(s.Policies, *p)
	}
	return s
}

func diff(a, b any) string {
	return cmp.Diff(a, b, cmp.Comparer(func(a, b sadb.Addrs) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b sadb.Secret) bool { return a.Equal(b) }))
}

// What every Active Directory is born with is what the originals say, byte for
// byte.
func TestTheOriginalsAreThoseOfActiveDirectory(t *testing.T) {
	objects, warnings, err := Encode(originals(t), Options{})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	paths, _ := filepath.Glob("testdata/canonical/*.hex")
	if len(objects) != len(paths) {
		t.Errorf("%d objects, not %d", len(objects), len(paths))
	}
	for _, o := range objects {
		want := readHex(t, "testdata/canonical/"+o.String()+".hex")
		if !bytes.Equal(o.Data, want) {
			t.Errorf("%s\n is %x\nnot %x", o.what(), o.Data, want)
		}
	}
	back := Decode(objects)
	if len(back.Problems) > 0 {
		t.Errorf("%v", back.Problems)
	}
	if d := diff(originals(t), back.Store); d != "" {
		t.Error(d)
	}
}

func TestLDIFOfTheOriginals(t *testing.T) {
	objects, _, err := Encode(originals(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := WriteLDIF(&text, DefaultBaseDN+",DC=example,DC=test", objects); err != nil {
		t.Fatal(err)
	}
	back, err := ReadLDIF(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	r := Decode(back)
	if len(r.Problems) > 0 {
		t.Errorf("%v", r.Problems)
	}
	byName := map[string]policy.Policy{}
	for _, p := range r.Store.Policies {
		byName[p.Name] = p
	}
	for _, p := range originals(t).Policies {
		if d := diff(p, byName[p.Name]); d != "" {
			t.Error(d)
		}
	}
}
