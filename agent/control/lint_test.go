package control

import (
	"strings"
	"testing"
	"time"
)

func TestLintSendsADocument(t *testing.T) {
	needsRoot(t)
	c := NewClient(serve(t, newFake()), 10*time.Second)
	v, err := c.Lint(t.Context(), LintRequest{Document: "kind: Policy\n", SSH: "tcp 10.0.0.1:1 -> me=10.0.0.2:22", Servers: []string{"dns=10.0.0.53"}})
	if err != nil || v.Origin != "kind: Policy\n" {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestDecodeLintRefuses(t *testing.T) {
	if r, err := decodeLint(strings.NewReader(`{"policy":"server"}`)); err != nil || r.Policy != "server" {
		t.Errorf("%+v, %v", r, err)
	}
	for name, body := range map[string]string{
		"a name and a document": `{"policy":"a","document":"b"}`,
		"a path":                `{"policy":"../a"}`,
		"no flow":               `{"ssh":"tcp"}`,
		"an outbound flow":      `{"ssh":"tcp me:22 -> 10.0.0.1"}`,
		"no server":             `{"servers":["10.0.0.1"]}`,
		"many servers":          `{"servers":["dns=10.0.0.1"` + strings.Repeat(`,"dns=10.0.0.1"`, maxServers) + `]}`,
		"another field":         `{"keys":"x"}`,
	} {
		if r, err := decodeLint(strings.NewReader(body)); err == nil {
			t.Errorf("%s: %+v is taken", name, r)
		}
	}
}
