package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packet is a frame on the wire, as far as the judgement needs it.
type packet struct {
	arp      bool
	src, dst netip.Addr
	proto    uint8 // of the innermost clear header
	sport    uint16
	dport    uint16
	syn      bool  // TCP SYN without ACK
	icmpType uint8 // ICMP and ICMPv6
	data     []byte
}

// String describes the packet in a line.
func (p packet) String() string {
	if p.arp {
		return "ARP"
	}
	return fmt.Sprintf("%v -> %v proto %d ports %d %d type %d, %d bytes", p.src, p.dst, p.proto, p.sport, p.dport, p.icmpType, len(p.data))
}

func (p packet) esp() bool { return !p.arp && p.proto == 50 }
func (p packet) ike() bool { return !p.arp && p.proto == 17 && (p.sport == 500 || p.dport == 500) }

// discovery reports neighbour discovery and multicast listener discovery.
func (p packet) discovery() bool {
	return p.proto == 58 && (p.icmpType >= 133 && p.icmpType <= 137 || p.icmpType >= 130 && p.icmpType <= 132 || p.icmpType == 143)
}

// icmp reports ICMP and ICMPv6, which the predefined policies permit.
func (p packet) icmp() bool { return p.proto == 1 || p.proto == 58 }

// readCapture reads a capture file of Ethernet frames.
func readCapture(t *testing.T, path string, short bool) []packet {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 || binary.LittleEndian.Uint32(b[20:]) != 1 {
		t.Fatalf("%s is not a capture of Ethernet frames", path)
	}
	var all []packet
	for b = b[24:]; len(b) >= 16; {
		caught, whole := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		if caught != whole && !short || int(caught) > len(b)-16 {
			t.Fatalf("%s: a frame of %d bytes, %d of them caught", path, whole, caught)
		}
		all = append(all, parseFrame(t, b[16:16+caught]))
		b = b[16+caught:]
	}
	return all
}

func parseFrame(t *testing.T, f []byte) packet {
	t.Helper()
	p := packet{data: f}
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0806:
		p.arp = true
	case 0x0800:
		ip := f[14:]
		p.src, p.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		p.proto = ip[9]
		if binary.BigEndian.Uint16(ip[6:])&0x1fff == 0 {
			p.upper(ip[int(ip[0]&15)*4:])
		}
	case 0x86dd:
		ip := f[14:]
		p.src, p.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		p.proto = ip[6]
		rest := ip[40:]
		for p.proto == 0 || p.proto == 43 || p.proto == 60 || p.proto == 44 {
			length := 8
			if p.proto != 44 {
				length = int(rest[1])*8 + 8
			}
			p.proto, rest = rest[0], rest[length:]
		}
		p.upper(rest)
	default:
		t.Fatalf("a frame of type %x on the wire", f[12:14])
	}
	return p
}

// upper takes the start of the transport header.
func (p *packet) upper(b []byte) {
	if len(b) < 8 {
		return
	}
	switch p.proto {
	case 6, 17:
		p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		p.syn = p.proto == 6 && len(b) >= 14 && b[13]&0x17 == 0x02
	case 1, 58:
		p.icmpType = b[0]
	}
}

// capture is a running capture of everything on a host's wire.
type capture struct {
	h     *host
	p     *process
	path  string
	short bool // frames are cut
}

// capture starts one.
func (h *host) capture(name string) *capture {
	h.t.Helper()
	return h.captureHeaders(name, 0)
}

// captureHeaders captures the first bytes of each frame only: enough to tell
// what is in clear, and no load on a machine that moves gigabytes. 0: all.
func (h *host) captureHeaders(name string, bytes int) *capture {
	h.t.Helper()
	return h.captureBy(name, bytes)
}

func (h *host) captureBy(name string, bytes int, more ...string) *capture {
	h.t.Helper()
	c := &capture{h: h, path: filepath.Join(h.dir, name+".pcap"), short: bytes != 0}
	buffer := "262144" // KiB; a virtual machine has little memory, and moves little
	if os.Getenv(machineEnv) != "" {
		buffer = "16384"
	}
	c.p = h.start("tcpdump", append([]string{"-i", "wire", "-s", fmt.Sprint(bytes), "-B", buffer, "-U", "--immediate-mode", "-w", c.path}, more...)...)
	eventually(h.t, 10*time.Second, "tcpdump listens", func() bool { return strings.Contains(c.p.output(), "listening on") })
	return c
}

// end stops the capture and returns what was on the wire. A capture that lost
// packets proves nothing and fails the test.
func (c *capture) end() []packet {
	c.h.t.Helper()
	// A last packet of our own marks the end: it is in the file when all
	// before it are.
	seen := func() bool {
		b, err := os.ReadFile(c.path)
		return err == nil && bytes.Contains(b, []byte("end-of-capture"))
	}
	c.h.run(time.Minute, "python3", "-c", `
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("wire", 0x88b5))
s.send(b"\xff"*6 + b"\x02\0\0\0\0\1" + b"\x08\x06" + b"end-of-capture" + b"\0"*40)`)
	eventually(c.h.t, 10*time.Second, "the capture is written", seen)
	c.p.signal(c.h.t, os.Interrupt)
	if out := c.p.output(); !strings.Contains(out, "0 packets dropped by kernel") {
		c.h.t.Fatalf("the capture is not whole:\n%s", out)
	}
	return readCapture(c.h.t, c.path, c.short)
}

// leaks returns what is on the wire and is neither ESP, IKE, ARP nor neighbour
// or listener discovery, and not allowed.
func leaks(all []packet, allowed func(packet) bool) []packet {
	var found []packet
	for _, p := range all {
		if p.arp || p.esp() || p.ike() || p.discovery() || allowed != nil && allowed(p) {
			continue
		}
		found = append(found, p)
	}
	return found
}

// count returns how many packets are of a kind.
func count(all []packet, is func(packet) bool) int {
	n := 0
	for _, p := range all {
		if is(p) {
			n++
		}
	}
	return n
}
