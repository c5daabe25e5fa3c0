package groups_test

import (
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/groups"
)

func read(t *testing.T, files map[string]string) (policy.Policy, []groups.Problem) {
	t.Helper()
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

// What the groups of a site decide, as packets see it.
func TestGroupsDecide(t *testing.T) {
	p, problems := read(t, site())
	if problems != nil {
		t.Fatal(problems)
	}
	p.Tests = []policy.Test{
		{Flow: "tcp me -> 10.0.1.5:443", Expect: "negotiate"},
		{Flow: "tcp 10.0.1.5:443 -> me:50000", Expect: "negotiate"},
		{Flow: "udp me -> [2001:db8:1::7]:53", Expect: "negotiate"},
		{Flow: "tcp me -> 10.0.1.9:443", Expect: "permit"},
		{Flow: "tcp 10.0.1.5 -> me:22", Expect: "permit"},
		{Flow: "tcp me -> 10.0.1.5:22", Expect: "negotiate"},
		{Flow: "tcp me -> 10.5.0.1:80", Expect: "negotiate"},
		{Flow: "tcp me -> 10.66.0.1:80", Expect: "block"},
		{Flow: "tcp me -> 192.0.2.1:80", Expect: "none"},
	}
	if err := policy.Validate(&p); err != nil {
		t.Fatal(err)
	}
	c, err := policy.Compile(&p, policy.Host{})
	if err != nil {
		t.Fatal(err)
	}
	if err := policy.RunTests(c, p.Tests); err != nil {
		t.Error(err)
	}
}
