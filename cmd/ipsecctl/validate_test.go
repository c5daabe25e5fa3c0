package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/agent/control"
)

// documents writes files into a folder and returns it.
func documents(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const document = `apiVersion: ipsecagent/v1
kind: Policy
name: web
filterLists:
  web: [{from: me, to: any, protocol: tcp, sourcePort: 80}]
  spare: [{from: me, to: 10.0.0.1}]
rules:
  - {name: closed, filterList: web, filterAction: block}
tests:
  - {flow: "tcp me:80 -> 10.0.0.1", expect: block}
`

func TestValidate(t *testing.T) {
	dir := documents(t, map[string]string{
		"good.yaml":   document,
		"test.yaml":   strings.Replace(document, "expect: block", "expect: permit", 1),
		"broken.yaml": strings.NewReplacer("to: any", "to: anyone", "closed", "open", "filterAction: block", "filterAction: drop").Replace(document),
		"client.yaml": strings.NewReplacer("name: web", "name: client").Replace(document),
	})
	for _, tc := range []struct {
		files string
		code  control.Code
		err   string
	}{
		{"good.yaml", control.OK, ""},
		{"test.yaml", control.Invalid, "is not valid"},
		{"broken.yaml", control.Invalid, "is not valid"},
		{"good.yaml test.yaml client.yaml missing.yaml", control.Invalid, "3 of 4 files are not valid"},
	} {
		args := []string{"policy", "validate"}
		for f := range strings.FieldsSeq(tc.files) {
			args = append(args, filepath.Join(dir, f))
		}
		out, stderr, code := ctl(t, "/nowhere", args...)
		if code != tc.code || !strings.Contains(stderr, tc.err) {
			t.Errorf("%s: exit code %d, %s", tc.files, code, stderr)
		}
		golden(t, "validate "+tc.files, strings.ReplaceAll(out, dir+"/", ""))
	}
}

func TestValidateTheExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "examples", "*.yaml"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%v %v", files, err)
	}
	out, stderr, code := ctl(t, "/nowhere", append([]string{"policy", "validate", "-o", "json"}, files...)...)
	var v validated
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != control.OK || stderr != "" {
		t.Fatalf("%d %s %v", code, stderr, err)
	}
	for _, f := range v.Files {
		if f.Policy == "" || len(f.Errors)+len(f.Warnings) > 0 {
			t.Errorf("%+v", f)
		}
	}
}

func TestValidateNeedsAFile(t *testing.T) {
	if _, stderr, code := ctl(t, "/nowhere", "policy", "validate"); code != control.Usage || stderr == "" {
		t.Errorf("%d %s", code, stderr)
	}
}
