package directory

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

func addresses(prefix string) policy.Endpoint {
	return policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(netip.MustParsePrefix(prefix))}
}

// webPolicy is a small policy of two rules.
func webPolicy() policy.Policy {
	p, _ := policy.Predefined(policy.SecureServerName)
	methods := p.FilterActions[0].Methods
	for _, a := range p.FilterActions {
		if len(a.Methods) > 0 {
			methods = a.Methods
		}
	}
	kerberos := []policy.AuthMethod{{Kind: policy.Kerberos}}
	return policy.Policy{
		Name: "web", Description: "web servers", KeyExchange: p.KeyExchange,
		FilterLists: []policy.FilterList{
			{Name: "http", Filters: []policy.Filter{{From: policy.Endpoint{Kind: policy.Me}, To: addresses("10.1.0.0/16"), Protocol: sadb.TCP, FromPorts: sadb.Port(80), Mirrored: true}}},
			{Name: "management", Filters: []policy.Filter{{From: policy.Endpoint{Kind: policy.Me}, To: addresses("10.9.0.0/24"), Mirrored: true}}},
		},
		FilterActions: []policy.FilterAction{{Name: "require", Kind: sadb.Negotiate, Methods: methods}},
		Rules: []policy.Rule{
			{Name: "secure the web", FilterList: "http", FilterAction: "require", Authentication: kerberos},
			{Name: "let management in", FilterList: "management", FilterAction: "permit", Authentication: kerberos},
		},
		Uplift: true,
	}
}

