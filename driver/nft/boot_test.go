package nft

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func (l *lab) bootConfig(mode BootMode) BootConfig {
	return BootConfig{Table: "ipsecagent", Exempt: testConfig().Exempt, Mode: mode, Socket: l.socket, Exemptions: []BootExemption{
		{Protocol: unix.IPPROTO_UDP, Destination: 53},
		{Protocol: unix.IPPROTO_UDP, Destination: 161, Inbound: true},
		{Protocol: unix.IPPROTO_GRE, Inbound: true},
	}}
}

func (l *lab) putBoot(cfg BootConfig) {
	l.t.Helper()
	var err error
	in(l.t, l.a, func() { err = PutBoot(cfg) })
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) boot() (s BootState) {
	l.t.Helper()
	var err error
	in(l.t, l.a, func() { s, err = Boot("ipsecagent") })
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) clearBoot(socket func() (int, error)) bool {
	l.t.Helper()
	var was bool
	var err error
	in(l.t, l.a, func() { was, err = ClearBoot("ipsecagent", socket) })
	if err != nil {
		l.t.Fatal(err)
	}
	return was
}

// countLetIn counts in a what the boot filters let in.
func (l *lab) countLetIn() {
	l.t.Helper()
	run(l.t, `echo 'table inet seen {
		counter accepted { }
		chain c { type filter hook prerouting priority -140; policy accept; iifname "lo" accept; counter name accepted; }
	}' | ip netns exec `+l.a+" nft -f -")
}

const echo = 8

func echoRequest(typ byte) []byte { return append([]byte{typ, 0, 0, 0}, make([]byte, 12)...) }

// TestBootOutbound: what leaves under each mode.
func TestBootOutbound(t *testing.T) {
	const a, b, a6, b6 = "10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2"
	for _, mode := range []BootMode{BootBlock, BootStateful} {
		l := newLab(t)
		l.warm()
		l.watchWire()
		l.putBoot(l.bootConfig(mode))
		send := l.sender(l.a)
		for _, c := range []struct {
			name   string
			packet []byte
			passes bool // under block
		}{
			{"UDP", ipv4(a, b, unix.IPPROTO_UDP, datagram(7, 7)), false},
			{"UDP over IPv6", ipv6(a6, b6, unix.IPPROTO_UDP, 64, datagram(7, 7)), false},
			{"echo request", ipv4(a, b, unix.IPPROTO_ICMP, echoRequest(echo)), false},
			{"ESP that nobody marked", ipv4(a, b, unix.IPPROTO_ESP, make([]byte, 40)), false},
			{"to Kerberos' port", ipv4(a, b, unix.IPPROTO_UDP, datagram(7, 88)), false},
			{"exempt", ipv4(a, b, unix.IPPROTO_UDP, datagram(7, 53)), true},
			{"exempt over IPv6", ipv6(a6, b6, unix.IPPROTO_UDP, 64, datagram(7, 53)), true},
			{"exempt turned round", ipv4(a, b, unix.IPPROTO_UDP, datagram(53, 7)), false},
			{"an answer to nothing", ipv4(a, b, unix.IPPROTO_UDP, datagram(161, 7)), false},
			{"a fragment that looks exempt", fragment(ipv4(a, b, unix.IPPROTO_UDP, datagram(7, 53))), false},
			{"DHCP", ipv4(a, b, unix.IPPROTO_UDP, datagram(68, 67)), true},
		} {
			before := l.arrived()
			if err := send(c.packet); err != nil && c.passes {
				t.Fatalf("%s: %v", c.name, err)
			}
			want := c.passes || mode == BootStateful && !strings.Contains(c.name, "fragment")
			if got := l.arrived() > before; got != want {
				t.Errorf("%s, %s: leaves %t, want %t", mode, c.name, got, want)
			}
		}
		before := l.arrived()
		if err := udp(t, l.a, "", "10.9.0.2:7000", 10, setMarkTo(0x02000000)); err != nil || l.arrived() == before {
			t.Errorf("%s: a packet of our own socket did not leave: %v", mode, err)
		}
		if n := l.boot().Out; mode == BootBlock && n < 7 || mode == BootStateful && n != 0 {
			t.Errorf("%s: %d counted as dropped on their way out", mode, n)
		}
	}
}

// fragment makes an IPv4 packet the second fragment of one.
func fragment(p []byte) []byte {
	p = append([]byte(nil), p...)
	p[7] = 4 // offset; the kernel makes the checksum of what it sends
	return p
}

