package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/user"
)

// Without an agent status says what becomes of the traffic meanwhile.
func TestStatusWithoutAnAgentSaysWhatHolds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: reads nftables")
	}
	boot, errBoot := nft.Boot(user.DefaultTable)
	in, err := nft.Enforces(user.DefaultTable)
	if err != nil || errBoot != nil {
		t.Fatal(err, errBoot)
	}
	want := map[bool]string{true: "stays as it is", false: "all traffic passes in clear"}[in]
	if boot.Mode != "" {
		want = "the boot filters"
	}
	_, stderr, code := ctl(t, filepath.Join(t.TempDir(), "none"), "status")
	if code != control.NotReachable || !strings.Contains(stderr, want) {
		t.Errorf("code %d: %s", code, stderr)
	}
}
