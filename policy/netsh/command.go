package netsh

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
)

// machine executes lines on the objects of a store.
type machine struct {
	*objects
	commands []command
	out      strings.Builder
	secrets  []Secret
	// elsewhere: an earlier line chose a store that this is not.
	elsewhere bool
}

func newMachine(store policy.Store) *machine {
	return &machine{objects: takeApart(store), commands: commands()}
}

func (m *machine) result(problems []LineProblem) Result {
	store := m.store()
	return Result{Store: store, Secrets: used(m.secrets, store), Output: m.out.String(), Problems: problems}
}

// used returns the keys that a rule of the store names at the end.
func used(secrets []Secret, store policy.Store) []Secret {
	named := map[string]bool{}
	note := func(methods []policy.AuthMethod) {
		for _, a := range methods {
			named[a.Key] = true
		}
	}
	for _, p := range store.Policies {
		note(p.DefaultResponse.Authentication)
		for _, r := range p.Rules {
			note(r.Authentication)
		}
	}
	return slices.DeleteFunc(secrets, func(s Secret) bool { return !named[s.Name] })
}

// command is one command of the language. tags are those it takes; those that
// may stand several times end with "*". words are the words that may follow.
type command struct {
	name  string // "add filter"
	tags  string
	words string
	run   func(*machine, *args) error
}

const (
	filterTags = "srcaddr dstaddr srcmask dstmask protocol srcport dstport mirrored icmptype icmpcode"
	actionTags = "description qmpfs inpass soft action qmsecmethods cleardelay"
	policyTags = "description mmpfs qmpermm mmlifetime activatedefaultrule pollinginterval assign mmsecmethods uplift"
	authTags   = "kerberos* psk* pskname* rootca* acceptprincipal*"
	ruleTags   = "policy filterlist filteraction tunnel conntype activate description " + authTags
	showTags   = "name level format wide"
)

func commands() []command {
	return []command{
		{"add filter", "filterlist description " + filterTags, "", addFilter},
		{"add filterlist", "name description", "", addFilterList},
		{"add filteraction", "name " + actionTags, "", addFilterAction},
		{"add policy", "name " + policyTags, "", addPolicy},
		{"add rule", "name " + ruleTags, "", addRule},
		{"set filter", "filterlist " + filterTags, "", refuse("a filter is not changed; delete it and add it anew")},
		{"set filterlist", "name guid newname description", "", setFilterList},
		{"set filteraction", "name guid newname " + actionTags, "", setFilterAction},
		{"set policy", "name guid newname gponame " + policyTags, "", setPolicy},
		{"set rule", "name id newname " + ruleTags, "", setRule},
		{"set defaultrule", "policy qmpfs activate qmsecmethods " + authTags, "", setDefaultRule},
		{"set store", "location domain", "", setStore},
		{"set batch", "mode", "", nothing},
		{"set interactive", "mode", "", nothing},
		{"delete all", "", "", deleteAll},
		{"delete filter", "filterlist " + filterTags, "", deleteFilter},
		{"delete filterlist", "name", all, deleteFilterList},
		{"delete filteraction", "name", all, deleteFilterAction},
		{"delete policy", "name", all, deletePolicy},
		{"delete rule", "name id policy", all, deleteRule},
		{"show all", "format level wide", "", showAll},
		{"show filterlist", showTags + " resolvedns", all, showFilterList},
		{"show filteraction", showTags, all, showFilterAction},
		{"show policy", showTags, all, showPolicy},
		{"show rule", "name id policy type format level wide", "all default", showRule},
		{"show store", "", "", showStore},
		{"show gpoassignedpolicy", "name", "", refuse("which policy a directory assigns says: ipsecctl status")},
		{"exportpolicy", "file", "", refuse("the format of .ipsec files is not documented; write a script with: ipsecctl export --to netsh, or LDIF with --to ldif")},
		{"importpolicy", "file", "", refuse("the format of .ipsec files is not documented; import the registry key of the local policies (.reg), LDIF or a netsh script with: ipsecctl import")},
		{"restorepolicyexamples", "release", "", restoreExamples},
		{"pushd", "", "", nothing},
		{"popd", "", "", nothing},
	}
}

func nothing(*machine, *args) error { return nil }

func refuse(reason string) func(*machine, *args) error {
	return func(*machine, *args) error { return errors.New(reason) }
}

