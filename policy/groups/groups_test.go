package groups_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/groups"
	"ipsecagent/sadb"
)

func read(files map[string]string) (policy.Policy, []groups.Problem) {
	data := map[string][]byte{}
	for name, text := range files {
		data[name] = []byte(text)
	}
	return groups.Read(data, groups.Options{Name: "imported"})
}

// site is the groups of a small site.
func site() map[string]string {
	return map[string]string{
		"private":          "# the servers\n10.0.1.0/24\n2001:db8:1::/64   # and their IPv6\n\n",
		"private-or-clear": "10.0.0.0/8\r\n",
		"clear-or-private": "0.0.0.0/0\n",
		"clear":            "10.0.1.9\n 10.0.1.0/24  tcp  22 0\n",
		"block":            "10.66.0.0/16\n",
	}
}

func compiled(t *testing.T, p policy.Policy) *policy.Compiled {
	t.Helper()
	if err := policy.Validate(&p); err != nil {
		t.Fatal(err)
	}
	c, err := policy.Compile(&p, policy.Host{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What the groups of a site decide, as packets see it.
func TestGroupsDecide(t *testing.T) {
	p, problems := read(site())
	if problems != nil {
		t.Fatal(problems)
	}
	err := policy.RunTests(compiled(t, p), []policy.Test{
		{Flow: "tcp me -> 10.0.1.5:443", Expect: "negotiate"},
		{Flow: "tcp 10.0.1.5:443 -> me:50000", Expect: "negotiate"},
		{Flow: "udp me -> [2001:db8:1::7]:53", Expect: "negotiate"},
		{Flow: "tcp me -> 10.0.1.9:443", Expect: "permit"},
		{Flow: "tcp 10.0.1.5 -> me:22", Expect: "permit"},
		{Flow: "tcp me -> 10.0.1.5:22", Expect: "negotiate"},
		{Flow: "tcp me -> 10.5.0.1:80", Expect: "negotiate"},
		{Flow: "tcp me -> 10.66.0.1:80", Expect: "block"},
		{Flow: "tcp me -> 192.0.2.1:80", Expect: "none"},
	})
	if err != nil {
		t.Error(err)
	}
}

// The actions that the groups stand for.
func TestGroupsAreActions(t *testing.T) {
	p, _ := read(site())
	c := compiled(t, p)
	got := map[string]sadb.Action{}
	for _, f := range c.Filters {
		group, _, _ := strings.Cut(strings.TrimPrefix(f.Name, "rule "), " ")
		got[strings.Trim(group, `",:`)] = f.Action
	}
	want := map[string]sadb.Action{
		"private":          {Kind: sadb.Negotiate},
		"private-or-clear": {Kind: sadb.Negotiate, PassThrough: true, AllowClear: true},
		"clear":            {Kind: sadb.Permit},
		"block":            {Kind: sadb.Block},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	if c.DefaultResponse == nil {
		t.Error("who is clear-or-private is not answered")
	}
	rest := site()
	rest["clear-or-private"] = "# nobody\n"
	p, _ = read(rest)
	if p.DefaultResponse.Active {
		t.Error("answers, and no group says so")
	}
}

func TestAuthentication(t *testing.T) {
	ca := []policy.AuthMethod{{Kind: policy.Certificate, CA: "CN=Root,O=Bank"}}
	p, problems := groups.Read(map[string][]byte{"private": []byte("10.0.0.1"), "clear": []byte("10.0.0.2"), "clear-or-private": []byte("10.0.0.3")},
		groups.Options{Name: "x", Authentication: ca})
	if problems != nil || !reflect.DeepEqual(p.Rules[0].Authentication, ca) || p.Rules[1].Authentication != nil ||
		!reflect.DeepEqual(p.DefaultResponse.Authentication, ca) {
		t.Errorf("%v, %+v", problems, p)
	}
	p, _ = read(map[string]string{"private": "10.0.0.1"})
	if !reflect.DeepEqual(p.Rules[0].Authentication, []policy.AuthMethod{{Kind: policy.Kerberos}}) {
		t.Errorf("%+v", p.Rules[0])
	}
}

func TestLines(t *testing.T) {
	for line, want := range map[string]string{
		"10.0.0.1":                   "any me <-> 10.0.0.1 any any",
		"10.0.0.0/8 tcp 0 22":        "tcp me <-> 10.0.0.0/8 any 22",
		"10.0.0.0/8\tUDP\t53\t0 # x": "udp me <-> 10.0.0.0/8 53 any",
		"0.0.0.0/0":                  "any me <-> 0.0.0.0/0 any any",
		"::/0 132 5 6":               "sctp me <-> ::/0 5 6",
		"2001:db8::/32 icmpv6 0 0":   "icmpv6 me <-> 2001:db8::/32 any any",
		"  10.0.0.0/8   0 0 0  ":     "any me <-> 10.0.0.0/8 any any",
		"10.0.0.0/8 47 0 0":          "47 me <-> 10.0.0.0/8 any any",
	} {
		p, problems := read(map[string]string{"block": line})
		if problems != nil {
			t.Errorf("%q: %v", line, problems)
			continue
		}
		f := p.FilterLists[0].Filters[0]
		if !f.Mirrored || f.From.Kind != policy.Me {
			t.Errorf("%q: %+v", line, f)
		}
		if got := fmt.Sprintf("%s me <-> %v %v %v", sadb.ProtoName(f.Protocol), f.To.Addrs, f.FromPorts, f.ToPorts); got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"10.0.0.0/8 tcp":         "2 words",
		"10.0.0.0/8 tcp 0":       "3 words",
		"10.0.0.0/8 tcp 0 22 33": "5 words",
		"10.0.0.0/33":            "neither a prefix",
		"10.0.0.1/8":             "bits behind the prefix",
		"10.0.0":                 "neither a prefix",
		"db.example.com":         "neither a prefix",
		"fe80::1%eth0":           "neither a prefix",
		"::ffff:10.0.0.1":        "write it as IPv4",
		"::ffff:10.0.0.0/104":    "write it as IPv4",
		"0.0.0.0":                "not an address of a host",
		"10.0.0.0/8 tpc 0 22":    "unknown protocol",
		"10.0.0.0/8 256 0 0":     "unknown protocol",
		"10.0.0.0/8 tcp 0 ssh":   "not the number of a port",
		"10.0.0.0/8 tcp 0 65536": "not the number of a port",
		"10.0.0.0/8 tcp -1 0":    "not the number of a port",
		"10.0.0.0/8 icmp 8 0":    "has no ports",
		"10.0.0.0/8 any 0 22":    "has no ports",
		"2001:db8::/32 icmp 0 0": "not spoken with",
		"10.0.0.0/8 icmpv6 0 0":  "not spoken with",
		"239.1.1.1":              "nobody can negotiate",
		"224.0.0.0/4":            "nobody can negotiate",
		"ff02::/16":              "nobody can negotiate",
		"255.255.255.255":        "nobody can negotiate",
		"10.0.0.0/8 \xff":        "not UTF-8",
	} {
		p, problems := read(map[string]string{"private": "\n" + line + "\n10.9.9.9\n"})
		if len(problems) != 1 || !strings.Contains(problems[0].Reason, want) || problems[0].Line != 2 || problems[0].File != "private" {
			t.Errorf("%q: %v, want …%s…", line, problems, want)
		}
		if len(p.FilterLists) != 1 || len(p.FilterLists[0].Filters) != 1 {
			t.Errorf("%q: %+v", line, p.FilterLists)
		}
	}
}

func TestConflicts(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"private:2: 10.0.0.0/8 stands in private, line 1, already":        {"private": "10.0.0.0/8\n10.0.0.0/8"},
		"private:1: 10.0.0.0/8 tcp 0 22 stands in clear, line 3":          {"private": "10.0.0.0/8 tcp 0 22", "clear": "\n\n10.0.0.0/8 tcp 0 22"},
		"clear-or-private:1: 10.1.0.0/16 lies within 10.0.0.0/8 of block": {"clear-or-private": "10.1.0.0/16", "block": "10.0.0.0/8"},
		"10.1.0.0/16 tcp 0 22 lies within 10.0.0.0/8 of private, line 2":  {"clear-or-private": "10.1.0.0/16 tcp 0 22", "private": "#\n10.0.0.0/8"},
		"10.1.0.0/16 lies within 10.1.0.0/16 tcp 0 22 of private":         {"clear-or-private": "10.1.0.0/16", "private": "10.1.0.0/16 tcp 0 22"},
		"portexcludes.conf: not a policy group":                           {"portexcludes.conf": "both tcp any 22 1023", "clear": "10.0.0.1"},
		"private: larger than 16 MiB":                                     {"private": strings.Repeat("#", 17<<20)},
	} {
		_, problems := read(files)
		if len(problems) != 1 || !strings.Contains(problems[0].Error(), want) {
			t.Errorf("%v, want …%s…", problems, want)
		}
	}
	for _, files := range []map[string]string{
		{"clear-or-private": "10.1.0.0/16 tcp 0 22", "private": "10.0.0.0/8 tcp 0 80"},
		{"clear-or-private": "10.1.0.0/16 tcp 0 22", "private": "10.0.0.0/8 udp 0 22"},
		{"clear-or-private": "10.0.0.0/8", "private": "10.1.0.0/16"},
		{"clear-or-private": "2001:db8::1", "private": "0.0.0.0/0"},
	} {
		if _, problems := read(files); problems != nil {
			t.Errorf("%v: %v", files, problems)
		}
	}
}

func TestBounds(t *testing.T) {
	_, problems := read(map[string]string{"clear": strings.Repeat("x\n", 5000)})
	if len(problems) != 1000 {
		t.Errorf("%d problems", len(problems))
	}
	var b strings.Builder
	a := netip.AddrFrom4([4]byte{10, 0, 0, 1})
	for range 100_001 {
		fmt.Fprintln(&b, a)
		a = a.Next()
	}
	p, problems := read(map[string]string{"block": b.String()})
	if len(problems) != 1 || len(p.FilterLists[0].Filters) != 100_000 {
		t.Errorf("%v, %d filters", problems, len(p.FilterLists[0].Filters))
	}
}

// The files as libreswan installs them say nothing: no policy is meant.
func TestNothingSaid(t *testing.T) {
	for _, files := range []map[string]string{nil, {"private": "# nothing\n", "clear": ""}} {
		if _, problems := read(files); len(problems) != 1 || problems[0].Error() != "policy groups: no file says anything but comments" {
			t.Errorf("%v", problems)
		}
	}
}

// FuzzRead: nothing makes it panic, and what was read without a problem is a
// valid policy with a filter for each line that says something.
func FuzzRead(f *testing.F) {
	for name, text := range site() {
		f.Add(uint8(slices.Index(groups.Names(), name)), []byte(text))
	}
	f.Add(uint8(0), []byte("10.0.0.0/8 tcp 0 22\n::/0 icmpv6 0 0\n"))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		name := groups.Names()[int(which)%len(groups.Names())]
		p, problems := groups.Read(map[string][]byte{name: data, "private": []byte("10.0.0.0/8")}, groups.Options{Name: "x"})
		if len(problems) > 0 {
			return
		}
		for _, problem := range policy.Problems(policy.Validate(&p)) {
			t.Errorf("%v", problem)
		}
	})
}
