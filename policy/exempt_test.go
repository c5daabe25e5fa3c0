package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// blockAll blocks everything, so that what passes is exempt.
func blockAll(t *testing.T, n int) *policy.Compiled {
	t.Helper()
	e, err := policy.ExemptionsOf(n)
	if err != nil {
		t.Fatal(err)
	}
	p := with([]policy.Filter{{From: anywhere, To: anywhere, Mirrored: true}, {From: me, To: host("10.0.0.1"), Protocol: sadb.TCP, ToPorts: sadb.Port(88), Mirrored: true}}, "block")
	c, err := policy.Compile(p, policy.Host{Exempt: e, Broadcasts: addrs("10.0.0.255")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The table of NoDefaultExempt (KB 810207, KB 811832).
func TestExemptionsOfWindows(t *testing.T) {
	const kerberos, rsvp, multicast, broadcast = 1, 2, 4, 8
	exempt := map[int]int{0: kerberos | rsvp | multicast | broadcast, 1: multicast | broadcast, 2: kerberos | rsvp, 3: 0}
	for n, set := range exempt {
		c := blockAll(t, n)
		for _, flow := range []struct {
			flow string
			bit  int
		}{
			{"tcp me -> 10.0.0.1:88", kerberos}, {"udp me:88 -> 10.0.0.1", kerberos}, {"tcp 10.0.0.1:88 -> me:22", kerberos}, {"udp 10.0.0.1 -> me:88", kerberos},
			{"tcp me -> [2001:db8::1]:88", kerberos},
			{"46 me -> 10.0.0.1", rsvp}, {"46 10.0.0.1 -> me", rsvp},
			{"udp me -> 224.0.0.251:5353", multicast}, {"udp 10.0.0.1 -> 239.1.2.3", multicast}, {"udp me -> [ff02::fb]:5353", multicast},
			{"udp me -> 255.255.255.255:137", broadcast}, {"udp me -> 10.0.0.255:138", broadcast},
			{"tcp me -> 10.0.0.1:89", 0}, {"47 me -> 10.0.0.1", 0}, {"udp me -> 10.0.1.255:138", 0},
		} {
			want := "block"
			if set&flow.bit != 0 {
				want = "permit"
			}
			if err := policy.RunTests(c, []policy.Test{{Flow: flow.flow, Expect: want}}); err != nil {
				t.Errorf("NoDefaultExempt %d: %v", n, err)
			}
		}
	}
}

// What comes to a group comes in on its address.
func TestGroupsAreExemptInward(t *testing.T) {
	c := blockAll(t, 1)
	for _, group := range []string{"224.0.0.251", "10.0.0.255", "255.255.255.255"} {
		f, ok := sadb.Decide(c.SPD(), sadb.Flow{Local: netip.MustParseAddr(group), Remote: netip.MustParseAddr("10.0.0.7"), Proto: sadb.UDP}, sadb.In)
		if !ok || f.Action.Kind != sadb.Permit {
			t.Errorf("%s: %+v", group, f)
		}
	}
}

func TestExemptionsAreShownAboveThePolicy(t *testing.T) {
	c := blockAll(t, 0)
	last := 0
	for i, f := range c.Filters {
		if f.Rule == policy.ExemptRule {
			last = i
			if f.Action.Kind != sadb.Permit || !strings.Contains(f.Reason, "noDefaultExempt") {
				t.Errorf("%+v", f)
			}
		}
	}
	if last == 0 {
		t.Fatal("nothing is exempt")
	}
	for _, f := range c.Filters[:last] {
		if f.Rule != policy.ExemptRule {
			t.Errorf("%s stands above an exemption", f.Name)
		}
	}
}

func TestOnlyExemptKerberosIsWarnedOf(t *testing.T) {
	for n, warned := range map[int]bool{0: true, 1: false, 2: true, 3: false} {
		e, _ := policy.ExemptionsOf(n)
		if (e.Warning() != "") != warned {
			t.Errorf("%d: %q", n, e.Warning())
		}
	}
	for _, n := range []int{-1, 4} {
		if _, err := policy.ExemptionsOf(n); err == nil {
			t.Errorf("%d is taken", n)
		}
	}
}
