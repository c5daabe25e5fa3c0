package test

import (
	"encoding/binary"
	"encoding/csv"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// logKeys has the agent write down the keys of one peer's associations.
func (h *host) logKeys(peer string) {
	h.t.Helper()
	h.start(filepath.Join(programs, "ipsecctl"), "--socket", h.socket(), "trace", peer, "--keylog", filepath.Join(h.dir, "keys"))
	eventually(h.t, 40*time.Second, "keys are written down", func() bool {
		out, _ := h.ctl("events", "-o", "json")
		return strings.Contains(out, "trace-began")
	})
}

// saKeys are the keys of an association, in hex.
type saKeys struct{ encryption, integrity string }

// ourKeys reads what the agent has written down, by SPI.
func (h *host) ourKeys() map[string]saKeys {
	h.t.Helper()
	f, err := os.Open(filepath.Join(h.dir, "keys.esp_sa"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		h.t.Fatal(err)
	}
	keys := map[string]saKeys{}
	for _, l := range lines {
		keys[l[3]] = saKeys{strings.TrimPrefix(l[5], "0x"), strings.TrimPrefix(l[7], "0x")}
	}
	return keys
}

// The parts of an XFRM message that hold keys (linux/xfrm.h).
const (
	xfrmNewSA, xfrmUpdateSA               = "16", "26"
	xfrmSALen                             = 224 // struct xfrm_usersa_info
	attrAuth, attrCrypt, attrAEAD, attrTr = 1, 2, 18, 20
)

// shimKeys reads the keys that a daemon has given its kernel, by SPI.
func shimKeys(t *testing.T, log string) map[string]saKeys {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]saKeys{}
	for line := range strings.Lines(string(b)) {
		kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		body, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if kind == xfrmNewSA || kind == xfrmUpdateSA {
			keys["0x"+hex.EncodeToString(body[72:76])] = stateKeys(body[xfrmSALen:])
		}
	}
	return keys
}

// stateKeys reads the keys out of the attributes of a state.
func stateKeys(b []byte) (k saKeys) {
	for len(b) >= 4 {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if length < 4 || length > len(b) {
			break
		}
		switch value := b[4:length]; kind {
		case attrAuth:
			k.integrity = keyAt(value, 68)
		case attrTr:
			k.integrity = keyAt(value, 72)
		case attrCrypt:
			k.encryption = keyAt(value, 68)
		case attrAEAD:
			k.encryption = keyAt(value, 72)
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return k
}

// keyAt reads a key behind the name of its algorithm: name[64], length in bits.
func keyAt(value []byte, at int) string {
	return hex.EncodeToString(value[at : at+int(binary.NativeEndian.Uint32(value[64:])/8)])
}

// sameKeys checks that the peer's daemon has derived the keys that we have, for
// every association of both.
func sameKeys(t *testing.T, us *host, log string) {
	t.Helper()
	ours, theirs := us.ourKeys(), shimKeys(t, log)
	if len(ours) < 2 || !maps.Equal(ours, theirs) {
		t.Errorf("the keys of the two ends differ: we have %v, the peer %v", ours, theirs)
	}
}
