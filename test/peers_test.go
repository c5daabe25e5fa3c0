package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// scan is something that ike-scan sends, and what it has to hear.
type scan struct{ args, heard string }

const (
	handshake = "1 returned handshake; 0 returned notify"
	notify    = "0 returned handshake; 1 returned notify"
	nothing   = "0 returned handshake; 0 returned notify"
)

// scans are well-formed offers, and offers that are wrong in one place. What is
// malformed or out of place gets no answer; what is well-formed and refused
// gets a notify. As other implementations do, we do not look at the minor
// version, at an SPI in an offer of main mode and at the number of its transform.
func scans() []scan {
	const good = "--trans=5,2,1,2 "
	return []scan{
		{good, handshake},
		{good + "--headerver=0x11", handshake},
		{good + "--spisize=8", handshake},
		{good + "--transid=9", handshake},
		{"--trans=1,1,1,1", notify},
		{"--trans=5,2,1,5", notify},
		{"--trans=5,2,65001,2", notify},
		{good + "--doi=2", notify},
		{good + "--situation=2", notify},
		{good + "--mbz=255", nothing},
		{good + "--headerver=0x30", nothing},
		{good + "--protocol=3", nothing},
		{good + "--nextpayload=250", nothing},
		{good + "--exchange=99", nothing},
		{good + "--exchange=5", nothing},
		{good + "--exchange=32", nothing},
		{good + "--cookie=0000000000000000", nothing},
		{good + "--rcookie=0000000000000001", nothing},
		{good + "--hdrmsgid=5", nothing},
		{good + "--hdrflags=1", nothing},
		{"-A --id=x --dhgroup=2 " + good, nothing},
		{"--ikev2", nothing},
	}
}

// TestIKEScanGetsACorrectAnswer: a prober nobody here wrote gets a main-mode
// answer for an acceptable transform, a refusal for another, and nothing for
// what is wrong. Nothing is sent a second time by itself, and all answers
// together are not larger than what asked for them.
func TestIKEScanGetsACorrectAnswer(t *testing.T) {
	us, peer := newPair(t, "scan")
	c := combination{auth: "psk", main: "3des-sha1-modp1024", method: "esp-3des-sha1"}
	startOurs(us, peer, c, identity{key: aKey("scan")})
	wire := us.capture("wire")
	expected := 0
	for _, s := range scans() {
		if s.heard == notify {
			time.Sleep(1100 * time.Millisecond) // an address gets one refusal a second
		}
		out := peer.must("ike-scan", append(strings.Fields("-M --retry=1 --timeout=300 "+s.args), us.v4)...)
		if !strings.Contains(out, s.heard) {
			t.Errorf("ike-scan %s: not %q:\n%s", s.args, s.heard, out)
		}
		if s.heard != nothing {
			expected++
		}
		if s == scans()[0] {
			for _, want := range []string{"Main Mode Handshake returned", "Enc=3DES", "Hash=SHA1", "Group=2:modp1024", "Auth=PSK"} {
				if !strings.Contains(out, want) {
					t.Errorf("ike-scan does not say %q:\n%s", want, out)
				}
			}
		}
	}
	if out := peer.must("ike-scan", "-M", "--retry=1", "--showbackoff=3", "--trans=5,2,1,2", us.v4); strings.Contains(out, us.v4+"\t2\t") {
		t.Errorf("the handshake came more than once:\n%s", out)
	}
	asked, answered, answers := 0, 0, 0
	for _, p := range wire.end() {
		switch {
		case p.ike() && p.src.String() == us.v4:
			answered, answers = answered+len(p.data), answers+1
		case p.ike():
			asked += len(p.data)
		}
	}
	if answers != expected+1 || answered > asked {
		t.Errorf("%d answers with %d bytes to questions with %d bytes; %d answers were due", answers, answered, asked, expected+1)
	}
	t.Logf("figure: ike-scan: %d probes, %d answers, %s bytes out for each in", len(scans())+1, answers, fmt.Sprintf("%.2f", float64(answered)/float64(asked)))
}

// TestStrongSwanDies: a peer that falls silent under traffic is asked whether
// it lives; it does not answer, and its associations end, with a reason.
func TestStrongSwanDies(t *testing.T) {
	t.Parallel()
	us, d := begin(t, "swx", live())
	d.out.cmd.Process.Kill()
	<-d.out.done
	go us.ping(d.h.v4, 400) // what is sent and not answered
	eventually(t, 150*time.Second, "the associations end", func() bool {
		out, _ := us.ctl("events", "-o", "json")
		return strings.Contains(out, "dead")
	})
}
