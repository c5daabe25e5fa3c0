package gpipsec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// filterList reads a filter list into the model.
func (r *report) filterList(o *Object) policy.FilterList {
	l := policy.FilterList{GUID: o.GUID.String(), Name: o.Name, Description: o.Description}
	d, ok := parse(r, ParseFilter, o.Data)
	if !ok {
		return l
	}
	l.Filters = r.filters(d)
	var x []extFilter
	if r.extend(o.Data, d.Tail, &x) {
		l.Filters = nil
		for _, f := range x {
			l.Filters = append(l.Filters, f.model())
		}
	}
	return l
}

// filters joins both versions: where one of Vista has expanded filters of the
// first version beside it, it stands for them.
func (r *report) filters(d *FilterData) []policy.Filter {
	replaced := map[GUID]bool{}
	var second []policy.Filter
	if d.V2 != nil {
		for i, s := range d.V2.Filters {
			f, err := s.model()
			if err != nil {
				r.fail("filter %d of the second version: %v", i+1, err)
				continue
			}
			replaced[s.ID] = !s.ID.IsZero()
			second = append(second, f)
		}
	}
	var all []policy.Filter
	for i, s := range d.Filters {
		if replaced[s.ID] {
			continue
		}
		f, err := s.model()
		if err != nil {
			r.fail("filter %d: %v", i+1, err)
			continue
		}
		if s.IsTunnel != 0 || s.Tunnel != [4]byte{} {
			r.warn("filter %d names a tunnel of its own, which counts nowhere: rules carry tunnels", i+1)
		}
		all = append(all, f)
	}
	return oncePerName(append(all, second...))
}

// oncePerName: Windows keeps one filter for each address that a DNS name had;
// here the name itself is kept, so they are one.
func oncePerName(all []policy.Filter) []policy.Filter {
	seen := map[policy.Filter]bool{}
	return slices.DeleteFunc(all, func(f policy.Filter) bool {
		if f.From.Kind != policy.Name && f.To.Kind != policy.Name {
			return false
		}
		f.GUID = ""
		defer func() { seen[f] = true }()
		return seen[f]
	})
}

func (s FilterSpec) model() (policy.Filter, error) {
	f := policy.Filter{Description: clean(s.Description.text()), Mirrored: s.Mirrored != 0, FromPorts: sadb.Port(s.FromPort), ToPorts: sadb.Port(s.ToPort)}
	if !s.ID.IsZero() {
		f.GUID = s.ID.String()
	}
	var err error
	if f.Protocol, err = protocol(s.Protocol, f.FromPorts, f.ToPorts); err != nil {
		return f, err
	}
	fromSet, toSet, err := dynamicSets(s.Set)
	if err != nil {
		return f, err
	}
	if f.From, err = side(s.FromName.text(), fromSet, s.From, s.FromMask); err != nil {
		return f, fmt.Errorf("its source: %w", err)
	}
	if f.To, err = side(s.ToName.text(), toSet, s.To, s.ToMask); err != nil {
		return f, fmt.Errorf("its destination: %w", err)
	}
	return f, nil
}

func protocol(n uint32, ports ...sadb.Ports) (uint8, error) {
	if n > 255 {
		return 0, fmt.Errorf("protocol %d does not exist", n)
	}
	for _, p := range ports {
		if p != (sadb.Ports{}) && !sadb.HasPorts(uint8(n)) {
			return 0, fmt.Errorf("it names ports and protocol %d, which has none", n)
		}
	}
	return uint8(n), nil
}

// dynamicSets reads which side is a set that follows the host's configuration.
func dynamicSets(n uint8) (from, to policy.EndpointKind, err error) {
	kind, ok := map[uint8]policy.EndpointKind{
		0: policy.Any, setDNS: policy.DNSServers, setWINS: policy.WINSServers, setDHCP: policy.DHCPServers, setGateway: policy.DefaultGateway,
	}[n&^setDestination]
	switch {
	case !ok:
		return 0, 0, fmt.Errorf("dynamic set %#x is not known here", n)
	case n&setDestination != 0:
		return policy.Any, kind, nil
	}
	return kind, policy.Any, nil
}

func side(name string, set policy.EndpointKind, address, mask [4]byte) (policy.Endpoint, error) {
	switch {
	case set != policy.Any:
		return policy.Endpoint{Kind: set}, nil
	case name != "":
		return named(name, address != [4]byte{} && mask == [4]byte{255, 255, 255, 255})
	}
	a := netip.AddrFrom4(address)
	length, err := maskLength(mask)
	switch {
	case err != nil:
		return policy.Endpoint{}, err
	case length == 32 && a.IsUnspecified():
		return policy.Endpoint{Kind: policy.Me}, nil
	case length == 0:
		return policy.Endpoint{}, nil
	}
	return addresses(sadb.Prefix(netip.PrefixFrom(a, length))), nil
}