// line executes one line.
func (m *machine) line(line string) error {
	if err := checkLine(line); err != nil {
		return err
	}
	if comment(line) {
		return nil
	}
	st, err := tokenize(strings.TrimPrefix(strings.TrimSpace(line), "@"))
	if err != nil {
		return err
	}
	words, err := context(st.words)
	if err != nil || len(words) == 0 {
		return err
	}
	c, rest, err := m.command(words)
	if err != nil {
		return err
	}
	a := &args{words: rest, list: st.args}
	if err := c.check(a); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if m.elsewhere && c.name != "set store" {
		return fmt.Errorf("%s: not executed, because an earlier line chose a store that is not this one", c.name)
	}
	if err := c.run(m, a); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}

// context takes the words off that lead to the static context, with or without
// "pushd".
func context(words []string) ([]string, error) {
	if len(words) == 1 && words[0] == "popd" {
		return nil, nil
	}
	for _, w := range []string{"netsh", "pushd", "ipsec", "static"} {
		if len(words) > 0 && (words[0] == w || w == "netsh" && words[0] == "netsh.exe") {
			words = words[1:]
		}
	}
	if len(words) > 0 && words[0] == "dynamic" {
		return nil, errors.New("the dynamic commands change what is in force until the service stops, not a policy; say it with the static ones")
	}
	return words, nil
}

// command returns the command that words begin, and the words behind it. Words
// may be shortened as far as one command alone fits.
func (m *machine) command(words []string) (*command, []string, error) {
	var found []*command
	used := 0
	for i := range m.commands {
		c := &m.commands[i]
		fits, exact := c.matches(words)
		if exact {
			return c, words[c.length():], nil
		}
		if fits {
			found, used = append(found, c), c.length()
		}
	}
	shown := strings.Join(words[:min(len(words), 2)], " ")
	switch len(found) {
	case 1:
		return found[0], words[used:], nil
	case 0:
		return nil, nil, fmt.Errorf("%q is no command of ipsec static (known: %s)", shown, m.knownCommands(words[0]))
	}
	return nil, nil, fmt.Errorf("%q may mean %q or %q; write it out", shown, found[0].name, found[1].name)
}

// knownCommands lists the commands of a verb, of all verbs if it is none.
func (m *machine) knownCommands(verb string) string {
	var same, every []string
	for _, c := range m.commands {
		every = append(every, c.name)
		if strings.HasPrefix(c.name, verb+" ") {
			same = append(same, c.name)
		}
	}
	if same == nil {
		same = every
	}
	return strings.Join(same, ", ")
}

func (c *command) length() int { return len(strings.Fields(c.name)) }

// matches reports whether words begin with the words of c, or with beginnings
// of them.
func (c *command) matches(words []string) (fits, exact bool) {
	names := strings.Fields(c.name)
	if len(words) < len(names) {
		return false, false
	}
	exact = true
	for i, n := range names {
		if !strings.HasPrefix(n, words[i]) {
			return false, false
		}
		exact = exact && n == words[i]
	}
	return true, exact
}

// check refuses words and tags that c does not take, and writes shortened tags
// out.
func (c *command) check(a *args) error {
	for _, w := range a.words {
		if !slices.Contains(strings.Fields(c.words), w) {
			return fmt.Errorf("the word %q is not expected here; arguments are of the form tag=value", w)
		}
	}
	hide := false
	seen := map[string]bool{}
	for i := range a.list {
		tag, repeats, err := c.tag(a.list[i].tag)
		if err != nil {
			if hide { // it may be the rest of a key with a space
				return fmt.Errorf("an unknown tag follows psk=; put a key with spaces in double quotes (known: %s)", c.known())
			}
			return err
		}
		if seen[tag] && !repeats {
			return fmt.Errorf("%s= is given twice", tag)
		}
		seen[tag] = true
		hide = hide || tag == "psk"
		a.list[i].tag = tag
	}
	return nil
}

// tag returns the tag that a word is or begins.
func (c *command) tag(word string) (tag string, repeats bool, err error) {
	var found []string
	for _, t := range strings.Fields(c.tags) {
		name, many := strings.CutSuffix(t, "*")
		if name == word {
			return name, many, nil
		}
		if strings.HasPrefix(name, word) {
			found = append(found, name)
			repeats = many
		}
	}
	switch len(found) {
	case 1:
		return found[0], repeats, nil
	case 0:
		return "", false, fmt.Errorf("unknown tag %s= (known: %s)", word, c.known())
	}
	return "", false, fmt.Errorf("%s= may mean %s= or %s=; write it out", word, found[0], found[1])
}

func (c *command) known() string { return strings.ReplaceAll(c.tags, "*", "") }
