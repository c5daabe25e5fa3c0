//go:build esp

package test

import "testing"

// TestKernelUnits is TestUnits with the kernel driver: the unit of the data path
// is skipped.
func TestKernelUnits(t *testing.T) {
	startUnits(t, unitsCase{"kernel", "driver: kernel\n", append(atOnce(),
		"no data path is needed", "Result=exec-condition\nId=ipsecagent-datapath.service\nActiveState=inactive",
		"larval drop 0", "Data path  kernel"), []string{"ActiveState=failed"}})
}
