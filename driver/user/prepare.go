package user

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// PrepareSocket exempts a socket of this project from every filter: its
// packets carry the default exempt mark, which the table lets pass. For the
// sockets of IKE alone. Needs CAP_NET_ADMIN or CAP_NET_RAW. The mark is the
// same in both families.
func PrepareSocket(fd, _ int) error {
	return Config{}.withDefaults().PrepareSocket(fd)
}

// PrepareSocket is the function of the same name with the exempt mark of c.
func (c Config) PrepareSocket(fd int) error {
	mark := int(c.withDefaults().Exempt)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
		return fmt.Errorf("user: mark socket as exempt (needs CAP_NET_ADMIN): %w", err)
	}
	return nil
}
