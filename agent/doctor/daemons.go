package doctor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ipsecagent/agent/control"
)

const daemonsName = "other IKE daemons"

// Process is one process of this network namespace, or with sockets of it.
type Process struct {
	PID  int
	Name string
	// Ports are the UDP ports of IKE, 500 and 4500, that it has sockets of.
	Ports []uint16
}

// daemonNames are the programs that exchange keys.
func daemonNames() []string {
	return []string{"charon", "charon-systemd", "charon-nm", "pluto", "racoon", "iked", "isakmpd", "libreswan"}
}

// Daemons finds key exchanges other than the agent, whose processes are ours.
func Daemons(all []Process, ours []int) []control.Check {
	var found []control.Check
	for _, p := range all {
		switch {
		case slices.Contains(ours, p.PID):
		case p.Name == ownName:
			found = append(found, own(p)...)
		case len(p.Ports) > 0:
			found = append(found, Problem(daemonsName, fmt.Sprintf("stop it for good (systemctl status %d names its unit: systemctl disable --now UNIT)", p.PID),
				"process %d (%s) has UDP port %s: two key exchanges of one host take each other's messages", p.PID, p.Name, portWords(p.Ports)))
		case slices.Contains(daemonNames(), p.Name):
			found = append(found, Warning(daemonsName, fmt.Sprintf("stop it for good (systemctl status %d names its unit), unless it is for something else", p.PID),
				"process %d (%s) is an IKE daemon", p.PID, p.Name))
		}
	}
	if len(found) == 0 {
		return []control.Check{Fine(daemonsName, "none runs, and UDP ports 500 and 4500 are nobody else's")}
	}
	return found
}

// ownName is the name of the agent's program.
const ownName = "ipsecagent"

// own is about an agent, or a data path, other than the one of these settings.
func own(p Process) []control.Check {
	if len(p.Ports) == 0 {
		return nil // a holder, or a command that was just started
	}
	return []control.Check{Problem(daemonsName, fmt.Sprintf("ps -fp %d shows the settings it was started with; take it down with them: ipsecagent datapath --stop --run-dir FOLDER", p.PID),
		"process %d is an ipsecagent with other settings than these (another run folder) and has UDP port %s: only one can exchange keys here", p.PID, portWords(p.Ports))}
}

func portWords(ports []uint16) string {
	var words []string
	for _, p := range ports {
		words = append(words, fmt.Sprint(p))
	}
	return strings.Join(words, " and ")
}

// udpSocket is a socket of a UDP port.
type udpSocket struct {
	port  uint16
	inode uint64
}

// parseUDP reads /proc/net/udp or udp6: the sockets bound to ports of IKE.
func parseUDP(text []byte) ([]udpSocket, error) {
	var all []udpSocket
	lines := bufio.NewScanner(bytes.NewReader(text))
	for first := true; lines.Scan(); first = false {
		f := strings.Fields(lines.Text())
		if first || len(f) == 0 {
			continue
		}
		if len(f) < 10 {
			return nil, fmt.Errorf("%q is no line of UDP sockets", lines.Text())
		}
		_, hex, _ := strings.Cut(f[1], ":")
		port, errPort := strconv.ParseUint(hex, 16, 16)
		inode, errInode := strconv.ParseUint(f[9], 10, 64)
		if err := errors.Join(errPort, errInode); err != nil {
			return nil, fmt.Errorf("%q is no line of UDP sockets: %w", lines.Text(), err)
		}
		if port == 500 || port == 4500 {
			all = append(all, udpSocket{uint16(port), inode})
		}
	}
	return all, lines.Err()
}

// readPorts reads the sockets of IKE's ports in this network namespace: the port
// by the link that a descriptor of the socket is.
func readPorts() (map[string]uint16, error) {
	ports := map[string]uint16{}
	for _, file := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("doctor: read sockets: %w", err)
		}
		sockets, err := parseUDP(text)
		if err != nil {
			return nil, fmt.Errorf("doctor: read %s: %w", file, err)
		}
		for _, s := range sockets {
			ports[fmt.Sprintf("socket:[%d]", s.inode)] = s.port
		}
	}
	return ports, nil
}

// ReadProcesses reads the processes of this network namespace, and who has the
// ports of IKE there.
func ReadProcesses() ([]Process, error) {
	ports, err := readPorts()
	if err != nil {
		return nil, err
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("doctor: read processes: %w", err)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	var all []Process
	for _, dir := range dirs {
		if p, ok := readProcess(dir, own, ports); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// readProcess reads one process; false: it has ended meanwhile, may not be looked
// at, or is of another network namespace and has no socket of this one.
func readProcess(dir, namespace string, ports map[string]uint16) (Process, bool) {
	pid, _ := strconv.Atoi(filepath.Base(dir)) // by its name in /proc
	its, errLink := os.Readlink(dir + "/ns/net")
	name, err := os.ReadFile(dir + "/comm")
	if errors.Join(errLink, err) != nil {
		return Process{}, false
	}
	p := Process{PID: pid, Name: strings.TrimSpace(string(name))}
	files, _ := filepath.Glob(dir + "/fd/*") // the pattern is well formed
	for _, f := range files {
		if link, err := os.Readlink(f); err == nil && ports[link] != 0 && !slices.Contains(p.Ports, ports[link]) {
			p.Ports = append(p.Ports, ports[link])
		}
	}
	slices.Sort(p.Ports)
	return p, its == namespace || len(p.Ports) > 0
}
