package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"ipsecagent/sadb"
)

// Packets that strongSwan 5.9.8 made, with the keys it had negotiated.
type strongswanPacket struct {
	Name, Suite, Enc, Integ string
	Packet                  string // ESP header to ICV
	Plain                   string // payload, padding, trailer
}

func load(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestStrongswanPackets(t *testing.T) {
	var packets []strongswanPacket
	load(t, "strongswan.json", &packets)
	if len(packets) < 18 {
		t.Fatalf("%d packets", len(packets))
	}
	for i, p := range packets {
		t.Run(fmt.Sprintf("%s/%d/%s", p.Name, i, p.Suite), func(t *testing.T) {
			wire, plain := unhex(t, p.Packet), unhex(t, p.Plain)
			a := sa(t, p.Suite, sadb.In, sadb.Tunnel, false)
			a.ID.SPI = sadb.SPI(binary.BigEndian.Uint32(wire))
			a.EncKey, a.AuthKey = sadb.NewSecret(unhex(t, p.Enc)), sadb.NewSecret(unhex(t, p.Integ))
			in := inbound(t, a)
			outer := ip(t, alice4, bob4, protoESP, wire)
			inner, info, err := in.Open(outer)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(plain, inner) || len(inner) != 84 || info.Next != protoIPv4 || info.Seq != uint64(binary.BigEndian.Uint32(wire[4:])) {
				t.Errorf("inner %x, info %+v", inner, info)
			}
			if got := resealed(in.t, wire, plain); !bytes.Equal(got, wire) {
				t.Errorf("sealed with the same IV:\n got %x\nwant %x", got, wire)
			}
		})
	}
}

// resealed protects plain with header and IV of wire.
func resealed(tr *transform, wire, plain []byte) []byte {
	buf := append(append([]byte(nil), wire[:headerLen+tr.ivLen]...), plain...)
	n := len(buf)
	buf = append(buf, make([]byte, tr.icvLen)...)
	tr.seal(buf[:n], uint64(binary.BigEndian.Uint32(wire[4:])))
	return buf
}

// RFC 3602 §4 cases 5 to 8 are packets without integrity, which we neither send
// nor accept: they pin layout and cipher up to the ICV.
func TestRFC3602(t *testing.T) {
	var cases map[string]struct{ Key, IV, SPISeq, Plaintext, Ciphertext, IP string }
	b, err := os.ReadFile("testdata/rfc3602.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(bytes.ReplaceAll(b, []byte("spi_seq"), []byte("SPISeq")), &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 4 {
		t.Fatalf("%d cases", len(cases))
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := sa(t, "esp-aes128-sha256", sadb.In, sadb.Transport, false)
			a.EncKey = sadb.NewSecret(unhex(t, c.Key))
			a.ID.SPI = sadb.SPI(binary.BigEndian.Uint32(unhex(t, c.SPISeq)))
			plain := unhex(t, c.Plaintext)
			if plain[len(plain)-1] == protoIPv4 {
				a.Mode = sadb.Tunnel
			}
			in := inbound(t, a)
			want := unhex(t, c.SPISeq+c.IV+c.Ciphertext)
			wire := resealed(in.t, want, plain)
			if !bytes.Equal(wire[:len(want)], want) {
				t.Fatalf("got %x\nwant %x", wire[:len(want)], want)
			}
			head := unhex(t, c.IP)
			if Checksum(head) != 0 {
				t.Errorf("the RFC's IP header has checksum %04x over it", Checksum(head))
			}
			outer := append(head, wire...)
			setLength(outer, len(outer))
			_, info, err := in.Open(outer)
			if err != nil || !bytes.HasPrefix(plain, wireOf(outer, in, info)) || info.Len != len(plain)-2-int(plain[len(plain)-2]) {
				t.Errorf("opened: %v, %+v", err, info)
			}
		})
	}
}

// wireOf returns the decrypted payload where Open left it.
func wireOf(outer []byte, in *Inbound, info Opened) []byte {
	at := ipv4Min + headerLen + in.t.ivLen
	return outer[at : at+info.Len]
}
