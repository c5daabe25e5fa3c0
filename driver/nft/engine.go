package nft

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// engine is the state of an open table; one goroutine owns it.
type engine struct {
	cfg     Config
	conn    *conn
	filters []sadb.Filter // in force
	layout  *layout       // where they stand; nil before the first apply
	// based: the base chains are ours, not an earlier process's.
	based bool
	// broken: a change has failed half way, so that the layout is to be made
	// anew.
	broken  bool
	retired map[sadb.FilterID]figures // counted in sets that are gone
	since   map[peerKey]time.Time     // when peers in clear were first seen
	unswept bool                      // sets or chains not in use are still there
	flags   uint32                    // of the table
	closing bool
}

// Open makes the table, or adopts the one an earlier process has left, in the
// network namespace of the calling thread. What is in force there stays in
// force until the first Apply. It fails if another process holds the table.
func Open(cfg Config) (*Table, error) {
	t, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("nft: open table %s: %w", cfg.Table, err)
	}
	return t, nil
}

func open(cfg Config) (_ *Table, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	e := &engine{cfg: cfg, flags: tableOwner | tablePersist, retired: map[sadb.FilterID]figures{}, since: map[peerKey]time.Time{}}
	if e.conn, err = dial(); err != nil {
		return nil, err
	}
	t := &Table{
		requests: make(chan func(*engine)), done: make(chan struct{}),
		asked: make(chan Asked, 64), tampered: make(chan driver.Tampered, 16),
	}
	if err = e.claim(); err != nil {
		e.conn.nl.Close()
		return nil, err
	}
	if err = t.start(e); err != nil {
		e.conn.nl.Close()
		return nil, err
	}
	return t, nil
}

// newEpoch returns what names are made of that nothing made before has.
func newEpoch() string {
	var b [4]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// claim makes the table ours.
func (e *engine) claim() error {
	flags, exists, err := e.tableFlags()
	if err != nil {
		return err
	}
	if e.cfg.held {
		return e.claimHeld()
	}
	if exists && flags&tablePersist == 0 {
		return e.claimOwned(flags)
	}
	var b batch
	e.addTable(&b)
	err = e.conn.commit(&b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) && exists:
		return fmt.Errorf("another data path holds it: stop the other one of this network namespace first (%w)", err)
	case refused(err) && e.cfg.Socket != nil:
		return e.claimHeld()
	case refused(err):
		return fmt.Errorf("the kernel cannot keep a table for an owner: Linux 6.9 or newer is needed (%w)", err)
	}
	return err
}

// claimOwned takes over a table that is not persistent: it may be ours only
// where the kernel has no persistent ones.
func (e *engine) claimOwned(flags uint32) error {
	if e.cfg.Socket != nil && flags&tableOwner != 0 {
		persists, err := e.persists()
		if err != nil {
			return err
		}
		if !persists {
			return e.claimHeld()
		}
	}
	return fmt.Errorf("a table of this name is there and not ours: remove it with 'nft delete table inet %s' or configure another name", e.cfg.Table)
}

// tableFlags looks the table up. It is also the first question to the kernel.
func (e *engine) tableFlags() (flags uint32, exists bool, err error) {
	msgs, err := e.conn.dump(unix.NFT_MSG_GETTABLE, func(attrs) {})
	if errors.Is(err, unix.EPERM) {
		return 0, false, fmt.Errorf("CAP_NET_ADMIN is needed: run as root (%w)", err)
	}
	if err != nil {
		return 0, false, fmt.Errorf("ask the kernel for nftables tables: %w", err)
	}
	for _, m := range msgs {
		var name string
		var f uint32
		err := decode(m.Data, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				f = ad.Uint32()
			}
		})
		if err == nil && m.Data[0] == unix.NFPROTO_INET && name == e.cfg.Table {
			return f, true, nil
		}
	}
	return 0, false, nil
}

func (e *engine) remove() error {
	var b batch
	e.deleteTable(&b)
	err := e.conn.commit(&b)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	e.layout, e.filters = nil, nil
	return err
}

// apply puts filters in force; see the package comment on changes.
func (e *engine) apply(filters []sadb.Filter) error {
	known := e.layout != nil && !e.broken
	if known && e.unswept {
		e.sweep()
	}
	if known && slices.Equal(filters, e.filters) {
		return nil
	}
	if err := validate(filters); err != nil {
		return err
	}
	filters = slices.Clone(filters)
	if err := e.revise(filters); err != nil {
		return err
	}
	e.filters = filters
	return nil
}

