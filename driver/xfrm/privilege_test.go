package xfrm

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Without CAP_NET_ADMIN nothing starts, and the error names what is missing.
func TestWithoutPrivilegeNothingStarts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives its privileges up in one thread, as the others have them")
	}
	dir, failures := t.TempDir(), make(chan map[string]error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody = 65534
		if _, _, number := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); number != 0 {
			failures <- map[string]error{"give up privileges": number}
			return
		}
		out := map[string]error{}
		_, out["Preflight"] = Preflight()
		_, out["Open"] = Open(Config{Dir: dir})
		_, out["Remove"] = Remove(Config{Dir: dir})
		failures <- out
	}()
	for what, err := range <-failures {
		if err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}
