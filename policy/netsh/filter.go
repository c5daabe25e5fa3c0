package netsh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func addFilter(m *machine, a *args) error {
	name := a.need("filterlist")
	f := policy.Filter{Mirrored: true}
	a.need("srcaddr")
	a.need("dstaddr")
	a.text("description", &f.Description)
	a.filter(&f)
	if a.err != nil {
		return a.err
	}
	if err := checkFilter(f); err != nil {
		return err
	}
	if m.filters >= maxFilters {
		return fmt.Errorf("the store holds %d filters already", maxFilters)
	}
	o, err := m.listToFill(name)
	if err != nil {
		return err
	}
	o.list.Filters = append(o.list.Filters, f)
	m.filters++
	return nil
}

// listToFill returns the list of a name; as in Windows, a list that does not
// exist is made.
func (m *machine) listToFill(name string) (*object, error) {
	if len(m.lists.named(name)) > 0 {
		return m.find(&m.lists, name)
	}
	a := &args{list: []arg{{"name", name}}}
	if a.newName("name"); a.err != nil {
		return nil, a.err
	}
	return m.newList(policy.FilterList{Name: name})
}

// filter sets what the tags of a filter give.
func (a *args) filter(f *policy.Filter) {
	a.endpoint("srcaddr", "srcmask", &f.From)
	a.endpoint("dstaddr", "dstmask", &f.To)
	a.protocol(&f.Protocol)
	a.ports("srcport", &f.FromPorts)
	a.ports("dstport", &f.ToPorts)
	a.octets("icmptype", &f.ICMPType)
	a.octets("icmpcode", &f.ICMPCode)
	a.flag("mirrored", &f.Mirrored)
}

// checkFilter refuses a filter that no policy may hold. Names and sets have no
// family of addresses: they are checked as any.
func checkFilter(f policy.Filter) error {
	for _, e := range []*policy.Endpoint{&f.From, &f.To} {
		if e.Kind >= policy.Name {
			*e = policy.Endpoint{}
		}
	}
	p := scratch()
	p.FilterLists = []policy.FilterList{{Name: "it", Filters: []policy.Filter{f}}}
	return firstProblem(p)
}

// scratch is a policy to check one object in.
func scratch() *policy.Policy { return &policy.Policy{Name: "it"} }

// firstProblem returns what is wrong with the object of a scratch policy, in
// the words of policy.Validate.
func firstProblem(p *policy.Policy) error {
	problems := policy.Problems(policy.Validate(p))
	if len(problems) == 0 {
		return nil
	}
	reason := problems[0].Message
	for _, made := range []string{`filter list "it", filter 1: `, `filter list "it", filter 1 `, `filter action "it": `, `filter action "it", `, "the default response rule: "} {
		reason = strings.TrimPrefix(reason, made)
	}
	return errors.New(reason)
}

// keyword is an endpoint that a word stands for.
type keyword struct {
	word string
	kind policy.EndpointKind
}

func keywords() []keyword {
	return []keyword{
		{"any", policy.Any}, {"me", policy.Me}, {"dns", policy.DNSServers}, {"wins", policy.WINSServers},
		{"dhcp", policy.DHCPServers}, {"gateway", policy.DefaultGateway},
	}
}

// endpoint sets one side of a filter from its address and its mask.
func (a *args) endpoint(tag, maskTag string, into *policy.Endpoint) {
	text, ok := a.get(tag)
	mask, masked := a.get(maskTag)
	if !ok {
		if masked {
			a.fail(fmt.Errorf("%s= without %s=", maskTag, tag))
		}
		return
	}
	e, err := parseEndpoint(text, mask)
	if err != nil {
		a.fail(fmt.Errorf("%s=%q: %w", tag, text, err))
		return
	}
	*into = e
}

func parseEndpoint(text, mask string) (policy.Endpoint, error) {
	if addr, bits, ok := strings.Cut(text, "/"); ok && mask == "" {
		text, mask = addr, bits
	}
	addr, err := netip.ParseAddr(text)
	if err == nil {
		addrs, err := withMask(addr, mask)
		return policy.Endpoint{Kind: policy.Addresses, Addrs: addrs}, err
	}
	if mask != "" {
		return policy.Endpoint{}, errors.New("a mask belongs to one IP address")
	}
	for _, k := range keywords() {
		if strings.EqualFold(text, k.word) {
			return policy.Endpoint{Kind: k.kind}, nil
		}
	}
	if first, last, ok := strings.Cut(text, "-"); ok {
		if from, err := netip.ParseAddr(first); err == nil {
			addrs, err := addrRange(from, last)
			return policy.Endpoint{Kind: policy.Addresses, Addrs: addrs}, err
		}
	}
	if !dnsName(text) {
		return policy.Endpoint{}, errors.New("it is not me, any, dns, wins, dhcp, gateway, an IP address, a range of two or a DNS name")
	}
	return policy.Endpoint{Kind: policy.Name, Name: text}, nil
}

func plainAddr(a netip.Addr) error {
	if a.Zone() != "" || a.Is4In6() {
		return errors.New("an address has no zone, and IPv4 is written as IPv4")
	}
	return nil
}

