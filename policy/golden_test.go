package policy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ipsecagent/policy"
)

var update = flag.Bool("update", false, "write the golden files")

func psk() []policy.AuthMethod { return []policy.AuthMethod{{Kind: policy.PresharedKey}} }

func TestPredefinedPoliciesCompileToTheGoldenFilters(t *testing.T) {
	for _, name := range policy.PredefinedNames() {
		t.Run(name, func(t *testing.T) {
			p, ok := policy.Predefined(name)
			if !ok || p.Name != name {
				t.Fatalf("Predefined(%q) = %v, %v", name, p, ok)
			}
			c, err := policy.Compile(policy.WithAuthentication(p, psk()), policy.Host{})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, text(c))
		})
	}
}

// The originals offer the modern methods of each class first, by uplift, and
// without it exactly what Windows 2000 has.
func TestOriginalPoliciesCompileToTheGoldenFilters(t *testing.T) {
	for _, name := range policy.PredefinedNames() {
		for suffix, host := range map[string]policy.Host{"original": {NoUplift: true}, "uplifted": {}} {
			p, ok := policy.Original(name)
			if !ok {
				t.Fatalf("no original of %q", name)
			}
			c, err := policy.Compile(p, host)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+"-"+suffix, text(c))
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run with -update if this is meant:\n%s", diff)
	}
}

// text shows everything of a compiled policy.
func text(c *policy.Compiled) string {
	var b strings.Builder
	fmt.Fprintf(&b, "policy %s, polled every %v\n", c.Policy, c.PollingInterval)
	fmt.Fprintf(&b, "main mode %v for %v, sessions %d, master key PFS %v\n",
		c.KeyExchange.Methods, c.KeyExchange.Lifetime, c.KeyExchange.Sessions, c.KeyExchange.MasterKeyPFS)
	if c.UpliftedMain > 0 {
		fmt.Fprintf(&b, "of them uplifted: %d\n", c.UpliftedMain)
	}
	for i, f := range c.Filters {
		fmt.Fprintf(&b, "\n%d. %s\n   %s, direction %s, %s mode\n   %s\n   rule %q, list %q\n   weight %d: %s\n   id %s\n",
			i+1, f.Name, f.Selector, f.Dir, f.Mode, f.Action, f.Rule, f.FilterList, f.Weight, f.Reason, f.ID)
		negotiation(&b, f.Negotiation)
	}
	b.WriteString("\ndefault response\n")
	negotiation(&b, c.DefaultResponse)
	return b.String()
}

func negotiation(b *strings.Builder, n *policy.Negotiation) {
	if n == nil {
		b.WriteString("   no negotiation\n")
		return
	}
	for i, p := range n.Proposals {
		mark := ""
		if n.Uplifted != nil && n.Uplifted[i] {
			mark = " (uplifted)"
		}
		fmt.Fprintf(b, "   offers %s for %v, %d bytes%s\n", p, p.Lifetime.Time, p.Lifetime.Bytes, mark)
	}
	fmt.Fprintf(b, "   authentication %v, PFS %v %v\n", n.Authentication, n.PFS, n.PFSGroup)
}