// TestBootInbound: what comes in under each mode.
func TestBootInbound(t *testing.T) {
	const a, b, a6, b6 = "10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2"
	for _, mode := range []BootMode{BootBlock, BootStateful} {
		l := newLab(t)
		l.warm()
		l.waitLinkLocal()
		l.inB("sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'") // b speaks when told to
		l.countLetIn()
		l.putBoot(l.bootConfig(mode))
		l.bound(500, testConfig().Exempt)
		l.bound(4500, 0)
		l.bound(5000, 0) // it has sent nothing
		send, out := l.framer(), l.sender(l.a)
		for _, port := range []uint16{53, 7} { // leaves with stateful; to 53 with block too
			if err := out(ipv4(a, b, unix.IPPROTO_UDP, datagram(9, port))); err != nil && port == 53 {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			name            string
			packet          []byte
			block, stateful bool
		}{
			{"UDP", ipv4(b, a, unix.IPPROTO_UDP, datagram(7, 8)), false, false},
			{"to a socket that asked nothing", ipv4(b, a, unix.IPPROTO_UDP, datagram(7, 5000)), false, false},
			{"echo request", ipv4(b, a, unix.IPPROTO_ICMP, echoRequest(echo)), false, false},
			{"from Kerberos' port", ipv4(b, a, unix.IPPROTO_UDP, datagram(88, 7)), false, false},
			{"from an exempt port, no answer", ipv4(b, a, unix.IPPROTO_UDP, datagram(53, 8)), false, false},
			{"an answer", ipv4(b, a, unix.IPPROTO_UDP, datagram(7, 9)), false, true},
			{"an exempt answer", ipv4(b, a, unix.IPPROTO_UDP, datagram(53, 9)), true, true},
			{"exempt", ipv4(b, a, unix.IPPROTO_UDP, datagram(7, 161)), true, true},
			{"an exempt protocol", ipv4(b, a, unix.IPPROTO_GRE, make([]byte, 20)), true, true},
			{"IKE", ipv4(b, a, unix.IPPROTO_UDP, datagram(500, 500)), true, true},
			{"IKE behind NAT, of a stranger's socket", ipv4(b, a, unix.IPPROTO_UDP, datagram(500, 4500)), false, false},
			{"ESP", ipv4(b, a, unix.IPPROTO_ESP, make([]byte, 40)), true, true},
			{"DHCP answer", ipv4(b, a, unix.IPPROTO_UDP, datagram(67, 68)), true, true},
			{"neighbour solicitation", ipv6(b6, a6, unix.IPPROTO_ICMPV6, 255, echoRequest(135)), true, true},
			{"neighbour solicitation from afar", ipv6(b6, a6, unix.IPPROTO_ICMPV6, 64, echoRequest(135)), false, false},
			{"truncated UDP", ipv4(b, a, unix.IPPROTO_UDP, []byte{1, 2}), false, false},
			{"to be forwarded", ipv4(b, "10.8.0.1", unix.IPPROTO_UDP, datagram(7, 8)), false, false},
		} {
			before := l.counter("accepted")
			if err := send(c.packet); err != nil {
				t.Fatal(err)
			}
			want := mode == BootBlock && c.block || mode == BootStateful && c.stateful
			if got := l.counter("accepted") > before; got != want {
				t.Errorf("%s, %s: comes in %t, want %t", mode, c.name, got, want)
			}
		}
		if l.boot().In < 8 {
			t.Errorf("%s: %d counted as dropped on their way in", mode, l.boot().In)
		}
	}
}

// TestBootExemptConnection: a peer that comes in by an exemption is answered,
// although this host may send nothing by itself.
func TestBootExemptConnection(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.putBoot(l.bootConfig(BootBlock))
	l.watchWire()
	if err := l.sender(l.a)(ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_UDP, datagram(161, 7))); l.arrived() != 0 {
		t.Errorf("an answer to nothing left (%v)", err)
	}
	l.bound(161, 0)
	if err := l.framer()(ipv4("10.9.0.2", "10.9.0.1", unix.IPPROTO_UDP, datagram(7, 161))); err != nil {
		t.Fatal(err)
	}
	if err := l.sender(l.a)(ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_UDP, datagram(161, 7))); err != nil || l.arrived() != 1 {
		t.Errorf("the answer did not leave: %v", err)
	}
}

// TestBootForwardsNothing, not even for who is exempt.
func TestBootForwardsNothing(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.inA("sysctl -qw net.ipv4.ip_forward=1")
	l.inA("ip route add 10.8.0.0/24 via 10.9.0.2")
	l.watchWire()
	forward := func() uint64 {
		before := l.arrived()
		if err := l.framer()(ipv4("10.7.0.1", "10.8.0.1", unix.IPPROTO_GRE, make([]byte, 20))); err != nil {
			t.Fatal(err)
		}
		return l.arrived() - before
	}
	l.inA("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.va.rp_filter=0 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.va.send_redirects=0")
	if forward() == 0 {
		t.Fatal("the host forwards nothing without boot filters: the test tests nothing")
	}
	l.putBoot(l.bootConfig(BootStateful))
	if n := forward(); n != 0 || l.boot().Forwarded != 1 {
		t.Errorf("forwarded %d, counted %+v", n, l.boot())
	}
}

