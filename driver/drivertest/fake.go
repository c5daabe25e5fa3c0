// Package drivertest is for tests of what stands on either side of the Driver
// seam: Fake is a driver in memory, Run is the conformance test that every driver
// passes, and Leaks and Killed are what those that move packets pass besides,
// while other programs act on their host and their processes are killed.
//
// Fake moves no packet and runs no cryptography: it says what a driver would
// do with a packet of which only the headers are known.
package drivertest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// eventRoom is how many events wait for a reader before they are lost.
const eventRoom = 1024

// maxReservations bounds the SPIs that wait for their association.
const maxReservations = 4096

// Fake is a driver in memory, safe for use by several goroutines: the code
// under test holds one end, the test the other. Time passes for it only when a
// method runs, by the clock given to New.
type Fake struct {
	mu       sync.Mutex
	now      func() time.Time
	started  time.Time
	filters  []sadb.Filter
	overlays []sadb.Filter
	stats    map[sadb.FilterID]*driver.FilterStat
	reserved map[sadb.SAID]bool
	sas      []*association // newest last
	asked    map[question]bool
	clear    []driver.ClearPeer
	counters driver.Counters
	events   chan driver.Event
	lost     bool
	closed   bool
	fail     error
	calls    []string
}

// association is an SA with its state.
type association struct {
	driver.SAState
	root      sadb.FilterID // the filter it is bound to: an overlay stands for its parent
	enc, auth sadb.Secret
	soft      bool // Expire{soft} was raised
}

// question is what an Acquire is raised for once.
type question struct {
	filter        sadb.FilterID
	local, remote netip.Addr
}

var errClosed = errors.New("drivertest: the fake driver is closed")

// New returns a Fake without filters and associations.
func New(now func() time.Time) *Fake {
	return &Fake{now: now, started: now(), stats: map[sadb.FilterID]*driver.FilterStat{},
		reserved: map[sadb.SAID]bool{}, asked: map[question]bool{}, events: make(chan driver.Event, eventRoom)}
}

// enter locks, records the call and lets time pass. The caller unlocks, with
// or without an error.
func (f *Fake) enter(ctx context.Context, call string, args ...any) error {
	f.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.closed {
		return errClosed
	}
	f.tick()
	f.calls = append(f.calls, fmt.Sprintf(call, args...))
	err := f.fail
	f.fail = nil
	return err
}

// SetFilters implements driver.Driver.
func (f *Fake) SetFilters(ctx context.Context, filters []sadb.Filter) error {
	err := f.enter(ctx, "SetFilters %d", len(filters))
	defer f.mu.Unlock()
	if err == nil {
		err = checkFilters(filters)
	}
	if err != nil {
		return err
	}
	if slices.Equal(f.filters, filters) {
		return nil
	}
	before := f.filters
	f.filters = slices.Clone(filters)
	f.overlays = slices.DeleteFunc(f.overlays, func(o sadb.Filter) bool {
		end := o.Overlay() && !sameSelector(before, f.filters, o.Parent)
		if end {
			f.emit(driver.FilterEnded{ID: o.ID})
		}
		return end
	})
	return nil
}

func checkFilters(filters []sadb.Filter) error {
	seen := map[sadb.FilterID]bool{}
	for _, e := range filters {
		switch {
		case e.ID == "":
			return fmt.Errorf("drivertest: set filters: %q has no ID", e.Name)
		case seen[e.ID]:
			return fmt.Errorf("drivertest: set filters: ID %s is there twice", e.ID)
		case e.Overlay():
			return fmt.Errorf("drivertest: set filters: %s is an overlay", e.ID)
		case e.Dir == 0:
			return fmt.Errorf("drivertest: set filters: %s has no direction", e.ID)
		}
		seen[e.ID] = true
	}
	return nil
}

func sameSelector(before, after []sadb.Filter, id sadb.FilterID) bool {
	a, b := find(before, id), find(after, id)
	return a != nil && b != nil && a.Selector == b.Selector
}

func find(filters []sadb.Filter, id sadb.FilterID) *sadb.Filter {
	for i := range filters {
		if filters[i].ID == id {
			return &filters[i]
		}
	}
	return nil
}

// PutFilter implements driver.Driver.
func (f *Fake) PutFilter(ctx context.Context, o sadb.Filter) error {
	err := f.enter(ctx, "PutFilter %s above %q", o.ID, o.Parent)
	defer f.mu.Unlock()
	switch {
	case err != nil:
		return err
	case o.ID == "" || o.Dir == 0:
		return fmt.Errorf("drivertest: put filter %q: no ID or no direction", o.ID)
	case !o.Overlay() && o.Expires.IsZero():
		return fmt.Errorf("drivertest: put filter %s: neither parent nor expiry", o.ID)
	case o.Overlay() && find(f.filters, o.Parent) == nil:
		return fmt.Errorf("drivertest: put filter %s: its parent %s is not there", o.ID, o.Parent)
	}
	f.dropOverlay(o.ID)
	f.overlays = append(f.overlays, o)
	f.tick()
	return nil
}

// RemoveFilter implements driver.Driver.
func (f *Fake) RemoveFilter(ctx context.Context, id sadb.FilterID) error {
	err := f.enter(ctx, "RemoveFilter %s", id)
	defer f.mu.Unlock()
	if err == nil {
		f.dropOverlay(id)
	}
	return err
}

func (f *Fake) dropOverlay(id sadb.FilterID) {
	f.overlays = slices.DeleteFunc(f.overlays, func(o sadb.Filter) bool { return o.ID == id })
}

