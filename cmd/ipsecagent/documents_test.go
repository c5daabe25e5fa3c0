package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func policyText(name string) string {
	return "apiVersion: ipsecagent/v1\nkind: Policy\nname: " + name + `
filterLists:
  web: [{from: me, to: any, protocol: tcp, destinationPort: 80}]
rules:
  - {name: web, filterList: web, filterAction: block}
`
}

func TestDocumentsOfTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies.d") // made when it is needed
	lib := library(dir, nil)
	if _, _, err := lib.Document("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	text := policyText("web")
	path, err := lib.Save("web", []byte(text))
	if err != nil || path != filepath.Join(dir, "web.yaml") {
		t.Fatalf("saved as %q, %v", path, err)
	}
	got, origin, err := lib.Document("web")
	if err != nil || string(got) != text || origin != path {
		t.Errorf("%q at %q, %v", got, origin, err)
	}
	if p, _, err := lib.Load("web"); err != nil || p.Name != "web" {
		t.Errorf("loaded %v, %v", p, err)
	}
}

// TestSavedWhereThePolicyIs: its file may have any name, and keeps its
// permissions.
func TestSavedWhereThePolicyIs(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "00-first.yaml")
	if err := os.WriteFile(other, []byte(policyText("web")), 0o640); err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(policyText("web"), "block", "permit", 1)
	path, err := library(dir, nil).Save("web", []byte(changed))
	if err != nil || path != other {
		t.Fatalf("saved as %q, %v", path, err)
	}
	info, err := os.Stat(other)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("permissions %v, %v", info.Mode(), err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("in the folder: %v, %v", files, err)
	}
}

// TestNothingInTheWayIsReplaced: a file of the name with another policy, or with
// what policies share, is left alone; one that does not load gives way.
func TestNothingInTheWayIsReplaced(t *testing.T) {
	for name, tt := range map[string]struct {
		text, want string
	}{
		"another policy": {policyText("database"), `holds the policy "database"`},
		"shared lists":   {"apiVersion: ipsecagent/v1\nkind: Shared\nfilterLists:\n  web: [{from: me, to: any}]\n", "lists and actions"},
		"broken":         {"apiVersion: ipsecagent/v1\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "web.yaml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := library(dir, nil).Save("web", []byte(policyText("web")))
			got, readErr := os.ReadFile(path)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if tt.want == "" {
				if err != nil || string(got) != policyText("web") {
					t.Errorf("%v:\n%s", err, got)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || string(got) != tt.text {
				t.Errorf("%v:\n%s", err, got)
			}
		})
	}
}

// TestDocumentIsReadAsInTheFolder: what the folder shares is there for it.
func TestDocumentIsReadAsInTheFolder(t *testing.T) {
	dir := t.TempDir()
	shared := "apiVersion: ipsecagent/v1\nkind: Shared\nfilterLists:\n  web: [{from: me, to: any, protocol: tcp, destinationPort: 80}]\n"
	if err := os.WriteFile(filepath.Join(dir, "shared.yaml"), []byte(shared), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: ipsecagent/v1\nkind: Policy\nname: web\nrules:\n  - {name: web, filterList: web, filterAction: block}\n"
	if p, err := library(dir, nil).Read("x.yaml", []byte(text)); err != nil || len(p.FilterLists) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := library(t.TempDir(), nil).Read("/root/x.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), "/root/x.yaml:5:") {
		t.Errorf("without it: %v", err)
	}
	if _, err := library(filepath.Join(dir, "not"), nil).Read("x.yaml", []byte(policyText("web"))); err != nil {
		t.Errorf("without a folder: %v", err)
	}
	if _, err := library(dir, nil).Read("x.yaml", []byte(shared)); err == nil {
		t.Error("a shared document is read as a policy")
	}
}
