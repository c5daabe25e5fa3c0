package udp

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// unknownHolder is the answer where /proc does not tell, as without root.
const unknownHolder = "another program, probably an IKE daemon such as charon, pluto or racoon,"

// holder names the process that holds a UDP port of this network namespace.
func holder(port uint16) string {
	inodes := map[string]bool{}
	for _, file := range []string{"udp", "udp6"} {
		f, err := os.Open("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		collectInodes(bufio.NewScanner(f), port, inodes)
		f.Close()
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is valid
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			continue
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), filepath.Base(process))
	}
	return unknownHolder
}

// collectInodes reads a table of proc_net_udp(5) and adds the inode of each
// socket on port.
func collectInodes(table *bufio.Scanner, port uint16, inodes map[string]bool) {
	const localAddress, inode = 1, 9 // columns
	for table.Scan() {
		columns := strings.Fields(table.Text())
		if len(columns) <= inode {
			continue
		}
		_, hex, _ := strings.Cut(columns[localAddress], ":")
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(p) == port {
			inodes[columns[inode]] = true
		}
	}
}
