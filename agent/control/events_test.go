package control

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// constants returns the kinds of events that events.go declares.
func constants(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && strings.HasPrefix(spec.Names[0].Name, "Event") {
			kind, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kinds[kind] = true
		}
		return true
	})
	return kinds
}

func TestEveryKindOfEventHasANumberOfItsOwn(t *testing.T) {
	known, ids := map[string]bool{}, map[int]bool{}
	for _, e := range EventTypes() {
		if known[e.Kind] || ids[e.ID] || e.ID == 0 || e.Meaning == "" {
			t.Errorf("%+v: a kind or an ID twice, or without words", e)
		}
		known[e.Kind], ids[e.ID] = true, true
	}
	for kind := range constants(t) {
		if !known[kind] {
			t.Errorf("event %q has no number", kind)
		}
	}
	if len(known) != len(constants(t)) {
		t.Errorf("%d kinds have a number, %d are declared", len(known), len(constants(t)))
	}
}

func TestDocumentListsEveryEvent(t *testing.T) {
	text, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range EventTypes() {
		row := "| " + strconv.Itoa(e.ID) + " | `" + e.Kind + "` |"
		if !strings.Contains(string(text), row) {
			t.Errorf("docs/events.md has no row %q", row)
		}
	}
}

func TestWindowsNumbersOfFailures(t *testing.T) {
	tests := []struct {
		code, mode, method string
		old, new           int
	}{
		{"no-proposal", "main", "", 546, 4653},
		{"preshared-key", "main", "", 545, 4653},
		{"certificate-untrusted", "main", "certificate (RSA)", 544, 4652},
		{"no-answer", "quick", "", 547, 4654},
	}
	for _, tt := range tests {
		fields := map[string]string{"code": tt.code, "mode": tt.mode, "method": tt.method}
		if old, now := (EventType{Kind: EventFailed}).Numbers(fields); old != tt.old || now != tt.new {
			t.Errorf("%v: %d and %d, want %d and %d", fields, old, now, tt.old, tt.new)
		}
	}
}
