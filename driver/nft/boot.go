package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// BootMode is what the boot filters let pass: those that hold from the start of
// the host until the first policy is in force.
type BootMode string

// Modes of the boot filters, as in Windows Server 2003, whose third one
// (permit) is a host without boot filters.
const (
	// BootBlock lets pass what is exempt and nothing else.
	BootBlock BootMode = "block"
	// BootStateful also lets pass what this host sends and the answers to it.
	BootStateful BootMode = "stateful"
)

// BootExemption is traffic that the boot filters let pass: packets of one
// protocol and direction, and the answers to them.
type BootExemption struct {
	// Protocol is the IP protocol, 1 to 255.
	Protocol uint8
	// Source and Destination are the ports of the packet, 0: any. Only TCP,
	// UDP, SCTP and DCCP have ports.
	Source, Destination uint16
	// Inbound: packets to this host, else packets from it.
	Inbound bool
}

// BootConfig says what the boot filters are to be.
type BootConfig struct {
	// Table is the name of the policy's table; the boot filters have one of
	// their own, BootTable of it.
	Table string
	// Exempt is the mark bit of the agent's own sockets. What they send, and
	// what comes for them, passes in every mode.
	Exempt     uint32
	Mode       BootMode
	Exemptions []BootExemption
	// Socket is as Config.Socket, and is called on every kernel: what keeps
	// the socket open keeps other programs from removing the table.
	Socket func() (fd int, err error)

	held bool // tests: as if the kernel had no persistent tables
}

// maxBootExemptions bounds a list of exemptions: each packet meets all rules.
const maxBootExemptions = 256

// BootTable returns the name of the boot filters' table beside that of the
// policy.
func BootTable(table string) string { return table + "-boot" }

func (c BootConfig) validate() error {
	if c.Mode != BootBlock && c.Mode != BootStateful {
		return fmt.Errorf("boot mode %q: block or stateful", c.Mode)
	}
	if len(c.Exemptions) > maxBootExemptions {
		return fmt.Errorf("%d boot exemptions: at most %d", len(c.Exemptions), maxBootExemptions)
	}
	for _, x := range c.Exemptions {
		if err := x.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Validate says what cannot be an exemption.
func (x BootExemption) Validate() error {
	if x.Protocol == 0 {
		return errors.New("the protocols are 1 to 255")
	}
	if !x.hasPorts() && (x.Source != 0 || x.Destination != 0) {
		return fmt.Errorf("protocol %d has no ports: give 0 for both", x.Protocol)
	}
	return nil
}

// PutBoot puts the boot filters in force in the network namespace of the calling
// thread, in the place of those that are there, by one transaction. They stay
// until ClearBoot, whatever becomes of this process.
func PutBoot(cfg BootConfig) error {
	err := cfg.validate()
	if err == nil {
		err = cfg.put()
	}
	if err != nil {
		return fmt.Errorf("nft: put boot filters in table %s: %w", BootTable(cfg.Table), err)
	}
	return nil
}

func (c BootConfig) put() error {
	e, err := c.own()
	if err != nil {
		return err
	}
	defer e.conn.nl.Close()
	var b batch
	e.deleteTable(&b)
	e.addTable(&b)
	e.addBoot(&b, c)
	return e.conn.commit(&b)
}

// own makes the table, empty if it is not there, and this socket its owner.
func (c BootConfig) own() (*engine, error) {
	fd, err := c.Socket()
	if err != nil {
		return nil, err
	}
	e := &engine{cfg: Config{Table: BootTable(c.Table), Exempt: c.Exempt}}
	if e.conn, err = adopt(fd); err != nil {
		return nil, fmt.Errorf("take over the socket that owns the table: %w", err)
	}
	for _, e.flags = range c.flags() {
		var b batch
		e.addTable(&b)
		if err = e.conn.commit(&b); !refused(err) {
			break
		}
	}
	if err != nil {
		e.conn.nl.Close()
		return nil, fmt.Errorf("a table of this name is there and not ours: remove it with 'nft delete table inet %s', or end what owns it (%w)", e.cfg.Table, err)
	}
	return e, nil
}

// flags are those to try, the best first: that of an owner that is kept goes
// with Linux before 6.9 too.
func (c BootConfig) flags() []uint32 {
	if c.held {
		return []uint32{tableOwner}
	}
	return []uint32{tableOwner | tablePersist, tableOwner}
}

// ClearBoot takes the boot filters out of force; was reports that there were
// any. socket returns the socket that owns the table, as BootConfig.Socket; nil:
// its owner has gone.
func ClearBoot(table string, socket func() (fd int, err error)) (was bool, err error) {
	e := &engine{cfg: Config{Table: BootTable(table)}}
	if e.conn, err = dialOrAdopt(socket); err == nil {
		defer e.conn.nl.Close()
		if _, was, err = e.tableFlags(); was && err == nil {
			err = e.remove()
		}
	}
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("another process owns it (%w)", err)
	}
	if err != nil {
		return was, fmt.Errorf("nft: remove boot filters, table %s: %w", BootTable(table), err)
	}
	return was, nil
}

func dialOrAdopt(socket func() (int, error)) (*conn, error) {
	if socket == nil {
		return dial()
	}
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	return adopt(fd)
}

// BootState is the boot filters that are in force.
type BootState struct {
	// Mode is "" where none are.
	Mode BootMode
	// Out, In and Forwarded are how many packets they have dropped.
	Out, In, Forwarded uint64
}

// Boot returns the boot filters that are in force in this network namespace
// beside a policy's table.
func Boot(table string) (BootState, error) {
	s, err := boot(BootTable(table))
	if err != nil {
		return s, fmt.Errorf("nft: look for boot filters, table %s: %w", BootTable(table), err)
	}
	return s, nil
}

func boot(table string) (s BootState, err error) {
	e := &engine{cfg: Config{Table: table}}
	chains, err := e.look()
	if err != nil || e.conn == nil {
		return s, err
	}
	defer e.conn.nl.Close()
	for _, mode := range []BootMode{BootBlock, BootStateful} {
		if slices.Contains(chains, string(mode)) {
			s.Mode = mode
		}
	}
	n, err := e.counters()
	s.Out, s.In, s.Forwarded = n[bootOut], n[bootIn], n[bootForward]
	return s, err
}

// Enforces reports whether the policy's table is there and decides about
// packets: a list of filters, may be an empty one, has been put in force in this
// network namespace.
func Enforces(table string) (bool, error) {
	e := &engine{cfg: Config{Table: table}}
	chains, err := e.look()
	if err != nil {
		return false, fmt.Errorf("nft: look for the filters of table %s: %w", table, err)
	}
	if e.conn == nil {
		return false, nil
	}
	e.conn.nl.Close()
	return slices.Contains(chains, chainLast), nil
}

// look lists the chains of a table; without a table no connection is left open.
func (e *engine) look() (chains []string, err error) {
	if e.conn, err = dial(); err != nil {
		return nil, err
	}
	_, exists, err := e.tableFlags()
	if err == nil && exists {
		chains, err = e.list(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME)
	}
	if errors.Is(err, os.ErrNotExist) {
		exists, err = false, nil
	}
	if err != nil || !exists {
		e.conn.nl.Close()
		e.conn = nil
	}
	return chains, err
}
