package wire

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"ipsecagent/sadb"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// said is one message of a kernel.
type said struct {
	typ  uint16
	body []byte
}

// kernels returns what kernels said (capture_test.go), by name of the file and
// of the message.
func kernels(t testing.TB) map[string]map[string]said {
	t.Helper()
	files, err := filepath.Glob("testdata/kernel-*.txt")
	if err != nil || len(files) < 2 {
		t.Fatalf("captures of kernels: %v, %v", files, err)
	}
	out := map[string]map[string]said{}
	for _, f := range files {
		out[f] = messages(t, f)
	}
	return out
}

func messages(t testing.TB, file string) map[string]said {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]said{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		typ, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		body, err := hex.DecodeString(f[2])
		if err != nil {
			t.Fatal(err)
		}
		out[f[0]] = said{uint16(typ), body}
	}
	return out
}

// eachCaptured calls check for a message of every kernel that said it. At least
// the 6.1 of the captures, which has ESP and AH, must have.
func eachCaptured(t *testing.T, name string, typ uint16, check func(t *testing.T, body []byte)) {
	t.Helper()
	for file, all := range kernels(t) {
		m, ok := all[name]
		if !ok {
			if strings.Contains(file, "6.1.txt") {
				t.Errorf("%s: no %s", file, name)
			}
			continue
		}
		t.Run(filepath.Base(file)+"/"+name, func(t *testing.T) {
			if m.typ != typ {
				t.Fatalf("message of type %#x, want %#x", m.typ, typ)
			}
			check(t, m.body)
		})
	}
}

// The policies that iproute2 made for the captures.
func capturedPolicies() map[string]Policy {
	return map[string]Policy{
		"policy-v4": {
			Selector: Selector{Src: prefix("10.9.0.0/24"), Dst: prefix("10.9.0.2/32"), Proto: sadb.UDP,
				SrcPort: PortMask{40000, 0xffff}, DstPort: PortMask{7000, 0xffff}},
			Dir: Out, Priority: 4660, Mark: Mark{0, 0x2000000},
			Templates: []Template{{Family: IPv4, Proto: sadb.ESP, ReqID: 7}},
		},
		"policy-v6": {
			Selector: Selector{Src: prefix("2001:db8::/32"), Dst: prefix("fd00::/8")},
			Dir:      In, Priority: 9,
			Templates: []Template{
				{Family: IPv6, Src: addr("2001:db8::1"), Dst: addr("2001:db8::2"), Proto: sadb.ESP, ReqID: 8, Mode: sadb.Tunnel},
				{Family: IPv6, Proto: sadb.AH, ReqID: 8, Optional: true},
			},
		},
		"policy-block": {
			Selector: Selector{Src: prefix("::/0"), Dst: prefix("::/0"), Proto: sadb.ICMPv6,
				SrcPort: PortMask{128, 0xffff}, DstPort: PortMask{0, 0xffff}},
			Dir: Forward, Action: Block, Priority: 77,
		},
		"policy-limits": {
			Selector: Selector{Src: prefix("0.0.0.0/0"), Dst: prefix("192.0.2.0/24")},
			Dir:      Out, Priority: 5, IfID: 3, Lifetime: sadb.Lifetime{Hard: sadb.Limits{Time: time.Hour}},
		},
	}
}

// comparable clears what the kernel says of its own.
func (p Policy) comparable() Policy {
	p.Index, p.Use = 0, Use{}
	return p
}

