package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInstall installs below a directory: everything that packaging/README.md
// lists is there, and settings of the administrator stay.
func TestInstall(t *testing.T) {
	dest := t.TempDir()
	install := func() {
		t.Helper()
		out, err := exec.Command("make", "-C", "..", "install", "DESTDIR="+dest).CombinedOutput()
		if err != nil {
			t.Fatalf("make install: %v: %s", err, out)
		}
	}
	install()
	settings := filepath.Join(dest, "etc/ipsecagent/agent.yaml")
	if err := os.WriteFile(settings, []byte("driver: user\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	install()
	if b, err := os.ReadFile(settings); err != nil || string(b) != "driver: user\n" {
		t.Errorf("the settings after a second installation: %q, %v", b, err)
	}

	table, err := os.ReadFile("../packaging/README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| (`.*) \\| `(/.*)` \\|").FindAllStringSubmatch(string(table), -1)
	if len(rows) < 8 {
		t.Fatalf("%d rows of files in packaging/README.md", len(rows))
	}
	for _, row := range rows {
		for source := range strings.SplitSeq(row[1], ", ") {
			source = strings.Trim(source, "`")
			path := row[2]
			if strings.HasSuffix(path, "/") {
				path += filepath.Base(source)
			}
			if found, err := filepath.Glob(dest + path); err != nil || len(found) == 0 {
				t.Errorf("%s is not at %s", source, path)
			}
		}
	}
}
