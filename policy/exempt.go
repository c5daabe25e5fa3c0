package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"ipsecagent/sadb"
)

// Exemptions is what passes this host before any filter of the policy is asked:
// what the value NoDefaultExempt of Windows takes out. The zero value exempts
// nothing of it. What the agent itself needs is exempt always, and not by
// filters.
type Exemptions uint8

// The exemptions of Windows 2000. ExemptKerberos opens this host to everybody
// who sends from port 88 (Microsoft KB 811832).
const (
	ExemptKerberos  Exemptions = 1 << iota // TCP and UDP port 88, either side
	ExemptRSVP                             // IP protocol 46
	ExemptMulticast                        // 224.0.0.0/4, ff00::/8
	ExemptBroadcast                        // limited and of the host's networks
)

// ExemptionsOf returns what the value n of NoDefaultExempt, 0 to 3, exempts.
// Windows 2000 and XP have 0, later service packs 1, Server 2003 has 3.
func ExemptionsOf(n int) (Exemptions, error) {
	switch n {
	case 0:
		return ExemptKerberos | ExemptRSVP | ExemptMulticast | ExemptBroadcast, nil
	case 1:
		return ExemptMulticast | ExemptBroadcast, nil
	case 2:
		return ExemptKerberos | ExemptRSVP, nil
	case 3:
		return 0, nil
	}
	return 0, fmt.Errorf("%d is not 0 (Kerberos, RSVP, multicast and broadcast are exempt), 1 (multicast and broadcast), 2 (Kerberos and RSVP) or 3 (none of them)", n)
}

// String lists what is exempt: "Kerberos, RSVP"; "nothing".
func (e Exemptions) String() string {
	var names []string
	for _, n := range []struct {
		bit  Exemptions
		name string
	}{{ExemptKerberos, "Kerberos"}, {ExemptRSVP, "RSVP"}, {ExemptMulticast, "multicast"}, {ExemptBroadcast, "broadcast"}} {
		if e&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// Warning says what an exemption opens; "": nothing that filters could close.
func (e Exemptions) Warning() string {
	if e&ExemptKerberos == 0 {
		return ""
	}
	return "Kerberos is exempt (noDefaultExempt): whoever sends from port 88 reaches every TCP and UDP port of this host in clear, whatever the policy says"
}

// ExemptRule is the name of the rule that the filters of exemptions show; a
// policy's own rule of that name is another.
const ExemptRule = "default exemptions"

// filters returns the exemptions as filters.
func (e Exemptions) filters(broadcasts []netip.Addr) []CompiledFilter {
	var all []CompiledFilter
	add := func(bit Exemptions, what string, dir sadb.Directions, s sadb.Selector) {
		if e&bit != 0 {
			all = append(all, exemptFilter(what, dir, s))
		}
	}
	for _, proto := range []uint8{sadb.TCP, sadb.UDP} {
		add(ExemptKerberos, "Kerberos", sadb.Both, sadb.Selector{Local: sadb.Me(), Proto: proto, RemotePorts: sadb.Port(88)})
		add(ExemptKerberos, "Kerberos", sadb.Both, sadb.Selector{Local: sadb.Me(), Proto: proto, LocalPorts: sadb.Port(88)})
	}
	add(ExemptRSVP, "RSVP", sadb.Both, sadb.Selector{Proto: 46})
	to := func(bit Exemptions, what string, group sadb.Addrs) {
		add(bit, what, sadb.Out, sadb.Selector{Remote: group})
		add(bit, what, sadb.In, sadb.Selector{Local: group})
	}
	to(ExemptMulticast, "multicast", sadb.Prefix(netip.MustParsePrefix("224.0.0.0/4")))
	to(ExemptMulticast, "multicast", sadb.Prefix(netip.MustParsePrefix("ff00::/8")))
	to(ExemptBroadcast, "broadcast", sadb.Addr(limitedBroadcast()))
	for _, b := range broadcasts {
		if b.Is4() && b != limitedBroadcast() {
			to(ExemptBroadcast, "broadcast", sadb.Addr(b))
		}
	}
	return all
}

func limitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

func exemptFilter(what string, dir sadb.Directions, s sadb.Selector) CompiledFilter {
	f := CompiledFilter{Rule: ExemptRule, FilterList: what, Filter: sadb.Filter{
		ID:   sadb.NewFilterID("", ExemptRule, what, s.String(), dir.String()),
		Name: ExemptRule + " / " + what, Selector: s, Dir: dir, Action: sadb.Action{Kind: sadb.Permit},
	}}
	f.Weight, f.Reason = weigh(f.Filter, aboveAll)
	f.Reason = what + " is exempt by the setting noDefaultExempt, before every filter of the policy; " + f.Reason
	return f
}
