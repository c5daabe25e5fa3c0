// Package mutants breaks the program on purpose, one promise at a time, and
// wants the promise's test to fail. Each file NAME.patch is a mutant: words
// about it, the lines "package:" and "run:" that say which test must turn red,
// and a patch; "when: full" keeps one that takes long to the full run. All are
// tried in one copy of the module, one after another, so that only what a
// mutant changes is compiled anew.
package mutants

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// mutant is one patch file.
type mutant struct {
	path     string
	pkg, run string
	full     bool // "when: full": too long for the everyday run
}

func load(t *testing.T, path string) mutant {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(abs)
	if err != nil {
		t.Fatal(err)
	}
	m := mutant{path: abs}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "--- ") {
			break
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "package":
			m.pkg = value
		case "run":
			m.run = value
		case "when":
			m.full = value == "full"
		}
	}
	if m.pkg == "" || m.run == "" {
		t.Fatalf("%s does not say package and run", path)
	}
	return m
}

// tree copies the module, without what git ignores, into a folder of its own.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = "../.."
	names, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		from := filepath.Join("../..", name)
		info, err := os.Stat(from)
		if err != nil {
			continue // deleted and not yet committed
		}
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// run runs a command in dir for at most five minutes.
func run(dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

// all returns the mutants by their names.
func all(t *testing.T) map[string]mutant {
	t.Helper()
	paths, err := filepath.Glob("*.patch")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no mutants: %v", err)
	}
	mutants := map[string]mutant{}
	for _, path := range paths {
		mutants[strings.TrimSuffix(path, ".patch")] = load(t, path)
	}
	return mutants
}

// TestEveryMutantApplies tells at once which patch the code has left behind.
func TestEveryMutantApplies(t *testing.T) {
	for name, m := range all(t) {
		t.Run(name, func(t *testing.T) { m.applies(t, "../..") })
	}
}

func TestEveryMutantIsSeen(t *testing.T) {
	tryAll(t, func(m mutant) bool { return m.pkg != wholeSystem })
}

// TestEveryMutantOfTheWholeSystemIsSeen tries those that only tests of the whole
// system see, which want the machine for themselves.
func TestEveryMutantOfTheWholeSystemIsSeen(t *testing.T) {
	tryAll(t, func(m mutant) bool { return m.pkg == wholeSystem })
}

const wholeSystem = "./test"

func tryAll(t *testing.T, which func(mutant) bool) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the tests that must fail make network namespaces")
	}
	mutants, dir := all(t), tree(t)
	for _, name := range slices.Sorted(maps.Keys(mutants)) {
		m := mutants[name]
		if !which(m) || m.full && os.Getenv("IPSECAGENT_FULL") == "" {
			continue
		}
		t.Run(name, func(t *testing.T) { m.try(t, dir) })
	}
}

// try puts the mutant into the tree, wants its test to fail, and takes it out.
func (m mutant) try(t *testing.T, dir string) {
	t.Helper()
	m.applies(t, dir) // as a whole, or nothing is changed: the next one finds the tree as it was
	m.patch(t, dir)
	taken := false
	takeOut := func() {
		if !taken {
			m.patch(t, dir, "-R")
		}
		taken = true
	}
	t.Cleanup(takeOut)
	// A mutant that does not build proves nothing. The whole-system tests build
	// the programs themselves and would fail for that.
	if m.pkg == wholeSystem {
		if out, err := run(dir, "go", "build", "./cmd/..."); err != nil {
			t.Fatalf("the mutant does not build:\n%s", out)
		}
	}
	out, err := m.test(dir)
	if err == nil {
		t.Errorf("nobody noticed: %s %s passes", m.pkg, m.run)
	}
	if !strings.Contains(out, "--- FAIL") {
		t.Errorf("it did not fail by a test:\n%s", out)
	}
	takeOut()
	m.passesWithout(t, dir)
}

// passesWithout: a test that fails without the mutant, too, has not seen it. It
// may be for want of time, so it has a second attempt.
func (m mutant) passesWithout(t *testing.T, dir string) {
	t.Helper()
	if m.pkg == wholeSystem {
		return // they have just passed, with the machine for themselves
	}
	out, err := m.test(dir)
	if err != nil {
		out, err = m.test(dir)
	}
	if err != nil {
		t.Errorf("its test fails without it, too:\n%s", out)
	}
}

// test runs the mutant's test.
func (m mutant) test(dir string) (string, error) {
	return run(dir, "go", "test", "-count=1", "-vet=off", "-failfast", "-run", m.run, m.pkg)
}

func (m mutant) applies(t *testing.T, dir string) {
	t.Helper()
	if out, err := run(dir, "patch", "-p1", "--fuzz=0", "--dry-run", "-i", m.path); err != nil {
		t.Fatalf("the patch %s does not apply: mend it\n%s", filepath.Base(m.path), out)
	}
}

func (m mutant) patch(t *testing.T, dir string, way ...string) {
	t.Helper()
	if out, err := run(dir, "patch", append(way, "-p1", "--fuzz=0", "--no-backup-if-mismatch", "-i", m.path)...); err != nil {
		t.Fatalf("patch %v: %v\n%s", way, err, out)
	}
}
