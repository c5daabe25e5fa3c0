package test

import (
	"strings"
	"testing"
)

// TestIKEScanGetsACorrectAnswer: a prober nobody here wrote gets a main-mode
// answer for an acceptable transform, and a refusal for another.
func TestIKEScanGetsACorrectAnswer(t *testing.T) {
	us, peer := newPair(t, "scan")
	s := combination{auth: "psk", main: "3des-sha1-modp1024", method: "esp-3des-sha1"}
	startOurs(us, peer, s, identity{key: aKey("scan")})
	out := peer.must("ike-scan", "-M", "--retry=2", "--trans=5,2,1,2", us.v4)
	for _, want := range []string{"Main Mode Handshake returned", "Enc=3DES", "Hash=SHA1", "Group=2:modp1024", "Auth=PSK"} {
		if !strings.Contains(out, want) {
			t.Errorf("ike-scan does not say %q:\n%s", want, out)
		}
	}
	if out := peer.must("ike-scan", "-M", "--retry=2", "--trans=1,1,1,1", us.v4); !strings.Contains(out, "NO-PROPOSAL-CHOSEN") {
		t.Errorf("DES, MD5, group 1 must be refused:\n%s", out)
	}
}
