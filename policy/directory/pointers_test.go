package directory

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// TestAHiddenGroupIsNotPassedOver: groups have no order, so that it counts
// whichever the server names first.
func TestAHiddenGroupIsNotPassedOver(t *testing.T) {
	pointing := entry("cn=a,dc=x", attrClass, "groupOfNames", attrPointer, estatePolicy)
	hidden := entry("cn=b,dc=x")
	for name, groups := range map[string][][]byte{"first": {hidden, pointing}, "last": {pointing, hidden}} {
		t.Run(name, func(t *testing.T) {
			s := newToy(t)
			s.answer = func(w io.Writer, id []byte, request element) {
				if bytes.Contains(request.content, []byte("uniqueMember")) {
					for _, g := range groups {
						reply(w, id, g)
					}
				} else {
					reply(w, id, entry("cn=me,dc=x", attrClass, "device"))
				}
				reply(w, id, result(0x65, 0))
			}
			if r, err := s.connect(soon(t)).Resolve(soon(t), "", ""); !errors.Is(err, ErrUnreadable) {
				t.Errorf("%+v, %v", r.Considered, err)
			}
		})
	}
}

// TestWhatIsAskedForIsWhatHasChanged: a server that was last written to years ago
// does not make hosts ask for all that has changed since.
func TestWhatIsAskedForIsWhatHasChanged(t *testing.T) {
	const (
		old    = "20200101000000.000000Z#000000#001#000000"
		before = "20261121120000.000000Z#000000#002#000000"
		now    = "20261121120001.000000Z#000000#002#000000"
	)
	for _, code := range []byte{0, 4} {
		var asked []byte
		s := newToy(t)
		s.answer = func(w io.Writer, id []byte, request element) {
			if bytes.Contains(request.content, []byte("contextCSN")) {
				reply(w, id, tlv(0x64, tlv(tagOctetString, []byte("dc=x")), tlv(tagSequence, tlv(tagSequence, tlv(tagOctetString, []byte("contextCSN")),
					tlv(0x31, tlv(tagOctetString, []byte(old)), tlv(tagOctetString, []byte(now)))))))
				reply(w, id, result(0x65, 0))
				return
			}
			asked = bytes.Clone(request.content)
			reply(w, id, result(0x65, code))
		}
		a := &Answer{seen: seen{version: version{csn: old + " " + before}, computer: "cn=me,dc=x"}}
		moved, err := s.connect(soon(t)).movedMeanwhile(soon(t), a)
		if code == 0 && (moved || err != nil) || code == 4 && !errors.Is(err, ErrChanging) {
			t.Errorf("code %d: %v, %v", code, moved, err)
		}
		if bytes.Contains(asked, []byte(old)) || !bytes.Contains(asked, []byte(before)) {
			t.Errorf("asked for %q", asked)
		}
	}
}
