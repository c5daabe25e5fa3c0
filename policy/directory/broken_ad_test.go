package directory_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

// policyOf makes a policy of objects of its own and returns its DN: the copy of a
// predefined one, changed by edit.
func (s *scene) policyOf(name string, edit func(*policy.Policy), o gpipsec.Options) string {
	s.t.Helper()
	p, ok := policy.Original(name)
	if !ok {
		s.t.Fatalf("no policy %s", name)
	}
	p.Name, p.GUID, p.KeyExchange.GUID, p.DefaultResponse.GUID, p.DefaultResponse.ActionGUID = s.t.Name()+" "+p.Name, "", "", "", ""
	for i := range p.Rules {
		p.Rules[i].GUID = ""
	}
	for i := range p.FilterLists {
		p.FilterLists[i].GUID, p.FilterLists[i].Name = "", s.t.Name()+p.FilterLists[i].Name
	}
	for i := range p.FilterActions {
		p.FilterActions[i].GUID, p.FilterActions[i].Name = "", s.t.Name()+p.FilterActions[i].Name
	}
	for i := range p.Rules {
		p.Rules[i].FilterList, p.Rules[i].FilterAction = s.t.Name()+p.Rules[i].FilterList, s.t.Name()+p.Rules[i].FilterAction
	}
	if edit != nil {
		edit(p)
	}
	objects, _, err := gpipsec.Encode(policy.Store{Policies: []policy.Policy{*p}}, o)
	if err != nil {
		s.t.Fatal(err)
	}
	var text strings.Builder
	if err := gpipsec.WriteLDIF(&text, container, objects); err != nil {
		s.t.Fatal(err)
	}
	if err := s.ad.Do("ldif", text.String()); err != nil {
		s.t.Fatal(err)
	}
	for _, o := range objects {
		if o.Class == gpipsec.ClassPolicy {
			return "CN=" + o.Ref.String() + "," + container
		}
	}
	s.t.Fatal("no policy among the objects")
	return ""
}

// referred returns the first object that an object refers to.
func (s *scene) referred(dn, attribute string) string {
	s.t.Helper()
	e, err := s.admin.Read(deadline(s.t), dn, attribute)
	if err != nil || len(e.Values(attribute)) == 0 {
		s.t.Fatalf("%q has no %s: %v", dn, attribute, err)
	}
	return string(e.Values(attribute)[0])
}

func TestAPolicyIsReadWholeOrNotAtAll(t *testing.T) {
	const hidden = "O:DAG:DAD:P(A;;RPWPCCDCLCLORCWOWDSDDTSW;;;DA)"
	s := newScene(t)
	remove := func(s *scene, dn string) {
		if err := s.admin.Delete(deadline(s.t), dn); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		do   func(s *scene, dn string)
		says string // "": it is read
	}{
		{"whole", func(*scene, string) {}, ""},
		{"hidden", func(s *scene, dn string) {
			if err := s.ad.Do("descriptor", dn, hidden); err != nil {
				s.t.Fatal(err)
			}
		}, "may not see it"},
		{"a rule is hidden", func(s *scene, dn string) {
			if err := s.ad.Do("descriptor", s.referred(dn, "ipsecNFAReference"), hidden); err != nil {
				s.t.Fatal(err)
			}
		}, "needs"},
		{"a rule is gone", func(s *scene, dn string) { remove(s, s.referred(dn, "ipsecNFAReference")) }, "needs"},
		{"the key exchange settings are gone", func(s *scene, dn string) { remove(s, s.referred(dn, "ipsecISAKMPReference")) }, "needs"},
		{"a filter list is gone", func(s *scene, dn string) {
			for _, nfa := range s.rules(dn) {
				if e, err := s.admin.Read(deadline(s.t), nfa, "ipsecFilterReference"); err == nil && len(e.Values("ipsecFilterReference")) > 0 {
					remove(s, string(e.Values("ipsecFilterReference")[0]))
					return
				}
			}
			s.t.Fatal("no rule has a filter list")
		}, "needs"},
		{"references in a circle", func(s *scene, dn string) { s.set(s.referred(dn, "ipsecNFAReference"), "ipsecFilterReference", dn) }, "is not sound"},
		{"a rule that is a computer", func(s *scene, dn string) {
			s.set(dn, "ipsecNFAReference", "CN="+strings.ToUpper(s.name)+","+s.inner)
		}, "may read no more than the name"},
		{"data that is none", func(s *scene, dn string) { s.set(s.referred(dn, "ipsecNFAReference"), "ipsecData", "no data") }, "is not sound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			dn := s.policyOf("server", nil, gpipsec.Options{})
			s.link(s.inner, s.gpo("x", dn), "0")
			c.do(s, dn)
			a, err := connect(t, s.config).Fetch(deadline(t))
			switch {
			case c.says == "" && (err != nil || a.State != policy.Assigned):
				t.Errorf("%v, %v", a, err)
			case c.says != "" && (!errors.Is(err, directory.ErrUnreadable) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v, which does not say %q", err, c.says)
			}
		})
	}
}

