package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"ipsecagent/sadb"
)

// pairRecord is a pair as the store keeps it: sadb.Pair leaves its selector
// out of JSON.
type pairRecord struct {
	sadb.Pair
	Covers selectorRecord `json:"covers"`
}

// selectorRecord is a selector in the store.
type selectorRecord struct {
	Local       string      `json:"local"` // "any", "me", "a-b"
	Remote      string      `json:"remote"`
	Proto       uint8       `json:"proto"`
	LocalPorts  sadb.Ports  `json:"localPorts"`
	RemotePorts sadb.Ports  `json:"remotePorts"`
	ICMPType    sadb.Octets `json:"icmpType"`
	ICMPCode    sadb.Octets `json:"icmpCode"`
}

func recordOf(p sadb.Pair) pairRecord {
	s := p.Selector
	return pairRecord{p, selectorRecord{addrsText(s.Local), addrsText(s.Remote), s.Proto,
		s.LocalPorts, s.RemotePorts, s.ICMPType, s.ICMPCode}}
}

// pair returns what was kept.
func (r pairRecord) pair() (sadb.Pair, error) {
	local, err := parseAddrs(r.Covers.Local)
	if err != nil {
		return sadb.Pair{}, err
	}
	remote, err := parseAddrs(r.Covers.Remote)
	if err != nil {
		return sadb.Pair{}, err
	}
	p := r.Pair
	p.Selector = sadb.Selector{Local: local, Remote: remote, Proto: r.Covers.Proto,
		LocalPorts: r.Covers.LocalPorts, RemotePorts: r.Covers.RemotePorts,
		ICMPType: r.Covers.ICMPType, ICMPCode: r.Covers.ICMPCode}
	return p, nil
}

// write returns what the driver is to keep with an association of p.
func (r pairRecord) write() string {
	data, err := json.Marshal(r)
	if err != nil {
		return "" // as if nobody knew: it is negotiated anew
	}
	return string(data)
}

// parseRecord reads what write has written.
func parseRecord(record string) (sadb.Pair, error) {
	var r pairRecord
	if err := json.Unmarshal([]byte(record), &r); err != nil {
		return sadb.Pair{}, err
	}
	return r.pair()
}

func addrsText(a sadb.Addrs) string {
	if from, to, ok := a.Bounds(); ok {
		return from.String() + "-" + to.String()
	}
	return a.String()
}

func parseAddrs(s string) (sadb.Addrs, error) {
	switch s {
	case "any":
		return sadb.AnyAddrs(), nil
	case "me":
		return sadb.Me(), nil
	}
	first, last, _ := strings.Cut(s, "-")
	from, err := netip.ParseAddr(first)
	if err != nil {
		return sadb.Addrs{}, err
	}
	to, err := netip.ParseAddr(last)
	if err != nil {
		return sadb.Addrs{}, err
	}
	if from.BitLen() != to.BitLen() || to.Less(from) {
		return sadb.Addrs{}, fmt.Errorf("%q is not a range of addresses", s)
	}
	return sadb.Range(from, to), nil
}
