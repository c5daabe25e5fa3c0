package host

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/vishvananda/netlink"
)

func files(all map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range all {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

const leaseOfISC = `lease {
  interface "eth0";
  fixed-address 10.0.0.5;
  option subnet-mask 255.255.255.0;
  option dhcp-server-identifier 10.0.0.9;
  option netbios-name-servers 10.0.0.41;
  renew 6 2026/11/21 14:00:00;
}
lease {
  interface "eth0";
  fixed-address 10.0.0.5;
  option dhcp-server-identifier 10.0.0.1;
  option domain-name-servers 10.0.0.53, 10.0.0.54;
  option netbios-name-servers 10.0.0.42,10.0.0.43;
  expire never;
}
lease {
  interface "eth1";
  fixed-address 10.9.0.5;
  option dhcp-server-identifier 10.9.0.1;
  option netbios-name-servers 10.9.0.42;
}
`

const leaseOfNetworkd = "# This is private data. Do not parse.\nADDRESS=10.0.0.5\nNETMASK=255.255.255.0\nROUTER=10.0.0.254\nSERVER_ADDRESS=10.0.0.1\nT1=300\nDNS=10.0.0.53 10.0.0.54\nCLIENTID=ff\n"

// rawLease is a DHCPACK as dhcpcd keeps it.
func rawLease(options ...byte) string {
	b := make([]byte, 236)
	copy(b[16:], net.IPv4(10, 0, 0, 5).To4())
	b = binary.BigEndian.AppendUint32(b, 0x63825363)
	b = append(b, 53, 1, 5, 0, 54, 4, 10, 0, 0, 1, 44, 8, 10, 0, 0, 42, 10, 0, 0, 43, 6, 4, 10, 0, 0, 53)
	return string(append(append(b, options...), 255, 0, 0))
}

func TestSetsOfTheConfiguration(t *testing.T) {
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.5") }
	stub := "nameserver 127.0.0.53\noptions edns0\n"
	for _, tc := range []struct {
		name            string
		files           map[string]string
		dns, wins, dhcp string
	}{
		{"nothing", nil, "[]", "[]", "[]"},
		{"resolv.conf", map[string]string{"etc/resolv.conf": "# c\nsearch x\nnameserver 10.0.0.54\nnameserver nonsense\nnameserver 10.0.0.53\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n"},
			"[10.0.0.53 10.0.0.54 2001:db8::53 fe80::1]", "[]", "[]"},
		{"systemd-resolved", map[string]string{"etc/resolv.conf": stub, "run/systemd/resolve/resolv.conf": "nameserver 10.0.0.53\n"}, "[10.0.0.53]", "[]", "[]"},
		{"NetworkManager with dnsmasq", map[string]string{"etc/resolv.conf": "nameserver 127.0.0.1\n", "run/NetworkManager/no-stub-resolv.conf": "nameserver 10.0.0.55\n"}, "[10.0.0.55]", "[]", "[]"},
		{"dhclient", map[string]string{"etc/resolv.conf": stub, "var/lib/dhcp/dhclient.eth0.leases": leaseOfISC},
			"[10.0.0.53 10.0.0.54]", "[10.0.0.42 10.0.0.43]", "[10.0.0.1]"},
		{"dhclient of NetworkManager", map[string]string{"var/lib/NetworkManager/dhclient-1-eth0.lease": leaseOfISC},
			"[10.0.0.53 10.0.0.54]", "[10.0.0.42 10.0.0.43]", "[10.0.0.1]"},
		{"systemd-networkd", map[string]string{"run/systemd/netif/leases/2": leaseOfNetworkd}, "[10.0.0.53 10.0.0.54]", "[]", "[10.0.0.1]"},
		{"NetworkManager", map[string]string{"var/lib/NetworkManager/internal-1-eth0.lease": leaseOfNetworkd, "etc/resolv.conf": "nameserver 10.0.0.99\n"}, "[10.0.0.99]", "[]", "[10.0.0.1]"},
		{"dhcpcd", map[string]string{"var/lib/dhcpcd/eth0.lease": rawLease()}, "[10.0.0.53]", "[10.0.0.42 10.0.0.43]", "[10.0.0.1]"},
		{"a lease of another network", map[string]string{"run/systemd/netif/leases/2": strings.Replace(leaseOfNetworkd, "10.0.0.5\n", "10.7.0.5\n", 1)}, "[]", "[]", "[]"},
		{"too large", map[string]string{"etc/resolv.conf": "nameserver 10.0.0.53\n" + strings.Repeat("#", maxFile)}, "[]", "[]", "[]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := configured(files(tc.files), own)
			if fmt.Sprint(s.DNS) != tc.dns || fmt.Sprint(s.WINS) != tc.wins || fmt.Sprint(s.DHCP) != tc.dhcp {
				t.Errorf("DNS %v, WINS %v, DHCP %v; want %s, %s, %s", s.DNS, s.WINS, s.DHCP, tc.dns, tc.wins, tc.dhcp)
			}
		})
	}
}

func TestDamagedLeasesSayNothingWrong(t *testing.T) {
	whole := rawLease(12, 3, 'a', 'b', 'c')
	for i := range len(whole) - 3 { // all but the end and the padding
		for _, l := range parseRaw([]byte(whole[:i])) {
			if l.server.IsValid() && l.server != netip.MustParseAddr("10.0.0.1") {
				t.Errorf("%d bytes: %+v", i, l)
			}
		}
	}
	for _, s := range []string{"lease {", "}", "lease {\n}\n", "lease {\nfixed-address x;\n}\n", "option", ";;", "ADDRESS=\n", "ADDRESS=1.2.3\nDNS=x"} {
		if got := append(parseISC([]byte(s)), parseKeyed([]byte(s))...); len(got) != 0 {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

func FuzzLeases(f *testing.F) {
	for _, s := range []string{leaseOfISC, leaseOfNetworkd, rawLease()} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, parse := range []func([]byte) []lease{parseISC, parseKeyed, parseRaw} {
			all := parse(text)
			if len(all) > maxLeases {
				t.Errorf("%d leases", len(all))
			}
			for _, l := range all {
				if !l.address.IsValid() || len(l.dns) > maxSet || len(l.wins) > maxSet {
					t.Errorf("%+v", l)
				}
			}
		}
		nameservers(text)
	})
}

func TestServersToAsk(t *testing.T) {
	got := serversIn(files(map[string]string{"etc/resolv.conf": "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver 2001:db8::53\nnameserver 192.0.2.54\n"}))
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53"), netip.MustParseAddrPort("[2001:db8::53]:53")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got = serversIn(files(map[string]string{"etc/resolv.conf": "nameserver 127.0.0.53\n", "run/systemd/resolve/resolv.conf": "nameserver 192.0.2.53\nnameserver 127.0.0.53\n"}))
	want = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("192.0.2.53:53")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("behind a resolver on the host: %v, want %v", got, want)
	}
	if got := serversIn(files(nil)); len(got) != 1 || got[0] != netip.MustParseAddrPort("127.0.0.1:53") {
		t.Errorf("without a resolv.conf: %v", got)
	}
}

func TestAChangedFileIsNoticed(t *testing.T) {
	fsys := files(map[string]string{"etc/resolv.conf": "nameserver 10.0.0.53\n"})
	before := stamps(fsys)
	if !reflect.DeepEqual(before, stamps(fsys)) {
		t.Error("a file that is as it was has changed")
	}
	fsys["etc/resolv.conf"].ModTime = time.Unix(5, 0)
	if reflect.DeepEqual(before, stamps(fsys)) {
		t.Error("a file written again is not noticed")
	}
	before = stamps(fsys)
	fsys["run/systemd/netif/leases/3"] = &fstest.MapFile{}
	if reflect.DeepEqual(before, stamps(fsys)) {
		t.Error("a new lease is not noticed")
	}
}

func TestBroadcastOfNetworks(t *testing.T) {
	for s, want := range map[string]string{"10.0.0.5/24": "10.0.0.255", "10.1.2.3/8": "10.255.255.255", "192.0.2.1/30": "192.0.2.3",
		"192.0.2.1/31": "", "192.0.2.1/32": "", "127.0.0.1/8": "", "2001:db8::1/64": ""} {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := broadcast(*a)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %v, want %s", s, got, want)
		}
	}
}

func TestDefaultGatewaysAreFollowed(t *testing.T) {
	inNamespace(t)
	link := addDummy(t, "host0")
	if err := netlink.AddrAdd(link, address(t, "192.0.2.7/24")); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	hints, err := Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	_, some, _ := net.ParseCIDR("198.51.100.0/24")
	for _, r := range []netlink.Route{{Dst: some, Gw: net.IPv4(192, 0, 2, 8)}, {Dst: all, Gw: net.IPv4(192, 0, 2, 254)}} {
		r.LinkIndex = link.Attrs().Index
		if err := netlink.RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	expectHint(t, hints)
	f, err := Read()
	if err != nil || fmt.Sprint(f.Sets.Gateways) != "[192.0.2.254]" || fmt.Sprint(f.Broadcasts) != "[192.0.2.255]" {
		t.Errorf("gateways %v, broadcasts %v, %v", f.Sets.Gateways, f.Broadcasts, err)
	}
}
