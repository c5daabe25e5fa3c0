package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// needCapabilities refuses to go on without the capabilities that the agent
// and the data path need.
func needCapabilities() error {
	missing, err := missingCapabilities(0)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("the agent has not the capabilities %v: run it as root (systemctl start ipsecagent, or sudo)", missing)
}

// missingCapabilities returns which of those that the agent needs a process has
// not; 0: this one.
func missingCapabilities(pid int) (missing []string, err error) {
	held, err := effectiveCapabilities(pid)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}, {unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"}} {
		if held&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing, nil
}

func effectiveCapabilities(pid int) (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(pid)}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read the capabilities of the process: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

// needDataPath refuses to start a data path where the kernel has not what it
// stands on.
func needDataPath() error { return errors.Join(needTUN(), needNFT()) }

func needTUN() error {
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("there is no TUN device %s (%v): load it with 'modprobe tun'; in a container, hand it in (--device %s)", tunDevice, cause(err), tunDevice)
	case err != nil:
		return fmt.Errorf("the TUN device %s cannot be opened (%v): run the agent as root, and in a container allow the device", tunDevice, cause(err))
	}
	return f.Close()
}

// modulesDir is where modprobe looks for the modules of the running kernel.
func modulesDir() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "/lib/modules"
	}
	return filepath.Join("/lib/modules", unix.ByteSliceToString(name.Release[:]))
}

// loadWords says how what the kernel's IPsec is made of is loaded: by one
// modprobe, which takes the names after the first for options unless told (-a).
func loadWords(dir string) string {
	const load = "modprobe -a xfrm_user esp4 esp6 ah4 ah6"
	if _, err := os.Stat(dir); err != nil {
		return fmt.Sprintf("there are no modules of this kernel here (%s): in a container, load them on its host (%s)", dir, load)
	}
	return load
}

func needNFT() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTables()
	}
	if err != nil {
		return fmt.Errorf("the kernel has no nftables here (%w): load it with 'modprobe nf_tables'; the agent enforces policy by it and does not start without", err)
	}
	return nil
}

// cause is an error without the name of the file, which the message has.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// harden keeps keys out of core dumps and away from debuggers of other
// processes of the same user.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps (PR_SET_DUMPABLE): %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps (RLIMIT_CORE): %w", err)
	}
	return nil
}
