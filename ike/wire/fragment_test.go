package wire

import (
	"bytes"
	"testing"
)

func wholeMessage(n int) []byte {
	body := bytes.Repeat([]byte{0xa5}, n-HeaderLen-genericLen)
	h := Header{ICookie: [8]byte{1}, RCookie: [8]byte{2}, Version: Version1, Exchange: MainMode, Flags: FlagEncrypted, MessageID: 7}
	return AppendClear(nil, h, []Payload{{Type: NoncePayload, Body: body}})
}

func TestSplitAndParse(t *testing.T) {
	for _, size := range []int{548, 1200, 1232} {
		for _, n := range []int{549, 1201, 4000, 60000} {
			message := wholeMessage(n)
			var joined []byte
			pieces := Split(message, 9, size)
			for i, data := range pieces {
				h, body, err := ParseHeader(data)
				if err != nil || h.Next != FragmentPayload || h.Encrypted() || h.MessageID != 7 || h.ICookie != [8]byte{1} || h.Exchange != MainMode {
					t.Fatalf("%d in %d: %+v %v", n, size, h, err)
				}
				f, err := ParseFragment(body)
				if err != nil || f.ID != 9 || int(f.Number) != i+1 || f.Last != (i == len(pieces)-1) {
					t.Fatalf("%d in %d: fragment %d: %+v %v", n, size, i, f, err)
				}
				if len(data) > size && len(pieces) < MaxFragments {
					t.Errorf("%d in %d: a datagram of %d bytes", n, size, len(data))
				}
				joined = append(joined, f.Data...)
			}
			if len(pieces) > MaxFragments || !bytes.Equal(joined, message) {
				t.Errorf("%d in %d: %d pieces", n, size, len(pieces))
			}
		}
	}
}

func TestMalformedFragments(t *testing.T) {
	good := AppendChain(nil, []Payload{{Type: FragmentPayload, Body: Fragment{ID: 1, Number: 1, Data: []byte("x")}.Append(nil)}})
	if _, err := ParseFragment(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if _, err := ParseFragment(good[:i]); err == nil {
			t.Errorf("%d bytes of %d are taken", i, len(good))
		}
	}
	for name, f := range map[string]Fragment{"number 0": {ID: 1, Data: []byte("x")}, "number 33": {ID: 1, Number: 33, Data: []byte("x")}, "empty": {ID: 1, Number: 1}} {
		if _, err := ParseFragment(AppendChain(nil, []Payload{{Type: FragmentPayload, Body: f.Append(nil)}})); err == nil {
			t.Error(name)
		}
	}
	two := AppendChain(nil, []Payload{{Type: FragmentPayload, Body: Fragment{ID: 1, Number: 1, Data: []byte("x")}.Append(nil)}, {Type: NoncePayload, Body: []byte("x")}})
	if _, err := ParseFragment(two); err == nil {
		t.Error("something beside the fragment is taken")
	}
}

func FuzzFragment(f *testing.F) {
	for _, data := range Split(wholeMessage(3000), 1, 548) {
		f.Add(data[HeaderLen:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseFragment(b)
		if err != nil {
			return
		}
		if got.Number == 0 || got.Number > MaxFragments || len(got.Data) == 0 || len(got.Data) > len(b) {
			t.Errorf("%+v", got)
		}
	})
}
