package doctor

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
)

// inNamespace runs f in a network namespace of its own, which ends with it.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// nft loads rules in the calling thread's network namespace.
func nft(t *testing.T, rules string) {
	t.Helper()
	c := exec.Command("nft", "-f", "-")
	c.Stdin = strings.NewReader(strings.ReplaceAll(rules, " }", "\n}")) // before nft 1.0.7 a brace wants a line of its own
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("nft: %v\n%s\n%s", err, out, rules)
	}
}

// found writes checks on lines: state and what was found.
func found(checks []control.Check) string {
	var b strings.Builder
	for _, c := range checks {
		b.WriteString(c.State + ": " + c.Says + "\n")
	}
	return b.String()
}

const input = `table inet filter {
	chain input {
		type filter hook input priority filter; policy `

func TestFirewallRulesInTheWay(t *testing.T) {
	tests := []struct {
		name, rules, state string
		says               []string // all of them
		silent             string   // is not said; "": nothing
	}{
		{"none", "", control.CheckFine, []string{"no nftables rules"}, ""},
		{"an open one", input + "accept; tcp dport 22 accept } }", control.CheckFine, []string{"let IKE"}, ""},
		{"a closed one", input + `drop; ct state established,related accept; iifname "lo" accept; tcp dport { 22, 443 } accept } }`, control.CheckProblem,
			[]string{"chain inet filter input (policy drop) drops", "UDP 500 (IKE) in", "ESP in", "AH in"}, " out"},
		{"closed by iif", input + `drop; iif lo accept; meta l4proto { icmp, tcp } accept } }`, control.CheckProblem, []string{"UDP 500 (IKE) in"}, ""},
		{"closed but for IPsec", input + `drop; ct state vmap { established : accept, related : accept, invalid : drop }
			udp dport { 500, 4500 } accept; meta l4proto { esp, ah } accept } }`, control.CheckFine, []string{"let IKE"}, ""},
		{"ports in a range, protocols in a map", input + `drop; udp dport 400-5000 accept; meta l4proto vmap { esp : accept, ah : accept } } }`, control.CheckFine, []string{"let IKE"}, ""},
		{"ports in a set of intervals", `table inet filter { set open { type inet_service; flags interval; elements = { 100-600, 4500 } }
			chain input { type filter hook input priority 0; policy drop; udp dport @open accept; ip protocol { esp, ah } accept; ip6 nexthdr { esp, ah } accept } }`, control.CheckFine, []string{"let IKE"}, ""},
		{"ESP forgotten", input + "drop; udp dport { 500, 4500 } accept } }", control.CheckProblem, []string{"ESP in, AH in"}, "UDP"},
		{"dropped by a rule", input + "accept; udp dport 4500 drop } }", control.CheckProblem, []string{"a rule of chain inet filter input (handle", "UDP 4500"}, "UDP 500 "},
		{"rejected", input + "accept; meta l4proto esp reject } }", control.CheckProblem, []string{"ESP in"}, "UDP"},
		{"only from some", input + "drop; ip saddr 10.0.0.0/8 accept; meta l4proto { esp, ah, udp } ip6 saddr fd00::/8 accept } }", control.CheckWarning, []string{"unless a rule before it lets it pass"}, "problem"},
		{"not to some", input + "accept; udp dport 500 ip saddr 192.0.2.0/24 drop } }", control.CheckWarning, []string{"drops some of UDP 500 (IKE) in"}, "ESP"},
		{"others are blocked by address", input + "accept; ip saddr 192.0.2.0/24 drop; tcp dport 500 drop; udp dport 501 drop } }", control.CheckFine, []string{"let IKE"}, ""},
		{"in a chain of its own", `table ip filter { chain ike { udp dport 500 accept; udp dport 4500 accept; meta l4proto esp accept; return }
			chain input { type filter hook input priority 0; policy drop; jump ike } }`, control.CheckProblem, []string{"AH in"}, "UDP"},
		{"going", `table ip filter { chain output { type filter hook output priority 0; policy accept; goto out }
			chain out { meta l4proto { tcp, icmp } accept; drop } }`, control.CheckProblem, []string{"chain ip filter out", "UDP 500 (IKE) out"}, " in,"},
		{"IPv6 alone", `table ip6 filter { chain input { type filter hook input priority 0; policy drop; } }`, control.CheckProblem, []string{"ESP in"}, ""},
		{"what is forwarded is another matter", `table ip filter { chain forward { type filter hook forward priority 0; policy drop; } }`, control.CheckFine, []string{"let IKE"}, ""},
		{"translated behind our back", `table ip nat { chain post { type nat hook postrouting priority 301; oifname "eth0" masquerade } }`, control.CheckWarning, []string{"chain ip nat post translates addresses at priority 301"}, ""},
		{"translated where it should be", `table ip nat { chain post { type nat hook postrouting priority srcnat; oifname "eth0" masquerade } }`, control.CheckFine, []string{"let IKE"}, ""},
		{"our own table", `table inet ours { chain input { type filter hook input priority 0; policy drop; } }`, control.CheckFine, []string{"no nftables rules"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t, func() {
				nft(t, tt.rules)
				r, err := ReadRuleset("ours")
				if err != nil {
					t.Error(err)
					return
				}
				checks := Firewall(r)
				text := found(checks)
				for _, c := range checks {
					if c.State != tt.state || c.State != control.CheckFine && c.Do == "" {
						t.Errorf("want %s:\n%s", tt.state, text)
					}
				}
				for _, s := range tt.says {
					if !strings.Contains(text, s) {
						t.Errorf("%q is not said:\n%s", s, text)
					}
				}
				if tt.silent != "" && strings.Contains(text, tt.silent) {
					t.Errorf("%q is said:\n%s", tt.silent, text)
				}
			})
		})
	}
}

