package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
)

const sysctlName = "sysctls"

// Sysctls is how settings of the kernel are read: by name, as sysctl(8) has it,
// with a slash for the dots. A setting that does not exist is fs.ErrNotExist.
type Sysctls func(name string) (string, error)

// ReadSysctl reads a setting of the kernel, those of the network in the network
// namespace of the calling thread.
func ReadSysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", name))
	return strings.TrimSpace(string(b)), err
}

// dotted writes a setting as sysctl(8) does.
func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

// Tunables finds settings that break what the driver does. links are the names of
// the interfaces; kernel: XFRM carries the traffic.
func Tunables(read Sysctls, links []string, kernel bool) []control.Check {
	var found []control.Check
	wrong := func(name, bad, why string) {
		if v, err := read(name); err == nil && v == bad {
			found = append(found, Problem(sysctlName, fmt.Sprintf("sysctl -w %s=0, and in /etc/sysctl.d", dotted(name)), "%s is %s: %s", dotted(name), v, why))
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, Unknown(sysctlName, err))
		}
	}
	if kernel {
		for _, l := range append([]string{"all"}, links...) {
			if l == "lo" {
				continue // its traffic is nobody's to secure: the kernel sets them
			}
			wrong("net/ipv4/conf/"+l+"/disable_xfrm", "1", "what leaves by that interface is not secured, and the agent's table drops what policy wants secured")
			wrong("net/ipv4/conf/"+l+"/disable_policy", "1", "what comes in by that interface is not held against the policies, by the agent's table alone")
			wrong("net/ipv6/conf/"+l+"/disable_policy", "1", "what comes in by that interface is not held against the policies, by the agent's table alone")
		}
	}
	if v, err := read("net/ipv4/ip_no_pmtu_disc"); err == nil && v == "3" {
		found = append(found, Warning(sysctlName, "net.ipv4.ip_no_pmtu_disc = 0 in /etc/sysctl.d", "net.ipv4.ip_no_pmtu_disc is 3: \"fragmentation needed\" about secured packets is not believed, and large transfers may stall"))
	}
	if len(found) == 0 {
		return []control.Check{Fine(sysctlName, "nothing switches IPsec off by interface (disable_xfrm, disable_policy) or breaks path MTU discovery")}
	}
	return found
}

// Larval finds that packets are dropped which wait for an association, though an
// agent with the kernel driver runs, which sets that otherwise.
func Larval(read Sysctls) []control.Check {
	v, err := read("net/core/xfrm_larval_drop")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return []control.Check{Unknown(sysctlName, err)}
	case v == "0":
		return nil
	}
	return []control.Check{Warning(sysctlName, "let the agent set it (its unit has to), or net.core.xfrm_larval_drop = 0 in /etc/sysctl.d",
		"net.core.xfrm_larval_drop is %s: packets that wait for an association are dropped, and applications send again after a second", v)}
}

// ReversePath finds reverse path filters in the way: of an interface counts the
// greater of its own setting and that of all.
func ReversePath(read Sysctls, links []string) []control.Check {
	var strict []string
	all, err := read("net/ipv4/conf/all/rp_filter")
	if err != nil {
		return []control.Check{Unknown(sysctlName, err)}
	}
	for _, l := range links {
		own, err := read("net/ipv4/conf/" + l + "/rp_filter")
		if err != nil || l == "lo" {
			continue // gone meanwhile
		}
		if max(own, all) == "1" {
			strict = append(strict, l)
		}
	}
	if len(strict) < 2 {
		return []control.Check{Fine("rp_filter", "no strict reverse path filter can mistake a secured packet")}
	}
	return []control.Check{Warning("rp_filter", "set net.ipv4.conf.*.rp_filter to 2 (loose) where answers may take another way", "the reverse path filter is strict on %s: packets of a peer, secured or not, that come in by another interface than the way back are dropped", strings.Join(strict, ", "))}
}

// Least MTUs: of IPv6 and of any IPv4 host (RFC 8200 §5, RFC 791).
const (
	leastMTU6 = 1280
	leastMTU4 = 576
)

// overhead is what ESP in tunnel mode through NAT adds at most with the suites
// that are offered first: outer IPv6 header 40, UDP 8, ESP header and IV 16,
// padding and trailer 5, check value 16.
const overhead = 40 + 8 + 16 + 5 + 16

// MTUs finds interfaces on which little is left of a packet.
func MTUs(links []net.Interface) []control.Check {
	var found []control.Check
	var fine []string
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 {
			continue
		}
		left := l.MTU - overhead
		switch {
		case l.MTU < leastMTU4+overhead:
			found = append(found, Problem("MTU", fmt.Sprintf("ip link set %s mtu 1500, or what the link carries", l.Name), "%s has an MTU of %d: after ESP %d bytes are left of a packet, less than every host must take", l.Name, l.MTU, left))
		case left < leastMTU6:
			found = append(found, Warning("MTU", fmt.Sprintf("a greater MTU on %s, if the link carries it", l.Name), "%s has an MTU of %d: after ESP as little as %d bytes are left, and IPv6 packets of 1280 bytes are fragmented", l.Name, l.MTU, left))
		default:
			fine = append(fine, fmt.Sprintf("%s %d, after ESP at least %d", l.Name, l.MTU, left))
		}
	}
	if len(fine) > 0 {
		found = append(found, Fine("MTU", "%s", strings.Join(fine, "; ")))
	}
	if len(found) == 0 {
		return []control.Check{Warning("MTU", "bring an interface up", "no interface is up but the loopback")}
	}
	return found
}

// Clock says whether the kernel's clock is kept by something: state and status
// of adjtimex(2).
func Clock(status int32) control.Check {
	if status&unix.STA_UNSYNC != 0 {
		return Warning("clock", "run a time service (systemd-timesyncd, chrony), or look why it has no server: timedatectl", "nothing keeps this host's clock: Kerberos refuses clocks that differ by 5 minutes, and certificates are judged by it")
	}
	return Fine("clock", "kept by a time service")
}

// ReadClock returns what Clock judges.
func ReadClock() (status int32, err error) {
	var t unix.Timex
	_, err = unix.Adjtimex(&t)
	return t.Status, err
}
