package gpipsec

import (
	"fmt"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// read returns the filters of both versions as the model has them.
func read(t *testing.T, d *FilterData) ([]policy.Filter, string) {
	t.Helper()
	parsed, err := ParseFilter(d.Canonical())
	if err != nil {
		t.Fatal(err)
	}
	r := &report{}
	all := r.filters(parsed)
	return all, fmt.Sprint(r.problems)
}

func first(f FilterTail) FilterSpec {
	return FilterSpec{NewWide(""), NewWide(""), NewWide(""), f}
}

func TestFiltersOfTheFirstVersion(t *testing.T) {
	host := [4]byte{255, 255, 255, 255}
	for name, c := range map[string]struct {
		filter FilterTail
		want   string
	}{
		"me to any":       {FilterTail{FromMask: host}, "me any"},
		"host bits":       {FilterTail{From: [4]byte{10, 1, 2, 3}, FromMask: [4]byte{255, 255, 0, 0}}, "10.1.0.0/16 any"},
		"an address":      {FilterTail{To: [4]byte{10, 1, 2, 3}, ToMask: host}, "any 10.1.2.3"},
		"DNS servers":     {FilterTail{Set: setDNS, ToMask: host}, "dns-servers me"},
		"WINS servers":    {FilterTail{Set: setWINS}, "wins-servers any"},
		"DHCP servers":    {FilterTail{Set: setDHCP | setDestination, FromMask: host}, "me dhcp-servers"},
		"default gateway": {FilterTail{Set: setGateway | setDestination}, "any default-gateway"},
		"unknown set":     {FilterTail{Set: 5}, "!dynamic set 0x5 is not known here"},
		"gap in the mask": {FilterTail{ToMask: [4]byte{255, 0, 255, 0}}, "!its destination: mask 255.0.255.0 is not that of a subnet"},
		"protocol 256":    {FilterTail{Protocol: 256}, "!protocol 256 does not exist"},
		"ports of GRE":    {FilterTail{Protocol: 47, ToPort: 1}, "!it names ports and protocol 47, which has none"},
	} {
		check(t, name, c.want, &FilterData{Filters: []FilterSpec{first(c.filter)}})
	}
}

func check(t *testing.T, name, want string, d *FilterData) {
	t.Helper()
	all, problems := read(t, d)
	if problem, ok := strings.CutPrefix(want, "!"); ok {
		if len(all) != 0 || !strings.Contains(problems, "filter 1") || !strings.Contains(problems, problem) {
			t.Errorf("%s: %v %s", name, all, problems)
		}
		return
	}
	var got []string
	for _, f := range all {
		from, _ := endpoint(f.From).MarshalText()
		to, _ := endpoint(f.To).MarshalText()
		got = append(got, string(from)+" "+string(to))
	}
	if text := strings.Join(got, ", "); text != want || problems != "[]" {
		t.Errorf("%s: %s, not %s; %s", name, text, want, problems)
	}
}

func TestFiltersOfTheSecondVersion(t *testing.T) {
	four, six := [16]byte{10, 1, 2, 3}, [16]byte{0x20, 1, 0xd, 0xb8, 15: 1}
	any2 := Address2{}
	for name, c := range map[string]struct {
		from, to Address2
		port     Port2
		protocol uint32
		want     string
	}{
		"IPv6":             {Address2{kindSingle, versionIPv6, six, [16]byte{}}, any2, Port2{}, 0, "2001:db8::1 any"},
		"IPv6 prefix":      {any2, Address2{kindSubnet, versionIPv6, six, [16]byte{32}}, Port2{}, 0, "any 2001:db8::/32"},
		"IPv4 prefix":      {any2, Address2{kindSubnet, versionIPv4, four, [16]byte{255, 255}}, Port2{}, 0, "any 10.1.0.0/16"},
		"all of IPv4":      {any2, Address2{kindSubnet, versionIPv4, [16]byte{}, [16]byte{}}, Port2{}, 0, "any 0.0.0.0/0"},
		"a range":          {Address2{kindRange, versionIPv4, four, [16]byte{10, 1, 2, 9}}, any2, Port2{}, 0, "10.1.2.3-10.1.2.9 any"},
		"sets":             {Address2{kindMe, versionBoth, [16]byte{}, [16]byte{}}, Address2{kindGateway, versionBoth, [16]byte{}, [16]byte{}}, Port2{}, 0, "me default-gateway"},
		"a range backward": {Address2{kindRange, versionIPv4, four, [16]byte{10, 1, 2, 1}}, any2, Port2{}, 0, "!not an ascending range"},
		"prefix of 129":    {any2, Address2{kindSubnet, versionIPv6, six, [16]byte{129}}, Port2{}, 0, "!its destination: "},
		"gap in the mask":  {any2, Address2{kindSubnet, versionIPv4, four, [16]byte{255, 0, 255}}, Port2{}, 0, "!mask 255.0.255.0 is not that of a subnet"},
		"version 7":        {Address2{kindSingle, 7, four, [16]byte{}}, any2, Port2{}, 0, "!its source: version 7 of an address"},
		"kind 3":           {Address2{3, versionIPv4, four, [16]byte{}}, any2, Port2{}, 0, "!kind 3 of an address"},
		"kind 9 of ports":  {any2, any2, Port2{9, 1, 2}, 6, "!kind 9 of ports"},
		"ports of nothing": {any2, any2, Port2{kindRange, 1, 2}, 0, "!it names ports and protocol 0"},
		"ports":            {any2, any2, Port2{kindRange, 1, 2}, 6, "any any"},
		"port 0":           {any2, any2, Port2{kindSingle, 0, 0}, 6, "!port 0 does not exist"},
		"ports 0 to 0":     {any2, any2, Port2{kindRange, 0, 0}, 6, "!port 0 does not exist"},
	} {
		f := FilterSpec2{NewWide(""), NewWide(""), NewWide(""), FilterTail2{From: c.from, To: c.to, ToPort: c.port, Protocol: c.protocol}}
		check(t, name, c.want, &FilterData{V2: &FilterData2{Filters: []FilterSpec2{f}}})
	}
}

// A filter of the second version stands for those of the first that have its
// identity, and for no others.
func TestTheSecondVersionReplacesItsExpansion(t *testing.T) {
	address := func(last byte, id byte) FilterSpec {
		return first(FilterTail{ID: testGUID(id), From: [4]byte{10, 0, 0, last}, FromMask: [4]byte{255, 255, 255, 255}})
	}
	whole := FilterSpec2{NewWide(""), NewWide(""), NewWide(""), FilterTail2{
		ID: testGUID(1), Flags: flagExpanded, From: Address2{kindRange, versionIPv4, [16]byte{10, 0, 0, 1}, [16]byte{10, 0, 0, 2}},
	}}
	check(t, "both", "10.0.0.7 any, 10.0.0.1-10.0.0.2 any", &FilterData{
		Filters: []FilterSpec{address(1, 1), address(2, 1), address(7, 7)},
		V2:      &FilterData2{Overrides: 2, Filters: []FilterSpec2{whole}},
	})
}

// Windows has a filter for each address of a name; the name is one filter here.
func TestANameIsOneFilter(t *testing.T) {
	var all []FilterSpec
	for i := range byte(3) {
		f := first(FilterTail{ID: testGUID(1 + i), To: [4]byte{10, 0, 0, i}, ToMask: [4]byte{255, 255, 255, 255}, Protocol: uint32(sadb.TCP), ToPort: 80})
		f.ToName = NewWide("db.example")
		all = append(all, f)
	}
	all[2].ToPort = 81
	check(t, "a name", "any name:db.example, any name:db.example", &FilterData{Filters: all})
}

// For Windows the addresses decide and the name is shown: a name beside others
// than one computer's is not what the filter is about.
func TestANameBesideOtherAddresses(t *testing.T) {
	for what, tail := range map[string]FilterTail{
		"any": {}, "me": {ToMask: [4]byte{255, 255, 255, 255}}, "a subnet": {To: [4]byte{10}, ToMask: [4]byte{255}},
	} {
		f := first(tail)
		f.ToName = NewWide("db.example")
		check(t, what, `!its destination: beside the name "db.example"`, &FilterData{Filters: []FilterSpec{f}})
	}
	second := FilterSpec2{NewWide("db.example"), NewWide(""), NewWide(""), FilterTail2{}}
	check(t, "any of the second version", `!its source: beside the name "db.example"`, &FilterData{V2: &FilterData2{Filters: []FilterSpec2{second}}})
}

func TestFiltersOfTheSecondVersionAreBounded(t *testing.T) {
	d := &FilterData{V2: &FilterData2{Filters: make([]FilterSpec2, 3)}}
	value := d.Canonical()
	if len(value) < minFilter2*3 {
		t.Fatal(len(value))
	}
	for n := len(value) - 1; n > 24+16; n-- {
		if _, err := ParseFilter(value[:n]); err == nil {
			t.Errorf("cut at %d of %d is read", n, len(value))
		}
	}
}