// plan is planPublish for what has to work.
func plan(t *testing.T, s *shelf, p policy.Policy) Plan {
	t.Helper()
	made, err := planPublish(s.contents(), p, PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func publish(t *testing.T, s *shelf, p policy.Policy) Plan {
	t.Helper()
	made := plan(t, s, p)
	if _, err := apply(t.Context(), s, made); err != nil {
		t.Fatalf("%v\n%s", err, made.text())
	}
	return made
}

func (p Plan) text() string {
	var lines []string
	for _, s := range p.Steps {
		lines = append(lines, s.What)
	}
	return strings.Join(append(lines, p.Notes...), "\n")
}

// read returns a policy as a host would take it.
func read(t *testing.T, s *shelf, name string) *policy.Policy {
	t.Helper()
	for _, p := range s.contents().decoded.Store.Policies {
		if p.Name == name {
			return &p
		}
	}
	return nil
}

// differs compares what policies say, without the GUIDs of their objects.
func differs(a, b *policy.Policy) string {
	byName := func(x, y policy.Rule) bool { return x.Name < y.Name }
	return cmp.Diff(a, b, cmp.Comparer(func(a, b sadb.Addrs) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.FilterPath(func(p cmp.Path) bool {
			return slices.Contains([]string{"GUID", "ActionGUID", "Identity"}, strings.TrimPrefix(p.Last().String(), "."))
		}, cmp.Ignore()),
		cmpopts.SortSlices(byName), cmpopts.SortSlices(func(x, y policy.FilterList) bool { return x.Name < y.Name }),
		cmpopts.SortSlices(func(x, y policy.FilterAction) bool { return x.Name < y.Name }), cmpopts.EquateEmpty())
}

// normal is what a host would take a policy for.
func normal(t *testing.T, p policy.Policy) *policy.Policy {
	t.Helper()
	s := newShelf()
	objects, _, err := gpipsec.Encode(policy.Store{Policies: []policy.Policy{p}}, gpipsec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.put(objects)
	return read(t, s, p.Name)
}

func TestPublishingIsReadBack(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	s.sound(t)
	if d := differs(normal(t, webPolicy()), read(t, s, "web")); d != "" {
		t.Error(d)
	}
}

func TestPublishingTheSameChangesNothing(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	if p := plan(t, s, webPolicy()); len(p.Steps) > 0 || p.Commit >= 0 {
		t.Errorf("it would:\n%s", p.text())
	}
}

// The objects that every Active Directory is born with are left as they stand.
func TestPublishingWhatWindowsWrote(t *testing.T) {
	s := originalShelf(t)
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Original(name)
		p.GUID = ""
		if made := plan(t, s, *p); len(made.Steps) > 0 {
			t.Errorf("%s:\n%s", name, made.text())
		}
	}
}

func originalShelf(t *testing.T) *shelf {
	t.Helper()
	var store policy.Store
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Original(name)
		store.Policies = append(store.Policies, *p)
	}
	objects, _, err := gpipsec.Encode(store, gpipsec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		objects[i].DataType = 0x256
	}
	s := newShelf()
	s.put(objects)
	return s
}

// edits are changes of the policy, each by what it does.
func edits() map[string]func(*policy.Policy) {
	return map[string]func(*policy.Policy){
		"an address added": func(p *policy.Policy) {
			p.FilterLists[0].Filters = append(p.FilterLists[0].Filters, policy.Filter{From: policy.Endpoint{Kind: policy.Me}, To: addresses("10.2.0.0/16"), Mirrored: true})
		},
		"both lists changed": func(p *policy.Policy) {
			p.FilterLists[0].Filters[0].To, p.FilterLists[1].Filters[0].To = addresses("10.7.0.0/16"), addresses("10.8.0.0/16")
		},
		"an action for another": func(p *policy.Policy) { p.Rules[0].FilterAction, p.Rules[1].FilterAction = "permit", "require" },
		"a rule removed":        func(p *policy.Policy) { p.Rules = p.Rules[:1]; p.FilterLists = p.FilterLists[:1] },
		"a rule added": func(p *policy.Policy) {
			p.Rules = append(p.Rules, policy.Rule{Name: "block the rest", FilterList: "rest", FilterAction: "block", Authentication: p.Rules[0].Authentication})
			p.FilterLists = append(p.FilterLists, policy.FilterList{Name: "rest", Filters: []policy.Filter{{Mirrored: true}}})
		},
		"a rule renamed":   func(p *policy.Policy) { p.Rules[0].Name = "secure all of the web" },
		"a list renamed":   func(p *policy.Policy) { p.FilterLists[0].Name, p.Rules[0].FilterList = "www", "www" },
		"another text":     func(p *policy.Policy) { p.Description = "all web servers" },
		"master key PFS":   func(p *policy.Policy) { p.KeyExchange.MasterKeyPFS = !p.KeyExchange.MasterKeyPFS },
		"default response": func(p *policy.Policy) { withResponse(p) },
		"weaker action":    func(p *policy.Policy) { p.FilterActions[0].AllowClear = true },
	}
}

func withResponse(p *policy.Policy) {
	p.DefaultResponse = policy.DefaultResponse{Active: true, Methods: p.FilterActions[0].Methods, Authentication: p.Rules[0].Authentication}
}

// edited is a copy of the policy with a change.
func edited(edit func(*policy.Policy)) policy.Policy {
	p := webPolicy()
	edit(&p)
	return p
}

func TestChangesArePublished(t *testing.T) {
	for name, edit := range edits() {
		t.Run(name, func(t *testing.T) {
			s := newShelf()
			publish(t, s, webPolicy())
			before := s.clone()
			made := publish(t, s, edited(edit))
			s.sound(t)
			if d := differs(normal(t, edited(edit)), read(t, s, "web")); d != "" {
				t.Errorf("%s\n%s", d, made.text())
			}
			if again := plan(t, s, edited(edit)); len(again.Steps) > 0 {
				t.Errorf("publishing again would:\n%s", again.text())
			}
			if reflect.DeepEqual(before.entries[policyDN(before)], s.entries[policyDN(s)]) {
				t.Errorf("the policy object is as it was: Windows hosts notice nothing\n%s", made.text())
			}
			publish(t, s, webPolicy())
			s.sound(t)
			if d := differs(normal(t, webPolicy()), read(t, s, "web")); d != "" {
				t.Errorf("and back: %s", d)
			}
		})
	}
}

func policyDN(s *shelf) string {
	for dn := range s.entries {
		if strings.HasPrefix(dn, "cn=ipsecpolicy{") {
			return dn
		}
	}
	return ""
}

// Two policies share a list: publishing one does not change the other.
func TestSharedListsAreNotChangedForOthers(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	other := webPolicy()
	other.Name = "other"
	publish(t, s, other)
	lists := 0
	for _, o := range s.contents().objects {
		if o.Class == gpipsec.ClassFilter {
			lists++
		}
	}
	if lists != 2 {
		t.Errorf("%d filter lists: what is the same is not shared", lists)
	}
	change := edited(edits()["an address added"])
	made := publish(t, s, change)
	s.sound(t)
	if d := differs(normal(t, other), read(t, s, "other")); d != "" {
		t.Error(d)
	}
	if !strings.Contains(made.text(), `filter list "http" stays as it is for policy "other"`) {
		t.Errorf("it does not say that the other policy does not follow:\n%s", made.text())
	}
	other.FilterLists = change.FilterLists
	publish(t, s, other)
	s.sound(t)
	for _, o := range s.contents().objects {
		if o.Class == gpipsec.ClassFilter && o.Name == "http" {
			lists--
		}
	}
	if lists != 1 {
		t.Errorf("the list of before was not removed")
	}
}

// The one rule that changed keeps its GUID, by which hosts know what they have
// secured.
func TestTheRuleThatChangedIsTheSame(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	before := read(t, s, "web")
	publish(t, s, edited(edits()["an address added"]))
	after := read(t, s, "web")
	for _, b := range before.Rules {
		if !slices.ContainsFunc(after.Rules, func(a policy.Rule) bool { return a.GUID == b.GUID && a.Name == b.Name }) {
			t.Errorf("rule %q has another GUID", b.Name)
		}
	}
}

func TestPublishingIsRefused(t *testing.T) {
	psk := edited(func(p *policy.Policy) {
		p.Rules[0].Authentication = []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "branch"}}
	})
	tests := map[string]struct {
		prepare func(*shelf)
		policy  policy.Policy
		want    string
	}{
		"a preshared key": {func(*shelf) {}, psk, `preshared key "branch"`},
		"an object that cannot be read": {func(s *shelf) {
			for _, e := range s.entries {
				e.Attributes = nil
				return
			}
		}, webPolicy(), "use an account that may read them all"},
		"two of the name": {func(s *shelf) {
			p := webPolicy()
			p.GUID = "{11111111-2222-3333-4444-555555555555}"
			objects, _, _ := gpipsec.Encode(policy.Store{Policies: []policy.Policy{p}}, gpipsec.Options{})
			s.put(objects)
		}, webPolicy(), `2 policies are named "web"`},
		"another GUID": {func(*shelf) {}, edited(func(p *policy.Policy) { p.GUID = "{11111111-2222-3333-4444-555555555555}" }), "rename one of them"},
		"no GUID":      {func(*shelf) {}, edited(func(p *policy.Policy) { p.GUID = "web" }), "is not a GUID"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newShelf()
			publish(t, s, webPolicy())
			tt.prepare(s)
			if _, err := planPublish(s.contents(), tt.policy, PublishOptions{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// A copy of a policy with another name does not take its place unawares.
func TestRenaming(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	p := *read(t, s, "web")
	p.Name = "www"
	if _, err := planPublish(s.contents(), p, PublishOptions{}); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), `policy "web", which is there`) {
		t.Errorf("%v", err)
	}
	made, err := planPublish(s.contents(), p, PublishOptions{Rename: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := apply(t.Context(), s, made); err != nil {
		t.Fatal(err)
	}
	if read(t, s, "web") != nil || read(t, s, "www") == nil {
		t.Error("it is not renamed")
	}
	p.Name, p.GUID = "web", ""
	publish(t, s, p)
	if read(t, s, "web") == nil || read(t, s, "www") == nil {
		t.Error("not both are there")
	}
	s.sound(t)
}

// A key's new text is a change although the rule's words are the same.
func TestKeysArePublishedIfForced(t *testing.T) {
	p := edited(func(p *policy.Policy) {
		p.Rules[0].Authentication = []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "branch"}}
	})
	s := newShelf()
	for _, text := range []string{"one", "two"} {
		o := PublishOptions{Keys: map[string]sadb.Secret{"branch": sadb.NewSecret([]byte(text))}}
		made, err := planPublish(s.contents(), p, o)
		if err != nil || made.Commit < 0 || !strings.Contains(strings.Join(made.Warnings, " "), "in clear") {
			t.Fatalf("%v, %v", err, made.Warnings)
		}
		if _, err := apply(t.Context(), s, made); err != nil {
			t.Fatal(err)
		}
		got := s.contents().decoded.Secrets
		if len(got) != 1 || string(got[0].Key.Bytes()) != text {
			t.Errorf("%d keys", len(got))
		}
		if made, _ := planPublish(s.contents(), p, o); len(made.Steps) > 0 {
			t.Errorf("publishing again would:\n%s", made.text())
		}
	}
}

// What an administrator keeps beside the policies stays, of whatever name.
func TestUnusedListsOfOthersStay(t *testing.T) {
	s := newShelf()
	kept := policy.FilterList{GUID: "{11111111-2222-3333-4444-555555555555}", Name: "http"}
	objects, _, err := gpipsec.Encode(policy.Store{FilterLists: []policy.FilterList{kept}}, gpipsec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.put(objects)
	for _, p := range []policy.Policy{webPolicy(), edited(edits()["both lists changed"])} {
		publish(t, s, p)
		if s.contents().at[objects[0].Ref] == nil {
			t.Error("it is gone")
		}
	}
}

// An object that this program wrote and somebody changed is not overwritten.
func TestChangedByAnother(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	for _, e := range s.entries {
		if strings.Contains(e.DN, "ipsecFilter{") {
			e.Attributes = slices.Clone(e.Attributes)
			for i, a := range e.Attributes {
				if a.Name == "description" || a.Name == "ipsecName" {
					e.Attributes[i].Values = texts("renamed " + string(a.Values[0]))
				}
			}
		}
	}
	publish(t, s, webPolicy())
	s.sound(t)
	if d := differs(normal(t, webPolicy()), read(t, s, "web")); d != "" {
		t.Error(d)
	}
}
