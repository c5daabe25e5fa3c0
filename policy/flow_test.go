package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func TestParseFlow(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tc := range []struct {
		text string
		flow sadb.Flow
		dir  sadb.Directions
	}{
		{"tcp me:1433 -> 10.1.2.3:80", sadb.Flow{LocalMe: true, Remote: addr("10.1.2.3"), Proto: 6, LocalPort: 1433, RemotePort: 80}, sadb.Out},
		{"tcp me -> 10.1.2.3", sadb.Flow{LocalMe: true, Remote: addr("10.1.2.3"), Proto: 6, LocalPort: 50000, RemotePort: 50000}, sadb.Out},
		{"udp 10.1.2.3:53 -> me:9", sadb.Flow{LocalMe: true, Remote: addr("10.1.2.3"), Proto: 17, LocalPort: 9, RemotePort: 53}, sadb.In},
		{"  tcp   me=10.0.0.1:22->10.1.2.3 ", sadb.Flow{Local: addr("10.0.0.1"), LocalMe: true, Remote: addr("10.1.2.3"), Proto: 6, LocalPort: 22, RemotePort: 50000}, sadb.Out},
		{"sctp [2001:db8::1]:1 -> me=[2001:db8::2]:2", sadb.Flow{Local: addr("2001:db8::2"), LocalMe: true, Remote: addr("2001:db8::1"), Proto: 132, LocalPort: 2, RemotePort: 1}, sadb.In},
		{"dccp 10.0.0.1:1 -> 10.0.0.2:2", sadb.Flow{Local: addr("10.0.0.1"), Remote: addr("10.0.0.2"), Proto: 33, LocalPort: 1, RemotePort: 2}, sadb.Out},
		{"icmp me -> 10.0.0.1", sadb.Flow{LocalMe: true, Remote: addr("10.0.0.1"), Proto: 1, ICMPType: 8}, sadb.Out},
		{"icmp:3/4 10.0.0.1 -> me", sadb.Flow{LocalMe: true, Remote: addr("10.0.0.1"), Proto: 1, ICMPType: 3, ICMPCode: 4}, sadb.In},
		{"icmpv6 me -> 2001:db8::1", sadb.Flow{LocalMe: true, Remote: addr("2001:db8::1"), Proto: 58, ICMPType: 128}, sadb.Out},
		{"icmpv6:1 me -> 2001:db8::1", sadb.Flow{LocalMe: true, Remote: addr("2001:db8::1"), Proto: 58, ICMPType: 1}, sadb.Out},
		{"47 me -> 10.0.0.1", sadb.Flow{LocalMe: true, Remote: addr("10.0.0.1"), Proto: 47}, sadb.Out},
		{"tcp me -> ::ffff:10.0.0.1", sadb.Flow{LocalMe: true, Remote: addr("10.0.0.1"), Proto: 6, LocalPort: 50000, RemotePort: 50000}, sadb.Out},
	} {
		flow, dir, err := policy.ParseFlow(tc.text)
		if err != nil || flow != tc.flow || dir != tc.dir {
			t.Errorf("%q: %+v %v %v, want %+v %v", tc.text, flow, dir, err, tc.flow, tc.dir)
		}
	}
}

func TestParseFlowRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "is not",
		"tcp me 10.0.0.1":                "is not",
		"tcp me ->":                      "is not",
		"me -> 10.0.0.1":                 "is not",
		"tcp me -> 10.0.0.1 x":           "is not",
		"tpc me -> 10.0.0.1":             "unknown protocol",
		"any me -> 10.0.0.1":             "unknown protocol",
		"0 me -> 10.0.0.1":               "unknown protocol",
		"256 me -> 10.0.0.1":             "unknown protocol",
		"tcp:8 me -> 10.0.0.1":           "only icmp",
		"icmp:256 me -> 10.0.0.1":        "ICMP type",
		"icmp:3/x me -> 10.0.0.1":        "ICMP code",
		"icmp me:1 -> 10.0.0.1":          "no ports",
		"47 me -> 10.0.0.1:1":            "no ports",
		"tcp me:0 -> 10.0.0.1":           "not 1-65535",
		"tcp me:65536 -> 10.0.0.1":       "not 1-65535",
		"tcp me:x -> 10.0.0.1":           "not 1-65535",
		"tcp mexico -> 10.0.0.1":         "not 1-65535",
		"tcp me -> example.org":          "neither me nor an IP address",
		"tcp me=x -> 10.0.0.1":           "neither me nor an IP address",
		"tcp me -> fe80::1%eth0":         "neither me nor an IP address",
		"tcp me -> [2001:db8::1]80":      "not 1-65535",
		"tcp me -> me":                   "from me to me",
		"tcp 2001:db8::1 -> 10.0.0.1":    "between IPv4 and IPv6",
		"tcp me=2001:db8::1 -> 10.0.0.1": "between IPv4 and IPv6",
	} {
		if flow, _, err := policy.ParseFlow(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want an error with %q", text, flow, err, want)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	for _, s := range []string{"tcp me:1433 -> 10.1.2.3:80", "icmp:3/4 10.0.0.1 -> me", "sctp [2001:db8::1]:1 -> me=[2001:db8::2]:2", "47 me=->x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		flow, dir, err := policy.ParseFlow(s)
		if err != nil {
			return
		}
		if dir != sadb.In && dir != sadb.Out || flow.Proto == 0 || flow.RemoteMe || dir == sadb.In && !flow.LocalMe {
			t.Errorf("%q: %+v %v", s, flow, dir)
		}
		if !flow.Remote.IsValid() || !flow.LocalMe && !flow.Local.IsValid() {
			t.Errorf("%q: no address in %+v", s, flow)
		}
	})
}

func TestParseProtocol(t *testing.T) {
	for name, want := range map[string]uint8{"any": 0, "tcp": 6, "udp": 17, "sctp": 132, "dccp": 33, "icmp": 1, "icmpv6": 58, "47": 47, "255": 255} {
		if got, ok := policy.ParseProtocol(name); !ok || got != want {
			t.Errorf("%q: %d %v, want %d", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "0", "256", "-1", "TCP", "ip"} {
		if got, ok := policy.ParseProtocol(name); ok {
			t.Errorf("%q is protocol %d", name, got)
		}
	}
}

func TestRunTestsSaysWhatDecided(t *testing.T) {
	c := compile(t, policy.WithAuthentication(policy.SecureServer(), psk()))
	if err := policy.RunTests(c, []policy.Test{
		{Flow: "tcp me:80 -> 10.0.0.1", Expect: "negotiate"},
		{Flow: "icmpv6 2001:db8::1 -> me", Expect: "permit"},
		{Flow: "tcp 10.0.0.1 -> 10.0.0.2", Expect: "none"},
	}); err != nil {
		t.Errorf("tests that hold: %v", err)
	}
	err := policy.RunTests(c, []policy.Test{
		{Flow: "tcp me:80 -> 10.0.0.1", Expect: "permit"},
		{Flow: "icmp me -> 10.0.0.1", Expect: "permit"},
		{Flow: "tcp 10.0.0.1 -> 10.0.0.2", Expect: "block"},
		{Flow: "tcp", Expect: "block"},
	})
	want := []policy.Problem{
		{Path: "tests[0].expect", Message: `flow "tcp me:80 -> 10.0.0.1": expected permit, is negotiate: decided by Require Security / All IP Traffic (me <-> any any)`},
		{Path: "tests[2].expect", Message: `flow "tcp 10.0.0.1 -> 10.0.0.2": expected block, is none: no filter matches it`},
		{Path: "tests[3].flow", Message: `flow "tcp" is not "PROTOCOL FROM -> TO", for example "tcp me:1433 -> 10.1.2.3"`},
	}
	got := policy.Problems(err)
	if len(got) != len(want) {
		t.Fatalf("%v", err)
	}
	for i := range want {
		if *got[i] != want[i] {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
	}
}
