package doctor

import (
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
)

// expect compares checks with what they are to be: state and a part of what is
// said, one line for each.
func expect(t *testing.T, got []control.Check, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		state, says, _ := strings.Cut(want[i], ": ")
		ok = got[i].State == state && strings.Contains(got[i].Says, says) && (got[i].Do != "") == (state != control.CheckFine)
	}
	if !ok {
		t.Errorf("found\n%s, want\n%s", found(got), strings.Join(want, "\n"))
	}
}

func TestDaemons(t *testing.T) {
	ike := []uint16{500, 4500}
	expect(t, Daemons(nil, nil), "ok: none runs")
	expect(t, Daemons([]Process{{7, "ipsecagent", ike}, {8, "bash", nil}}, []int{7}), "ok: none runs")
	expect(t, Daemons([]Process{{7, "ipsecagent", ike}, {9, "charon", ike}, {10, "pluto", nil}, {11, "ipsecagent", ike[:1]}}, []int{7}),
		"problem: process 9 (charon) has UDP port 500 and 4500", "warning: process 10 (pluto)", "problem: process 11 is an ipsecagent with other settings than these (another run folder) and has UDP port 500:")
}

func TestParseUDP(t *testing.T) {
	const text = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  449: 00000000:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12345 2 0000000000000000 0
  450: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12346 2 0000000000000000 0
 4449: 00000000000000000000000000000000:1194 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 999 2 0 0
`
	got, err := parseUDP([]byte(text))
	if err != nil || !slices.Equal(got, []udpSocket{{500, 12345}, {4500, 999}}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"head\nshort line\n", "head\n1: x:zz a 1 2 3 4 5 6 7\n", "head\n1: x:01F4 a 1 2 3 4 5 6 x\n"} {
		if got, err := parseUDP([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func FuzzParseUDP(f *testing.F) {
	f.Add([]byte("h\n  449: 00000000:01F4 00000000:0000 07 0 0 0 0 0 12345 2\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sockets, err := parseUDP(text)
		for _, s := range sockets {
			if s.port != 500 && s.port != 4500 {
				t.Errorf("%v, %v", s, err)
			}
		}
	})
}

func FuzzVerdictOf(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, ok := verdictOf(b); ok != (v != nil) {
			t.Errorf("%v, %v", v, ok)
		}
	})
}

func TestReadProcessesFindsWhoHasThePortsOfIKE(t *testing.T) {
	inNamespace(t, func() {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err == nil {
			defer unix.Close(s)
			err = unix.Bind(s, &unix.SockaddrInet4{Port: 4500})
		}
		if err != nil {
			t.Error(err)
			return
		}
		own, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		ports, err := readPorts()
		if err != nil || len(ports) != 1 {
			t.Errorf("ports %v, %v", ports, err)
		}
		if _, ok := readProcess("/proc/1", own, ports); ok {
			t.Error("a process of another network namespace is looked at")
		}
		p, ok := readProcess("/proc/thread-self", own, ports)
		if !ok || !slices.Equal(p.Ports, []uint16{4500}) {
			t.Errorf("%+v, %v", p, ok)
		}
	})
}

// sysctls are settings by name; those that are missing do not exist.
func sysctls(m map[string]string) Sysctls {
	return func(name string) (string, error) {
		if v, ok := m[name]; ok {
			return v, nil
		}
		return "", fs.ErrNotExist
	}
}

func TestTunables(t *testing.T) {
	off := sysctls(map[string]string{"net/ipv4/conf/eth0/disable_xfrm": "1", "net/ipv4/conf/eth0/disable_policy": "0", "net/ipv6/conf/eth1/disable_policy": "1", "net/core/xfrm_larval_drop": "1"})
	links := []string{"eth0", "eth1"}
	expect(t, Tunables(off, links, true), "problem: net.ipv4.conf.eth0.disable_xfrm is 1", "problem: net.ipv6.conf.eth1.disable_policy is 1")
	expect(t, Larval(off), "warning: xfrm_larval_drop is 1")
	expect(t, Larval(sysctls(nil)))
	expect(t, Larval(sysctls(map[string]string{"net/core/xfrm_larval_drop": "0"})))
	expect(t, Tunables(off, links, false), "ok: nothing switches")
	expect(t, Tunables(sysctls(map[string]string{"net/ipv4/ip_no_pmtu_disc": "3"}), links, false), "warning: ip_no_pmtu_disc is 3")
	denied := func(string) (string, error) { return "", fs.ErrPermission }
	if got := Tunables(denied, links, true); got[0].State != control.CheckWarning {
		t.Errorf("what may not be read is fine: %s", found(got))
	}
}

func TestReversePath(t *testing.T) {
	filters := func(all, eth0, eth1 string) Sysctls {
		return sysctls(map[string]string{"net/ipv4/conf/all/rp_filter": all, "net/ipv4/conf/eth0/rp_filter": eth0, "net/ipv4/conf/eth1/rp_filter": eth1, "net/ipv4/conf/lo/rp_filter": "1"})
	}
	links := []string{"lo", "eth0", "eth1", "gone"}
	expect(t, ReversePath(filters("0", "1", "1"), links), "warning: strict on eth0, eth1")
	expect(t, ReversePath(filters("1", "0", "0"), links), "warning: strict on eth0, eth1")
	expect(t, ReversePath(filters("2", "1", "1"), links), "ok: no strict")
	expect(t, ReversePath(filters("0", "1", "0"), links), "ok: no strict")
	if got := ReversePath(sysctls(nil), links); got[0].State != control.CheckWarning {
		t.Errorf("without IPv4: %s", found(got))
	}
}

func TestMTUs(t *testing.T) {
	up := net.FlagUp
	expect(t, MTUs([]net.Interface{{Name: "lo", MTU: 65536, Flags: up | net.FlagLoopback}, {Name: "eth0", MTU: 1500, Flags: up}, {Name: "eth1", MTU: 100}}), "ok: eth0 1500, after ESP at least 1415")
	expect(t, MTUs([]net.Interface{{Name: "a", MTU: 600, Flags: up}, {Name: "b", MTU: 1280, Flags: up}, {Name: "c", MTU: 9000, Flags: up}}),
		"problem: a has an MTU of 600", "warning: b has an MTU of 1280: after ESP as little as 1195", "ok: c 9000")
	expect(t, MTUs(nil), "warning: no interface is up")
}

func TestClock(t *testing.T) {
	expect(t, []control.Check{Clock(unix.STA_UNSYNC)}, "warning: nothing keeps")
	expect(t, []control.Check{Clock(unix.STA_PLL)}, "ok: kept")
	if _, err := ReadClock(); err != nil {
		t.Error(err)
	}
}

func TestUnits(t *testing.T) {
	agent := Unit{Name: AgentUnit, LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled"}
	data := Unit{Name: DataPathUnit, LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled"}
	boot := Unit{Name: BootUnit, LoadState: "not-found"}
	with := func(u Unit, change func(*Unit)) Unit { change(&u); return u }
	expect(t, Units([]Unit{agent, data, boot}, false, true), "ok: the units are as they should be")
	expect(t, Units([]Unit{agent, data, boot}, true, true), "warning: ipsecagent-datapath.service runs although the kernel")
	tests := []struct {
		u    Unit
		want string
	}{
		{with(agent, func(u *Unit) { u.UnitFileState = "disabled" }), "problem: ipsecagent.service is disabled"},
		{with(agent, func(u *Unit) { u.LoadState = "masked" }), "problem: ipsecagent.service is masked"},
		{with(agent, func(u *Unit) { u.LoadState = "not-found" }), "warning: there is no unit"},
		{with(agent, func(u *Unit) { u.ActiveState = "failed" }), "problem: ipsecagent.service has failed"},
		{with(agent, func(u *Unit) { u.ActiveState = "inactive" }), "warning: started by hand"},
		{with(agent, func(u *Unit) { u.NeedsReload = true }), "warning: has changed since"},
		{with(data, func(u *Unit) { u.ActiveState = "failed" }), "problem: what policy wants secured is dropped"},
		{with(boot, func(u *Unit) { u.LoadState, u.ActiveState = "loaded", "failed" }), "problem: ipsecagent-boot.service has failed"},
		{with(boot, func(u *Unit) { u.LoadState, u.UnitFileState = "loaded", "disabled" }), "warning: ipsecagent-boot.service is disabled"},
	}
	for _, tt := range tests {
		expect(t, Units([]Unit{tt.u}, false, true), tt.want)
	}
}

func TestParseUnits(t *testing.T) {
	got := parseUnits([]byte("Id=ipsecagent.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=yes\n\nId=ipsecagent-boot.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no\n"))
	want := []Unit{{AgentUnit, "loaded", "active", "enabled", true}, {BootUnit, "not-found", "inactive", "", false}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := parseUnits([]byte("\n\n")); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestACheckIsOneLine(t *testing.T) {
	if c := Problem("x", "do", "%s", "one\n\ttwo\n"); c.Says != "one; two" {
		t.Errorf("%q", c.Says)
	}
}