// withMask returns the addresses of a mask, in the form 255.255.0.0 or as the
// length of the prefix; bits behind it are ignored, as in Windows.
func withMask(a netip.Addr, mask string) (sadb.Addrs, error) {
	if err := plainAddr(a); err != nil || mask == "" {
		if err == nil {
			return sadb.Addr(a), nil
		}
		return sadb.Addrs{}, err
	}
	bits, err := maskBits(a, mask)
	if err != nil {
		return sadb.Addrs{}, err
	}
	return sadb.Prefix(netip.PrefixFrom(a, bits)), nil
}

func maskBits(a netip.Addr, mask string) (int, error) {
	wrong := fmt.Errorf("the mask %q is neither the length of a prefix nor, for IPv4, of the form 255.255.0.0", mask)
	if n, err := strconv.ParseUint(mask, 10, 8); err == nil {
		if int(n) > a.BitLen() {
			return 0, wrong
		}
		return int(n), nil
	}
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() || !a.Is4() {
		return 0, wrong
	}
	b := m.As4()
	ones := strings.TrimRight(fmt.Sprintf("%08b%08b%08b%08b", b[0], b[1], b[2], b[3]), "0")
	if strings.Contains(ones, "0") {
		return 0, fmt.Errorf("the mask %s has gaps", mask)
	}
	return len(ones), nil
}

func addrRange(from netip.Addr, last string) (sadb.Addrs, error) {
	to, err := netip.ParseAddr(last)
	if err != nil || plainAddr(from) != nil || plainAddr(to) != nil || from.BitLen() != to.BitLen() || to.Less(from) {
		return sadb.Addrs{}, errors.New("it is not a range of one family from a lower to a higher address")
	}
	return sadb.Range(from, to), nil
}

// dnsName reports whether a word can be a name, and is not an address with a
// mistake.
func dnsName(s string) bool {
	if len(s) == 0 || len(s) > 253 || strings.Trim(s, "0123456789.-") == "" {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !(c == '.' || c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
	})
}

const rawProtocol = 255

func (a *args) protocol(into *uint8) {
	text, ok := a.get("protocol")
	if !ok {
		return
	}
	word := strings.ToLower(text)
	if word == "raw" {
		*into = rawProtocol
		return
	}
	if word == "0" {
		word = "any"
	}
	p, known := policy.ParseProtocol(word)
	if !known {
		a.fail(fmt.Errorf("protocol=%q is not any, icmp, tcp, udp, raw or a number up to 255", text))
	}
	*into = p
}

// ports sets a port or a range of ports; 0: any.
func (a *args) ports(tag string, into *sadb.Ports) {
	text, ok := a.get(tag)
	if !ok {
		return
	}
	from, to, err := parseRange(text, 16)
	if err != nil {
		a.fail(fmt.Errorf("%s=%q is not a port, a range such as 8000-8100, or 0 for any", tag, text))
		return
	}
	*into = sadb.Ports{From: uint16(from), To: uint16(to)}
}

func (a *args) octets(tag string, into *sadb.Octets) {
	text, ok := a.get(tag)
	if !ok {
		return
	}
	from, to, err := parseRange(text, 8)
	if err != nil {
		a.fail(fmt.Errorf("%s=%q is not a number up to 255 or a range", tag, text))
		return
	}
	*into = sadb.Octets{From: uint8(from), To: uint8(to), Set: true}
}

func parseRange(s string, bits int) (from, to uint64, err error) {
	first, last, ranged := strings.Cut(s, "-")
	if from, err = strconv.ParseUint(first, 10, bits); err != nil || !ranged {
		return from, from, err
	}
	if to, err = strconv.ParseUint(last, 10, bits); err == nil && to < from {
		err = errors.New("the range runs backwards")
	}
	return from, to, err
}

// deleteFilter deletes every filter of a list that has all the fields given.
func deleteFilter(m *machine, a *args) error {
	a.need("srcaddr")
	a.need("dstaddr")
	var want policy.Filter
	name := a.need("filterlist")
	a.filter(&want)
	if a.err != nil {
		return a.err
	}
	o, err := m.find(&m.lists, name)
	if err != nil {
		return err
	}
	before := len(o.list.Filters)
	o.list.Filters = slices.DeleteFunc(o.list.Filters, func(f policy.Filter) bool { return a.selects(want, f) })
	if len(o.list.Filters) == before {
		return fmt.Errorf("no filter of filter list %q is like that", o.name())
	}
	m.filters -= before - len(o.list.Filters)
	return nil
}

// selects reports whether f has the fields of want that the line gives.
func (a *args) selects(want, f policy.Filter) bool {
	given := func(tag string, same bool) bool { return same || !a.has(tag) }
	return sameEndpoint(want.From, f.From) && sameEndpoint(want.To, f.To) &&
		given("protocol", want.Protocol == f.Protocol) &&
		given("srcport", want.FromPorts == f.FromPorts) && given("dstport", want.ToPorts == f.ToPorts) &&
		given("icmptype", want.ICMPType == f.ICMPType) && given("icmpcode", want.ICMPCode == f.ICMPCode) &&
		given("mirrored", want.Mirrored == f.Mirrored)
}

func sameEndpoint(a, b policy.Endpoint) bool {
	return a.Kind == b.Kind && a.Addrs == b.Addrs && strings.EqualFold(a.Name, b.Name)
}
