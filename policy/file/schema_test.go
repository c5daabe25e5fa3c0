package file

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

var update = flag.Bool("update", false, "write the schema anew")

func TestTheShippedSchemaIsFresh(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "schema", "policy.json")
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run: go test ./policy/file -run Schema -update (-want +got):\n%s", diff)
	}
}

// validator compiles the schema, and fails if it is none.
func validator(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(SchemaID, parsed); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// conforms returns what the validator says of a document.
func conforms(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var v any
	if err := yaml.Load(text, &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(parsed)
}

func TestSchemaAcceptsWhatTheLanguageIs(t *testing.T) {
	s := validator(t)
	documents := map[string][]byte{"every field": []byte(allFields), "shared": []byte(sharedText), "report mode": []byte(reported), "nothing shared": []byte(sharedHeader)}
	for _, pattern := range []string{"*.yaml", "*/*.yaml"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "examples", pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if documents[f], err = os.ReadFile(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Predefined(name)
		original, _ := policy.Original(name)
		for _, p := range []*policy.Policy{p, original} {
			data, err := Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			documents["predefined "+p.Name+p.Description] = data
		}
	}
	for name, text := range documents {
		if err := conforms(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefusesWhatTheLanguageIsNot(t *testing.T) {
	s := validator(t)
	for _, text := range []string{
		"{}", "kind: Policy\n", "kind: Shared\n", header + "x: 1\n", strings.Replace(header, "v1", "v2", 1),
		header + "pollingInterval: 3\n", header + "pollingInterval: soon\n", header + "uplift: 1\n",
		header + "keyExchange: {methods: [aes256]}\n", header + "keyExchange: {sessions: -1}\n",
		header + "filterLists: {a: [{from: me}]}\n", header + "filterLists: {a: [{from: me, to: nowhere}]}\n",
		header + "filterLists: {a: [{from: me, to: any, protocol: ip}]}\n", header + "filterLists: {a: [{from: me, to: any, sourcePort: 70000}]}\n",
		header + "filterActions: {a: drop}\n", header + "filterActions: {a: {negotiate: {methods: [rot13]}}}\n",
		header + "filterActions: {a: {negotiate: {methods: [{esp: ah-sha1}]}}}\n", header + "filterActions: {a: {negotiate: {sessionKeyPFS: modp1}}}\n",
		header + "rules: [{name: r}]\n", header + "rules: [{name: r, filterList: l, filterAction: a, connections: some}]\n",
		header + "rules: [{name: r, filterList: l, filterAction: a, authentication: [certificate]}]\n",
		header + "rules: [{name: r, filterList: l, filterAction: a, authentication: [{psk: {ca: x}}]}]\n",
		header + "tests: [{flow: x, expect: maybe}]\n",
		sharedHeader + "rules: []\n", sharedHeader + "name: x\n",
	} {
		if conforms(t, s, []byte(text)) == nil {
			t.Errorf("accepted:\n%s", text)
		}
	}
}

// The fields of each mapping of the schema are those that the decoder knows.
func TestSchemaKnowsTheFieldsOfTheDecoder(t *testing.T) {
	for name, text := range map[string]string{
		"policy": header, "shared": sharedHeader, "keyExchange": header + "keyExchange:\n  ", "defaultResponse": header + "defaultResponse:\n  ",
		"filterLists": header + "filterLists:\n  a:\n    ", "filterActions": header + "filterActions:\n  a:\n    ", "negotiate": header + "filterActions:\n  a:\n    negotiate:\n      ",
		"filter": header + "filterLists:\n  a:\n  - ", "method": header + "defaultResponse:\n  methods:\n  - ", "rule": header + "rules:\n- ",
		"authentication": header + "defaultResponse:\n  authentication:\n  - ", "test": header + "tests:\n- ",
	} {
		doc := newDocument("x", []byte(text+"unknown: 1\n"))
		entries, _ := Dir(folder(t, map[string]string{"x.yaml": text + "unknown: 1\n"}))
		found := regexp.MustCompile(`unknown field "unknown" \(known: (.*)\)`).FindStringSubmatch(entries[0].Err.Error())
		if found == nil {
			t.Fatalf("%s: %v, %v", name, entries[0].Err, doc.err)
		}
		known := strings.Split(found[1], ", ")
		if got := properties(definitions()[name].(object)); !slices.Equal(got, known) {
			t.Errorf("%s: the schema has %v, the decoder %v", name, got, known)
		}
	}
}

// properties returns the fields of all mappings that a schema allows in one
// place.
func properties(o object) []string {
	all := map[string]bool{}
	if p, ok := o["properties"].(object); ok {
		for name := range p {
			all[name] = true
		}
	}
	choices, _ := o["anyOf"].([]object)
	if more, ok := o["additionalProperties"].(object); ok {
		choices = append(choices, more)
	}
	for _, c := range choices {
		for _, name := range properties(c) {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// What the schema offers to complete is what the decoder reads.
func TestSchemaOffersWordsThatHold(t *testing.T) {
	for _, name := range mainModes() {
		if _, err := sadb.ParseISAKMPSuite(name); err != nil {
			t.Error(err)
		}
	}
	if len(groups()) < 8 {
		t.Errorf("groups: %v", groups())
	}
	for _, name := range suites("", "") {
		if _, err := sadb.ParseSuite(name); err != nil {
			t.Error(err)
		}
	}
	for prefix, parse := range map[string]func(string) (sadb.Suite, error){"esp-": suiteOf("esp-"), "ah-": suiteOf("ah-")} {
		for _, name := range suites(prefix, prefix) {
			if _, err := parse(name); err != nil {
				t.Error(err)
			}
		}
	}
	for _, name := range []string{"duration", "size"} {
		for _, example := range definitions()[name].(object)["examples"].([]string) {
			if _, err := parseDuration(example); name == "duration" && err != nil {
				t.Error(err)
			}
			if _, err := parseSize(example); name == "size" && err != nil {
				t.Error(err)
			}
		}
	}
}
