package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/sadb"
)

// needTshark skips where tshark is not installed: it is another opinion.
func needTshark(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skipf("needs the Debian package tshark: %v", err)
	}
}

// pcap returns a capture file of raw IP packets.
func pcap(packets [][]byte) []byte {
	const linkRaw = 101
	out := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	out = append(out, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	out = binary.LittleEndian.AppendUint32(out, 1<<18)
	out = binary.LittleEndian.AppendUint32(out, linkRaw)
	for _, p := range packets {
		out = append(out, 1, 0, 0, 0, 0, 0, 0, 0)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(p)))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}

// tsharkSA is a line of tshark's table of ESP associations.
func tsharkSA(a sadb.SA) string {
	enc := map[sadb.Encryption]string{sadb.Null: "NULL", sadb.DES: "DES-CBC [RFC2405]", sadb.TripleDES: "TripleDES-CBC [RFC2451]",
		sadb.AESCBC: "AES-CBC [RFC3602]", sadb.AESGCM: "AES-GCM with 16 octet ICV [RFC4106]"}[a.Suite.Encryption]
	auth := map[sadb.Integrity]string{sadb.IntegrityNone: "NULL",
		sadb.HMACMD5: "HMAC-MD5-96 [RFC2403]", sadb.HMACSHA1: "HMAC-SHA-1-96 [RFC2404]", sadb.HMACSHA256: "HMAC-SHA-256-128 [RFC4868]",
		sadb.HMACSHA384: "HMAC-SHA-384-192 [RFC4868]", sadb.HMACSHA512: "HMAC-SHA-512-256 [RFC4868]"}[a.Suite.Integrity]
	family := "IPv4"
	if a.Src.Is6() {
		family = "IPv6"
	}
	key := func(s sadb.Secret) string {
		if s.Len() == 0 {
			return ""
		}
		return "0x" + hex.EncodeToString(s.Bytes())
	}
	return fmt.Sprintf(`uat:esp_sa:"%s","%s","%s","%s","%s","%s","%s","%s"`,
		family, a.Src, a.ID.Dst, a.ID.SPI, enc, key(a.EncKey), auth, key(a.AuthKey))
}

// TestTsharkReadsOurs: tshark decrypts what we seal, finds its ICV good, and
// sees the datagram inside; AH it takes apart.
func TestTsharkReadsOurs(t *testing.T) {
	needTshark(t)
	args := []string{"-n", "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
		"-T", "fields", "-E", "occurrence=l", "-e", "esp.spi", "-e", "ah.spi", "-e", "esp.icv_good", "-e", "udp.payload"}
	var packets [][]byte
	var cases []scapyCase
	for i, c := range scapyCases(t) {
		if c.sa.ESN {
			continue // tshark does not know which numbers are extended
		}
		c.sa.ID.SPI = sadb.SPI(0x2000 + i)
		if !c.sa.Encap.IsZero() {
			c.sa.Encap.Remote = addrPort(c.sa.ID.Dst)
		}
		cases = append(cases, c)
		packets = append(packets, seal(t, outbound(t, c.sa), c.packet))
		if c.sa.ID.Proto == sadb.ESP {
			args = append(args, "-o", tsharkSA(c.sa))
		}
	}
	file := filepath.Join(t.TempDir(), "ours.pcap")
	if err := os.WriteFile(file, pcap(packets), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", append([]string{"-r", file}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s", err, stderr.Bytes())
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(lines) != len(cases) {
		t.Fatalf("%d lines for %d packets: %s", len(lines), len(cases), stderr.Bytes())
	}
	for i, line := range lines {
		judge(t, cases[i], strings.Split(line, "\t"))
	}
}

// judge compares what tshark says of a packet with what went in.
func judge(t *testing.T, c scapyCase, got []string) {
	t.Helper()
	h, err := Parse(c.packet)
	if err != nil {
		t.Fatal(err)
	}
	spi, good := got[0], got[2]
	if c.sa.ID.Proto == sadb.AH {
		spi, good = got[1], "1" // of AH tshark checks no ICV
	}
	if c.sa.Suite.Encryption == sadb.AESGCM {
		good = "1" // its ICV is checked by decrypting
	}
	payload := hex.EncodeToString(c.packet[h.Upper+udpLen:])
	if spi != c.sa.ID.SPI.String() || good != "1" && good != "True" || got[3] != payload {
		t.Errorf("%s: tshark says SPI %s, ICV good %q, payload %s; want %s", c.name, spi, good, got[3], payload)
	}
}
