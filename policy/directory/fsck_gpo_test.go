package directory

import (
	"strings"
	"testing"
)

// Whatever a tool that was interrupted, or an administrator, leaves of a group
// policy object is found; what has nothing to do with IPsec is nobody's business
// here.
func TestGroupPolicyObjectsAreChecked(t *testing.T) {
	const (
		base = "DC=example,DC=test"
		gpo  = "CN={5EC0FFEE-0000-4000-8000-000000000001}," + policiesPath + base
		ours = "[" + extension + toolExtension + "]"
	)
	whole := func(with ...string) Entry {
		e := Entry{DN: gpo}
		values := map[string]string{"displayName": "x", "gPCMachineExtensionNames": ours, "gPCFileSysPath": `\\example.test\sysvol`, "gPCFunctionalityVersion": "2", "flags": "0"}
		for i := 0; i < len(with); i += 2 {
			values[with[i]] = with[i+1]
		}
		for name, v := range values {
			e.Attributes = append(e.Attributes, Attribute{name, texts(v)})
		}
		return e
	}
	named, empty := &Entry{Attributes: []Attribute{{attrOwners, texts("CN=x")}}}, &Entry{}
	for name, c := range map[string]struct {
		gpo        Entry
		assignment *Entry
		says       string
		failure    bool
	}{
		"sound":               {whole(), named, "", false},
		"not ours":            {whole("gPCMachineExtensionNames", "", "gPCFunctionalityVersion", ""), nil, "", false},
		"says, names nothing": {whole(), nil, "not which one", true},
		"says, empty":         {whole(), empty, "not which one", true},
		"silent, empty":       {whole("gPCMachineExtensionNames", ""), empty, "interrupted", false},
		"no folder":           {whole("gPCFileSysPath", ""), named, "SYSVOL", false},
		"disabled":            {whole("flags", "3"), named, "disabled", false},
		"WMI":                 {whole("gPCWQLFilter", "[x;{y};0]"), named, "WMI", false},
		"half made":           {whole("gPCFunctionalityVersion", ""), named, "gPCFunctionalityVersion", false},
		"malformed":           {whole("flags", "x"), named, "no number", false},
	} {
		g := groupPolicy{objects: []Entry{c.gpo}, assignments: map[string]*Entry{}}
		if c.assignment != nil {
			g.assignments[strings.ToLower(gpo)] = c.assignment
		}
		found := g.check(base)
		if c.says == "" {
			if len(found) > 0 {
				t.Errorf("%s: %v", name, found)
			}
			continue
		}
		if len(found) != 1 || !strings.Contains(found[0].Message, c.says) || found[0].Warning == c.failure {
			t.Errorf("%s: %+v", name, found)
		}
	}
	g := groupPolicy{links: map[string][]string{strings.ToLower(gpo): {"OU=a," + base, "OU=b," + base}}}
	if found := g.check(base); len(found) != 2 || !strings.Contains(found[1].Message, "not there") || !strings.Contains(found[1].Object, "OU=b") {
		t.Errorf("links to nothing: %v", found)
	}
}

// An assignment counts though the group policy object is not to be seen.
func TestAssignmentOfWhatIsNotSeen(t *testing.T) {
	const gpo = "CN={5EC0FFEE-0000-4000-8000-000000000001},CN=Policies,CN=System,DC=example,DC=test"
	g := groupPolicy{assignments: map[string]*Entry{strings.ToLower(gpo): {DN: assignmentPath + gpo, Attributes: []Attribute{{attrOwners, texts("CN=x")}}}}}
	if got := g.assigned(); len(got) != 1 || got[0].At != gpo || got[0].Name != gpo || got[0].Policy != "CN=x" {
		t.Errorf("%+v", got)
	}
}