// TestBootFiltersStay: nobody else removes them while the socket's keeper lives,
// on kernels with persistent tables and on others; putting them again replaces
// them; clearing them leaves nothing.
func TestBootFiltersStay(t *testing.T) {
	for _, held := range []bool{false, true} {
		l := newLab(t)
		cfg := l.bootConfig(BootStateful)
		cfg.held = held
		l.putBoot(cfg)
		cfg.Mode = BootBlock
		l.putBoot(cfg)
		l.inA("nft flush ruleset")
		if out, err := exec.Command("ip", "netns", "exec", l.a, "nft", "delete", "table", "inet", "ipsecagent-boot").CombinedOutput(); err == nil {
			t.Errorf("held %t: another may delete the table: %s", held, out)
		}
		if s := l.boot(); s.Mode != BootBlock {
			t.Errorf("held %t: in force: %+v", held, s)
		}
		if !l.clearBoot(l.socket) || l.boot().Mode != "" {
			t.Errorf("held %t: after clearing: %+v", held, l.boot())
		}
		if l.clearBoot(l.socket) || l.clearBoot(nil) {
			t.Errorf("held %t: cleared twice", held)
		}
	}
}

// TestBootFiltersWithoutTheirKeeper: where the kernel has persistent tables they
// stay, and can be cleared, or put anew by another keeper; elsewhere they go.
func TestBootFiltersWithoutTheirKeeper(t *testing.T) {
	l := newLab(t)
	l.putBoot(l.bootConfig(BootBlock))
	persistent := l.persists()
	l.kept.Close()
	l.kept = nil
	if there := l.boot().Mode == BootBlock; there != persistent {
		t.Fatalf("there: %t; the kernel has persistent tables: %t", there, persistent)
	}
	if !persistent {
		return
	}
	l.putBoot(l.bootConfig(BootStateful))
	if l.boot().Mode != BootStateful {
		t.Errorf("in force: %+v", l.boot())
	}
	l.kept.Close()
	l.kept = nil
	if !l.clearBoot(nil) || l.boot().Mode != "" {
		t.Errorf("after clearing: %+v", l.boot())
	}
}

// persists asks the kernel, as Debian 12's nft does not print the flag.
func (l *lab) persists() (is bool) {
	l.t.Helper()
	in(l.t, l.a, func() {
		e := &engine{flags: tableOwner | tablePersist}
		var err error
		if e.conn, err = dial(); err == nil {
			defer e.conn.nl.Close()
			is, err = e.persists()
		}
		if err != nil {
			l.t.Error(err)
		}
	})
	return is
}

// TestEnforces: a table that was opened and decides nothing yet does not count.
func TestEnforces(t *testing.T) {
	l := newLab(t)
	enforces := func() (is bool) {
		in(t, l.a, func() {
			var err error
			if is, err = Enforces("ipsecagent"); err != nil {
				t.Error(err)
			}
		})
		return is
	}
	if enforces() {
		t.Error("without a table")
	}
	table := l.open()
	if enforces() {
		t.Error("with a table that has no filters yet")
	}
	l.putBoot(l.bootConfig(BootBlock))
	apply(t, table)
	if !enforces() {
		t.Error("not with an empty list of filters in force")
	}
	if l.boot().Mode != BootBlock {
		t.Error("the boot filters are touched by the policy's table")
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if !enforces() {
		t.Error("not any more when the data path has ended")
	}
}

func TestBootConfigIsChecked(t *testing.T) {
	many := make([]BootExemption, maxBootExemptions+1)
	for i := range many {
		many[i].Protocol = 17
	}
	for want, cfg := range map[string]BootConfig{
		"block or stateful":   {Mode: "permit"},
		"at most 256":         {Mode: BootBlock, Exemptions: many},
		"protocols are 1":     {Mode: BootBlock, Exemptions: []BootExemption{{Destination: 1}}},
		"protocol 1 has no p": {Mode: BootBlock, Exemptions: []BootExemption{{Protocol: 1, Destination: 1}}},
	} {
		if err := PutBoot(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	l := newLab(t)
	l.inA("nft add table inet ipsecagent-boot")
	cfg, err := l.bootConfig(BootBlock), error(nil)
	in(t, l.a, func() { err = PutBoot(cfg) })
	if err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("a stranger's table: %v", err)
	}
	cfg.Socket = func() (int, error) { return -1, fmt.Errorf("no keeper") }
	in(t, l.a, func() { err = PutBoot(cfg) })
	if err == nil || !strings.Contains(err.Error(), "no keeper") {
		t.Errorf("without a keeper: %v", err)
	}
}
