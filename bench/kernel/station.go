package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/agent"
	"ipsecagent/driver/xfrm"
	"ipsecagent/sadb"
)

// stationCommand is the argument that makes this program a station: a process
// in a namespace that owns a driver and does with it what it is told, so that
// its memory and its time are those of the driver.
const stationCommand = "station"

// order is what a station is told, one to a line.
type order struct {
	Do         string
	List       string // of filters
	Dir        sadb.Directions
	From, To   int // pairs, the last one excluded
	Generation int
}

// What a station can be told.
const (
	doFilters = "filters"
	doAdd     = "add"
	doDelete  = "delete"
	doList    = "list"
	doMemory  = "memory"
)

// report is what it answers.
type report struct {
	Error string
	Took  time.Duration
	Count int    // doList: associations
	Heap  uint64 // doMemory: live bytes
	RSS   uint64 // resident bytes
	Peak  uint64 // the most there ever were
}

// station is the driver and whose it is.
type station struct {
	driver  *xfrm.Driver
	bob     bool
	filters int
	profile string
}

func runStation(args []string, in io.Reader, out io.Writer) error {
	f := flag.NewFlagSet(stationCommand, flag.ContinueOnError)
	dir := f.String("dir", "", "directory of the driver's book")
	var s station
	f.StringVar(&s.profile, "profile", "", "file for a CPU profile; a profile of the heap is beside it")
	f.BoolVar(&s.bob, "bob", false, "the far end")
	f.IntVar(&s.filters, "filters", 0, "how many filters")
	if err := f.Parse(args); err != nil {
		return err
	}
	if s.profile != "" {
		file, err := os.Create(s.profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	table, err := tableSocket()
	if err != nil {
		return err
	}
	s.driver, err = xfrm.Open(xfrm.Config{Dir: *dir, TableSocket: func() (int, error) { return unix.Dup(table) }})
	if err != nil {
		return err
	}
	defer s.driver.Close()
	go agent.LimitMemory(context.Background()) // as the agent's program does
	go func() {
		for range s.driver.Events() { // nobody asks here what the kernel asks for
		}
	}()
	return s.serve(json.NewDecoder(in), json.NewEncoder(out))
}

// tableSocket opens the socket that owns the table on old kernels.
func tableSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// serve obeys orders until there are no more.
func (s *station) serve(in *json.Decoder, out *json.Encoder) error {
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := s.obey(o)
		if err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func (s *station) obey(o order) (report, error) {
	switch o.Do {
	case doFilters:
		list := filtersOf(o.List, s.filters)
		began := time.Now()
		err := s.driver.SetFilters(context.Background(), list)
		took := time.Since(began)
		debug.FreeOSMemory() // as the agent does
		return report{Took: took}, err
	case doAdd:
		return s.add(o)
	case doDelete:
		return s.delete(o)
	case doList:
		began := time.Now()
		state, err := s.driver.State(context.Background())
		return report{Took: time.Since(began), Count: len(state.SAs)}, err
	case doMemory:
		return s.memory()
	}
	return report{}, fmt.Errorf("no order %q", o.Do)
}

// chosen returns the associations that an order is about.
func (s *station) chosen(o order) []sadb.SA {
	var all []sadb.SA
	for pair := o.From; pair < o.To; pair++ {
		for _, leavesAlice := range []bool{true, false} {
			if sa := association(pair, o.Generation, leavesAlice, s.bob); sa.Dir&o.Dir != 0 {
				if o.Generation > 0 {
					sa.Replaces = association(pair, o.Generation-1, leavesAlice, s.bob).ID
				}
				all = append(all, sa)
			}
		}
	}
	return all
}

func (s *station) add(o order) (report, error) {
	all := s.chosen(o)
	began := time.Now()
	for _, sa := range all {
		if err := s.driver.AddSA(context.Background(), sa); err != nil {
			return report{}, err
		}
	}
	return report{Took: time.Since(began), Count: len(all)}, nil
}

func (s *station) delete(o order) (report, error) {
	all := s.chosen(o)
	began := time.Now()
	for _, sa := range all {
		if err := s.driver.DeleteSA(context.Background(), sa.ID); err != nil {
			return report{}, err
		}
	}
	return report{Took: time.Since(began), Count: len(all)}, nil
}

// memory reads what is resident, as it is, and then what is live.
func (s *station) memory() (report, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return report{}, err
	}
	r := report{RSS: kilobytes(string(raw), "VmRSS:"), Peak: kilobytes(string(raw), "VmHWM:")}
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one only found to be free
	runtime.ReadMemStats(&stats)
	r.Heap = stats.HeapAlloc
	if s.profile == "" {
		return r, nil
	}
	file, err := os.Create(s.profile + ".heap")
	if err != nil {
		return r, err
	}
	defer file.Close()
	return r, pprof.WriteHeapProfile(file)
}

// kilobytes reads an entry of /proc/self/status, in bytes.
func kilobytes(status, name string) uint64 {
	_, rest, _ := strings.Cut(status, name)
	var n uint64
	if _, err := fmt.Sscan(rest, &n); err != nil {
		return 0
	}
	return n << 10
}

// profileOf is the file for the profile of a station; "": none.
func (b *bench) profileOf(name string) string {
	if b.profile == "" {
		return ""
	}
	return filepath.Join(b.profile, "kernel-"+name+".pprof")
}
