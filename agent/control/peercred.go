package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// access is what a caller may do.
type access uint8

// The zero access is none.
const (
	accessNone access = iota
	accessRead
	accessChange
)

// caller is who stands at the other end of a connection, as the kernel
// recorded it when the connection was made.
type caller struct {
	uid    uint32
	gid    uint32
	pid    int32
	groups []uint32  // supplementary
	began  time.Time // of the connection
}

// String names the caller for logs and audit.
func (c caller) String() string { return fmt.Sprintf("user %d, process %d", c.uid, c.pid) }

// noGroup stands for a group that does not exist: nobody is in it.
const noGroup = -1

// accessOf decides what a caller may do: root everything, members of the
// readers' group look, everybody else nothing.
func accessOf(c caller, readers int64) access {
	switch {
	case c.uid == 0:
		return accessChange
	case readers == noGroup:
		return accessNone
	case int64(c.gid) == readers || slices.Contains(c.groups, uint32(readers)):
		return accessRead
	}
	return accessNone
}

// groupID returns the number of a group; noGroup if there is none of that name.
func groupID(name string) (int64, error) {
	g, err := user.LookupGroup(name)
	if unknown := user.UnknownGroupError(""); errors.As(err, &unknown) {
		return noGroup, nil
	}
	if err != nil {
		return noGroup, fmt.Errorf("control: look up group %s: %w", name, err)
	}
	id, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return noGroup, fmt.Errorf("control: group %s has the number %q: %w", name, g.Gid, err)
	}
	return int64(id), nil
}

// peerOf asks the kernel who made the connection.
func peerOf(conn net.Conn) (caller, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return caller{}, errors.New("control: not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return caller{}, fmt.Errorf("control: credentials of a caller: %w", err)
	}
	var c caller
	var inner error
	err = raw.Control(func(fd uintptr) { c, inner = credentials(int(fd)) })
	if err = errors.Join(err, inner); err != nil {
		return caller{}, fmt.Errorf("control: credentials of a caller: %w", err)
	}
	return c, nil
}

func credentials(fd int) (caller, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return caller{}, err
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return caller{}, err
	}
	return caller{uid: cred.Uid, gid: cred.Gid, pid: cred.Pid, groups: groups}, nil
}

// maxGroups bounds a caller's supplementary groups (NGROUPS_MAX of the kernel).
const maxGroups = 65536

// peerGroups returns the caller's supplementary groups (SO_PEERGROUPS, Linux
// 4.13). SO_PEERCRED has the primary one alone.
func peerGroups(fd int) ([]uint32, error) {
	size := uint32(64 * 4)
	for {
		buf := make([]byte, size)
		got := size
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&got)), 0)
		switch {
		case errno == 0:
			return decodeGroups(buf[:min(got, size)]), nil
		case errno == unix.ERANGE && got > size && got <= maxGroups*4:
			size = got // the kernel said how much it needs
		default:
			return nil, errno
		}
	}
}

func decodeGroups(b []byte) []uint32 {
	var groups []uint32
	for ; len(b) >= 4; b = b[4:] {
		groups = append(groups, binary.NativeEndian.Uint32(b))
	}
	return groups
}

// Listener returns the process that listens on a unix socket, as the kernel
// recorded it.
func Listener(ctx context.Context, path string) (pid int, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return 0, fmt.Errorf("control: reach %s: %w", path, err)
	}
	defer conn.Close()
	who, err := peerOf(conn)
	return int(who.pid), err
}
