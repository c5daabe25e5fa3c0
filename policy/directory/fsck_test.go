package directory

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

// objectOf returns the entry of the first object of a class and name.
func (s *shelf) objectOf(t *testing.T, class gpipsec.Class, name string) *Entry {
	t.Helper()
	for _, o := range s.contents().objects {
		if o.Class == class && o.Name == name {
			return s.entries[strings.ToLower("CN="+o.Ref.String()+","+testContainer)]
		}
	}
	t.Fatalf("there is no %s %q", class, name)
	return nil
}

// set replaces the values of an attribute.
func (e *Entry) set(name string, values ...string) {
	e.Attributes = slices.DeleteFunc(slices.Clone(e.Attributes), func(a Attribute) bool { return a.Name == name })
	if len(values) > 0 {
		e.Attributes = append(e.Attributes, Attribute{name, texts(values...)})
	}
}

func TestACleanContainerHasNoFindings(t *testing.T) {
	for name, s := range map[string]*shelf{"predefined": originalShelf(t), "published": newShelf(), "both": originalShelf(t)} {
		if name != "predefined" {
			publish(t, s, webPolicy())
		}
		for _, f := range s.contents().check(nil, "") {
			t.Errorf("%s: %v", name, f)
		}
	}
}

const nowhere = "CN=ipsecNFA{99999999-0000-0000-0000-000000000000}," + testContainer

func TestDamageIsFound(t *testing.T) {
	for _, c := range []struct {
		name     string
		damage   func(*testing.T, *shelf)
		says     string
		warning  bool
		repaired bool
	}{
		{"a rule is gone", func(t *testing.T, s *shelf) {
			delete(s.entries, strings.ToLower(s.objectOf(t, gpipsec.ClassNFA, "secure the web").DN))
		}, "which is not there", false, false},
		{"a list names no owner", func(t *testing.T, s *shelf) { s.objectOf(t, gpipsec.ClassFilter, "http").set(attrOwners) }, "as its owners it names not rule", true, true},
		{"a list names a stranger", func(t *testing.T, s *shelf) {
			e := s.objectOf(t, gpipsec.ClassFilter, "http")
			e.set(attrOwners, append(e.all(attrOwners), nowhere)...)
		}, "which does not refer to it", true, true},
		{"a list names rubbish", func(t *testing.T, s *shelf) {
			e := s.objectOf(t, gpipsec.ClassFilter, "http")
			e.set(attrOwners, append(e.all(attrOwners), "CN=Users,DC=example,DC=test")...)
		}, "no policy object", true, true},
		{"a policy refers to rubbish", func(t *testing.T, s *shelf) {
			e := s.objectOf(t, gpipsec.ClassPolicy, "web")
			e.set("ipsecNFAReference", append(e.all("ipsecNFAReference"), "CN=Users,DC=example,DC=test")...)
		}, "publish the policy anew", false, false},
		{"a rule is forgotten", func(t *testing.T, s *shelf) {
			e := s.objectOf(t, gpipsec.ClassPolicy, "web")
			e.set("ipsecNFAReference", e.all("ipsecNFAReference")[:1]...)
		}, "it belongs to no policy", true, true},
		{"data are cut", func(t *testing.T, s *shelf) {
			e := s.objectOf(t, gpipsec.ClassFilter, "http")
			e.set("ipsecData", e.get("ipsecData")[:40])
		}, "ipsecData", false, false},
		{"data cannot be read", func(t *testing.T, s *shelf) { s.objectOf(t, gpipsec.ClassFilter, "http").Attributes = nil }, "may not read them", false, false},
		{"a key in clear", func(t *testing.T, s *shelf) {
			p := edited(func(p *policy.Policy) {
				p.Name, p.Rules[0].Authentication = "keys", []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "k"}}
			})
			o := PublishOptions{KeyNames: true, Keys: nil}
			o.Keys = map[string]sadb.Secret{"k": sadb.NewSecret([]byte("clear"))}
			plan, err := planPublish(s.contents(), p, o)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := apply(t.Context(), s, plan); err != nil {
				t.Fatal(err)
			}
		}, "in clear", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf()
			publish(t, s, webPolicy())
			c.damage(t, s)
			found := s.contents().check(nil, "")
			if !slices.ContainsFunc(found, func(f Finding) bool { return strings.Contains(f.String(), c.says) && f.Warning == c.warning }) {
				t.Errorf("not found: %v", found)
			}
			if len(s.contents().sealed) == 0 {
				mended := s.clone()
				publish(t, mended, webPolicy())
				mended.sound(t)
				if d := differs(normal(t, webPolicy()), read(t, mended, "web")); d != "" {
					t.Errorf("published again: %s", d)
				}
			}
			if !c.repaired {
				return
			}
			if _, err := apply(t.Context(), s, RepairPlan(found)); err != nil {
				t.Fatal(err)
			}
			if left := s.contents().check(nil, ""); len(left) > 0 {
				t.Errorf("repaired, and still: %v", left)
			}
		})
	}
}

