package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDemoDomain runs the demo of Active Directory and judges what it shows: the
// policy as Microsoft shipped it taken by both hosts and explained, nothing in
// clear but with the domain controller, a change followed, a controller that is
// away.
func TestDemoDomain(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	if out, err := exec.Command("./demo-domain", dir).CombinedOutput(); err != nil {
		t.Fatalf("the demo: %v\n%s", err, tail(string(out), 8000))
	}
	t.Logf("figure: the demo of Active Directory took %.0f s", time.Since(begin).Seconds())
	for file, want := range map[string]string{
		"show.txt":         "Secure Server (Require Security)",
		"fsck.txt":         "(A;CI;RPLCLORC;;;DC)",
		"status-alice.txt": `group policy object "IPsec for servers"`,
		"status-bob.txt":   "ALICE$@DEMO.TEST",
		"rsop.txt":         "it decides: the first that applies",
		"diff.txt":         "filterAction: Permit -> block",
		"status-away.txt":  "BOB$@DEMO.TEST",
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), want) {
			t.Errorf("%s does not say %q:\n%s", file, want, b)
		}
	}
	secured := readCapture(t, filepath.Join(dir, "secured.pcap"), false)
	controller := func(p packet) bool { return p.src.String() == "10.66.3.1" || p.dst.String() == "10.66.3.1" }
	if found := leaks(secured, func(p packet) bool { return controller(p) || p.icmp() }); len(found) > 0 {
		t.Errorf("in clear: %v", found)
	}
	if count(secured, packet.esp) == 0 || count(secured, packet.ike) < 9 || count(secured, controller) == 0 {
		t.Errorf("%d ESP, %d IKE packets, %d with the controller", count(secured, packet.esp), count(secured, packet.ike), count(secured, controller))
	}
	nothingLeft(t)
}