func TestPoliciesOfKernels(t *testing.T) {
	for name, want := range capturedPolicies() {
		for _, suffix := range []string{".0", "-event.0"} {
			eachCaptured(t, name+suffix, MsgNewPolicy, func(t *testing.T, body []byte) {
				got, err := ParsePolicy(body)
				if err != nil || !reflect.DeepEqual(got.comparable(), want) {
					t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
				}
				if got.Index == 0 || got.Use.Added.IsZero() {
					t.Errorf("no index or no time of making: %+v", got)
				}
			})
		}
		eachCaptured(t, name+"-deleted.0", MsgDelPolicy, func(t *testing.T, body []byte) {
			got, err := ParseDeletedPolicy(body)
			if err != nil || !reflect.DeepEqual(got.comparable(), want) {
				t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
}

// What is sent is what the kernel sends, but for what it says of its own.
func TestPoliciesAreWrittenAsTheKernelDoes(t *testing.T) {
	for name, p := range capturedPolicies() {
		eachCaptured(t, name+".0", MsgNewPolicy, func(t *testing.T, body []byte) {
			kernel := bytes.Clone(body)
			clear(kernel[120:152])
			clear(kernel[156:160])
			got := p.Append(nil)
			if !bytes.Equal(got[:sizePolicy], kernel[:sizePolicy]) {
				t.Errorf("fixed part:\n got %x\nwant %x", got[:sizePolicy], kernel[:sizePolicy])
			}
			if want := attributes(t, kernel[sizePolicy:]); !reflect.DeepEqual(attributes(t, got[sizePolicy:]), only(want, attrTemplates, attrMark, attrIfID)) {
				t.Errorf("attributes:\n got %x\nwant %x", got[sizePolicy:], want)
			}
		})
	}
}

func attributes(t *testing.T, b []byte) map[uint16]string {
	t.Helper()
	all := map[uint16]string{}
	if err := eachAttr(b, func(typ uint16, p []byte) error { all[typ] = string(p); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func only(all map[uint16]string, types ...uint16) map[uint16]string {
	out := map[uint16]string{}
	for _, typ := range types {
		if v, ok := all[typ]; ok {
			out[typ] = v
		}
	}
	return out
}

func suite(t testing.TB, name string) sadb.Suite {
	t.Helper()
	s, err := sadb.ParseSuite(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func key(n int) sadb.Secret { return sadb.NewSecret(bytes.Repeat([]byte{0x0b}, n)) }

func id(dst string, p sadb.Proto, spi sadb.SPI) sadb.SAID {
	return sadb.SAID{Dst: addr(dst), Proto: p, SPI: spi}
}

// The states that iproute2 made for the captures.
func capturedStates(t testing.TB) map[string]State {
	return map[string]State{
		"state-gcm": {ID: id("10.9.0.2", sadb.ESP, 0x1001), Src: addr("10.9.0.1"), ReqID: 7, Flags: FlagESN, Window: 64,
			Selector: Selector{Src: prefix("10.9.0.1/32"), Dst: prefix("10.9.0.2/32"), Proto: sadb.UDP, DstPort: PortMask{7000, 0xffff}},
			SetMark:  Mark{0x2000000, 0x2000000}, Suite: suite(t, "esp-aes128gcm"), EncKey: key(20)},
		"state-cbc": {ID: id("2001:db8::2", sadb.ESP, 0x1002), Src: addr("2001:db8::1"), ReqID: 8, Mode: sadb.Tunnel, Flags: FlagAnyFamily, Window: 32,
			Lifetime: sadb.Lifetime{Soft: sadb.Limits{Time: 5 * time.Minute, Packets: 5}, Hard: sadb.Limits{Time: time.Hour, Bytes: 1e6}},
			Suite:    suite(t, "esp-aes128-sha256"), EncKey: key(16), AuthKey: key(32)},
		"state-nat": {ID: id("10.9.0.3", sadb.ESP, 0x1003), Src: addr("10.9.0.1"), ReqID: 9, Encap: Encap{4500, 61000}, Selector: Selector{Src: prefix("0.0.0.0/0"), Dst: prefix("0.0.0.0/0")},
			Suite: suite(t, "esp-null-sha1"), AuthKey: key(20)},
		"state-ah": {ID: id("10.9.0.4", sadb.AH, 0x1004), Src: addr("10.9.0.1"), ReqID: 9, IfID: 5, Selector: Selector{Src: prefix("0.0.0.0/0"), Dst: prefix("0.0.0.0/0")},
			Suite: suite(t, "ah-md5"), AuthKey: key(16)},
	}
}

// readBack returns what can be read back of a state that was written.
func (s State) readBack() State {
	s.Suite, s.EncKey, s.AuthKey, s.Use = sadb.Suite{}, sadb.Secret{}, sadb.Secret{}, Use{}
	return s
}

func TestStatesOfKernels(t *testing.T) {
	for name, want := range capturedStates(t) {
		eachCaptured(t, name+".0", MsgNewSA, func(t *testing.T, body []byte) {
			got, err := ParseState(body)
			if err != nil || !reflect.DeepEqual(got.readBack(), want.readBack()) {
				t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
			}
			if got.Use.Added.IsZero() {
				t.Error("no time of making")
			}
		})
		eachCaptured(t, name+"-deleted.0", MsgDelSA, func(t *testing.T, body []byte) {
			if got, err := ParseDeletedState(body); err != nil || got != want.ID {
				t.Errorf("got %s, %v, want %s", got, err, want.ID)
			}
		})
	}
}

// Algorithms, keys and all else that iproute2 said, the kernel returns; ours
// must be the same bytes.
func TestStatesAreWrittenAsTheKernelDoes(t *testing.T) {
	for name, s := range capturedStates(t) {
		eachCaptured(t, name+".0", MsgNewSA, func(t *testing.T, body []byte) {
			got, err := s.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			kernel := bytes.Clone(body)
			clear(kernel[160:192]) // what has gone through
			kernel[215] = 0        // the short window
			if !bytes.Equal(got[:sizeState], kernel[:sizeState]) {
				t.Errorf("fixed part:\n got %x\nwant %x", got[:sizeState], kernel[:sizeState])
			}
			ours := attributes(t, got[sizeState:])
			want := only(attributes(t, kernel[sizeState:]), attrAlgAEAD, attrAlgCrypt, attrAlgAuthTrunc, attrEncap, attrMark, attrIfID, attrSetMark, attrSetMarkMask, attrReplayESN)
			if s.Flags&FlagESN == 0 {
				delete(ours, attrReplayESN) // iproute2 takes the short form
			}
			if !reflect.DeepEqual(ours, want) {
				t.Errorf("attributes:\n got %x\nwant %x", ours, want)
			}
		})
	}
}

func TestAcquireOfKernels(t *testing.T) {
	for name, want := range map[string]Acquire{
		"acquire-v4.0": {ID: id("10.9.0.2", sadb.ESP, 0), Src: addr("10.9.0.1"), Policy: capturedPolicies()["policy-v4"],
			Selector: Selector{Src: prefix("10.9.0.1/32"), Dst: prefix("10.9.0.2/32"), Proto: sadb.UDP,
				SrcPort: PortMask{40000, 0xffff}, DstPort: PortMask{7000, 0xffff}}},
		"acquire-v6.0": {ID: id("fd09::2", sadb.AH, 0), Src: addr("fd09::1"),
			Policy: Policy{Selector: Selector{Src: prefix("fd09::/64"), Dst: prefix("fd09::2/128")}, Dir: Out, Priority: 1,
				Templates: []Template{{Family: IPv6, Proto: sadb.AH, ReqID: 7, Optional: true}}},
			Selector: Selector{Src: prefix("fd09::1/128"), Dst: prefix("fd09::2/128"), Proto: sadb.UDP,
				SrcPort: PortMask{40000, 0xffff}, DstPort: PortMask{7000, 0xffff}}},
	} {
		eachCaptured(t, name, MsgAcquire, func(t *testing.T, body []byte) {
			got, err := ParseAcquire(body)
			if err != nil || got.Seq == 0 {
				t.Fatalf("%+v, %v", got, err)
			}
			got.Seq, got.Policy = 0, got.Policy.comparable()
			got.Selector.IfIndex = 0 // the interface of the route, where the kernel says it
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestExpiriesOfKernels(t *testing.T) {
	for name, hard := range map[string]bool{"expire.0": false, "expire.1": true} {
		eachCaptured(t, name, MsgExpire, func(t *testing.T, body []byte) {
			got, err := ParseExpire(body)
			if err != nil || got.Hard != hard || got.State.ID != id("10.9.0.5", sadb.ESP, 0x1005) || got.State.ReqID != 9 {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	eachCaptured(t, "polexpire.0", MsgPolExpire, func(t *testing.T, body []byte) {
		got, err := ParsePolicyExpire(body)
		if err != nil || !got.Hard || got.Policy.Mark != (Mark{0, 0x2000000}) || got.Policy.Selector.Dst != prefix("10.2.0.0/16") {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestAnswersOfKernels(t *testing.T) {
	eachCaptured(t, "allocspi.0", MsgNewSA, func(t *testing.T, body []byte) {
		got, err := ParseState(body)
		if err != nil || got.ID != id("10.9.0.1", sadb.ESP, 256) || got.Src != addr("10.9.0.9") || got.ReqID != 7 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	eachCaptured(t, "spdinfo.0", MsgNewSPDInfo, func(t *testing.T, body []byte) {
		got, err := ParseSPDInfo(body)
		if err != nil || got.Out != 1 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	eachCaptured(t, "default.0", MsgGetDefault, func(t *testing.T, body []byte) {
		got, err := ParseDefault(body)
		if err != nil || got != (Default{Accept, Accept, Accept}) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}