// AllocSPI implements driver.Driver.
func (f *Fake) AllocSPI(ctx context.Context, src, dst netip.Addr, p sadb.Proto) (sadb.SPI, error) {
	err := f.enter(ctx, "AllocSPI %s to %s", src, dst)
	defer f.mu.Unlock()
	if err == nil && len(f.reserved) >= maxReservations {
		err = errors.New("drivertest: reserve SPI: too many reservations")
	}
	if err != nil {
		return 0, err
	}
	for {
		id := sadb.SAID{Dst: dst, Proto: p, SPI: sadb.RandomSPI()}
		if !f.reserved[id] && f.sa(id) == nil {
			f.reserved[id] = true
			return id.SPI, nil
		}
	}
}

// AddSA implements driver.Driver.
func (f *Fake) AddSA(ctx context.Context, sa sadb.SA) error {
	err := f.enter(ctx, "AddSA %s %s", sa.Dir, sa.ID)
	defer f.mu.Unlock()
	if err == nil {
		err = checkSA(sa)
	}
	if err != nil {
		return err
	}
	delete(f.reserved, sa.ID)
	a := &association{root: f.rootOf(sa.Filter), enc: sa.EncKey, auth: sa.AuthKey}
	if old := f.sa(sa.ID); old != nil && old.enc.Equal(sa.EncKey) && old.auth.Equal(sa.AuthKey) {
		*a = *old // new terms, not a new association: numbers and counters go on
	}
	f.dropSA(sa.ID)
	sa.EncKey, sa.AuthKey = sadb.Secret{}, sadb.Secret{}
	a.SA = sa
	if a.Added.IsZero() {
		a.Added = f.now()
	}
	f.sas = append(f.sas, a)
	if sa.Dir == sadb.Out {
		delete(f.asked, question{a.root, sa.Src, sa.ID.Dst})
	}
	return nil
}

// rootOf returns the filter that id stands for.
func (f *Fake) rootOf(id sadb.FilterID) sadb.FilterID {
	if o := find(f.overlays, id); o != nil {
		return root(*o)
	}
	return id
}

func checkSA(sa sadb.SA) error {
	switch {
	case sa.Dir != sadb.In && sa.Dir != sadb.Out:
		return fmt.Errorf("drivertest: add %s: direction %s", sa.ID, sa.Dir)
	case !sa.Suite.Valid() || sa.Suite.Proto != sa.ID.Proto:
		return fmt.Errorf("drivertest: add %s: suite %s", sa.ID, sa.Suite)
	case sa.EncKey.Len() != sa.Suite.EncKeyLen() || sa.AuthKey.Len() != sa.Suite.Integrity.KeyLen():
		return fmt.Errorf("drivertest: add %s: keys have the wrong length for %s", sa.ID, sa.Suite)
	case sa.Dir == sadb.In && sa.Replay == 0:
		return fmt.Errorf("drivertest: add %s: no replay window", sa.ID)
	}
	return nil
}

// DeleteSA implements driver.Driver.
func (f *Fake) DeleteSA(ctx context.Context, id sadb.SAID) error {
	err := f.enter(ctx, "DeleteSA %s", id)
	defer f.mu.Unlock()
	if err == nil {
		delete(f.reserved, id)
		f.dropSA(id)
	}
	return err
}

func (f *Fake) dropSA(id sadb.SAID) {
	f.sas = slices.DeleteFunc(f.sas, func(a *association) bool { return a.SA.ID == id })
}

func (f *Fake) sa(id sadb.SAID) *association {
	for _, a := range f.sas {
		if a.SA.ID == id {
			return a
		}
	}
	return nil
}

// Abandon implements driver.Driver.
func (f *Fake) Abandon(ctx context.Context, a driver.Acquire) error {
	err := f.enter(ctx, "Abandon %s", a.Filter)
	defer f.mu.Unlock()
	if err == nil {
		delete(f.asked, question{f.rootOf(a.Filter), a.Flow.Local, a.Flow.Remote})
	}
	return err
}

// State implements driver.Driver.
func (f *Fake) State(ctx context.Context) (driver.State, error) {
	err := f.enter(ctx, "State")
	defer f.mu.Unlock()
	if err != nil {
		return driver.State{}, err
	}
	s := driver.State{Name: "fake", Started: f.started, Clear: slices.Clone(f.clear), Counters: f.counters, ModeTunnel: true}
	for _, a := range f.sas {
		s.SAs = append(s.SAs, a.SAState)
	}
	for _, e := range f.spd() {
		s.Filters = append(s.Filters, *f.stat(e))
	}
	for _, name := range []string{"esp-aes256gcm", "esp-aes128gcm", "esp-aes128-sha256", "esp-aes128-sha1", "esp-3des-sha1"} {
		suite, err := sadb.ParseSuite(name)
		if err != nil {
			return driver.State{}, err
		}
		s.Suites = append(s.Suites, suite)
	}
	return s, nil
}

// Events implements driver.Driver.
func (f *Fake) Events() <-chan driver.Event { return f.events }

// Close implements driver.Driver. What is in force stays: see Reopen.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.events)
	}
	return nil
}

// emit delivers an event. What finds no room is lost, and a Resync says so as
// soon as there is room again.
func (f *Fake) emit(e driver.Event) {
	if f.closed {
		return
	}
	if f.lost {
		e = driver.Resync{Reason: "events were lost"}
	}
	select {
	case f.events <- e:
		f.lost = false
	default:
		f.lost = true
	}
}
