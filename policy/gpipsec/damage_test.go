package gpipsec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// Every prefix of a value is refused, with the offset of what is missing, or
// keeps what it has: only the trailer and records behind it may be missing.
func TestEveryPrefix(t *testing.T) {
	for path, data := range samples(t) {
		c := classOf(data)
		whole, err := parseBlob(c, data)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for n := range data {
			b, err := parseBlob(c, data[:n])
			var at *DataError
			switch {
			case err == nil && !bytes.Equal(b.Bytes(), data[:n]):
				t.Errorf("%s cut at %d is read as something else", path, n)
			case err != nil && (!errors.As(err, &at) || at.Offset > n):
				t.Errorf("%s cut at %d: %v", path, n, err)
			case err != nil:
				refused++
			}
		}
		tail := len(data) - refused
		if longest := 1 + len(nfaRecords(whole)); tail > longest {
			t.Errorf("%s: %d prefixes are taken, more than %d", path, tail, longest)
		}
	}
}

func nfaRecords(b blob) []byte {
	if d, ok := b.(*NFAData); ok {
		return d.recordBytes()
	}
	return nil
}

// The data length means something else in every kind of value; it is never
// believed.
func TestAnyDataLength(t *testing.T) {
	for path, data := range samples(t) {
		for _, length := range []uint32{0, 1, uint32(len(data)), 1 << 31, ^uint32(0)} {
			changed := bytes.Clone(data)
			binary.LittleEndian.PutUint32(changed[16:], length)
			b, err := parseBlob(classOf(data), changed)
			if err != nil || !bytes.Equal(b.Bytes(), changed) {
				t.Errorf("%s with length %d: %v", path, length, err)
			}
		}
	}
}

// Whatever old Windows left in unused bytes changes nothing.
func TestGarbageIsNotRead(t *testing.T) {
	for path, data := range samples(t) {
		c := classOf(data)
		if c != ClassISAKMP && c != ClassNegotiation {
			continue
		}
		changed := bytes.Clone(data)
		switch c {
		case ClassISAKMP:
			for at := 84; at+64 <= len(data); at += 64 {
				for _, i := range []int{2, 3, 37, 38, 39, 41, 42, 43, 60, 61, 62, 63} {
					changed[at+i] = 0xcd
				}
			}
		case ClassNegotiation:
			for at := 24; at+80 <= len(data); at += 80 {
				used := 20 + 20*int(data[at+16])
				copy(changed[at+used:at+80], bytes.Repeat([]byte{0xcd}, 80))
			}
		}
		clean, err := parseBlob(c, data)
		if err != nil {
			t.Fatal(err)
		}
		dirty, err := parseBlob(c, changed)
		if err != nil || !bytes.Equal(dirty.Canonical(), clean.Canonical()) {
			t.Errorf("%s: %v", path, err)
		}
		if !bytes.Equal(dirty.Bytes(), changed) {
			t.Errorf("%s loses its garbage", path)
		}
	}
}

func TestCountsAreBounded(t *testing.T) {
	for path, data := range samples(t) {
		at := map[Class]int{ClassISAKMP: 80, ClassNegotiation: 20, ClassFilter: 20, ClassNFA: 20}[classOf(data)]
		if at == 0 {
			continue
		}
		changed := bytes.Clone(data)
		binary.LittleEndian.PutUint32(changed[at:], ^uint32(0))
		_, err := parseBlob(classOf(data), changed)
		if err == nil || !strings.Contains(err.Error(), "4294967295 ") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := ParsePolicy(append(readHex(t, "testdata/windows-xp/ipsecPolicy.hex"), make([]byte, MaxData)...)); err == nil || !strings.Contains(err.Error(), "more than 4128768") {
		t.Error(err)
	}
	if r := Decode(make([]Object, maxObjects+1)); len(r.Problems) != 1 || r.Problems[0].Warning {
		t.Error(r.Problems)
	}
}

func TestTheVersionObjectIsNoRule(t *testing.T) {
	objects := xpStore(t)
	version := Object{Ref: Ref{ClassNFA, versionObject()}, Name: "Version Information Object", Data: []byte{1}}
	objects[0].Refs = append(objects[0].Refs, version.Ref)
	if r := Decode(append(objects, version)); len(r.Problems) != 0 || len(r.Store.Policies) != 1 {
		t.Error(r.Problems)
	}
}

func TestGUIDs(t *testing.T) {
	const text = "{7238523C-70FA-11D1-864C-14A30000CAFE}"
	want := GUID{0x3c, 0x52, 0x38, 0x72, 0xfa, 0x70, 0xd1, 0x11, 0x86, 0x4c, 0x14, 0xa3, 0, 0, 0xca, 0xfe}
	for _, s := range []string{text, strings.ToLower(text), strings.Trim(text, "{}"), "{7238523C-70FA-11D1-864C-14A30000CAFE }", " " + text + " "} {
		if g, err := ParseGUID(s); err != nil || g != want || g.String() != text {
			t.Errorf("%q: %v %v", s, g, err)
		}
	}
	for _, s := range []string{"", "{}", text[:37], text[1:], text + "0", "{7238523C70FA11D1864C14A30000CAFE}", "{7238523C-70FA-11D1-864C-14A3-0000CAFE}", "{7238523C-70FA-11D1-864C14A30000CAFE--}", "{7238523C-70FA-11D1-864C-14A300----FE}", "{7238523X-70FA-11D1-864C-14A30000CAFE}"} {
		if g, err := ParseGUID(s); err == nil {
			t.Errorf("%q is %v", s, g)
		}
	}
	if r, err := parseDN("cn=IPSECnfa{7238523c-70fa-11d1-864c-14a30000cafe },CN=IP Security"); err != nil || r != (Ref{ClassNFA, want}) {
		t.Error(r, err)
	}
}
