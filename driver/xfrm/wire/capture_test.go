//go:build capture

package wire

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TestCapture writes what this kernel says to testdata/kernel-VERSION.txt, for
// golden_test.go. It is no part of the tests: go test -tags capture, as root,
// in a network namespace of its own (unshare -n). The policies and states are
// iproute2's. OUT names the directory, if not testdata.
func TestCapture(t *testing.T) {
	c := &capture{t: t}
	c.ip("link set lo up", "link add d0 type veth peer name d1", "link set d0 up", "link set d1 up", "addr add 10.9.0.1/24 dev d0", "addr add fd09::1/64 dev d0 nodad",
		"neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev d0", "neigh add fd09::2 lladdr 02:00:00:00:00:02 dev d0")
	c.listen()
	c.policies()
	c.states()
	c.expiries()
	c.migrate()
	c.save()
}

type capture struct {
	t      *testing.T
	ask    *netlink.Conn
	events *netlink.Conn
	lines  []string
}

func (c *capture) ip(commands ...string) {
	c.t.Helper()
	for _, s := range commands {
		if out, err := exec.Command("ip", strings.Fields(s)...).CombinedOutput(); err != nil {
			c.t.Logf("ip %s: %v %s", s, err, out)
		}
	}
}

func (c *capture) listen() {
	var err error
	if c.ask, err = netlink.Dial(unix.NETLINK_XFRM, nil); err != nil {
		c.t.Fatal(err)
	}
	if c.events, err = netlink.Dial(unix.NETLINK_XFRM, nil); err != nil {
		c.t.Fatal(err)
	}
	for _, g := range []uint32{GroupAcquire, GroupExpire, GroupPolicy, GroupSA, GroupMigrate, GroupMapping} {
		if err := c.events.JoinGroup(g); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *capture) add(name string, m netlink.Message) {
	c.lines = append(c.lines, fmt.Sprintf("%s %d %s", name, m.Header.Type, hex.EncodeToString(m.Data)))
}

func (c *capture) dump(name string, typ uint16, body []byte, flags netlink.HeaderFlags) {
	all, err := c.ask.Execute(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | flags}, Data: body})
	if err != nil {
		c.t.Logf("%s: %v", name, err)
		return
	}
	for i, m := range all {
		c.add(fmt.Sprintf("%s.%d", name, i), m)
	}
}

// drain takes the events that come within a time.
func (c *capture) drain(name string, wait time.Duration) {
	_ = c.events.SetReadDeadline(time.Now().Add(wait))
	for i := 0; ; {
		ms, err := c.events.Receive()
		if err != nil {
			return
		}
		for _, m := range ms {
			c.add(fmt.Sprintf("%s.%d", name, i), m)
			i++
		}
	}
}

func (c *capture) policies() {
	for _, ns := range [][2]string{
		{"policy-v4", "src 10.9.0.0/24 dst 10.9.0.2/32 proto udp sport 40000 dport 7000 dir out priority 4660 mark 0 mask 0x2000000 tmpl proto esp reqid 7 mode transport"},
		{"policy-v6", "src 2001:db8::/32 dst fd00::/8 dir in priority 9 tmpl src 2001:db8::1 dst 2001:db8::2 proto esp reqid 8 mode tunnel tmpl proto ah reqid 8 mode transport level use"},
		{"policy-block", "src ::/0 dst ::/0 proto ipv6-icmp type 128 code 0 dir fwd priority 77 action block"},
		{"policy-limits", "src 0.0.0.0/0 dst 192.0.2.0/24 dir out priority 5 if_id 3 limit time-hard 3600"},
	} {
		name, s := ns[0], ns[1]
		c.ip("xfrm policy add " + s)
		c.dump(name, MsgGetPolicy, nil, netlink.Dump)
		c.drain(name+"-event", 100*time.Millisecond)
		if name == "policy-v4" {
			c.send("udp4", "10.9.0.1:40000", "10.9.0.2:7000")
			c.drain("acquire-v4", 200*time.Millisecond)
		}
		c.ip("xfrm policy deleteall")
		c.drain(name+"-deleted", 100*time.Millisecond)
	}
	c.ip("xfrm policy add src fd09::/64 dst fd09::2/128 dir out priority 1 tmpl proto ah reqid 7 mode transport level use")
	c.drain("ignored", 100*time.Millisecond)
	c.send("udp6", "[fd09::1]:40000", "[fd09::2]:7000")
	c.drain("acquire-v6", 200*time.Millisecond)
	c.dump("spdinfo", MsgGetSPDInfo, AppendSPDInfo(nil), 0)
	c.dump("default", MsgGetDefault, Default{}.Append(nil), 0)
}