func TestAssignmentsAreChecked(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	web := s.objectOf(t, gpipsec.ClassPolicy, "web").DN
	for _, c := range []struct {
		assigned Assigned
		says     string
	}{
		{Assigned{Name: "good", Policy: web, PolicyName: "web"}, ""},
		{Assigned{Name: "elsewhere", Policy: "CN=ipsecPolicy{72385236-70FA-11D1-864C-14A300000000},DC=other,DC=test"}, ""},
		{Assigned{Name: "gone", Policy: "CN=ipsecPolicy{72385236-70FA-11D1-864C-14A300000000}," + testContainer}, "which is not there"},
		{Assigned{Name: "odd", Policy: "CN=Users,DC=example,DC=test"}, "which is no policy"},
		{Assigned{Name: "silent", Policy: web, Silent: true}, "no host looks"},
		{Assigned{Name: "old name", Policy: web, PolicyName: "www"}, `whose name is "web" now`},
	} {
		got := fmt.Sprint(s.contents().check([]Assigned{c.assigned}, ""))
		if c.says == "" && got != "[]" || !strings.Contains(got, c.says) {
			t.Errorf("%s: %s", c.assigned.Name, got)
		}
	}
}

func TestDeletingAPolicy(t *testing.T) {
	s := newShelf()
	publish(t, s, edited(withResponse))
	web := s.objectOf(t, gpipsec.ClassPolicy, "web").DN
	if _, err := planDelete(s.contents(), "web", []Assigned{{Name: "OU of web", Policy: web}}); err == nil || !strings.Contains(err.Error(), "OU of web") {
		t.Errorf("what is assigned: %v", err)
	}
	if _, err := planDelete(s.contents(), "wep", nil); err == nil || !strings.Contains(err.Error(), `there are: "web"`) {
		t.Errorf("what is not there: %v", err)
	}
	for _, class := range []gpipsec.Class{gpipsec.ClassFilter, gpipsec.ClassNegotiation} {
		name := map[gpipsec.Class]string{gpipsec.ClassFilter: "http", gpipsec.ClassNegotiation: "require"}[class]
		if _, err := planDeleteShared(s.contents(), class, name); err == nil || !strings.Contains(err.Error(), `rule "secure the web"`) {
			t.Errorf("what is used: %v", err)
		}
	}
	made, err := planDelete(s.contents(), "web", nil)
	if err != nil {
		t.Fatal(err)
	}
	for at := range made.Steps {
		cut := s.clone()
		cut.failAt, cut.dead = at+1, true
		if _, err := apply(t.Context(), cut, made); err == nil {
			t.Fatal("nobody says that it failed")
		}
		if p := read(t, cut, "web"); at == 0 != (p != nil) {
			t.Errorf("cut at step %d: policy %v", at, p)
		}
		cut.failAt = 0
		if _, err := apply(t.Context(), cut, RepairPlan(cut.contents().check(nil, ""))); err != nil {
			t.Fatal(err)
		}
		if left := cut.contents().check(nil, ""); len(left) > 0 {
			t.Errorf("cut at step %d and repaired: %v", at, left)
		}
	}
	if _, err := apply(t.Context(), s, made); err != nil {
		t.Fatal(err)
	}
	s.sound(t)
	for _, o := range s.contents().objects {
		if o.Class != gpipsec.ClassFilter && (o.Class != gpipsec.ClassNegotiation || o.Name == "") {
			t.Errorf("%s is left", o.Ref)
		}
	}
}
