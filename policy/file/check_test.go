package file

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ipsecagent/policy"
)

const withTests = `apiVersion: ipsecagent/v1
kind: Policy
name: p
filterLists:
  web: [{from: me, to: any, protocol: tcp, destinationPort: 80}]
rules:
  - {name: closed, filterList: web, filterAction: block}
tests:
  - {flow: "tcp me -> 10.0.0.1:80", expect: block}
  - {flow: "tcp me -> 10.0.0.1:80", expect: permit}
`

func TestCheckSaysWhereATestFails(t *testing.T) {
	d, err := Read("p.yaml", []byte(withTests))
	if err != nil {
		t.Fatal(err)
	}
	want := []*Error{{File: "p.yaml", Line: 10, Column: 45,
		Message: `flow "tcp me -> 10.0.0.1:80": expected permit, is block: decided by closed / web (me <-> any:80 tcp)`,
		Excerpt: "      - {flow: \"tcp me -> 10.0.0.1:80\", expect: permit}\n" + strings.Repeat(" ", 48) + "^"}}
	if diff := cmp.Diff(want, Errors(d.Check())); diff != "" {
		t.Error(diff)
	}
	d, err = Read("p.yaml", []byte(strings.Replace(withTests, "permit}", "block}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(); err != nil {
		t.Errorf("tests that hold: %v", err)
	}
}

func TestCheckSaysWhatOnlyCompilingShows(t *testing.T) {
	var document strings.Builder
	document.WriteString("apiVersion: ipsecagent/v1\nkind: Policy\nname: p\nfilterLists: {l: [{from: me, to: any}]}\n" +
		"filterActions: {a: {negotiate: {methods: [esp-aes256gcm]}}}\nrules:\n")
	for i := range policy.MaxKeys/16 + 1 {
		fmt.Fprintf(&document, "  - {name: rule %d, filterList: l, filterAction: a, authentication: [", i)
		for j := range 16 {
			fmt.Fprintf(&document, "{psk: {key: k%d-%d}}, ", i, j)
		}
		document.WriteString("]}\n")
	}
	d, err := Read("p.yaml", []byte(document.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(); err == nil || !strings.Contains(err.Error(), "preshared keys") {
		t.Errorf("%v", err)
	}
}

func TestLocateFindsTheNearestThingWritten(t *testing.T) {
	d, err := Read("p.yaml", []byte(withTests))
	if err != nil {
		t.Fatal(err)
	}
	for path, line := range map[string]int{"rules[0].filterAction": 7, "rules[0].tunnel": 7, "filterLists[0].filters[0].to": 5, "nothing": 1, "": 1} {
		if e := d.Locate(&policy.Problem{Path: path, Message: "m"}); e.Line != line {
			t.Errorf("%q is at line %d, want %d", path, e.Line, line)
		}
	}
}
