package ipsecagent

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is the module path; every import below it is "of ours".
const module = "ipsecagent"

// everything allows all imports of ours.
const everything = "*"

// imports is the architecture: what each package may import of ours, tests
// aside. docs/design.md says what each package owns.
func imports() map[string][]string {
	return map[string][]string{
		"sadb":                     {},
		"policy":                   {"sadb"},
		"policy/file":              {"policy", "sadb"},
		"policy/netsh":             {"policy", "sadb"},
		"policy/groups":            {"policy", "sadb"},
		"policy/gpipsec":           {"policy", "sadb"},
		"policy/directory":         {"policy", "policy/gpipsec", "sadb", "auth/gss"},
		"policy/directory/dirtest": {},
		"auth":                     {},
		"auth/psk":                 {"auth"},
		"auth/cert":                {"auth"},
		"auth/gss":                 {},
		"auth/kerberos":            {"auth", "auth/gss"},
		"auth/krbtest":             {},
		"host":                     {},
		"ike/wire":                 {},
		"ike/crypt":                {"sadb"},
		"ike":                      {"sadb", "auth", "ike/wire", "ike/crypt"},
		"ike/udp":                  {},
		"ike/iketest":              {},
		"driver":                   {"sadb"},
		"driver/esp":               {"sadb"},
		"driver/nft":               {"sadb", "driver"},
		"driver/user":              {"sadb", "driver", "driver/esp", "driver/nft"},
		"driver/xfrm":              {"sadb", "driver", "driver/nft", "driver/xfrm/wire"},
		"driver/xfrm/wire":         {"sadb"},
		"driver/drivertest":        {"sadb", "driver"},
		"agent":                    {"policy", "sadb", "driver", "ike", "auth", "host", "agent/control"},
		"agent/control":            {"sadb", "policy"},
		"agent/doctor":             {"agent/control"},
		"cmd/ipsecagent":           {everything},
		"cmd/ipsecctl":             {everything},
		"test":                     {everything},
		"bench":                    {everything},
	}
}

// implementations are imported by cmd, test and bench alone.
func implementations() []string {
	return []string{"policy/file", "policy/directory", "auth/psk", "auth/cert", "auth/kerberos", "ike/udp", "driver/user", "driver/xfrm", "agent"}
}

type listed struct {
	ImportPath  string
	Imports     []string
	GoFiles     []string
	TestGoFiles []string
	Doc         string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles,TestGoFiles,Doc", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// ours returns the name of a package of ours without the module path.
func ours(path string) (string, bool) {
	return strings.CutPrefix(path, module+"/")
}

func TestImportsFollowTheTable(t *testing.T) {
	table := imports()
	seen := 0
	for _, p := range packages(t) {
		name, ok := ours(p.ImportPath)
		if !ok {
			continue
		}
		top, _, _ := strings.Cut(name, "/")
		allowed, listed := table[name]
		if !listed && (top == "test" || top == "bench") {
			allowed, listed = table[top], true
		}
		if !listed {
			t.Errorf("%s is not in the table", name)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			dep, ok := ours(imp)
			if !ok || slices.Contains(allowed, everything) {
				continue
			}
			if !slices.Contains(allowed, dep) {
				t.Errorf("%s imports %s: not in its row", name, dep)
			}
			if slices.Contains(implementations(), dep) {
				t.Errorf("%s imports the implementation %s: only cmd and tests do", name, dep)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d packages seen: the test looks at nothing", seen)
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
