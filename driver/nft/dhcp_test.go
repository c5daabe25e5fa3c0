package nft

import (
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// DHCP of this host passes whatever the filters say; what this host forwards with
// the same ports is another's and does not.
func TestLeakForwardedLikeDHCP(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.inA("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.va.rp_filter=0 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.va.send_redirects=0")
	l.inA("ip route add 10.8.0.0/24 via 10.9.0.2")
	l.watchWire()
	table := l.open()
	forward := func(from, to uint16) uint64 {
		before := l.arrived()
		if err := l.framer()(ipv4("10.7.0.1", "10.8.0.1", unix.IPPROTO_UDP, datagram(from, to))); err != nil {
			t.Fatal(err)
		}
		return l.arrived() - before
	}
	all := oneWay(filter("all", permit), sadb.Out)
	all.Selector = sadb.Selector{}
	apply(t, table, all)
	if forward(68, 67) == 0 {
		t.Fatal("the host forwards nothing: the test tests nothing")
	}
	all.Action = require
	apply(t, table, all)
	if n := forward(68, 67); n != 0 || stats(t, table).LastChain == 0 {
		t.Errorf("%d packets that another has sent left in clear", n)
	}
	before := l.arrived()
	if err := udp(t, l.a, "10.9.0.1:68", "10.9.0.2:67", 300, nil); err != nil || l.arrived() == before {
		t.Errorf("DHCP of this host does not pass: %v", err)
	}
	in := oneWay(filter("in", require), sadb.In)
	in.Selector = sadb.Selector{}
	apply(t, table, in)
	if n := forward(67, 68); n != 0 || stats(t, table).InClear == 0 {
		t.Errorf("%d packets for another came in in clear", n)
	}
}
