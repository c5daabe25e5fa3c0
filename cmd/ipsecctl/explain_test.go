package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// Explain answers by the predefined policy secure-server, with what is live
// with a busy peer.
func (b *backend) Explain(_ context.Context, r control.ExplainRequest) (control.Explanation, error) {
	if b.err != nil {
		return control.Explanation{}, b.err
	}
	q, err := r.Question()
	if err != nil {
		return control.Explanation{}, err
	}
	c, err := policy.Compile(policy.SecureServer(), policy.Host{})
	if err != nil {
		return control.Explanation{}, err
	}
	v := control.Explained(c, policy.Explain(c, q))
	s := busyStatus()
	v.Origin = "predefined"
	v.Live = &control.Live{Peer: "10.0.0.5", State: control.PeerPartly, Since: s.Secured[0].Since, Words: "some traffic is secured, other goes in clear",
		Secured: s.Secured, InClear: s.InClear, Negotiating: s.Negotiating, Failures: s.Failures[:1]}
	return v, nil
}

func TestExplainOffline(t *testing.T) {
	database := filepath.Join("..", "..", "examples", "database-servers.yaml")
	for name, args := range map[string][]string{
		"database":    {"--dst", "10.0.8.5", "--proto", "tcp", "--sport", "1433"},
		"management":  {"--src", "10.0.8.5", "--proto", "tcp", "--dport", "22"},
		"nothing":     {"tcp me:80 -> 10.1.2.3"},
		"by address":  {"--src", "192.0.2.1", "--dst", "10.1.2.3", "--proto", "tcp", "--sport", "1433", "--dir", "out"},
		"ipv6":        {"--dst", "2001:db8:8::5", "--proto", "udp", "--sport", "1434", "--connection", "lan"},
		"discovery":   {"--dst", "fe80::1", "--proto", "icmpv6", "--icmp-type", "135"},
		"to a client": {"tcp 10.9.9.9:50000 -> me:1433"},
	} {
		t.Run(name, func(t *testing.T) {
			out, stderr, code := ctl(t, "/nowhere", append([]string{"explain", "--policy", database}, args...)...)
			if code != control.OK || stderr != "" {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			golden(t, "explain "+name, unweighed(out))
		})
	}
}

// unweighed leaves out weights: how one is made up is policy's to test.
func unweighed(out string) string {
	return regexp.MustCompile(`weight \d+`).ReplaceAllString(out, "weight N")
}

func TestExplainOnline(t *testing.T) {
	out, stderr, code := ctl(t, serve(t, newBackend()), "explain", "--dst", "10.0.0.5", "--proto", "tcp", "--dport", "80")
	if code != control.OK || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if strings.ContainsFunc(out, unprintable) {
		t.Errorf("a terminal would act on: %q", out)
	}
	golden(t, "explain online", unweighed(out))
}

func TestExplainRefusesWhatItDoesNotUnderstand(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("kind: Policy\nname: x\ncolour: green\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]struct {
		code control.Code
		text string
	}{
		"":                                {control.Usage, "which packet?"},
		"--dst 10.0.0.1":                  {control.Usage, "give --proto"},
		"--proto tcp":                     {control.Usage, "which packet?"},
		"--proto tpc --dst 10.0.0.1":      {control.Usage, "unknown protocol"},
		"--proto tcp --dst example.org":   {control.Usage, "neither me nor an IP address"},
		"--proto tcp --dst me --src me":   {control.Usage, "from me to me"},
		"--proto icmp --dport 80 --dst x": {control.Usage, "flow"},
		"--proto tcp --dport 70000 --dst 10.0.0.1":                               {control.Usage, "not 1-65535"},
		"--proto tcp --icmp-type 8 --dst 10.0.0.1":                               {control.Usage, "only icmp"},
		"--proto tcp --dst 10.0.0.1 --dir up":                                    {control.Usage, "not in or out"},
		"--proto tcp --dst 10.0.0.1 --dir in":                                    {control.Usage, "goes out"},
		"--proto tcp --dst 10.0.0.1 --connection dsl":                            {control.Usage, "remote-access"},
		"--proto tcp --dst 2001:db8::1 --src 10.0.0.1":                           {control.Usage, "between IPv4 and IPv6"},
		"--proto tcp --dst 10.0.0.1 tcp":                                         {control.Usage, "not both"},
		"--proto tcp --dst 10.0.0.1 --policy " + broken:                          {control.Invalid, "colour"},
		"--proto tcp --dst 10.0.0.1 --policy no-such-policy":                     {control.NotFound, "not predefined"},
		"--proto tcp --dst 10.0.0.1 --policy ./no-such-file.yaml":                {control.NotFound, "no file"},
		"--proto tcp --dst 10.0.0.1 --socket /nowhere/at/all":                    {control.NotReachable, "does not answer"},
		"--proto tcp --dst 10.0.0.1 --policy in-force --socket /nowhere/at/all ": {control.NotReachable, "does not answer"},
	} {
		_, stderr, code := ctl(t, "/nowhere", append([]string{"explain"}, strings.Fields(line)...)...)
		if code != want.code || !strings.Contains(stderr, want.text) {
			t.Errorf("explain %s: exit code %d, %s; want %d, %q", line, code, stderr, want.code, want.text)
		}
	}
}

func TestExplainSaysTheSameOnlineAndOffline(t *testing.T) {
	socket := serve(t, newBackend())
	args := []string{"explain", "tcp me:80 -> 10.0.0.5", "-o", "json"}
	online, _, _ := ctl(t, socket, args...)
	offline, _, _ := ctl(t, socket, append(args, "--policy", "secure-server")...)
	var a, b control.Explanation
	for text, v := range map[string]*control.Explanation{online: &a, offline: &b} {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			t.Fatal(err)
		}
	}
	if a.Live == nil || b.Live != nil {
		t.Errorf("live: %v %v", a.Live, b.Live)
	}
	if a.Outcome != b.Outcome || a.Decided == nil || a.Decided.ID != b.Decided.ID {
		t.Errorf("%+v\n%+v", a, b)
	}
}
