package xfrm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// StatFile is where the kernel counts what XFRM drops, of everybody, in the
// network namespace of the process.
const StatFile = "/proc/net/xfrm_stat"

// maxStat bounds the file of counters: some 35 lines of 45 bytes.
const maxStat = 16 << 10

// Drop is one of the kernel's counters of dropped packets.
type Drop struct {
	Name    string // the kernel's, "XfrmInNoStates"
	Packets uint64 // since the network namespace was made
	Meaning string // "" for a counter that this program does not know
	Hint    string // what to look at; "" where there is nothing to say
}

// Drops reads the counters of this network namespace, in the kernel's order.
func Drops() ([]Drop, error) {
	b, err := os.ReadFile(StatFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("xfrm: this kernel does not count what XFRM drops (%s is not there: CONFIG_XFRM_STATISTICS)", StatFile)
	}
	if err != nil {
		return nil, fmt.Errorf("xfrm: %w", err)
	}
	return parseDrops(b)
}

// parseDrops reads lines of a name and a number.
func parseDrops(b []byte) ([]Drop, error) {
	if len(b) > maxStat {
		return nil, fmt.Errorf("xfrm: counters of %d bytes", len(b))
	}
	known := meanings()
	var out []Drop
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 2 {
			return nil, fmt.Errorf("xfrm: counters: line %q is not a name and a number", lines.Text())
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("xfrm: counters: line %q: %w", lines.Text(), err)
		}
		m := known[fields[0]]
		out = append(out, Drop{Name: fields[0], Packets: n, Meaning: m[0], Hint: m[1]})
	}
	return out, lines.Err()
}

// parseStat returns the counters by name.
func parseStat(b []byte) (map[string]uint64, error) {
	all, err := parseDrops(b)
	if err != nil {
		return nil, err
	}
	out := make(map[string]uint64, len(all))
	for _, d := range all {
		out[d.Name] = d.Packets
	}
	return out, nil
}

// meanings explains the counters (linux/snmp.h, Documentation of xfrm_proc).
func meanings() map[string][2]string {
	return map[string][2]string{
		"XfrmInError":             {"inbound: an error that no other counter is for", ""},
		"XfrmInBufferError":       {"inbound: no memory for the packet, or too many IPsec headers in it", "memory of this host"},
		"XfrmInHdrError":          {"inbound: the ESP or AH header is malformed", "the sender, and what is between"},
		"XfrmInNoStates":          {"inbound: no association has this SPI, protocol and destination", "the peer uses one that has ended here: 'ipsecctl why PEER'; it mends itself with the next negotiation"},
		"XfrmInStateProtoError":   {"inbound: not authentic, or not to be decrypted", "another key at the peer, or something between changes packets"},
		"XfrmInStateModeError":    {"inbound: the association is of another mode than the packet", "tunnel or transport mode at the two ends"},
		"XfrmInStateSeqError":     {"inbound: a replay, or too late for the replay window", "few are normal where packets overtake each other"},
		"XfrmInStateExpired":      {"inbound: the association has reached its hard lifetime", "negotiations that fail: 'ipsecctl why PEER'"},
		"XfrmInStateMismatch":     {"inbound: the packet is not what its association may carry, or its UDP encapsulation differs", "filters at the two ends that differ"},
		"XfrmInStateInvalid":      {"inbound: the association is not ready, or is being deleted", ""},
		"XfrmInTmplMismatch":      {"inbound: a policy wants the packet secured, and it came in clear or by another association", "filters at the two ends that differ: 'ipsecctl explain' with the packet"},
		"XfrmInNoPols":            {"inbound: no policy wants what came out of a tunnel", "a tunnel that only the peer has"},
		"XfrmInPolBlock":          {"inbound: a policy blocks the packet", "'ipsecctl explain' with the packet says which"},
		"XfrmInPolError":          {"inbound: the policy could not be looked up", ""},
		"XfrmOutError":            {"outbound: an error that no other counter is for", ""},
		"XfrmOutBundleGenError":   {"outbound: the packet's way by its associations could not be made", "routes to the other end of the tunnel"},
		"XfrmOutBundleCheckError": {"outbound: the packet's way is no longer valid", "few are normal while associations are replaced"},
		"XfrmOutNoStates":         {"outbound: a policy wants the packet secured and there is no association", "the negotiation: 'ipsecctl why PEER'; few are normal at the beginning"},
		"XfrmOutStateProtoError":  {"outbound: the packet could not be encrypted or authenticated", "algorithms of the kernel"},
		"XfrmOutStateModeError":   {"outbound: the packet does not fit the association's mode, or is too long for the path", "the MTU of the path"},
		"XfrmOutStateSeqError":    {"outbound: the association's sequence numbers are used up", "a lifetime in bytes or packets that is too long"},
		"XfrmOutStateExpired":     {"outbound: the association has reached its hard lifetime", "negotiations that fail: 'ipsecctl why PEER'"},
		"XfrmOutPolBlock":         {"outbound: a policy blocks the packet", "'ipsecctl explain' with the packet says which"},
		"XfrmOutPolDead":          {"outbound: the policy was deleted meanwhile", ""},
		"XfrmOutPolError":         {"outbound: the policy could not be looked up", ""},
		"XfrmFwdHdrError":         {"forwarded: the header is malformed, or the policy could not be looked up", ""},
		"XfrmOutStateInvalid":     {"outbound: the association is not ready, or is being deleted", ""},
		"XfrmAcquireError":        {"a negotiation could not be asked for", "is the agent running?"},
		"XfrmOutStateDirError":    {"outbound: the association is for inbound packets", ""},
		"XfrmInStateDirError":     {"inbound: the association is for outbound packets", ""},
		"XfrmInIptfsError":        {"inbound: aggregation and fragmentation (RFC 9347) failed", ""},
		"XfrmOutNoQueueSpace":     {"outbound: too many packets wait at the association", ""},
	}
}