// rules returns the rules of a policy.
func (s *scene) rules(dn string) []string {
	s.t.Helper()
	e, err := s.admin.Read(deadline(s.t), dn, "ipsecNFAReference")
	if err != nil {
		s.t.Fatal(err)
	}
	var all []string
	for _, v := range e.Values("ipsecNFAReference") {
		all = append(all, string(v))
	}
	return all
}

// TestAPolicyThatIsEditedMeanwhileIsGivenUp: somebody writes to the objects all
// the time while they are read.
func TestAPolicyThatIsEditedMeanwhileIsGivenUp(t *testing.T) {
	s := newScene(t)
	dn := s.policyOf("server", nil, gpipsec.Options{})
	s.link(s.inner, s.gpo("x", dn), "0")
	rule := s.referred(dn, "ipsecNFAReference")
	session := connect(t, s.config)
	writing, stop := context.WithCancel(deadline(t))
	wrote := make(chan int)
	go func() {
		n := 0
		for ; writing.Err() == nil; n++ {
			words := []byte(time.Now().String())
			_ = s.admin.Modify(context.Background(), rule, directory.Change{Kind: directory.ReplaceValues, Attribute: directory.Attribute{Name: "description", Values: [][]byte{words}}})
		}
		wrote <- n
	}()
	changing := 0
	for range 2 {
		a, err := session.Fetch(deadline(t))
		switch {
		case errors.Is(err, directory.ErrChanging):
			changing++
		case err != nil || a.Policy == nil:
			t.Errorf("%v, %v", a, err)
		}
	}
	stop()
	t.Logf("%d writes; given up %d times of 2", <-wrote, changing)
	if a, err := session.Fetch(deadline(t)); err != nil || a.Policy == nil {
		t.Errorf("afterwards: %v, %v", a, err)
	}
}

// TestAKeyInTheDirectoryIsNotPartOfThePolicy: it is handed out beside it, and
// said.
func TestAKeyInTheDirectoryIsNotPartOfThePolicy(t *testing.T) {
	const key = "a key that everyone can read"
	s := newScene(t)
	dn := s.policyOf("server", func(p *policy.Policy) {
		p.Rules[0].Authentication = []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "branch"}}
	}, gpipsec.Options{Keys: map[string]sadb.Secret{"branch": sadb.NewSecret([]byte(key))}})
	s.link(s.inner, s.gpo("x", dn), "0")
	a, err := connect(t, s.config).Fetch(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Secrets) != 1 || string(a.Secrets[0].Key.Bytes()) != key {
		t.Fatalf("%d keys", len(a.Secrets))
	}
	if all := fmt.Sprintf("%+v %+v", a, a.Policy); strings.Contains(all, key) {
		t.Error("the key prints")
	}
	if words := strings.Join(a.Warnings, " "); !strings.Contains(words, "preshared key") || !strings.Contains(words, a.Secrets[0].Name) {
		t.Errorf("it is not said: %q", words)
	}
}
