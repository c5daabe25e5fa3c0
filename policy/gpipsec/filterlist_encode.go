package gpipsec

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// A filter is written so that each reader sees it as it is or not at all: in
// the first version where that can say it, else in the second (address ranges
// also as their subnets in the first), else in our record alone. Never wider.

// maxExpanded bounds what one filter becomes for Windows.
const maxExpanded = 4096

func (r *report) encodeFilters(l policy.FilterList, names map[string][]netip.Addr) []byte {
	d := &FilterData{}
	for i, f := range l.Filters {
		if !r.encodeFilter(d, f, names) {
			r.warn("Windows does not see filter %d (%s)", i+1, why(f))
		}
	}
	value := d.Canonical()
	read := (&report{}).filterList(&Object{Data: value})
	if same(extOfFilters(read.Filters), extOfFilters(l.Filters)) {
		return value
	}
	return extended(value, extOfFilters(l.Filters))
}

// why says what Windows cannot say about a filter.
func why(f policy.Filter) string {
	switch {
	case f.ICMPType.Set || f.ICMPCode.Set:
		return "it knows no ICMP types"
	case f.From.Kind == policy.Name || f.To.Kind == policy.Name:
		return "it keeps the IPv4 addresses of a name, and none was found"
	}
	return "its addresses are too many subnets"
}

func (r *report) encodeFilter(d *FilterData, f policy.Filter, names map[string][]netip.Addr) bool {
	if f.ICMPType.Set || f.ICMPCode.Set {
		return false
	}
	from, fromOK := sides1(f.From, names)
	to, toOK := sides1(f.To, names)
	both := isSet(f.From.Kind) && isSet(f.To.Kind)
	ports := f.FromPorts.From == f.FromPorts.To && f.ToPorts.From == f.ToPorts.To
	first := fromOK && toOK && ports && !both && len(from)*len(to) <= maxExpanded
	exact := first && !isRange(f.From) && !isRange(f.To)
	if !exact && (f.From.Kind == policy.Name || f.To.Kind == policy.Name) {
		return false
	}
	before := len(d.Filters)
	if first {
		for _, a := range from {
			for _, b := range to {
				d.Filters = append(d.Filters, spec1(r.guid(f.GUID), f, a, b))
			}
		}
	}
	if !exact {
		d.second(r.guid(f.GUID), f, len(d.Filters)-before)
	}
	return true
}

func isSet(k policy.EndpointKind) bool { return k >= policy.DNSServers }

// isRange reports whether e is neither a subnet nor one address.
func isRange(e policy.Endpoint) bool {
	_, subnet := e.Addrs.Prefix()
	return e.Kind == policy.Addresses && !subnet
}

// side1 is one side of a filter of the first version.
type side1 struct {
	name          string
	address, mask [4]byte
	set           uint8
}

// sides1 returns what an endpoint is in the first version; ok is false for what
// it cannot say.
func sides1(e policy.Endpoint, names map[string][]netip.Addr) (all []side1, ok bool) {
	host := [4]byte{255, 255, 255, 255}
	switch e.Kind {
	case policy.Any:
		return []side1{{}}, true
	case policy.Me:
		return []side1{{mask: host}}, true
	case policy.Addresses:
		return subnets(e.Addrs)
	case policy.Name:
		for _, a := range names[e.Name] {
			if a = a.Unmap(); a.Is4() && len(all) < maxExpanded {
				all = append(all, side1{name: e.Name, address: a.As4(), mask: host})
			}
		}
		return all, len(all) > 0
	}
	// Readers that know no sets see a host's traffic with itself: nothing.
	return []side1{{mask: host, set: setNumber(e.Kind)}}, true
}

func setNumber(k policy.EndpointKind) uint8 {
	return map[policy.EndpointKind]uint8{
		policy.DNSServers: setDNS, policy.WINSServers: setWINS, policy.DHCPServers: setDHCP, policy.DefaultGateway: setGateway,
	}[k]
}

// subnets splits IPv4 addresses into subnets.
func subnets(a sadb.Addrs) ([]side1, bool) {
	from, to, ok := a.Bounds()
	if !ok || !from.Is4() {
		return nil, false
	}
	var all []side1
	for _, p := range prefixes(number4(from), number4(to)) {
		mask := [4]byte{}
		binary.BigEndian.PutUint32(mask[:], ^uint32(0)<<(32-p.Bits()))
		all = append(all, side1{address: p.Addr().As4(), mask: mask})
	}
	return all, true
}

func number4(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

// prefixes covers first to last with the fewest subnets.
func prefixes(first, last uint64) []netip.Prefix {
	var all []netip.Prefix
	for first <= last {
		size := 32
		if first != 0 {
			size = bits.TrailingZeros64(first)
		}
		for first+1<<size-1 > last {
			size--
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(first))
		all = append(all, netip.PrefixFrom(netip.AddrFrom4(b), 32-size))
		first += 1 << size
	}
	return all
}

func spec1(id GUID, f policy.Filter, from, to side1) FilterSpec {
	s := FilterSpec{FromName: NewWide(from.name), ToName: NewWide(to.name), Description: NewWide(f.Description)}
	s.FilterTail = FilterTail{
		ID: id, From: from.address, FromMask: from.mask, To: to.address, ToMask: to.mask,
		Protocol: uint32(f.Protocol), FromPort: f.FromPorts.From, ToPort: f.ToPorts.From, Set: from.set,
	}
	if to.set != 0 {
		s.Set = to.set | setDestination
	}
	if f.Mirrored {
		s.FilterTail.Mirrored = 1
	}
	return s
}

// second adds a filter of the second version, of which expanded filters of the
// first version stand already.
func (d *FilterData) second(id GUID, f policy.Filter, expanded int) {
	if d.V2 == nil {
		d.V2 = &FilterData2{}
	}
	s := FilterSpec2{FromName: NewWide(""), ToName: NewWide(""), Description: NewWide(f.Description)}
	s.FilterTail2 = FilterTail2{
		ID: id, From: address2(f.From), To: address2(f.To), FromPort: port2(f.FromPorts), ToPort: port2(f.ToPorts), Protocol: uint32(f.Protocol),
	}
	if f.Mirrored {
		s.FilterTail2.Mirrored = 1
	}
	if expanded > 0 {
		s.Flags = flagExpanded
		d.V2.Overrides += uint32(expanded)
	}
	d.V2.Filters = append(d.V2.Filters, s)
}

func port2(p sadb.Ports) Port2 {
	switch {
	case p == sadb.Ports{}:
		return Port2{}
	case p.From == p.To:
		return Port2{kindSingle, p.From, 0}
	}
	return Port2{kindRange, p.From, p.To}
}

func address2(e policy.Endpoint) Address2 {
	for number, kind := range kinds2() {
		if kind == e.Kind {
			return Address2{Kind: number, Version: versionBoth}
		}
	}
	from, to, _ := e.Addrs.Bounds()
	a := Address2{Kind: kindRange, Version: versionIPv6}
	if from.Is4() {
		a.Version = versionIPv4
	}
	copy(a.First[:], from.AsSlice())
	copy(a.Second[:], to.AsSlice())
	if p, ok := e.Addrs.Prefix(); ok {
		a.Kind, a.Second = kindSubnet, [16]byte{}
		if p.IsSingleIP() {
			a.Kind = kindSingle
		} else if from.Is4() {
			binary.BigEndian.PutUint32(a.Second[:], ^uint32(0)<<(32-p.Bits()))
		} else {
			a.Second[0] = uint8(p.Bits())
		}
	}
	return a
}
