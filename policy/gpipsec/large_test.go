package gpipsec

import (
	"bytes"
	"fmt"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// A store as large as the model allows goes there and back.
func TestALargeStore(t *testing.T) {
	p := *policy.SecureServer()
	for i := range 10_000 {
		l := policy.FilterList{Name: fmt.Sprintf("list %d", i)}
		for j := range 10 {
			l.Filters = append(l.Filters, policy.Filter{From: policy.Endpoint{Kind: policy.Me}, Protocol: sadb.TCP, ToPorts: sadb.Port(uint16(1 + i + j)), Mirrored: true})
		}
		p.FilterLists = append(p.FilterLists, l)
		p.Rules = append(p.Rules, policy.Rule{Name: l.Name, FilterList: l.Name, FilterAction: "Require Security", Authentication: []policy.AuthMethod{{Kind: policy.Kerberos}}})
	}
	objects, _, err := Encode(policy.Store{Policies: []policy.Policy{p}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := WriteLDIF(&text, DefaultBaseDN+",DC=x", objects); err != nil {
		t.Fatal(err)
	}
	back, err := ReadLDIF(&text)
	if err != nil {
		t.Fatal(err)
	}
	r := Decode(back)
	if len(r.Problems) != 0 || len(r.Store.Policies[0].Rules) != 10_002 || len(r.Store.Policies[0].FilterLists) != 10_002 {
		t.Error(len(r.Problems), len(r.Store.Policies))
	}
}
