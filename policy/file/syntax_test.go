package file

import (
	"errors"
	"strings"
	"testing"
)

// TestSyntaxMistakesOfNewcomers: what the reader says in its own words is said in
// theirs, too, with the line.
func TestSyntaxMistakesOfNewcomers(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"kind: Policy\nname: a\nfilterLists:\n\tall: []\n", "4: tab"},
		{"kind: Policy\ndefaultResponse: active: true\n", "2: two names with a colon on one line"},
		{"kind: Policy\n  name: a\n", "2: begins at another column"},
		{"rules:\n    - name: a\n  - name: b\n", "3: begins at another column"},
		{"defaultResponse: {active: true\nname: x\n", "2: a brace is not closed"},
		{"rules: [{name: a}\nname: x\n", "2: a bracket is not closed"},
	} {
		_, err := Parse("p.yaml", []byte(tt.text))
		var at *Error
		if !errors.As(err, &at) {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		line, want, _ := strings.Cut(tt.want, ": ")
		if !strings.Contains(at.Message, want) || line != string(rune('0'+at.Line)) {
			t.Errorf("%q: line %d: %s", tt.text, at.Line, at.Message)
		}
	}
}

func FuzzSyntaxHint(f *testing.F) {
	f.Add([]byte("a: b: c\n"), 1, "mapping values are not allowed in this context")
	f.Add([]byte("\ta"), 9, "")
	f.Fuzz(func(t *testing.T, text []byte, line int, message string) {
		if hint := SyntaxHint(text, line, message); strings.Contains(hint, "\n") {
			t.Errorf("%q", hint)
		}
	})
}
