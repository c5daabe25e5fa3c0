package wire

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"ipsecagent/sadb"
)

// parsers are those of messages, by the type of the message.
func parsers() map[uint16]func([]byte) error {
	return map[uint16]func([]byte) error{
		MsgNewPolicy:  func(b []byte) error { _, err := ParsePolicy(b); return err },
		MsgDelPolicy:  func(b []byte) error { _, err := ParseDeletedPolicy(b); return err },
		MsgNewSA:      func(b []byte) error { _, err := ParseState(b); return err },
		MsgDelSA:      func(b []byte) error { _, err := ParseDeletedState(b); return err },
		MsgAcquire:    func(b []byte) error { _, err := ParseAcquire(b); return err },
		MsgExpire:     func(b []byte) error { _, err := ParseExpire(b); return err },
		MsgPolExpire:  func(b []byte) error { _, err := ParsePolicyExpire(b); return err },
		MsgMapping:    func(b []byte) error { _, err := ParseMapping(b); return err },
		MsgMigrate:    func(b []byte) error { _, err := ParseMigrate(b); return err },
		MsgNewSPDInfo: func(b []byte) error { _, err := ParseSPDInfo(b); return err },
		MsgGetDefault: func(b []byte) error { _, err := ParseDefault(b); return err },
	}
}

// Where attributes begin in the messages that may have any number of them: a
// message that ends between two is a whole message.
func fixedPart(typ uint16) int {
	return map[uint16]int{MsgNewPolicy: sizePolicy, MsgDelPolicy: sizePolicyID, MsgNewSA: sizeState, MsgDelSA: sizeStateID,
		MsgAcquire: sizeAcquire, MsgExpire: sizeExpire, MsgPolExpire: sizePolicyExpire, MsgMapping: sizeMapping, MsgMigrate: sizePolicyID,
		MsgNewSPDInfo: sizeFlags, MsgGetDefault: sizeDefault}[typ]
}

func TestEveryPrefixIsRefused(t *testing.T) {
	for file, all := range kernels(t) {
		for name, m := range all {
			parse := parsers()[m.typ]
			if parse == nil {
				t.Fatalf("%s: %s of type %#x has no parser", file, name, m.typ)
			}
			if err := parse(m.body); err != nil {
				t.Errorf("%s: %s: %v", file, name, err)
			}
			whole := wholes(m)
			for n := range m.body {
				if err := parse(m.body[:n:n]); (err == nil) && !whole[n] {
					t.Fatalf("%s: %d of the %d bytes of %s were accepted", file, n, len(m.body), name)
				}
			}
		}
	}
}

// wholes returns the lengths at which a message may end.
func wholes(m said) map[int]bool {
	at := fixedPart(m.typ)
	out := map[int]bool{at: true}
	for at+attrHeader <= len(m.body) {
		n := int(native.Uint16(m.body[at:]))
		for end := at + n; end <= (at+n+3)/4*4; end++ {
			out[end] = true // with or without its padding
		}
		at = (at + n + 3) / 4 * 4
	}
	return out
}

