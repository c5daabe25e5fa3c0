// Package user is the userspace driver: ESP and AH for hosts whose kernel has
// none.
//
// It owns a process of its own, the data path (Serve), and the Driver that
// speaks to it over a unix socket (Dial). The data path holds the TUN device,
// the raw sockets, UDP port 4500, the associations, the filters in force, the
// nftables table (by driver/nft), the ip rules and the routing table; the agent
// may die, upgrade and reattach, and nothing of that changes. The socket that
// receives IKE on port 4500 is lent to it (NATSockets). What policy says passes,
// is steered or is dropped is enforced by the table in the kernel; only
// traffic that is to be secured comes through the TUN.
//
// It does not negotiate, decides nothing that the filters have not said, and
// never writes a key or an association to disk: a sequence number used twice
// with AES-GCM would give the traffic away.
//
// How packets go: a worker on a thread of its own reads packets from the TUN
// in batches, decides them over an immutable snapshot, seals them in place and
// sends the batch by a raw socket. One reader for each family and kind takes
// ESP, AH or ESP in UDP from a socket, opens it in place and writes it to the
// TUN. What needs state (no association yet, a lifetime reached) goes to the
// engine, the one goroutine that owns all state and publishes the snapshots.
//
// In tunnel mode the TUN brings forwarded packets as well, and gives back what
// is for other hosts: the kernel forwards it as its own filters allow. A packet
// that came out of one tunnel is not sent into another.
//
// IPv6 link-local traffic is never carried: it does not survive the detour
// over a TUN. Where policy wants it secured, the table drops it. Extension
// headers before ESP end with the raw socket, which delivers none; those that
// ESP protects arrive. AH covers them too: such packets fail its check.
package user

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"

	"ipsecagent/driver/nft"
)

// What Config falls back to.
const (
	DefaultTUN        = "ipsec0"
	DefaultTable      = "ipsecagent"
	DefaultSteer      = 0x01000000
	DefaultExempt     = 0x02000000
	DefaultPreference = 900
	DefaultRouteTable = 900
	DefaultLogGroup   = 50
)

// maxWorkers bounds the threads that seal; each holds 5 MiB of buffers.
const maxWorkers = 8

// Config is what the data path is started with. Zero fields, Socket aside,
// take the defaults above.
type Config struct {
	Socket     string // path of the unix socket the agent comes to; required
	TUN        string // name of the TUN device, at most 15 bytes
	Table      string // name of the nftables table
	Steer      uint32 // mark bit of packets that go to the TUN
	Exempt     uint32 // mark bit of our own sockets
	Preference int    // of the ip rule; below 1000; the one before it is used too
	RouteTable int
	LogGroup   uint16 // nflog group by which the table reports first packets in clear
	Workers    int    // threads that seal; 0: one for each processor, at most 8
	// RemoteAccess names the interfaces that count as remote access besides
	// those of PPP and SLIP; see nft.RemoteAccess.
	RemoteAccess []string
	Log          *slog.Logger
	// TableSocket is nft.Config.Socket: where the table's owner comes from on
	// kernels that remove a table with its owner; nil: they are refused.
	TableSocket func() (fd int, err error)
	// Ready is called once, when agents can come; nil: nobody wants to know.
	Ready func()
}

// withDefaults returns c with its zero fields filled.
func (c Config) withDefaults() Config {
	setDefault(&c.TUN, DefaultTUN)
	setDefault(&c.Table, DefaultTable)
	setDefault(&c.Steer, DefaultSteer)
	setDefault(&c.Exempt, DefaultExempt)
	setDefault(&c.Preference, DefaultPreference)
	setDefault(&c.RouteTable, DefaultRouteTable)
	setDefault(&c.LogGroup, DefaultLogGroup)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate names every setting that cannot be used.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Socket == "" {
		bad("the path of the control socket is missing")
	}
	if len(c.TUN) > 15 {
		bad("TUN name %q is longer than 15 bytes", c.TUN)
	}
	if bits.OnesCount32(c.Steer) != 1 || bits.OnesCount32(c.Exempt) != 1 || c.Steer == c.Exempt {
		bad("steer mark %#x and exempt mark %#x must be two different single bits", c.Steer, c.Exempt)
	}
	if c.Preference < 2 || c.Preference >= 1000 {
		bad("rule preference %d is not in 2-999", c.Preference)
	}
	if c.RouteTable < 1 || c.RouteTable >= 253 && c.RouteTable <= 255 {
		bad("routing table %d is reserved", c.RouteTable)
	}
	if err := nft.RemoteAccess(c.RemoteAccess).Validate(); err != nil {
		errs = append(errs, err)
	}
	if c.Workers < 0 || c.Workers > maxWorkers {
		bad("%d workers: not in 0-%d", c.Workers, maxWorkers)
	}
	return errors.Join(errs...)
}
