package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Events of go test -json, of two packages.
const (
	starts  = `{"Action":"start","Package":"ipsecagent/a"}`
	passes  = `{"Action":"pass","Package":"ipsecagent/a","Test":"TestOne"}`
	fails   = `{"Action":"fail","Package":"ipsecagent/a","Test":"TestOne"}`
	skips   = `{"Action":"skip","Package":"ipsecagent/a","Test":"TestOne"}`
	ends    = `{"Action":"pass","Package":"ipsecagent/a"}`
	endsBad = `{"Action":"fail","Package":"ipsecagent/a"}`
	unbuilt = `{"Action":"build-fail","ImportPath":"ipsecagent/a"}`
)

// TestAReportIsGreenOnlyIfAllIs: what did not run, or did not end, is no success.
func TestAReportIsGreenOnlyIfAllIs(t *testing.T) {
	required := filepath.Join(t.TempDir(), "required.txt")
	if err := os.WriteFile(required, []byte("# words\na TestOne # more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		events []string
		says   string // "": green
	}{
		{"all passed", []string{starts, passes, ends}, ""},
		{"twice", []string{starts, passes, ends, starts, ends}, ""},
		{"failed", []string{starts, fails, endsBad}, "FAILED a TestOne"},
		{"failed once", []string{starts, fails, endsBad, starts, passes, ends}, "FAILED a TestOne"},
		{"skipped", []string{starts, skips, ends}, "REQUIRED and not passed: a TestOne (skip)"},
		{"did not run", []string{starts, ends}, "REQUIRED and not passed: a TestOne (did not run)"},
		{"nothing ran", nil, "REQUIRED and not passed: a TestOne (did not run)"},
		{"killed", []string{starts, passes}, "FAILED a (its tests began and did not end)"},
		{"the second run killed", []string{starts, passes, ends, starts}, "FAILED a (its tests began and did not end)"},
		{"not built", []string{starts, passes, ends, unbuilt}, "FAILED"},
	} {
		var out strings.Builder
		err := run(strings.NewReader(strings.Join(c.events, "\n")), &out, required, "")
		if (err == nil) != (c.says == "") || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %v\n%s", c.name, err, out.String())
		}
	}
}
