package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestADocumentThatIsNotAssignedAndDoesNotLoadIsAWarning: named by status and
// by the answer of a reload, and no problem of the policy in force.
func TestADocumentThatIsNotAssignedAndDoesNotLoadIsAWarning(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", delayed)
		r.write(dir, "other", strings.Replace(delayed, "rules:", "shape: round\ncolour: green\nrules:", 1))
		result, err := r.agent.Reload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for what, got := range map[string][]string{"reload": result.Warnings, "status": r.status().Warnings} {
			words := strings.Join(got, "\n")
			if !strings.Contains(words, filepath.Join(dir, "other.yaml")) || !strings.Contains(words, "shape") {
				t.Errorf("%s warns of %q", what, got)
			}
		}
		if s := r.status(); len(s.Problems) != 0 {
			t.Errorf("problems %q", s.Problems)
		}

		r.write(dir, "delayed", delayed+"shape: round\n")
		if _, err := r.agent.Reload(t.Context()); err == nil {
			t.Fatal("the assigned policy does not load, and reload succeeds")
		}
		if s := r.status(); len(s.Problems) != 1 || len(s.Warnings) != 1 {
			t.Errorf("with the assigned one broken, too: problems %q, warnings %q", s.Problems, s.Warnings)
		}

		r.write(dir, "delayed", delayed)
		if err := os.Remove(filepath.Join(dir, "other.yaml")); err != nil {
			t.Fatal(err)
		}
		if result, err = r.agent.Reload(t.Context()); err != nil || len(result.Warnings) != 0 {
			t.Errorf("mended: %q, %v", result.Warnings, err)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}