// named returns a DNS name. Windows goes by the address beside it and shows the
// name; where that is no single address, the two mean different traffic.
func named(name string, single bool) (policy.Endpoint, error) {
	if !single {
		return policy.Endpoint{}, fmt.Errorf("beside the name %q stands no address of one computer: Windows would take other traffic for it", name)
	}
	return policy.Endpoint{Kind: policy.Name, Name: name}, nil
}

func addresses(a sadb.Addrs) policy.Endpoint {
	return policy.Endpoint{Kind: policy.Addresses, Addrs: a}
}

func (s FilterSpec2) model() (policy.Filter, error) {
	f := policy.Filter{Description: clean(s.Description.text()), Mirrored: s.Mirrored != 0}
	if !s.ID.IsZero() {
		f.GUID = s.ID.String()
	}
	var err error
	if f.FromPorts, err = s.FromPort.model(); err != nil {
		return f, err
	}
	if f.ToPorts, err = s.ToPort.model(); err != nil {
		return f, err
	}
	if f.Protocol, err = protocol(s.Protocol, f.FromPorts, f.ToPorts); err != nil {
		return f, err
	}
	if f.From, err = s.From.model(s.FromName.text()); err != nil {
		return f, fmt.Errorf("its source: %w", err)
	}
	if f.To, err = s.To.model(s.ToName.text()); err != nil {
		return f, fmt.Errorf("its destination: %w", err)
	}
	return f, nil
}

func (p Port2) model() (sadb.Ports, error) {
	switch p.Kind {
	case kindAny:
		return sadb.Ports{}, nil
	case kindSingle:
		return sadb.Port(p.First), portZero(p.First)
	case kindRange:
		return sadb.Ports{From: p.First, To: p.Last}, portZero(p.Last)
	}
	return sadb.Ports{}, fmt.Errorf("kind %d of ports is not known here", p.Kind)
}

// portZero refuses what would be no port there and all ports here.
func portZero(p uint16) error {
	if p == 0 {
		return errors.New("port 0 does not exist")
	}
	return nil
}

func kinds2() map[uint32]policy.EndpointKind {
	return map[uint32]policy.EndpointKind{
		kindAny: policy.Any, kindMe: policy.Me, kindDNS: policy.DNSServers, kindWINS: policy.WINSServers,
		kindDHCP: policy.DHCPServers, kindGateway: policy.DefaultGateway,
	}
}

func (a Address2) model(name string) (policy.Endpoint, error) {
	if name != "" {
		return named(name, a.Kind == kindSingle)
	}
	if k, ok := kinds2()[a.Kind]; ok {
		return policy.Endpoint{Kind: k}, nil
	}
	if a.Version != versionIPv4 && a.Version != versionIPv6 {
		return policy.Endpoint{}, fmt.Errorf("version %d of an address is neither IPv4 nor IPv6", a.Version)
	}
	first, second := a.addr(a.First), a.addr(a.Second)
	switch a.Kind {
	case kindSingle:
		return addresses(sadb.Addr(first)), nil
	case kindRange:
		all, err := addrRange(first, second)
		return addresses(all), err
	case kindSubnet:
		return a.subnet(first, second)
	}
	return policy.Endpoint{}, fmt.Errorf("kind %d of an address is not known here", a.Kind)
}

func (a Address2) addr(b [16]byte) netip.Addr {
	if a.Version == versionIPv4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b).Unmap()
}

func (a Address2) subnet(first, mask netip.Addr) (policy.Endpoint, error) {
	length := int(a.Second[0])
	if a.Version == versionIPv4 {
		var err error
		if length, err = maskLength(mask.As4()); err != nil {
			return policy.Endpoint{}, err
		}
	}
	p, err := first.Prefix(length)
	if err != nil {
		return policy.Endpoint{}, err
	}
	return addresses(sadb.Prefix(p)), nil
}

func maskLength(mask [4]byte) (int, error) {
	n := binary.BigEndian.Uint32(mask[:])
	length := bits.LeadingZeros32(^n)
	if bits.OnesCount32(n) != length {
		return 0, fmt.Errorf("mask %v is not that of a subnet", netip.AddrFrom4(mask))
	}
	return length, nil
}

func (x extFilter) model() policy.Filter {
	return policy.Filter{
		GUID: x.GUID, Description: x.Description, From: policy.Endpoint(x.From), To: policy.Endpoint(x.To), Protocol: x.Protocol,
		FromPorts: x.FromPorts, ToPorts: x.ToPorts, ICMPType: x.ICMPType, ICMPCode: x.ICMPCode, Mirrored: x.Mirrored,
	}
}

func extOfFilters(filters []policy.Filter) []extFilter {
	var all []extFilter
	for _, f := range filters {
		all = append(all, extFilter{
			GUID: f.GUID, Description: f.Description, From: endpoint(f.From), To: endpoint(f.To), Protocol: f.Protocol,
			FromPorts: f.FromPorts, ToPorts: f.ToPorts, ICMPType: f.ICMPType, ICMPCode: f.ICMPCode, Mirrored: f.Mirrored,
		})
	}
	return all
}
