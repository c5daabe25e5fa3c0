//go:build esp

package test

import "testing"

// TestKernelPassesTheDirectory: with the kernel driver, too, a policy that blocks
// everything lets the agent's own connections to the directory pass, and nobody
// else's.
func TestKernelPassesTheDirectory(t *testing.T) {
	t.Setenv(driverEnv, byKernel)
	newDomain(t, "kdom").hearsThoughCutOff()
}
