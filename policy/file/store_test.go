package file

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const commented = `# The policy of the test.
apiVersion: ipsecagent/v1   # never changes
kind: Policy
name: test

# Lists.
filterLists:
  # the first
  one:
    - {from: me, to:   10.0.1.0/24}   # spaced oddly

    # the second filter
    - {from: me, to: 10.0.2.0/24, mirrored: true}
    - from: me
      # in block form
      to: 10.0.3.0/24
  long:
    filters:
      - {from: me, to: 10.0.4.0/24} # kept

filterActions:
  secure:
    negotiate:
      methods:
        - esp-aes256gcm  # fast
        - esp-aes128gcm
      acceptUnsecured: false

rules:
  # about a
  - name: a
    filterList: one   # which
    filterAction: secure
    authentication: [psk]

  # about b
  - {name: b, filterList: long, filterAction: block}
# the end
`

// edited applies an edit to a folder of one document and returns its text.
func edited(t *testing.T, text string, edit func(*policy.Store)) string {
	t.Helper()
	dir := folder(t, map[string]string{"a.yaml": text})
	save(t, dir, edit)
	data, err := os.ReadFile(filepath.Join(dir, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// save edits a folder, and fails unless it then holds what the edit made. It
// returns the changes.
func save(t *testing.T, dir string, edit func(*policy.Store)) []Change {
	t.Helper()
	f, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := f.Store()
	edit(&s)
	changes, err := f.Changes(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Write(changes); err != nil {
		t.Fatal(err)
	}
	again, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, again.Store(), sameStore()...); diff != "" {
		t.Fatalf("the folder holds another store (-want +got):\n%s", diff)
	}
	if more, err := again.Changes(again.Store()); err != nil || len(more) > 0 {
		t.Errorf("saving what is there: %v, %v", more, err)
	}
	return changes
}

func sameStore() []cmp.Option {
	return []cmp.Option{
		cmpopts.EquateEmpty(), cmpopts.EquateComparable(sadb.Addrs{}, sadb.Suite{}, sadb.ISAKMPSuite{}, sadb.Ports{}, sadb.Octets{}),
		cmp.Comparer(func(a, b policy.TunnelSetting) bool { return a == b }),
		cmpopts.SortSlices(func(a, b policy.Policy) bool { return a.Name < b.Name }),
		cmpopts.SortSlices(func(a, b policy.FilterList) bool { return a.Name < b.Name }),
		cmpopts.SortSlices(func(a, b policy.FilterAction) bool { return a.Name < b.Name }),
	}
}

func filterTo(t *testing.T, to string) policy.Filter {
	t.Helper()
	e, err := parseEndpoint(to)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Filter{From: policy.Endpoint{Kind: policy.Me}, To: e, Mirrored: true}
}

func TestAnEditChangesItsLinesAlone(t *testing.T) {
	replace := func(old, new string) string {
		if strings.Count(commented, old) != 1 {
			t.Fatalf("%q is not in the document once", old)
		}
		return strings.Replace(commented, old, new, 1)
	}
	tests := []struct {
		name string
		edit func(*policy.Policy)
		want string
	}{
		{"nothing", func(*policy.Policy) {}, commented},
		{"a filter more", func(p *policy.Policy) {
			p.FilterLists[0].Filters = append(p.FilterLists[0].Filters, filterTo(t, "10.0.9.0/24"))
		},
			replace("      to: 10.0.3.0/24\n", "      to: 10.0.3.0/24\n    - {from: me, to: 10.0.9.0/24}\n")},
		{"a filter less", func(p *policy.Policy) { p.FilterLists[0].Filters = slices.Delete(p.FilterLists[0].Filters, 1, 2) },
			replace("    # the second filter\n    - {from: me, to: 10.0.2.0/24, mirrored: true}\n", "")},
		{"a filter changed", func(p *policy.Policy) { p.FilterLists[0].Filters[1].Protocol = sadb.UDP },
			replace("10.0.2.0/24, mirrored: true}", "10.0.2.0/24, protocol: udp, mirrored: true}")},
		{"a filter in block form changed", func(p *policy.Policy) { p.FilterLists[0].Filters[2].Protocol = sadb.UDP },
			replace("      to: 10.0.3.0/24\n", "      to: 10.0.3.0/24\n      protocol: udp\n")},
		{"a filter of a long form", func(p *policy.Policy) {
			p.FilterLists[1].Filters = append(p.FilterLists[1].Filters, filterTo(t, "10.0.9.0/24"))
		},
			replace("10.0.4.0/24} # kept\n", "10.0.4.0/24} # kept\n      - {from: me, to: 10.0.9.0/24}\n")},
		{"a description", func(p *policy.Policy) { p.Description = "new" }, replace("name: test\n", "name: test\ndescription: new\n")},
		{"an explicit default", func(p *policy.Policy) { p.FilterActions[0].AcceptUnsecured = true }, replace("acceptUnsecured: false", "acceptUnsecured: true")},
		{"a method less", func(p *policy.Policy) { p.FilterActions[0].Methods = p.FilterActions[0].Methods[:1] }, replace("        - esp-aes128gcm\n", "")},
		{"a rule less", func(p *policy.Policy) { p.Rules = p.Rules[1:] },
			replace("  # about a\n  - name: a\n    filterList: one   # which\n    filterAction: secure\n    authentication: [psk]\n", "")},
		{"a rule more", func(p *policy.Policy) {
			p.Rules = append(p.Rules, policy.Rule{Name: "c", FilterList: "one", FilterAction: "permit"})
		},
			replace("filterAction: block}\n", "filterAction: block}\n  - name: c\n    filterList: one\n    filterAction: permit\n")},
		{"a rule in short form", func(p *policy.Policy) { p.Rules[1].Disabled = true }, replace("{name: b, ", "{name: b, disabled: true, ")},
		{"a rule changed", func(p *policy.Policy) { p.Rules[0].Disabled = true }, replace("- name: a\n    filterList: one   # which", "- name: a\n    disabled: true\n    filterList: one # which")},
		{"a list more", func(p *policy.Policy) {
			p.FilterLists = append(p.FilterLists, policy.FilterList{Name: "new", Filters: []policy.Filter{filterTo(t, "10.0.9.0/24")}})
		},
			replace("10.0.4.0/24} # kept\n", "10.0.4.0/24} # kept\n  new:\n  - {from: me, to: 10.0.9.0/24}\n")},
		{"settings more", func(p *policy.Policy) { p.KeyExchange.Sessions = 3 }, replace("name: test\n", "name: test\nkeyExchange:\n  sessions: 3\n")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := edited(t, commented, func(s *policy.Store) { test.edit(&s.Policies[0]) })
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEditsOfUnusualForms(t *testing.T) {
	add := func(s *policy.Store) {
		s.Policies[0].FilterLists[0].Filters = append(s.Policies[0].FilterLists[0].Filters, filterTo(t, "10.0.9.0/24"))
	}
	for _, text := range []string{
		"{apiVersion: ipsecagent/v1, kind: Policy, name: test, filterLists: {a: [{from: me, to: any}]}}\n",
		header + "filterLists: {a: [{from: me, to: any}]}\n",
		header + "filterLists:\n  a: [{from: me, to: any}]",
		header + "filterLists:\n  a:\n  -\n    # deep\n    from: me\n    to: any\n",
		strings.ReplaceAll(header+"filterLists:\n  a:\n  - {from: me, to: any}\n", "\n", "\r\n"),
		"---\n" + header + "filterLists:\n  a:\n    - {from: me,\n       to: any}\n...\n",
	} {
		if got := edited(t, text, add); !strings.Contains(got, "10.0.9.0/24") {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestWhereThingsAreKept(t *testing.T) {
	other := strings.Replace(user, "name: test", "name: other", 1)
	other = strings.Replace(other, "own:", "mine:", 1)
	other = strings.Replace(other, "filterList: own", "filterList: mine", 1)
	documents := map[string]string{"a.yaml": user, "b.yaml": other, "s.yaml": sharedText}
	paths := func(changes []Change) string {
		var names []string
		for _, c := range changes {
			names = append(names, map[bool]string{true: "-"}[c.New == nil]+map[bool]string{true: "+"}[c.Old == nil]+filepath.Base(c.Path))
		}
		return strings.Join(names, " ")
	}
	one := policy.FilterList{Name: "new", Filters: []policy.Filter{filterTo(t, "10.0.9.0/24")}}
	tests := []struct {
		name, want string
		edit       func(*policy.Store)
	}{
		{"a list of one policy", "a.yaml", func(s *policy.Store) {
			s.Policies[0].FilterLists = append(s.Policies[0].FilterLists, one)
			use(s, 0, "new")
		}},
		{"a list of two policies", "a.yaml b.yaml s.yaml", func(s *policy.Store) {
			for i := range s.Policies {
				s.Policies[i].FilterLists = append(s.Policies[i].FilterLists, one)
				use(s, i, "new")
			}
		}},
		{"a list of nobody", "s.yaml", func(s *policy.Store) { s.FilterLists = append(s.FilterLists, one) }},
		{"a shared list changes", "s.yaml", func(s *policy.Store) {
			for i := range s.Policies {
				l := &s.Policies[i].FilterLists[1]
				l.Filters = append(l.Filters, one.Filters...)
			}
		}},
		{"an unused list goes", "s.yaml", func(s *policy.Store) { s.FilterLists = nil }},
		{"an unused list is used", "a.yaml", func(s *policy.Store) {
			s.Policies[0].FilterLists = append(s.Policies[0].FilterLists, s.FilterLists[0])
			s.FilterLists = nil
			use(s, 0, "unused")
		}},
		{"another's list is used", "a.yaml b.yaml s.yaml", func(s *policy.Store) {
			s.Policies[1].FilterLists = append(s.Policies[1].FilterLists, s.Policies[0].FilterLists[0])
			use(s, 1, "own")
		}},
		{"a shared list is renamed", "a.yaml b.yaml s.yaml", func(s *policy.Store) {
			for i := range s.Policies {
				s.Policies[i].FilterLists[1].Name = "new"
				s.Policies[i].Rules[1].FilterList = "new"
			}
		}},
		{"a policy goes", "-b.yaml", func(s *policy.Store) { s.Policies = s.Policies[:1] }},
		{"a policy is new", "+quite-new.yaml", func(s *policy.Store) { s.Policies = append(s.Policies, policy.Policy{Name: "Quite (new)"}) }},
		{"a policy is renamed", "a.yaml", func(s *policy.Store) { s.Policies[0].Name = "renamed" }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := paths(save(t, folder(t, documents), test.edit)); got != test.want {
				t.Errorf("changed %q, want %q", got, test.want)
			}
		})
	}
	t.Run("into a folder that is not there", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "policies.d")
		if got := paths(save(t, dir, func(s *policy.Store) { s.FilterLists = append(s.FilterLists, one) })); got != "+shared.yaml" {
			t.Error(got)
		}
	})
}

// use adds a rule with a list to a policy.
func use(s *policy.Store, i int, list string) {
	s.Policies[i].Rules = append(s.Policies[i].Rules, policy.Rule{Name: "uses " + list, FilterList: list, FilterAction: "permit"})
}

func TestWhatIsRefusedChangesNothing(t *testing.T) {
	dir := folder(t, map[string]string{"a.yaml": user, "b.yaml": strings.Replace(user, "name: test", "name: other", 1), "s.yaml": sharedText})
	tests := []struct {
		name, want string
		edit       func(*policy.Store)
	}{
		{"not valid", `a.yaml:7:`, func(s *policy.Store) { s.Policies[0].Rules[0].FilterAction = "lost" }},
		{"a shared list is two things", `filter list "management" would be one thing in policy "test" and another in policy "other"`, func(s *policy.Store) { s.Policies[0].FilterLists[1].Description = "x" }},
		{"a shared list is another thing in a new policy", `"unused" would be one thing in policy "new" and another in ` + filepath.Join(dir, "s.yaml"), func(s *policy.Store) {
			s.Policies = append(s.Policies, policy.Policy{Name: "new", FilterLists: []policy.FilterList{{Name: "unused", Filters: s.Policies[0].FilterLists[0].Filters}}})
		}},
		{"a name of a predefined policy", "has the name of a predefined policy", func(s *policy.Store) { s.Policies[0].Name = "client" }},
		{"two policies of one name", "already defined", func(s *policy.Store) { s.Policies[0].Name = "other" }},
		{"two lists of one name", "twice", func(s *policy.Store) {
			s.Policies[0].FilterLists = append(s.Policies[0].FilterLists, s.Policies[0].FilterLists[0])
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f, err := OpenFolder(dir)
			if err != nil {
				t.Fatal(err)
			}
			s := f.Store()
			test.edit(&s)
			if _, err := f.Changes(s); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestOpenRefusesAFolderWithMistakes(t *testing.T) {
	if _, err := OpenFolder(folder(t, map[string]string{"a.yaml": header, "b.yaml": header + "x: 1\n"})); err == nil || !strings.Contains(err.Error(), "b.yaml:4:1") {
		t.Error(err)
	}
}

func TestWriteKeepsPermissionsAndLinksAndForeignChanges(t *testing.T) {
	dir := folder(t, map[string]string{"real": user, "s.yaml": sharedText})
	link := filepath.Join(dir, "a.yaml")
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(link, 0o640); err != nil {
		t.Fatal(err)
	}
	save(t, dir, func(s *policy.Store) { s.Policies[0].Description = "changed" })
	if info, err := os.Stat(link); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	if target, err := os.Readlink(link); err != nil || target != "real" {
		t.Errorf("the link: %q, %v", target, err)
	}
	f, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := f.Store()
	s.Policies[0].Description = "ours"
	changes, err := f.Changes(s)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, link, user)
	if err := f.Write(changes); err == nil || !strings.Contains(err.Error(), "changed by somebody else") {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Every filter and rule of every example can be edited where it stands.
func TestExamplesAreEditedInPlace(t *testing.T) {
	entries, err := Dir(filepath.Join("..", "..", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(e.Path)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, edit func(*policy.Policy)) {
			got := edited(t, string(data), func(s *policy.Store) { edit(&s.Policies[0]) })
			if n := linesLost(string(data), got); n > 12 {
				t.Errorf("%s: %s: %d lines changed", e.Path, what, n)
			}
		}
		for i := range e.Policy.Rules {
			try("rule", func(p *policy.Policy) { p.Rules[i].Description = "changed" })
		}
		for i := range e.Policy.FilterLists {
			try("filter", func(p *policy.Policy) { p.FilterLists[i].Filters[0].Description = "changed" })
			try("list", func(p *policy.Policy) {
				p.FilterLists[i].Filters = append(p.FilterLists[i].Filters, filterTo(t, "192.0.2.77"))
			})
		}
		for i := range e.Policy.FilterActions {
			try("action", func(p *policy.Policy) { p.FilterActions[i].Description = "changed" })
		}
	}
}

// linesLost counts the lines of a text that another does not have.
func linesLost(before, after string) int {
	has := map[string]int{}
	for line := range strings.Lines(after) {
		has[line]++
	}
	lost := 0
	for line := range strings.Lines(before) {
		if has[line]--; has[line] < 0 {
			lost++
		}
	}
	return lost
}

// Whatever a document looks like, an edit of it says what it should, or is
// refused.
func FuzzRewrite(f *testing.F) {
	for _, text := range []string{commented, allFields, user, sharedText, header + "filterLists: {a: [{from: me, to: any}]}\n", header + "rules:\n-\n  name: r\n", "# c\n" + header + "description: |\n  two\n\n  # lines\n\n"} {
		f.Add(text, uint8(0))
	}
	f.Fuzz(func(t *testing.T, text string, what uint8) {
		doc := newDocument("fuzz.yaml", []byte(text))
		if doc.policy == nil || doc.decoder.err() != nil {
			return
		}
		base := doc.own()
		p := clonePolicy(*doc.policy)
		mutate(&p, what)
		want := encodePolicy(&p)
		out, err := rewrite(doc, base, want)
		if err != nil {
			return
		}
		if again := newDocument("fuzz.yaml", out); again.policy == nil || !same(again.own(), want) {
			t.Errorf("%q became %q", text, out)
		}
	})
}

// mutate changes one thing of a policy.
func mutate(p *policy.Policy, what uint8) {
	l := policy.FilterList{Name: "fuzzed", Filters: []policy.Filter{{Mirrored: true}}}
	switch what % 6 {
	case 0:
		p.Description = "fuzzed"
	case 1:
		p.FilterLists = append(p.FilterLists, l)
	case 2:
		p.FilterLists = nil
	case 3:
		p.Rules = append(p.Rules, policy.Rule{Name: "fuzzed", FilterList: "fuzzed", FilterAction: "permit"})
	case 4:
		p.Rules = p.Rules[:len(p.Rules)/2]
	case 5:
		for i := range p.FilterLists {
			p.FilterLists[i].Filters = append(p.FilterLists[i].Filters, l.Filters...)
		}
	}
}
