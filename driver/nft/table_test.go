package nft

import (
	"testing"

	"ipsecagent/sadb"
)

func requireAll() sadb.Filter {
	return sadb.Filter{ID: "all", Name: "all", Dir: sadb.Both, Selector: sadb.Selector{Local: sadb.Me()},
		Action: sadb.Action{Kind: sadb.Negotiate}}
}

func TestApply(t *testing.T) {
	l := newLab(t)
	table := l.open()
	if err := table.Apply([]sadb.Filter{requireAll()}); err != nil {
		t.Fatal(err)
	}
	t.Log(l.inA("nft list ruleset"))
	t.Log(table.Stats())
}