func TestMalformedIsRefused(t *testing.T) {
	all := messages(t, "testdata/kernel-6.1.txt")
	for what, c := range map[string]struct {
		name   string
		change func([]byte)
	}{
		"a selector of family 7":            {"policy-v4.0", func(b []byte) { native.PutUint16(b[40:], 7) }},
		"33 bits of an IPv4 address":        {"policy-v4.0", func(b []byte) { b[42] = 33 }},
		"129 bits of an IPv6 address":       {"policy-v6.0", func(b []byte) { b[43] = 129 }},
		"an attribute of 3 bytes":           {"policy-v4.0", func(b []byte) { native.PutUint16(b[sizePolicy:], 3) }},
		"an attribute beyond the end":       {"policy-v4.0", func(b []byte) { native.PutUint16(b[sizePolicy:], 5000) }},
		"a template of family 0":            {"policy-v4.0", func(b []byte) { native.PutUint16(b[sizePolicy+attrHeader+24:], 0) }},
		"templates that do not fill theirs": {"policy-v4.0", func(b []byte) { native.PutUint16(b[sizePolicy:], 36) }},
		"a state of family 0":               {"state-gcm.0", func(b []byte) { native.PutUint16(b[212:], 0) }},
		"an acquire without a packet":       {"acquire-v4.0", func(b []byte) { native.PutUint16(b[40+40:], 0) }},
		"a default policy of 3":             {"default.0", func(b []byte) { b[1] = 3 }},
		"a count that is not there":         {"spdinfo.0", func(b []byte) { native.PutUint16(b[sizeFlags+2:], 99) }},
		"a deleted policy without it":       {"policy-block-deleted.0", func(b []byte) { native.PutUint16(b[sizePolicyID+2:], 99) }},
	} {
		m := all[c.name]
		b := append([]byte(nil), m.body...)
		c.change(b)
		if parsers()[m.typ](b) == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if err := parsers()[MsgMapping](nil); !errors.Is(err, ErrShort) {
		t.Errorf("nothing at all: %v", err)
	}
}

func TestMapping(t *testing.T) {
	b, fixed := zeros(nil, sizeMapping)
	copy(fixed, AppendStateID(nil, id("10.0.0.1", sadb.ESP, 0x1234)))
	native.PutUint32(fixed[24:], 5)
	putAddr(fixed[28:], addr("10.0.0.2"))
	putAddr(fixed[44:], addr("10.0.0.3"))
	copy(fixed[60:], []byte{0x11, 0x94, 0xee, 0x48}) // 4500, 61000
	want := Mapping{ID: id("10.0.0.1", sadb.ESP, 0x1234), ReqID: 5,
		Old: netip.MustParseAddrPort("10.0.0.2:4500"), New: netip.MustParseAddrPort("10.0.0.3:61000")}
	if got, err := ParseMapping(b); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

// An IPv6 address whose last bytes are zero stays one.
func TestFamilyIsNotGuessed(t *testing.T) {
	for _, p := range []string{"2001:db8::/32", "fd00::/8", "::/0", "0.0.0.0/0", "10.0.0.0/8"} {
		want := Policy{Selector: Selector{Src: prefix(p), Dst: prefix(p)}}
		if got, err := ParsePolicy(want.Append(nil)); err != nil || got.Selector != want.Selector {
			t.Errorf("%s came back as %+v, %v", p, got.Selector, err)
		}
	}
}

func TestStatesThatCannotBeSaid(t *testing.T) {
	good := capturedStates(t)["state-cbc"]
	for what, change := range map[string]func(*State){
		"no suite":          func(s *State) { s.Suite = sadb.Suite{} },
		"another protocol":  func(s *State) { s.ID.Proto = sadb.AH },
		"a short key":       func(s *State) { s.EncKey = key(15) },
		"no integrity key":  func(s *State) { s.AuthKey = sadb.Secret{} },
		"no encryption key": func(s *State) { s.EncKey = sadb.Secret{} },
	} {
		s := good
		change(&s)
		if _, err := s.Append(nil); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

// Another encapsulation of a state changes that and nothing else.
func TestWithEncap(t *testing.T) {
	m := messages(t, "testdata/kernel-6.1.txt")["state-nat.0"]
	b, err := WithEncap(m.body, Encap{4500, 9999})
	if err != nil {
		t.Fatal(err)
	}
	before, _ := ParseState(m.body)
	after, err := ParseState(b)
	if err != nil || after.Encap != (Encap{4500, 9999}) {
		t.Fatalf("%+v, %v", after.Encap, err)
	}
	after.Encap = before.Encap
	if !reflect.DeepEqual(after, before) {
		t.Errorf("%+v became %+v", before, after)
	}
	if got, want := attributes(t, b[sizeState:]), attributes(t, m.body[sizeState:]); got[attrAlgAuthTrunc] != want[attrAlgAuthTrunc] {
		t.Error("the keys are others")
	}
}

func TestLifetimesAreRoundedUp(t *testing.T) {
	b, part := zeros(nil, sizeLimits)
	putLifetime(part, sadb.Lifetime{Hard: sadb.Limits{Time: 1500 * time.Millisecond, Bytes: 7}, Soft: sadb.Limits{Packets: 9}})
	want := sadb.Lifetime{Hard: sadb.Limits{Time: 2 * time.Second, Bytes: 7}, Soft: sadb.Limits{Packets: 9}}
	if got := parseLifetime(b); got != want {
		t.Errorf("got %+v", got)
	}
}

func fuzz(f *testing.F, typ uint16) {
	for _, all := range kernels(f) {
		for _, m := range all {
			if m.typ == typ {
				f.Add(m.body)
			}
		}
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) { _ = parsers()[typ](b) })
}

func FuzzDeletedPolicy(f *testing.F) { fuzz(f, MsgDelPolicy) }
func FuzzDeletedState(f *testing.F)  { fuzz(f, MsgDelSA) }
func FuzzAcquire(f *testing.F)       { fuzz(f, MsgAcquire) }
func FuzzExpire(f *testing.F)        { fuzz(f, MsgExpire) }
func FuzzPolicyExpire(f *testing.F)  { fuzz(f, MsgPolExpire) }
func FuzzMapping(f *testing.F)       { fuzz(f, MsgMapping) }
func FuzzSPDInfo(f *testing.F)       { fuzz(f, MsgNewSPDInfo) }
func FuzzDefault(f *testing.F)       { fuzz(f, MsgGetDefault) }

// FuzzPolicy: what is read can be written and is read as the same again.
func FuzzPolicy(f *testing.F) {
	for _, all := range kernels(f) {
		for _, m := range all {
			if m.typ == MsgNewPolicy {
				f.Add(m.body)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePolicy(b)
		if err != nil {
			return
		}
		again, err := ParsePolicy(p.Append(nil))
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		if again.Selector != p.Selector || again.Mark != p.Mark || again.Priority != p.Priority || len(again.Templates) != len(p.Templates) {
			t.Fatalf("%+v became %+v", p, again)
		}
	})
}

// FuzzState: a state that can be read can be given another encapsulation.
func FuzzState(f *testing.F) {
	for _, all := range kernels(f) {
		for _, m := range all {
			if m.typ == MsgNewSA {
				f.Add(m.body)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		changed, err := WithEncap(b, Encap{1, 2})
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		if got, err := ParseState(changed); err != nil || got.Encap != (Encap{1, 2}) || got.ID != s.ID {
			t.Fatalf("%+v became %+v, %v", s, got, err)
		}
	})
}
