package nft

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"
)

// No error but its end makes a reader deaf, and after each the table is looked
// through.
func TestReadersGoOnAfterAnyError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := []error{unix.ENOMEM, errors.New("a short message"), unix.ENOBUFS}
		done := make(chan struct{})
		nl := nltest.Dial(func([]netlink.Message) ([]netlink.Message, error) {
			if len(failures) == 0 {
				close(done)
				return nil, os.ErrClosed
			}
			err := failures[0]
			failures = failures[1:]
			return nil, os.NewSyscallError("recvmsg", err)
		})
		n := 0
		readChanges(reader{nl, done}, "ipsecagent", 1, func() { n++ })
		if n != 3 {
			t.Errorf("looked through %d times, want 3", n)
		}
	})
}
