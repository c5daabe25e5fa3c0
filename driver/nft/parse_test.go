package nft

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

func TestParseFlow(t *testing.T) {
	tcp := datagram(1433, 40000)
	hop := append([]byte{unix.IPPROTO_TCP, 0, 5, 2, 0, 0, 0, 0}, tcp...)
	a, b := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	a6, b6 := netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")
	for _, c := range []struct {
		name   string
		packet []byte
		want   sadb.Flow
	}{
		{"IPv4", ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_TCP, tcp),
			sadb.Flow{Local: a, Remote: b, Proto: sadb.TCP, LocalPort: 1433, RemotePort: 40000}},
		{"IPv6", ipv6("fd09::1", "fd09::2", unix.IPPROTO_UDP, 64, tcp),
			sadb.Flow{Local: a6, Remote: b6, Proto: sadb.UDP, LocalPort: 1433, RemotePort: 40000}},
		{"hop-by-hop options", ipv6("fd09::1", "fd09::2", unix.IPPROTO_HOPOPTS, 64, hop),
			sadb.Flow{Local: a6, Remote: b6, Proto: sadb.TCP, LocalPort: 1433, RemotePort: 40000}},
		{"echo", ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_ICMP, []byte{8, 1, 0, 0}),
			sadb.Flow{Local: a, Remote: b, Proto: sadb.ICMP, ICMPType: 8, ICMPCode: 1}},
		{"GRE", ipv4("10.9.0.1", "10.9.0.2", 47, tcp), sadb.Flow{Local: a, Remote: b, Proto: 47}},
		{"no ports", ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_TCP, nil), sadb.Flow{Local: a, Remote: b, Proto: sadb.TCP}},
	} {
		if got, err := parseFlow(c.packet); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	for _, whole := range [][]byte{
		ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_TCP, nil),
		ipv6("fd09::1", "fd09::2", unix.IPPROTO_HOPOPTS, 64, hop[:8]),
	} {
		for n := range whole {
			if _, err := parseFlow(whole[:n]); err == nil {
				t.Errorf("%d bytes of %x accepted", n, whole)
			}
		}
	}
	options := ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_TCP, nil)
	for _, b := range []byte{0x46, 0x44, 0x40, 0x55, 0x05} {
		options[0] = b
		if _, err := parseFlow(options); err == nil {
			t.Errorf("first byte %#x accepted", b)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	f.Add(ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_TCP, datagram(1, 2)))
	f.Add(ipv6("fd09::1", "fd09::2", unix.IPPROTO_HOPOPTS, 64, append([]byte{6, 0, 0, 0, 0, 0, 0, 0}, datagram(1, 2)...)))
	f.Fuzz(func(t *testing.T, p []byte) {
		flow, err := parseFlow(p)
		if err != nil && flow != (sadb.Flow{}) {
			t.Errorf("a refused packet gave %+v", flow)
		}
		if err == nil && (!flow.Local.IsValid() || flow.Local.Is4() != flow.Remote.Is4()) {
			t.Errorf("flow %+v", flow)
		}
	})
}

func FuzzParseLog(f *testing.F) {
	data, err := encode(unix.AF_INET, func(ae attrs) {
		ae.String(logPrefix, "filter")
		ae.Bytes(logPayload, ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_TCP, datagram(1, 2)))
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, p []byte) {
		if a, err := parseLog(p); err == nil && !a.Flow.Remote.IsValid() {
			t.Errorf("%+v", a)
		}
	})
}

func FuzzParseElements(f *testing.F) {
	x := element{from: []byte{1, 2, 3, 4}, to: []byte{1, 2, 3, 5}, id: "filter", target: target{chain: "c", counts: matches}}
	data, err := encode(unix.NFPROTO_INET, func(ae attrs) {
		nest(ae, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(n attrs) { nest(n, unix.NFTA_LIST_ELEM, x.encode) })
	})
	if err != nil {
		f.Fatal(err)
	}
	list, err := parseElements(data)
	if err != nil || len(list) != 1 || list[0].id != x.id || list[0].counts != matches || !bytes.Equal(list[0].key, x.from) {
		f.Fatal(list, err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, p []byte) {
		list, err := parseElements(p)
		if err != nil {
			return
		}
		for _, x := range list {
			x.peer(map[[keySize]byte]sadb.FilterID{}, time.Unix(1e9, 0))
		}
	})
}

func TestUserData(t *testing.T) {
	whole := userData("some filter", drops)
	if id, counts := parseUserData(whole); id != "some filter" || counts != drops {
		t.Error(id, counts)
	}
	for n := range whole {
		if id, counts := parseUserData(whole[:n]); id != "" && counts != 0 {
			t.Errorf("%d bytes gave %q %d", n, id, counts)
		}
	}
}