// The rules that iptables writes on nftables.
func TestFirewallRulesOfIptables(t *testing.T) {
	tests := []struct{ name, rules, state, says string }{
		{"closed", "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", control.CheckProblem, "chain ip filter INPUT (policy drop) drops"},
		{"open for IPsec", "-P INPUT DROP\n-A INPUT -p udp -m udp --dport 500 -j ACCEPT\n-A INPUT -p udp -m udp --dport 4500 -j ACCEPT\n-A INPUT -p esp -j ACCEPT\n-A INPUT -p ah -m comment --comment x -j ACCEPT", control.CheckFine, "let IKE"},
		{"rejected at the end", "-A INPUT -p esp -j ACCEPT\n-A INPUT -j REJECT", control.CheckProblem, "UDP 500 (IKE) in"},
		{"dropped by a rule", "-A OUTPUT -p udp -m udp --dport 400:600 -j DROP", control.CheckProblem, "UDP 500 (IKE) out"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t, func() {
				for line := range strings.Lines(tt.rules) {
					if out, err := exec.Command("iptables-nft", strings.Fields(line)...).CombinedOutput(); err != nil {
						t.Errorf("iptables-nft %s: %v\n%s", line, err, out)
					}
				}
				r, err := ReadRuleset("ours")
				if err != nil {
					t.Error(err)
					return
				}
				checks := Firewall(r)
				if checks[0].State != tt.state || !strings.Contains(found(checks), tt.says) {
					t.Errorf("want %s, %q:\n%s", tt.state, tt.says, found(checks))
				}
			})
		})
	}
}

func TestLegacyTables(t *testing.T) {
	with := func(text string) func(string) ([]byte, error) {
		return func(path string) ([]byte, error) {
			if strings.Contains(path, "ip6_") {
				return nil, os.ErrNotExist
			}
			return []byte(text), nil
		}
	}
	if got := LegacyTables(with("nat\nfilter\n")); len(got) != 1 || got[0].State != control.CheckWarning || got[0].Do != "look at the rules: iptables-legacy -S" {
		t.Errorf("%+v", got)
	}
	if got := LegacyTables(with("")); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
