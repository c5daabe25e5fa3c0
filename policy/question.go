package policy

import (
	"fmt"
	"net/netip"

	"ipsecagent/sadb"
)

// Question is a packet about which Explain says how it is treated.
type Question struct {
	Flow sadb.Flow
	// Dir is In or Out. A packet that this host forwards, neither of its
	// addresses its own, goes Out.
	Dir sadb.Directions
	// Broadcast: it goes to the broadcast address of a network, which the
	// address alone does not tell.
	Broadcast bool
}

// ParseQuestion reads a flow (ParseFlow) and the direction in which it passes
// this host: "in", "out", or "" for what the flow says. A direction names the
// side that is this host where the flow says so by addresses alone.
func ParseQuestion(flow, dir string) (Question, error) {
	f, d, err := ParseFlow(flow)
	if err != nil {
		return Question{}, err
	}
	q := Question{Flow: f, Dir: d}
	switch {
	case dir != "" && dir != "in" && dir != "out":
		return Question{}, fmt.Errorf("direction %q is not in or out", dir)
	case dir == "" || dir == d.String() && f.LocalMe:
		return q, nil
	case f.LocalMe:
		return Question{}, fmt.Errorf("flow %q goes %s, seen from me, not %s", flow, d, dir)
	case dir == "in":
		q.Flow, q.Dir = swapped(f), sadb.In
	}
	q.Flow.LocalMe = true
	return q, nil
}

// At returns the question as a host with these addresses sees it: a side at one
// of them is the host itself.
func (q Question) At(own []netip.Addr) Question {
	if q.Flow.LocalMe {
		return q
	}
	h := Host{Addresses: own}
	switch {
	case h.owns(q.Flow.Local):
		q.Flow.LocalMe = true
	case h.owns(q.Flow.Remote):
		q.Flow, q.Dir = swapped(q.Flow), sadb.In
		q.Flow.LocalMe = true
	}
	return q
}

// Forwarded reports whether the packet neither comes from this host nor goes to
// it.
func (q Question) Forwarded() bool { return !q.Flow.LocalMe }

// String returns the flow as ParseFlow reads it, ports and ICMP type always
// named.
func (q Question) String() string {
	local, remote := side(q.Flow.Local, q.Flow.LocalMe), side(q.Flow.Remote, false)
	proto := sadb.ProtoName(q.Flow.Proto)
	if sadb.HasICMP(q.Flow.Proto) {
		proto = fmt.Sprintf("%s:%d/%d", proto, q.Flow.ICMPType, q.Flow.ICMPCode)
	}
	if sadb.HasPorts(q.Flow.Proto) {
		local, remote = withPort(local, q.Flow.LocalPort), withPort(remote, q.Flow.RemotePort)
	}
	if q.Dir == sadb.In {
		local, remote = remote, local
	}
	return fmt.Sprintf("%s %s -> %s", proto, local, remote)
}

// side writes an address; one with colons in brackets, so that a port may
// follow.
func side(a netip.Addr, me bool) string {
	text := ""
	switch {
	case !a.IsValid():
		return "me"
	case a.Is6():
		text = "[" + a.String() + "]"
	default:
		text = a.String()
	}
	if me {
		return "me=" + text
	}
	return text
}

func withPort(side string, port uint16) string { return fmt.Sprintf("%s:%d", side, port) }

// swapped returns the same packet with the other side as the local one.
func swapped(f sadb.Flow) sadb.Flow {
	f.Local, f.Remote = f.Remote, f.Local
	f.LocalMe, f.RemoteMe = f.RemoteMe, f.LocalMe
	f.LocalPort, f.RemotePort = f.RemotePort, f.LocalPort
	return f
}
