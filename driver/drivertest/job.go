package drivertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// JobEnv is the variable by which a test makes its own binary an agent that is
// to be killed: ParseJob reads it.
const JobEnv = "IPSECAGENT_TEST_JOB"

// Job is the work of such an agent. It keeps everything between two hosts
// secured and changes what it can: the list of filters, overlays, associations.
type Job struct {
	Local, Peer [2]netip.Addr // IPv4 and IPv6
	// SPI is that of the first new outbound association; the peer has Room of
	// them ready.
	SPI  sadb.SPI
	Room int
	Seed uint64
	// Steps is after how many steps it says that it is at work.
	Steps int
}

// Lines a job writes.
const (
	jobOpens = "opens"   // before the driver is opened
	jobWorks = "at work" // after Steps
)

// ParseJob reads a job that another process has written.
func ParseJob(s string) (Job, error) {
	var j Job
	if err := json.Unmarshal([]byte(s), &j); err != nil {
		return Job{}, fmt.Errorf("drivertest: read the job: %w", err)
	}
	return j, nil
}

// String writes the job for ParseJob.
func (j Job) String() string {
	b, err := json.Marshal(j)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Do works until something fails; it does not end otherwise. It says on out how
// far it is.
func (j Job) Do(open func() (driver.Driver, error), out io.Writer) error {
	fmt.Fprintln(out, jobOpens)
	d, err := open()
	if err != nil {
		return err
	}
	go func() {
		for range d.Events() {
		}
	}()
	w := &worker{Job: j, d: d, rand: rand.New(rand.NewPCG(j.Seed, 0))}
	if err := w.begin(); err != nil {
		return err
	}
	for n := 1; ; n++ {
		if err := w.step(); err != nil {
			return err
		}
		if n == w.Steps {
			fmt.Fprintln(out, jobWorks)
		}
	}
}

// worker is an agent at its job.
type worker struct {
	Job
	d    driver.Driver
	rand *rand.Rand

	out, in [2]sadb.SAID // in force; of in: its own
	renewed int          // outbound associations of each family so far
}

// families are the filters of each address of a job.
var families = [2]sadb.FilterID{"v4", "v6"}

func (w *worker) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

// begin does what an agent does first: its filters, and a look at what is there.
func (w *worker) begin() error {
	ctx, cancel := w.ctx()
	defer cancel()
	if err := w.d.SetFilters(ctx, w.list()); err != nil {
		return err
	}
	s, err := w.d.State(ctx)
	if err != nil {
		return err
	}
	for i := range families {
		if sa, ok := newest(s, w.Peer[i]); ok {
			w.out[i] = sa.ID
		}
	}
	return nil
}

// newest returns the outbound association to a host with the highest SPI: those
// of a job are in order.
func newest(s driver.State, to netip.Addr) (found sadb.SA, ok bool) {
	for _, a := range s.SAs {
		if a.SA.Dir == sadb.Out && a.SA.ID.Dst == to && (!ok || a.SA.ID.SPI > found.ID.SPI) {
			found, ok = a.SA, true
		}
	}
	return found, ok
}

func (w *worker) step() error {
	ctx, cancel := w.ctx()
	defer cancel()
	i := w.rand.IntN(2)
	over := whole("over-"+families[i], sadb.Addr(w.Peer[i]))
	switch w.rand.IntN(6) {
	case 0, 1:
		return w.d.SetFilters(ctx, w.list())
	case 2:
		return w.d.PutFilter(ctx, above(over, families[i]))
	case 3:
		return w.d.RemoveFilter(ctx, over.ID)
	case 4:
		return w.renewInbound(ctx, i)
	}
	return w.renewOutbound(ctx, i)
}

// list returns everything required, with filters among it that change.
func (w *worker) list() []sadb.Filter {
	list := []sadb.Filter{whole("v4", sadb.Addr(w.Peer[0])), whole("v6", sadb.Addr(w.Peer[1])), whole("rest", sadb.AnyAddrs())}
	for range w.rand.IntN(6) {
		n := byte(w.rand.IntN(20))
		f := whole(sadb.FilterID(fmt.Sprint("other", n)), sadb.Addr(netip.AddrFrom4([4]byte{198, 51, 100, n})))
		f.Action.Kind = []sadb.ActionKind{sadb.Block, sadb.Permit, sadb.Negotiate}[w.rand.IntN(3)]
		if !slices.ContainsFunc(list, func(g sadb.Filter) bool { return g.ID == f.ID }) {
			list = slices.Insert(list, w.rand.IntN(len(list)), f)
		}
	}
	return list
}

// renewOutbound puts a new outbound association in the place of the last.
func (w *worker) renewOutbound(ctx context.Context, i int) error {
	if w.renewed == w.Room {
		return nil
	}
	sa := associationOf(families[i], w.SPI+sadb.SPI(w.renewed), w.Local[i], w.Peer[i])
	sa.Replaces = w.out[i]
	w.renewed++
	if err := w.d.AddSA(ctx, sa); err != nil {
		return err
	}
	old := w.out[i]
	w.out[i] = sa.ID
	return w.drop(ctx, old)
}

// renewInbound puts one more inbound association in the place of its last; the
// peer uses neither.
func (w *worker) renewInbound(ctx context.Context, i int) error {
	spi, err := w.d.AllocSPI(ctx, w.Peer[i], w.Local[i], sadb.ESP)
	if err != nil {
		return err
	}
	sa := associationOf(families[i], spi, w.Peer[i], w.Local[i])
	sa.Dir, sa.Selector = sadb.In, sa.Selector.Mirror()
	if err := w.d.AddSA(ctx, sa); err != nil {
		return err
	}
	old := w.in[i]
	w.in[i] = sa.ID
	return w.drop(ctx, old)
}

func (w *worker) drop(ctx context.Context, id sadb.SAID) error {
	if id == (sadb.SAID{}) {
		return nil
	}
	return w.d.DeleteSA(ctx, id)
}
