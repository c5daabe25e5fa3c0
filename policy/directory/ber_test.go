package directory

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// message is one that servers send: the answer to a search, with an entry.
func message() []byte {
	values := tlv(0x31, tlv(tagOctetString, []byte("one")), tlv(tagOctetString, bytes.Repeat([]byte("x"), 300)))
	attributes := tlv(tagSequence, tlv(tagSequence, tlv(tagOctetString, []byte("cn")), values))
	return tlv(tagSequence, tlv(tagInteger, []byte{5}), tlv(0x64, tlv(tagOctetString, []byte("CN=x")), attributes))
}

func TestOneMessageIsReadAndNotAByteMore(t *testing.T) {
	m := message()
	r := iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(m), 0x30, 0x05)))
	got, err := readMessage(r)
	if err != nil || !bytes.Equal(got, m) {
		t.Fatalf("%x, %v", got, err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(rest, []byte{0x30, 0x05}) {
		t.Errorf("left over: %x, %v", rest, err)
	}
}

func TestEveryPrefixOfAMessageIsRefused(t *testing.T) {
	m := message()
	for n := range m {
		_, err := readMessage(bytes.NewReader(m[:n]))
		if n == 0 && !errors.Is(err, io.EOF) || n > 0 && n < 2 && err == nil || n >= 2 && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestMessagesThatHarmAreRefused(t *testing.T) {
	deep := []byte{tagOctetString, 0}
	for range maxDepth + 2 {
		deep = tlv(tagSequence, deep)
	}
	for _, c := range []struct {
		name, says string
		b          []byte
	}{
		{"no sequence", "begins with", []byte{0x04, 0x00}},
		{"of no end", "form 80", []byte{0x30, 0x80, 0, 0}},
		{"a length of five octets", "form 85", []byte{0x30, 0x85, 1, 1, 1, 1, 1}},
		{"too large", "more than", []byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}},
		{"too large in 32 bits", "more than", []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}},
		{"nested", "deeper", deep},
		{"an element beyond its parent", "ends within", []byte{0x30, 0x03, 0x02, 0x05, 0x01}},
		{"a tag of several octets", "tag 1f", []byte{0x30, 0x03, 0x1f, 0x81, 0x01}},
		{"half an element", "ends within", []byte{0x30, 0x01, 0x02}},
	} {
		_, err := readMessage(bytes.NewReader(c.b))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(message())
	f.Add([]byte{0x30, 0x84, 0, 0, 0, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, got) || checkBER(got, 0) != nil {
			t.Errorf("read as %x", got)
		}
	})
}
