package doctor

import (
	"testing"

	"ipsecagent/agent/control"
)

func TestRelease(t *testing.T) {
	for _, tt := range []struct{ release, version, want string }{
		{"6.1.0-49-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.170-3 (2026-04-01)", "warning: 6.1.170 may have an error by which ESP decrypts in place what other programs share (CVE-2026-43284), mended in 6.1.171"},
		{"6.1.0-50-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.171-1 (2026-05-01)", "ok: 6.1.0-50-amd64"},
		{"6.18.5", "#1 SMP", "warning: 6.18.5 may have an error"},
		{"6.18.28-arch1", "#1 SMP", "ok: "},
		{"6.8.0-45-generic", "#45-Ubuntu SMP", "warning: 6.8.0 may have an error"},
		{"5.14.0-427.el9.x86_64", "#1 SMP", "warning: 5.14.0 may have"},
		{"7.0.4", "", "warning: 7.0.4"},
		{"7.0.5", "", "ok: 7.0.5"},
		{"7.1-rc1", "", "ok: 7.1-rc1"},
		{"10.0", "", "ok: 10.0"},
		{"", "", `warning: not looked at: "" is no version of Linux`},
		{"GNU", "#1", "warning: not looked at"},
	} {
		expect(t, []control.Check{Release(tt.release, tt.version)}, tt.want)
	}
	release, version, err := ReadRelease()
	if _, ok := parseLevel(release, version); err != nil || !ok {
		t.Errorf("this kernel: %q, %q, %v", release, version, err)
	}
}

func FuzzRelease(f *testing.F) {
	f.Add("6.1.0-49-amd64", "#1 SMP Debian 6.1.170-3")
	f.Add("6.", "Debian 6.1.99999999999-")
	f.Fuzz(func(t *testing.T, release, version string) {
		if l, ok := parseLevel(release, version); !ok && l != (level{}) || l.major < 0 || l.patch > 999999 {
			t.Errorf("%v, %v", l, ok)
		}
	})
}
