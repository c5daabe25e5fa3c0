package wire

import (
	"reflect"
	"testing"

	"ipsecagent/sadb"
)

// migration moves one end of a tunnel; the kernel was asked for it by capture_test.go.
func migration() Migrate {
	return Migrate{Selector: Selector{Src: prefix("10.1.0.0/16"), Dst: prefix("10.2.0.0/16")}, Dir: Out, Moves: []Move{{
		OldSrc: addr("10.9.0.1"), OldDst: addr("10.9.0.2"), NewSrc: addr("10.9.0.1"), NewDst: addr("10.9.0.3"),
		Proto: sadb.ESP, Mode: sadb.Tunnel, ReqID: 7}}}
}

// What the kernel says of a migration is what it was asked for, and it has
// understood: the policy's template has the new address.
func TestMigrate(t *testing.T) {
	eachCaptured(t, "migrate.0", MsgMigrate, func(t *testing.T, body []byte) {
		if got, err := ParseMigrate(body); err != nil || !reflect.DeepEqual(got, migration()) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	eachCaptured(t, "migrated-policy.0", MsgNewPolicy, func(t *testing.T, body []byte) {
		p, err := ParsePolicy(body)
		if err != nil || len(p.Templates) != 1 || p.Templates[0].Dst != addr("10.9.0.3") || p.Templates[0].Src != addr("10.9.0.1") {
			t.Errorf("the policy is %+v, %v", p, err)
		}
	})
}

func TestMigrateBetweenFamilies(t *testing.T) {
	want := migration()
	want.Moves = append(want.Moves, Move{OldSrc: addr("10.9.0.1"), OldDst: addr("10.9.0.2"), NewSrc: addr("2001:db8::1"), NewDst: addr("2001:db8::2"), Proto: sadb.AH, ReqID: 8})
	if got, err := ParseMigrate(want.Append(nil)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	seven := want
	for range 5 {
		seven.Moves = append(seven.Moves, want.Moves[0])
	}
	for what, b := range map[string][]byte{
		"nothing":      Migrate{Selector: want.Selector, Dir: Out}.Append(nil),
		"seven moves":  seven.Append(nil),
		"part of one":  appendAttr(Migrate{Selector: want.Selector}.Append(nil)[:sizePolicyID], attrMigrate, make([]byte, sizeMove-1)),
		"no family":    appendAttr(Migrate{Selector: want.Selector}.Append(nil)[:sizePolicyID], attrMigrate, make([]byte, sizeMove)),
		"no selection": want.Append(nil)[:sizePolicyID-1],
	} {
		if m, err := ParseMigrate(b); err == nil {
			t.Errorf("%s was read as %+v", what, m)
		}
	}
}

// FuzzMigrate: what is read can be written and is read as the same again.
func FuzzMigrate(f *testing.F) {
	f.Add(migration().Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMigrate(b)
		if err != nil {
			return
		}
		if again, err := ParseMigrate(m.Append(nil)); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}
