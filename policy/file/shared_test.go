package file

import (
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/policy"
)

const (
	sharedHeader = "apiVersion: ipsecagent/v1\nkind: Shared\n"
	sharedText   = sharedHeader + `filterLists:
  management: [{from: me, to: 10.0.8.0/24}]
  unused: [{from: me, to: 10.0.9.0/24}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
`
	user = header + `filterLists:
  own: [{from: me, to: 10.0.7.0/24}]
rules:
  - {name: r1, filterList: own, filterAction: require, authentication: [psk]}
  - {name: r2, filterList: management, filterAction: permit}
`
)

// folder writes documents by name and returns the folder.
func folder(t *testing.T, documents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range documents {
		writeFile(t, filepath.Join(dir, name), text)
	}
	return dir
}

func TestAPolicyIsWholeWithWhatIsShared(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": user, "z.yaml": sharedText})
	alone, err := Load(filepath.Join(dir, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := Dir(dir)
	if err != nil || len(entries) != 2 || entries[0].Err != nil || entries[1].Err != nil {
		t.Fatalf("%+v, %v", entries, err)
	}
	if entries[1].Policy != nil || len(entries[1].Shared.FilterLists) != 2 || len(entries[1].Shared.FilterActions) != 1 {
		t.Errorf("shared: %+v", entries[1])
	}
	for _, p := range []*policy.Policy{alone, entries[0].Policy} {
		var names []string
		for _, l := range p.FilterLists {
			names = append(names, l.Name)
		}
		if strings.Join(names, " ") != "own management" || len(p.FilterActions) != 1 || p.FilterActions[0].Name != "require" {
			t.Errorf("lists %v, actions %+v", names, p.FilterActions)
		}
		if _, err := policy.Compile(p, policy.Host{}.Reachable(p)); err != nil {
			t.Error(err)
		}
	}
}

func TestMistakesAroundSharedDocuments(t *testing.T) {
	second := sharedHeader + "\nfilterLists:\n  management: [{from: me, to: 10.1.0.0/24}]\n"
	tests := []struct {
		name      string
		documents map[string]string
		want      map[string]string // what the error of a document has; others load
	}{
		{"two shared documents define one name", map[string]string{"a.yaml": user, "s.yaml": sharedText, "t.yaml": second}, map[string]string{
			"a.yaml": `a.yaml:8:28: filter list "management" is defined at `,
			"s.yaml": `s.yaml:4:3: filter list "management" is also defined at `,
			"t.yaml": `s.yaml:4; one name means one thing`,
		}},
		{"a policy defines a shared name", map[string]string{"a.yaml": user, "s.yaml": sharedHeader + "filterLists: {own: [{from: me, to: any}], management: [{from: me, to: any}]}\nfilterActions: {require: block}\n"}, map[string]string{
			"a.yaml": `a.yaml:5:3: filter list "own" is also defined at `,
		}},
		{"a shared document with a mistake", map[string]string{"a.yaml": user, "b.yaml": strings.Replace(header, "test", "b", 1), "s.yaml": sharedText + "rules: []\n"}, map[string]string{
			"a.yaml": `a document that has errors of its own`, "s.yaml": `unknown field "rules" (known: apiVersion, filterActions, filterLists, kind)`,
		}},
		{"a shared list that cannot be negotiated", map[string]string{"a.yaml": strings.Replace(user, "permit", "require, authentication: [psk]", 1), "s.yaml": strings.Replace(sharedText, "24}]", "24, mirrored: false}]", 1)}, map[string]string{
			"a.yaml": "s.yaml:4:",
		}},
		{"nobody defines it", map[string]string{"a.yaml": user, "s.yaml": sharedHeader}, map[string]string{"a.yaml": `"require"`}},
		{"another version", map[string]string{"s.yaml": strings.Replace(sharedText, "v1", "v2", 1)}, map[string]string{"s.yaml": "apiVersion"}},
		{"an empty list", map[string]string{"a.yaml": user, "s.yaml": sharedHeader + "filterLists: {management: [], x: {description: y}}\nfilterActions: {require: block}\n"}, map[string]string{"a.yaml": `s.yaml:3:15: filter list "management" is empty`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			entries, err := Dir(folder(t, test.documents))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				want, bad := test.want[filepath.Base(e.Path)]
				switch {
				case !bad && e.Err != nil:
					t.Errorf("%s: %v", e.Path, e.Err)
				case bad && (e.Err == nil || e.Policy != nil || e.Shared != nil || !strings.Contains(e.Err.Error(), want)):
					t.Errorf("%s: %v, want %q", e.Path, e.Err, want)
				}
			}
		})
	}
}

func TestASharedDocumentIsNoPolicy(t *testing.T) {
	dir := folder(t, map[string]string{"s.yaml": sharedText})
	if _, err := Load(filepath.Join(dir, "s.yaml")); err == nil || !strings.Contains(err.Error(), "kind Shared") {
		t.Error(err)
	}
	if _, err := Parse("s.yaml", []byte(sharedText)); err == nil || !strings.Contains(err.Error(), "kind Shared") {
		t.Error(err)
	}
}

func TestOpenTellsWhatASharedDocumentIs(t *testing.T) {
	dir := folder(t, map[string]string{"s.yaml": sharedText, "t.yaml": sharedHeader})
	d, err := Open(filepath.Join(dir, "s.yaml"))
	if err != nil || d.Policy != nil || len(d.Shared.FilterLists) != 2 || d.Check() != nil {
		t.Errorf("%+v, %v", d, err)
	}
	writeFile(t, filepath.Join(dir, "u.yaml"), sharedText)
	if _, err := Open(filepath.Join(dir, "s.yaml")); err == nil || !strings.Contains(err.Error(), "also defined at "+filepath.Join(dir, "u.yaml")+":4") {
		t.Error(err)
	}
}

// A document with everything its rules need still cannot define what a shared
// one does: the agent would refuse it as soon as it stands in that folder.
func TestADocumentThatNeedsNothingIsHeldAgainstSharedOnes(t *testing.T) {
	complete := header + "filterLists: {management: [{from: me, to: 10.0.7.0/24}]}\nrules: [{name: r, filterList: management, filterAction: permit}]\n"
	dir := folder(t, map[string]string{"a.yaml": complete, "s.yaml": sharedText})
	_, errOpen := Open(filepath.Join(dir, "a.yaml"))
	_, errReadIn := ReadIn(dir, "given", []byte(complete))
	for what, err := range map[string]error{"Open": errOpen, "ReadIn": errReadIn} {
		if err == nil || !strings.Contains(err.Error(), `filter list "management" is also defined at `+filepath.Join(dir, "s.yaml")) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := ReadIn(t.TempDir(), "given", []byte(complete)); err != nil {
		t.Error(err)
	}
	if _, err := ReadIn(filepath.Join(dir, "nowhere"), "given", []byte(complete)); err != nil {
		t.Error(err)
	}
}
