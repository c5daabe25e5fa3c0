package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"ipsecagent/policy/directory/dirtest"
)

// load is what the servers in a namespace have used and hold.
type load struct {
	cpu       time.Duration
	memory    uint64 // bytes; what processes share is counted once
	processes int
}

// clockTick is the unit of processor time in /proc (proc(5)).
const clockTick = 10 * time.Millisecond

// loadOf looks at the processes in a namespace.
func loadOf(ns *dirtest.Namespace) load {
	var l load
	out, _ := exec.Command("ip", "netns", "pids", ns.Name()).Output() // one that has ended is none
	for _, pid := range strings.Fields(string(out)) {
		if pid == strconv.Itoa(os.Getpid()) {
			continue // its threads dial there
		}
		l.processes++
		l.cpu += cpuOf(pid)
		l.memory += field("/proc/"+pid+"/smaps_rollup", "Pss:")
	}
	return l
}

// cpuOf is the processor time that a process has used.
func cpuOf(pid string) time.Duration {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	_, behind, _ := bytes.Cut(text[bytes.LastIndexByte(text, ')'):], []byte(" "))
	fields := strings.Fields(string(behind)) // from the third of proc(5) on
	var ticks time.Duration
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseUint(f, 10, 63)
		ticks += time.Duration(n)
	}
	return ticks * clockTick
}

// field reads a number of KiB from a file of /proc and returns bytes.
func field(file, name string) uint64 {
	text, _ := os.ReadFile(file) // a process that has ended has none
	for line := range strings.Lines(string(text)) {
		var n uint64
		if strings.HasPrefix(line, name) {
			if _, err := fmt.Sscan(strings.TrimPrefix(line, name), &n); err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// available is how much memory this machine still has.
func available() uint64 { return field("/proc/meminfo", "MemAvailable:") }
