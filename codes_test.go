package ipsecagent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestReasonCodesAreOneList: what a failed negotiation can give as its code is
// declared in ike or in a package of auth, has a hint in the agent, and stands
// in the documents; and nothing else does.
func TestReasonCodesAreOneList(t *testing.T) {
	used := codesOfSource(t)
	if documented := codesOfDocument(t); !slices.Equal(used, documented) {
		t.Errorf("docs/troubleshooting.md, reason codes: %q\nused by ike and auth: %q\nin one of them alone: %q", documented, used, difference(used, documented))
	}
	if hinted := codesOfHints(t); !slices.Equal(used, hinted) {
		t.Errorf("agent/hints.go: %q\nused by ike and auth: %q\nin one of them alone: %q", hinted, used, difference(used, hinted))
	}
}

func difference(a, b []string) []string {
	var d []string
	for _, s := range append(slices.Clone(a), b...) {
		if !slices.Contains(a, s) || !slices.Contains(b, s) {
			d = append(d, s)
		}
	}
	return d
}

// codesOfSource collects the constants of type FailCode in ike, and in the
// packages of auth the constants whose names begin with "code" or "Code" and
// the texts that stand as Code of an auth.Error.
func codesOfSource(t *testing.T) []string {
	codes := map[string]bool{}
	for _, dir := range []string{"ike", "auth"} {
		for _, file := range parseAll(t, dir) {
			ast.Inspect(file, func(n ast.Node) bool {
				for _, c := range codesOfNode(n) {
					codes[c] = true
				}
				return true
			})
		}
	}
	return slices.Sorted(maps.Keys(codes))
}

func parseAll(t *testing.T, root string) []*ast.File {
	var files []*ast.File
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func codesOfNode(n ast.Node) []string {
	switch n := n.(type) {
	case *ast.ValueSpec:
		kind, typed := n.Type.(*ast.Ident)
		if typed && kind.Name == "FailCode" || strings.HasPrefix(strings.ToLower(n.Names[0].Name), "code") {
			return texts(n.Values...)
		}
	case *ast.CompositeLit:
		if !isAuthError(n.Type) {
			return nil
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok && kv.Key.(*ast.Ident).Name == "Code" {
				return texts(kv.Value)
			}
		}
	}
	return nil
}

func isAuthError(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "Error" && s.X.(*ast.Ident).Name == "auth"
}

// texts returns the values that are texts and look like codes.
func texts(values ...ast.Expr) []string {
	var found []string
	for _, v := range values {
		if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil && text != "" {
				found = append(found, text)
			}
		}
	}
	return found
}

// codesOfDocument reads the first column of the table of reason codes.
func codesOfDocument(t *testing.T) []string {
	text, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "## Reason codes")
	if !found {
		t.Fatal("docs/troubleshooting.md has no section on reason codes")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var codes []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		codes = append(codes, m[1])
	}
	slices.Sort(codes)
	return codes
}

// codesOfHints reads the keys of the agent's table: texts, or constants of ike.
func codesOfHints(t *testing.T) []string {
	values := map[string]string{}
	for _, file := range parseAll(t, "ike") {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
				if text := texts(spec.Values[0]); len(text) == 1 {
					values[spec.Names[0].Name] = text[0]
				}
			}
			return true
		})
	}
	file, err := parser.ParseFile(token.NewFileSet(), "agent/hints.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		kv, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		switch key := kv.Key.(type) {
		case *ast.SelectorExpr:
			codes = append(codes, values[key.Sel.Name])
		case *ast.BasicLit:
			codes = append(codes, texts(key)...)
		}
		return true
	})
	slices.Sort(codes)
	return codes
}