func (c *capture) send(network, from, to string) {
	src, _ := net.ResolveUDPAddr(network, from)
	dst, _ := net.ResolveUDPAddr(network, to)
	s, err := net.ListenUDP(network, src)
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close()
	_, _ = s.WriteToUDP([]byte("x"), dst)
}

func (c *capture) states() {
	key := func(n int) string { return "0x" + strings.Repeat("0b", n) }
	for _, ns := range [][2]string{
		{"state-gcm", "src 10.9.0.1 dst 10.9.0.2 proto esp spi 0x1001 reqid 7 mode transport replay-window 64 flag esn aead rfc4106(gcm(aes)) " + key(20) + " 128 sel src 10.9.0.1/32 dst 10.9.0.2/32 proto udp dport 7000 output-mark 0x2000000 mask 0x2000000"},
		{"state-cbc", "src 2001:db8::1 dst 2001:db8::2 proto esp spi 0x1002 reqid 8 mode tunnel replay-window 32 flag af-unspec auth-trunc hmac(sha256) " + key(32) + " 128 enc cbc(aes) " + key(16) + " limit time-soft 300 limit time-hard 3600 limit byte-hard 1000000 limit packet-soft 5"},
		{"state-nat", "src 10.9.0.1 dst 10.9.0.3 proto esp spi 0x1003 reqid 9 mode transport auth-trunc hmac(sha1) " + key(20) + " 96 enc ecb(cipher_null) 0x encap espinudp 4500 61000 0.0.0.0"},
		{"state-ah", "src 10.9.0.1 dst 10.9.0.4 proto ah spi 0x1004 reqid 9 mode transport auth-trunc hmac(md5) " + key(16) + " 96 if_id 5"},
	} {
		name, s := ns[0], ns[1]
		args := strings.Fields("xfrm state add " + s)
		for i, a := range args {
			if a == "0x" {
				args[i] = ""
			}
		}
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			c.t.Logf("%s: %v %s", name, err, out)
			continue
		}
		c.drain("ignored", 50*time.Millisecond)
		c.dump(name, MsgGetSA, nil, netlink.Dump)
		c.ip("xfrm state deleteall", "xfrm state deleteall")
		c.drain(name+"-deleted", 100*time.Millisecond)
	}
	s := State{Src: addr("10.9.0.9"), ReqID: 7}
	s.ID.Dst, s.ID.Proto = addr("10.9.0.1"), 50
	c.dump("allocspi", MsgAllocSPI, s.AppendAllocSPI(nil, 256, 256), 0)
}

func (c *capture) expiries() {
	c.drain("ignored", 100*time.Millisecond)
	c.ip("xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out priority 3 mark 0 mask 0x2000000 limit time-hard 1")
	c.drain("ignored", 100*time.Millisecond)
	c.drain("polexpire", 3*time.Second)
	c.ip("xfrm state add src 10.9.0.1 dst 10.9.0.5 proto esp spi 0x1005 reqid 9 mode transport aead rfc4106(gcm(aes)) 0x" + strings.Repeat("0c", 20) + " 128 limit time-soft 1 limit time-hard 2")
	c.drain("ignored", 100*time.Millisecond)
	c.drain("expire", 4*time.Second)
}

// migrate asks by our own encoding, as iproute2 cannot: what the kernel has
// understood is what it does to the policy and says to everybody.
func (c *capture) migrate() {
	c.ip("xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out priority 3 tmpl src 10.9.0.1 dst 10.9.0.2 proto esp reqid 7 mode tunnel",
		"xfrm state add src 10.9.0.1 dst 10.9.0.2 proto esp spi 0x1006 reqid 7 mode tunnel aead rfc4106(gcm(aes)) 0x"+strings.Repeat("0c", 20)+" 128")
	c.drain("ignored", 100*time.Millisecond)
	c.dump("ignored", MsgMigrate, migration().Append(nil), netlink.Acknowledge)
	c.drain("migrate", 300*time.Millisecond)
	c.dump("migrated-policy", MsgGetPolicy, nil, netlink.Dump)
	c.ip("xfrm policy deleteall", "xfrm state deleteall")
}

func (c *capture) save() {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		c.t.Fatal(err)
	}
	release := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	dir := os.Getenv("OUT")
	if dir == "" {
		dir = "testdata"
	}
	var keep []string
	for _, l := range c.lines {
		if !strings.HasPrefix(l, "ignored") {
			keep = append(keep, l)
		}
	}
	path := filepath.Join(dir, "kernel-"+release[0]+"."+release[1]+".txt")
	if err := os.WriteFile(path, []byte(strings.Join(keep, "\n")+"\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
}
