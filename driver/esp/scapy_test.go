package esp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	"ipsecagent/sadb"
)

// scapyJob is one packet for testdata/scapy_esp.py.
type scapyJob struct {
	Op     string `json:"op"` // seal or open
	Src    string `json:"src"`
	Dst    string `json:"dst"`
	SPI    uint32 `json:"spi"`
	Seq    uint64 `json:"seq"`
	ESN    bool   `json:"esn"`
	AH     bool   `json:"ah"`
	Sport  uint16 `json:"sport"` // 0: not in UDP
	Dport  uint16 `json:"dport"`
	Tunnel bool   `json:"tunnel"`
	Crypt  string `json:"crypt"`
	Auth   string `json:"auth"`
	Enc    string `json:"enc"`
	Integ  string `json:"integ"`
	Packet string `json:"packet"`
}

type scapyResult struct{ Packet, Error string }

const python = "/usr/bin/python3"

// needScapy skips where Debian's python3-scapy is not installed: it is a second
// opinion, and the known answers stand without it.
func needScapy(t *testing.T) {
	t.Helper()
	if out, err := exec.Command(python, "-c", "import scapy.layers.ipsec, cryptography").CombinedOutput(); err != nil {
		t.Skipf("needs the Debian package python3-scapy: %v: %s", err, out)
	}
}

func scapy(t *testing.T, jobs []scapyJob) []scapyResult {
	t.Helper()
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/scapy_esp.py")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scapy: %v: %s", err, stderr.Bytes())
	}
	var results []scapyResult
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatal(err)
	}
	if len(results) != len(jobs) {
		t.Fatalf("%d results for %d jobs", len(results), len(jobs))
	}
	return results
}

// scapyNames returns scapy's names of a suite's algorithms.
func scapyNames(s sadb.Suite) (crypt, auth string) {
	crypt = map[sadb.Encryption]string{sadb.Null: "NULL", sadb.DES: "DES", sadb.TripleDES: "3DES",
		sadb.AESCBC: "AES-CBC", sadb.AESGCM: "AES-GCM"}[s.Encryption]
	auth = map[sadb.Integrity]string{sadb.HMACMD5: "HMAC-MD5-96", sadb.HMACSHA1: "HMAC-SHA1-96", sadb.HMACSHA256: "SHA2-256-128",
		sadb.HMACSHA384: "SHA2-384-192", sadb.HMACSHA512: "SHA2-512-256"}[s.Integrity]
	return crypt, auth
}

// scapyCase is one packet under one association.
type scapyCase struct {
	name   string
	sa     sadb.SA
	seq    uint64
	packet []byte
}

// scapyCases is every suite in both modes over both families, with extended
// numbers and without, ESP plain and in UDP, and the headers that transport
// mode must step over.
func scapyCases(t *testing.T) []scapyCase {
	var all []scapyCase
	for i, name := range allNames() {
		for shape := range 16 {
			v6, mode, esn := shape&1 != 0, sadb.Mode(shape>>1&1), shape&4 != 0
			p := udp(t, alice4, bob4, 20+i)
			switch {
			case v6 && i%2 == 0 && mode == sadb.Transport:
				p = withExtensions(udp(t, alice6, bob6, 20+i), protoHopByHop, protoDestOpts, protoRouting)
			case v6:
				p = udp(t, alice6, bob6, 20+i)
			case i%2 == 0:
				p = withOptions(p, []byte{0x94, 4, 0, 0})
			}
			a := sa(t, name, sadb.Out, mode, v6)
			a.ESN = esn
			if shape&8 != 0 {
				if a.ID.Proto == sadb.AH {
					continue
				}
				a.Encap = sadb.Encap{Local: addrPort(a.Src), Remote: netip.AddrPortFrom(a.ID.Dst, 61234)}
			}
			c := scapyCase{fmt.Sprintf("%s %s v6=%v esn=%v udp=%v", name, mode, v6, esn, !a.Encap.IsZero()), a, uint64(7 + i), p}
			if esn {
				c.seq += 3 << 32
			}
			all = append(all, c)
		}
	}
	return all
}

func (c scapyCase) job(op string, packet []byte) scapyJob {
	crypt, auth := scapyNames(c.sa.Suite)
	return scapyJob{Op: op, Src: c.sa.Src.String(), Dst: c.sa.ID.Dst.String(), SPI: uint32(c.sa.ID.SPI), Seq: c.seq, ESN: c.sa.ESN,
		AH: c.sa.ID.Proto == sadb.AH, Sport: c.sa.Encap.Local.Port(), Dport: c.sa.Encap.Remote.Port(),
		Tunnel: c.sa.Mode == sadb.Tunnel, Crypt: crypt, Auth: auth, Enc: hex.EncodeToString(c.sa.EncKey.Bytes()),
		Integ: hex.EncodeToString(c.sa.AuthKey.Bytes()), Packet: hex.EncodeToString(packet)}
}

func TestScapyOpensOurs(t *testing.T) {
	needScapy(t)
	cases := scapyCases(t)
	var jobs []scapyJob
	for _, c := range cases {
		o := outbound(t, c.sa)
		o.next.Store(c.seq - 1)
		jobs = append(jobs, c.job("open", seal(t, o, c.packet)))
	}
	for i, r := range scapy(t, jobs) {
		if want := hex.EncodeToString(cases[i].packet); r.Packet != want {
			t.Errorf("%s: %s\n got %s\nwant %s", cases[i].name, r.Error, r.Packet, want)
		}
	}
}

func TestWeOpenScapys(t *testing.T) {
	needScapy(t)
	cases := scapyCases(t)
	var jobs []scapyJob
	for _, c := range cases {
		jobs = append(jobs, c.job("seal", c.packet))
	}
	for i, r := range scapy(t, jobs) {
		c := cases[i]
		if r.Error != "" {
			t.Errorf("%s: scapy: %s", c.name, r.Error)
			continue
		}
		in := inbound(t, c.sa)
		in.w.top = max(c.seq, 2) - 2
		wire := unhex(t, r.Packet)
		if !c.sa.Encap.IsZero() {
			wire = withoutUDP(t, wire)
		}
		got, info, err := in.Open(wire)
		if err != nil || !bytes.Equal(got, c.packet) || info.Seq != c.seq {
			t.Errorf("%s: %v, %+v\n got %x\nwant %x", c.name, err, info, got, c.packet)
		}
	}
}
