package host

import (
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Sets is what the configuration of this machine names: by DHCP, by hand, by
// its routes. Each is sorted, each address once, without loopback and groups.
type Sets struct {
	DNS, WINS, DHCP, Gateways []netip.Addr
}

// Bounds of what is read.
const (
	maxFile   = 1 << 20 // bytes of one file
	maxLeases = 256     // files of one kind
	maxSet    = 64      // addresses of one set
)

// lease is what a DHCP client knows of one lease.
type lease struct {
	address   netip.Addr
	server    netip.Addr
	dns, wins []netip.Addr
}

// leaseFiles is where DHCP clients keep leases, and in which form.
func leaseFiles() []leaseFile {
	return []leaseFile{
		{"run/systemd/netif/leases/*", parseKeyed},
		{"var/lib/NetworkManager/internal-*.lease", parseKeyed},
		{"var/lib/NetworkManager/dhclient-*.lease", parseISC},
		{"var/lib/dhcp/dhclient*.leases", parseISC},
		{"var/lib/dhclient/dhclient*.lease*", parseISC},
		{"var/lib/dhcpcd/*.lease", parseRaw},
		{"var/lib/dhcpcd5/*.lease", parseRaw},
	}
}

type leaseFile struct {
	glob  string
	parse func(text []byte) []lease
}

// resolvers is where the name servers of this machine stand, the first file
// that names one which is not on this machine itself: /etc/resolv.conf may name
// a resolver of its own, whose servers systemd-resolved and NetworkManager
// write down.
func resolvers() []string {
	return []string{"etc/resolv.conf", "run/systemd/resolve/resolv.conf", "run/NetworkManager/no-stub-resolv.conf"}
}

// root is the file system that Read looks at.
func root() fs.FS { return os.DirFS("/") }

// configured reads the sets that files below fsys name. A lease counts as long as
// owns says that this machine has its address.
func configured(fsys fs.FS, owns func(netip.Addr) bool) Sets {
	var s Sets
	for _, l := range leases(fsys) {
		if !owns(l.address) {
			continue
		}
		s.DHCP, s.WINS, s.DNS = append(s.DHCP, l.server), append(s.WINS, l.wins...), append(s.DNS, l.dns...)
	}
	for _, name := range resolvers() {
		if servers := set(nameservers(readFile(fsys, name))); len(servers) > 0 {
			s.DNS = servers // what is in use, whatever a lease proposed
			break
		}
	}
	s.DNS, s.WINS, s.DHCP = set(s.DNS), set(s.WINS), set(s.DHCP)
	return s
}

func leases(fsys fs.FS) []lease {
	var all []lease
	for _, f := range leaseFiles() {
		names, _ := fs.Glob(fsys, f.glob) // the pattern is well-formed
		for _, name := range names[:min(len(names), maxLeases)] {
			all = append(all, f.parse(readFile(fsys, name))...)
		}
	}
	return all
}

// readFile returns a file's text; nothing of one that is not there or too large:
// half a file may say something else.
func readFile(fsys fs.FS, name string) []byte {
	f, err := fsys.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil || len(text) > maxFile {
		return nil
	}
	return text
}

// set puts addresses in the form of Sets.
func set(all []netip.Addr) []netip.Addr {
	var kept []netip.Addr
	for _, a := range all {
		a = a.Unmap().WithZone("")
		if a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() {
			kept = append(kept, a)
		}
	}
	slices.SortFunc(kept, netip.Addr.Compare)
	kept = slices.Compact(kept)
	return kept[:min(len(kept), maxSet)]
}

// nameservers returns the servers of a resolv.conf(5).
func nameservers(text []byte) []netip.Addr {
	var all []netip.Addr
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			all = append(all, addr)
		}
	}
	return all
}

// resolvConf is where the resolver of this machine looks.
const resolvConf = "etc/resolv.conf"

// Nameservers returns address and port of the name servers to ask, in order:
// those that this machine asks, at most three; itself if none is named
// (resolv.conf(5)). Behind a resolver on this machine follow the servers that it
// asks: its own questions may be what a policy blocks.
func Nameservers() []netip.AddrPort { return serversIn(root()) }

func serversIn(fsys fs.FS) []netip.AddrPort {
	all := serversOf(fsys, resolvConf)
	if len(all) == 0 {
		all = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	}
	if slices.ContainsFunc(all, func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() }) {
		return all
	}
	for _, name := range resolvers()[1:] {
		for _, a := range serversOf(fsys, name) {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	return all
}

const dnsPort = 53

// serversOf returns the servers that one file names, as many as resolvers use.
func serversOf(fsys fs.FS, name string) []netip.AddrPort {
	const most = 3
	var all []netip.AddrPort
	for _, a := range nameservers(readFile(fsys, name)) {
		if len(all) < most {
			all = append(all, netip.AddrPortFrom(a, dnsPort))
		}
	}
	return all
}

// stamp is what a file was at one moment.
type stamp struct {
	changed time.Time
	size    int64
}

// stamps tells whether a file that configured reads has changed.
func stamps(fsys fs.FS) map[string]stamp {
	all := map[string]stamp{}
	names := resolvers()
	for _, f := range leaseFiles() {
		found, _ := fs.Glob(fsys, f.glob)
		names = append(names, found[:min(len(found), maxLeases)]...)
	}
	for _, name := range names {
		if info, err := fs.Stat(fsys, name); err == nil {
			all[name] = stamp{info.ModTime(), info.Size()}
		}
	}
	return all
}
