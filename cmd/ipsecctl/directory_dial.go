package main

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm"
)

// dialTime is how long a connection may take to come about.
const dialTime = 5 * time.Second

// directoryDialer connects to directories, KDCs and name servers. For root its
// sockets are exempt as the agent's own are: a policy that secures all traffic
// must not hide the directory that it comes from. mark is the agent's exempt
// mark; 0: the default one.
func directoryDialer(mark uint32) *net.Dialer {
	d := &net.Dialer{Timeout: dialTime, Resolver: &net.Resolver{PreferGo: true}}
	if os.Geteuid() != 0 {
		return d
	}
	d.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { exempt(int(fd), mark) })
	}
	d.Resolver.Dial = (&net.Dialer{Timeout: dialTime, Control: d.Control}).DialContext
	return d
}

// exempt exempts a socket. Where that cannot be done, in a container perhaps, it
// connects as the policy lets it.
func exempt(fd int, mark uint32) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil {
		_ = xfrm.Config{Exempt: mark}.PrepareSocket(fd, family) // the mark first: without XFRM that is all it takes
	}
}
