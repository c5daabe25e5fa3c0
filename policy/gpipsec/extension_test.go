package gpipsec

import (
	"bytes"
	"strings"
	"testing"

	"ipsecagent/policy"
)

// modern returns the filter action of a modern policy.
func modern(t *testing.T) ([]Object, *Object) {
	t.Helper()
	objects, _, err := Encode(policy.Store{Policies: []policy.Policy{*policy.SecureServer()}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		if objects[i].Name == "Require Security" && objects[i].Class == ClassNegotiation {
			return objects, &objects[i]
		}
	}
	t.Fatal("no action")
	return nil, nil
}

func action(t *testing.T, objects []Object) policy.FilterAction {
	t.Helper()
	r := Decode(objects)
	if len(r.Store.Policies) != 1 {
		t.Fatal(r.Problems)
	}
	for _, a := range r.Store.Policies[0].FilterActions {
		if a.Name == "Require Security" {
			return a
		}
	}
	t.Fatal("no action")
	return policy.FilterAction{}
}

func TestOursIsReadBeforeTheirs(t *testing.T) {
	objects, _ := modern(t)
	if got := suitesOf(action(t, objects)); got != "esp-aes256gcm, esp-aes128gcm, esp-aes128-sha256" {
		t.Error(got)
	}
}

// A tool that edits what it understands and keeps the rest must not be overruled
// by what we wrote before.
func TestAnEditByAnotherToolCounts(t *testing.T) {
	objects, o := modern(t)
	d, err := ParseNegotiation(o.Data)
	if err != nil {
		t.Fatal(err)
	}
	d.Offers[0].Transforms[0].Integrity = algMD5
	o.Data = d.Bytes()
	if got := suitesOf(action(t, objects)); got != "esp-3des-md5" {
		t.Error(got)
	}
	p := Decode(objects).Problems
	if len(p) != 1 || !p[0].Warning || !strings.Contains(p[0].Message, "another tool changed it") {
		t.Error(p)
	}
}

func TestAnExtensionOfTheFutureIsNotIgnored(t *testing.T) {
	objects, o := modern(t)
	o.Data = extended(asWindows(t, o.Data), map[string]any{"Quantum": true})
	r := Decode(objects)
	if len(r.Store.Policies) != 0 || !strings.Contains(r.Problems[0].Message, `unknown field "Quantum"`) {
		t.Error(r.Problems)
	}
}

func TestADamagedExtension(t *testing.T) {
	_, whole := modern(t)
	start := len(asWindows(t, whole.Data))
	for n := start + 16; n < len(whole.Data); n++ {
		objects, o := modern(t)
		o.Data = o.Data[:n]
		r := Decode(objects)
		if len(r.Store.Policies) != 0 || !strings.Contains(r.Problems[0].Message, "offset ") {
			t.Fatalf("cut at %d: %v", n, r.Problems)
		}
	}
}

// Records of other programs survive the codec, before and after ours.
func TestUnknownRecordsSurvive(t *testing.T) {
	foreign := append(bytes.Repeat([]byte{0xfe}, 16), 1, 2, 3)
	objects, o := modern(t)
	first := append(asWindows(t, o.Data), foreign...)
	d, _ := ParseNegotiation(o.Data)
	e, err := findExtension(o.Data, d.Tail)
	if err != nil {
		t.Fatal(err)
	}
	o.Data = append(extended(first, rawJSON(e.text)), foreign...)
	again, err := ParseNegotiation(o.Data)
	if err != nil || !bytes.Equal(again.Bytes(), o.Data) || !bytes.Equal(again.Canonical(), o.Data) {
		t.Errorf("%v", err)
	}
	r := Decode(objects)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "38 bytes behind its data are of another program") {
		t.Error(r.Problems)
	}
	if got := suitesOf(action(t, objects)); !strings.HasPrefix(got, "esp-aes256gcm") {
		t.Error(got)
	}
}

type rawJSON []byte

// MarshalJSON returns the text itself.
func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }
