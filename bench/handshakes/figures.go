package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// figure is one measurement: from the first wish to the last association of
// both ends.
type figure struct {
	peers int
	wall  time.Duration
	cpu   time.Duration // of both daemons together
	busy  float64       // share of the machine's processors that worked for others
}

func (f figure) perSecond() float64 { return float64(f.peers) / f.wall.Seconds() }

// cpuEach is the processor time of both ends for one handshake.
func (f figure) cpuEach() time.Duration { return f.cpu / time.Duration(f.peers) }

// cpuOf returns the user and system time a process has used so far: its CPU
// clock, whose number the kernel makes of the process ID (clock_getcpuclockid(3)).
func cpuOf(pid int) (time.Duration, error) {
	const scheduled = 2
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &used); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}

// machineCPU returns the time that all processors have worked since boot, and
// their time in all, in ticks (proc(5), /proc/stat).
func machineCPU() (worked, all float64, err error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		switch i {
		case idleTime, waitTime:
			all += n
		case guestTime, guestNiceTime: // in user time already
		default:
			worked, all = worked+n, all+n
		}
	}
	return worked, all, nil
}

// Fields of /proc/stat behind the name.
const (
	idleTime      = 3
	waitTime      = 4
	guestTime     = 8
	guestNiceTime = 9
)

// stopwatch measures wall time and the processor time of two processes.
type stopwatch struct {
	pids        []int
	began       time.Time
	cpu         time.Duration
	worked, all float64 // of the machine
}

func startWatch(pids ...int) (*stopwatch, error) {
	w := &stopwatch{pids: pids}
	var err error
	if w.worked, w.all, err = machineCPU(); err != nil {
		return nil, err
	}
	w.cpu, err = w.used()
	w.began = time.Now()
	return w, err
}

func (w *stopwatch) used() (time.Duration, error) {
	var all time.Duration
	for _, pid := range w.pids {
		d, err := cpuOf(pid)
		if err != nil {
			return 0, err
		}
		all += d
	}
	return all, nil
}

func (w *stopwatch) stop(peers int) (figure, error) {
	wall := time.Since(w.began)
	cpu, err := w.used()
	if err != nil {
		return figure{}, err
	}
	worked, all, err := machineCPU()
	f := figure{peers: peers, wall: wall, cpu: cpu - w.cpu}
	if all > w.all {
		ours := f.cpu.Seconds() / (wall.Seconds() * float64(runtime.NumCPU()))
		f.busy = max(0, (worked-w.worked)/(all-w.all)-ours)
	}
	return f, err
}

// median returns the middle value of what of takes from each figure.
func median(all []figure, of func(figure) float64) float64 {
	var values []float64
	for _, f := range all {
		values = append(values, of(f))
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func rate(f figure) float64    { return f.perSecond() }
func cpuCost(f figure) float64 { return float64(f.cpuEach()) / float64(time.Millisecond) }

// ratios are ours by charon's, round by round: the machine's speed drifts.
func ratios(ours, charon []figure, of func(ours, charon figure) float64) string {
	var all []float64
	for i := range ours {
		all = append(all, of(ours[i], charon[i]))
	}
	slices.Sort(all)
	n := len(all)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", (all[(n-1)/2]+all[n/2])/2, all[0], all[n-1])
}

func busy(f figure) float64 { return 100 * f.busy }

const row = "%-6s %-7s %18s %18s %10s\n"

func printHead(w io.Writer) {
	fmt.Fprintf(w, row, "auth", "who", "handshakes/s", "CPU ms/handshake", "others %")
}

func printFigures(w io.Writer, name, who string, all []figure) {
	fmt.Fprintf(w, row, name, who, fmt.Sprintf("%.0f", median(all, rate)), fmt.Sprintf("%.3f", median(all, cpuCost)),
		fmt.Sprintf("%.0f", median(all, busy)))
}

func printRatios(w io.Writer, name string, ours, charon []figure) {
	fmt.Fprintf(w, row, name, "ratio",
		ratios(ours, charon, func(o, c figure) float64 { return o.perSecond() / c.perSecond() }),
		ratios(ours, charon, func(o, c figure) float64 { return float64(c.cpuEach()) / float64(o.cpuEach()) }), "")
}
