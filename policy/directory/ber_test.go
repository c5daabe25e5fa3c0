package directory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	ber "github.com/go-asn1-ber/asn1-ber"

	"ipsecagent/policy/gpipsec"
)

// message is one that servers send: the answer to a search, with an entry.
func message() []byte {
	values := tlv(0x31, tlv(tagOctetString, []byte("one")), tlv(tagOctetString, bytes.Repeat([]byte("x"), 300)))
	attributes := tlv(tagSequence, tlv(tagSequence, tlv(tagOctetString, []byte("cn")), values))
	return tlv(tagSequence, tlv(tagInteger, []byte{5}), tlv(0x64, tlv(tagOctetString, []byte("CN=x")), attributes))
}

// anySize takes messages of any size.
func anySize() int { return maxMessage }

func TestOneMessageIsReadAndNotAByteMore(t *testing.T) {
	m := message()
	r := iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(m), 0x30, 0x05)))
	got, err := readMessage(r, anySize)
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
		_, err := readMessage(bytes.NewReader(m[:n]), anySize)
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
		_, err := readMessage(bytes.NewReader(c.b), anySize)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// bomb is one message made of as many empty elements as it has room for, within
// the parts that are given.
func bomb(size int, tags ...byte) []byte {
	b := bytes.Repeat([]byte{tagOctetString, 0}, size/2)
	for _, tag := range tags {
		b = tlv4(tag, b)
	}
	return tlv4(tagSequence, tlv(tagInteger, []byte{1}), b)
}

// Whoever answers on the connection, before it has proven anything, costs this
// host no more memory than its message is worth.
func TestMessagesCostNoMoreMemoryThanTheyAreWorth(t *testing.T) {
	values := make([][]byte, 1500)
	for i := range values {
		values[i] = fmt.Appendf(nil, "CN=ipsecFilter{7238523A-70FA-11D1-864C-%012X},CN=IP Security,CN=System,DC=x", i)
	}
	sids := make([][]byte, 1024)
	for i := range sids {
		sids[i] = make([]byte, 28)
	}
	entry := func(values ...[]byte) []byte {
		return tlv4(tagSequence, tlv(tagInteger, []byte{1}), found("cn=a,dc=x", "a", values...))
	}
	for _, c := range []struct {
		name  string
		m     []byte
		bound bool // the server has proven itself
		is    error
	}{
		{"many small elements", bomb(3<<20, 0x61), true, ErrTooLarge},
		{"before the server has proven itself", bomb(60<<10, 0x61), false, ErrTooLarge},
		{"a large one before that", entry(make([]byte, maxUnbound)), false, ErrTooLarge},
		{"one more than free", bomb(4*freeElements, 0x61), true, ErrTooLarge},
		{"in a control", bomb(2<<20, tagOctetString, tagSequence, tagControls), true, ErrTooLarge},
		{"in an intermediate response", bomb(2<<20, 0x81, tagPartly), true, ErrTooLarge},
		{"nested and large", bomb(0, bytes.Repeat([]byte{tagSequence}, maxDepth+1)...), true, errBER},
		{"a long list of references", entry(values...), true, nil},
		{"many groups", entry(sids...), true, nil},
		{"the largest value", entry(make([]byte, gpipsec.MaxData)), true, nil},
		{"the answer to a bind", tlv4(tagSequence, tlv(tagInteger, []byte{1}), result(0x61, 0)), false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			go theirs.Write(c.m) //nolint:errcheck // it may be refused
			g := newGate(ours, ours)
			defer g.Close()
			g.bound.Store(c.bound)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := ber.ReadPacket(g)
			runtime.ReadMemStats(&after)
			if c.is == nil && err != nil || !errors.Is(err, c.is) {
				t.Errorf("%v, not %v", err, c.is)
			}
			most := 64 * len(c.m) // the library copies a value for each element that it is in, and lets most of it go at once
			if c.is != nil {
				most = 4 * len(c.m) // it never hears of it
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > uint64(most+128<<10) {
				t.Errorf("%d bytes took %d", len(c.m), used)
			}
		})
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(message())
	f.Add([]byte{0x30, 0x84, 0, 0, 0, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readMessage(bytes.NewReader(b), anySize)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, got) || checkMessage(got) != nil {
			t.Errorf("read as %x", got)
		}
	})
}
