package xfrm

import (
	"encoding/binary"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// setting is what the kernel says of an interface's forwarding.
func setting(index, forwards int32) []byte {
	b := []byte{2, 0, 0, 0}
	for typ, v := range map[uint16]int32{netconfIfIndex: index, netconfForwarding: forwards} {
		b = binary.NativeEndian.AppendUint16(b, 8)
		b = binary.NativeEndian.AppendUint16(b, typ)
		b = binary.NativeEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// A host forwards if any of its interfaces does, whatever the others do and new
// ones would.
func TestForwardingByInterface(t *testing.T) {
	for what, c := range map[string]struct {
		conf [][]byte
		want bool
	}{
		"none":           {[][]byte{setting(-1, 0), setting(-2, 0), setting(1, 0)}, false},
		"all":            {[][]byte{setting(-1, 1), setting(1, 1)}, true},
		"one":            {[][]byte{setting(-1, 0), setting(1, 0), setting(7, 1)}, true},
		"new interfaces": {[][]byte{setting(-1, 0), setting(-2, 1), setting(1, 0)}, false},
	} {
		k := newKernel()
		k.conf = c.conf
		got, err := k.engine("").facts.forwards()
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}

// The kernel at hand says so as well: of one interface, and of its other family.
func TestForwardingOfThisKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	for _, setting := range []string{"ipv4/conf/lo/forwarding", "ipv6/conf/all/forwarding"} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: the thread ends, and its namespace
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Error(err)
				return
			}
			f, err := openFacts(nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.close()
			for _, v := range []string{"0", "1"} {
				if err := os.WriteFile("/proc/sys/net/"+setting, []byte(v), 0); err != nil {
					t.Error(err)
				}
				if yes, err := f.forwards(); err != nil || yes != (v == "1") {
					t.Errorf("%s = %s: forwards %v, %v", setting, v, yes, err)
				}
			}
		}()
		<-done
	}
}

// A policy for one type of connection is refused where there is an interface of
// remote access, which the error names, with what can be done; else it is not.
func TestTypesOfConnectionAreRefusedBesideRemoteAccess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f, err := openFacts([]string{"away*"})
		if err != nil {
			t.Error(err)
			return
		}
		defer f.close()
		lan := []sadb.Filter{{ID: "a", Name: "all"}, {ID: "b", Name: "offices", Connections: sadb.LAN}}
		if err := f.allow(lan); err != nil {
			t.Errorf("without such an interface: %v", err)
		}
		if err := f.links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "away7"}, PeerName: "peer"}); err != nil {
			t.Error(err)
		}
		if err := f.allow(lan[:1]); err != nil {
			t.Errorf("a policy for all connections: %v", err)
		}
		err = f.allow(lan)
		if err == nil {
			t.Error("not refused")
			return
		}
		for _, want := range []string{"offices", "type lan", "away7", "remoteAccess", "driver: user"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not said: %v", want, err)
			}
		}
	}()
	<-done
}

func FuzzForwarding(f *testing.F) {
	whole := setting(3, 1)
	for i := range whole {
		f.Add(whole[:i])
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		if yes, err := forwarding(b); yes && (err != nil || len(b) < 12) {
			t.Errorf("%x: %v", b, err)
		}
	})
}