// revise changes what is in force or, where that is not possible, makes it
// anew.
func (e *engine) revise(filters []sadb.Filter) error {
	if e.layout != nil && !e.broken {
		e.broken = true // until it is done
		c := e.layout.update(filters)
		if !e.layout.worn(c) && e.carryOut(c) == nil {
			e.broken = false
			return nil
		}
	}
	if err := e.rebuild(filters); err != nil {
		return err
	}
	e.broken = false
	return nil
}

func validate(filters []sadb.Filter) error {
	seen := map[sadb.FilterID]bool{}
	for i, f := range filters {
		if f.ID == "" || len(f.ID) > maxNameLen {
			return fmt.Errorf("filter %d (%s): its ID %q must have 1 to %d bytes", i, f.Name, f.ID, maxNameLen)
		}
		if seen[f.ID] {
			return fmt.Errorf("filter %d (%s): its ID %q is there twice", i, f.Name, f.ID)
		}
		seen[f.ID] = true
	}
	return nil
}

// rebuild lays filters out anew, builds that beside what is in force, exchanges
// the rules, and clears away what is no longer used.
func (e *engine) rebuild(filters []sadb.Filter) error {
	next := newLayout(newEpoch())
	c := next.update(filters)
	next.via = next.tunnels > 0
	for _, s := range next.spaces {
		next.built += len(s.slots)
	}
	before := e.layout
	e.layout = next
	if err := e.build(c); err != nil {
		e.layout = before // what was made is unreferenced; the next attempt sweeps it
		return fmt.Errorf("build: %w", err)
	}
	if err := e.exchange(); err != nil {
		e.layout = before
		return fmt.Errorf("exchange rules: %w", err)
	}
	e.based = true
	e.sweep()
	e.forget()
	return nil
}

// sweep clears away what the layout in force does not use. What cannot be swept
// now costs memory only and is tried again with the next apply.
func (e *engine) sweep() { e.unswept = e.retire() != nil }

// build makes the sets and chains of a new layout. Nothing refers to them, so it
// may take several transactions.
func (e *engine) build(c *change) error {
	var b batch
	if !e.based {
		e.addFixed(&b)
	}
	for _, name := range e.layout.use(e.cfg, c.add) {
		if err := e.buildChain(&b, name, e.layout.chains[name].rules); err != nil {
			return err
		}
	}
	for _, group := range bySlot(c.add) {
		x := group[0]
		for _, p := range e.layout.paths(x.space) {
			e.addSet(&b, e.layout.setName(p.chain, x.space.v6, x.slot), x.slot.shape, x.space.v6)
		}
		if err := e.slotElements(&b, unix.NFT_MSG_NEWSETELEM, group); err != nil {
			return err
		}
	}
	return e.conn.commit(&b)
}

func (e *engine) buildChain(b *batch, name string, rules []rule) error {
	e.addChain(b, name, nil)
	for _, r := range rules {
		e.addRule(b, name, r)
	}
	return e.flush(b)
}

// flush sends b if it has grown large.
func (e *engine) flush(b *batch) error {
	if b.full() {
		return e.conn.commit(b)
	}
	return nil
}

// addFixed makes what does not depend on filters, still without rules.
func (e *engine) addFixed(b *batch) {
	for _, name := range []string{counterLast, counterClear, counterOpaque} {
		e.addCounter(b, name)
	}
	e.addLooked(b)
	for _, v6 := range []bool{false, true} {
		e.addClearSet(b, true, v6)
		e.addClearSet(b, false, v6)
		for _, p := range paths() {
			e.addChain(b, dispatch(p.chain, v6), nil)
		}
	}
	for _, name := range sorted(e.cfg.fixed()) {
		if e.cfg.hooks()[name] == nil {
			e.addChain(b, name, nil)
		}
	}
}

// exchange puts a new layout in force: one transaction, rules only.
func (e *engine) exchange() error {
	var b batch
	if !e.based {
		fixed := e.cfg.fixed()
		for _, name := range sorted(fixed) {
			if h := e.cfg.hooks()[name]; h != nil {
				e.addChain(&b, name, h)
			}
		}
		e.putRules(&b, fixed)
	}
	e.putRules(&b, e.layout.dispatchRules(e.cfg))
	return e.conn.commit(&b)
}

// putRules replaces the rules of chains.
func (e *engine) putRules(b *batch, chains map[string][]rule) {
	for _, name := range sorted(chains) {
		e.emptyChain(b, name)
		for _, r := range chains[name] {
			e.addRule(b, name, r)
		}
	}
}
