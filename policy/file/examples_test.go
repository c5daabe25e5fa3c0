package file

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func TestExamplesLoadCompileAndPassTheirTests(t *testing.T) {
	var entries []Entry
	for _, dir := range []string{"examples", "examples/bank"} {
		all, err := Dir(filepath.Join("..", "..", dir))
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, all...)
	}
	if len(entries) < 10 {
		t.Fatalf("%d examples", len(entries))
	}
	for _, e := range entries {
		t.Run(filepath.Base(e.Path), func(t *testing.T) {
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			c, err := policy.Compile(e.Policy, policy.Host{}.Reachable(e.Policy))
			if err != nil {
				t.Fatal(err)
			}
			if len(e.Policy.Tests) == 0 {
				t.Error("an example without tests")
			}
			if err := policy.RunTests(c, e.Policy.Tests); err != nil {
				t.Error(err)
			}
			weak := len(policy.Warnings(e.Policy)) != 0
			if old := strings.HasSuffix(e.Policy.Name, "-windows2000"); weak != old {
				t.Errorf("warnings: %v", policy.Warnings(e.Policy))
			}
		})
	}
}

// The policy that the reference begins with is a whole one.
func TestTheReferenceBeginsWithAPolicyThatHolds(t *testing.T) {
	reference, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(reference), "```yaml\n")
	document, _, ok := strings.Cut(after, "```")
	if !ok {
		t.Fatal("no document in the reference")
	}
	p, err := Parse("policy.md", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.Compile(p, policy.Host{}.Reachable(p))
	if err != nil {
		t.Fatal(err)
	}
	if err := policy.RunTests(c, p.Tests); err != nil || len(p.Tests) == 0 {
		t.Errorf("%d tests: %v", len(p.Tests), err)
	}
}

func TestExamplesSurviveMarshal(t *testing.T) {
	entries, err := Dir(filepath.Join("..", "..", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		roundTrip(t, e.Policy)
	}
}

// roundTrip fails unless p comes back equal from its document.
func roundTrip(t *testing.T, p *policy.Policy) {
	t.Helper()
	data, err := Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse("marshalled.yaml", data)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, data)
	}
	if diff := cmp.Diff(p, back, cmpopts.EquateComparable(sadb.Addrs{}, netip.Addr{})); diff != "" {
		t.Fatalf("%s\nin\n%s", diff, data)
	}
}
