package xfrm

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// Whatever message of whatever operation the kernel refuses, the error says so
// and what was in force before is in force: policies, states, table, and what
// the driver and its book know of them.
func TestARefusalAtAnyMessageChangesNothing(t *testing.T) {
	refusals := 0
	for _, op := range operations() {
		if op.name == "expire" || op.name == "AllocSPI and AddSA" {
			continue // the one is tried again, the other is two
		}
		n := 1
		for refuseAt(t, op, n) {
			n++
		}
		refusals += n - 1
	}
	if refusals < 90 {
		t.Errorf("only %d refusals", refusals)
	}
}

// refuseAt runs an operation whose message n is refused, and reports whether it
// has so many.
func refuseAt(t *testing.T, op operation, n int) bool {
	t.Helper()
	k, dir := newKernel(), t.TempDir()
	s := situationOf(1)
	e := s.begin(t, k, dir)
	policies, states, table := maps.Clone(k.policies), maps.Clone(k.states), k.filters
	filters, overlays, sas := e.filters, e.overlays, maps.Clone(e.sas.byID)
	k.fail = k.messages + n
	err := op.do(e, s)
	if k.messages < k.fail {
		return false
	}
	if err == nil {
		return true // it could do without
	}
	if !errors.Is(err, unix.ENOMEM) {
		t.Fatalf("%s, message %d: %v", op.name, n, err)
	}
	if op.name == "Abandon" {
		maps.DeleteFunc(k.states, func(id sadb.SAID, _ wire.State) bool { _, was := states[id]; return !was }) // given an SPI, it ends by itself
	}
	w := &watch{t: t, k: k, where: fmt.Sprintf("%s, message %d refused", op.name, n)}
	r := rand.New(rand.NewPCG(uint64(n), 6))
	for range 20 {
		w.packets = append(w.packets, randomPacket(r))
	}
	w.expect(e, [2][]sadb.Filter{s.filters, s.overlays})
	w.look()
	for what, same := range map[string]bool{
		"policies":                 len(k.policies) == len(policies),
		"what it knows of them":    alike(e.have, k.policies),
		"states":                   reflect.DeepEqual(k.states, states),
		"the table":                reflect.DeepEqual(k.filters, table),
		"filters":                  reflect.DeepEqual(e.filters, filters) && reflect.DeepEqual(e.overlays, overlays),
		"associations":             maps.Equal(e.sas.byID, sas),
		"what a next process does": len(plan(k.policies, k.open(t, dir).list.policies())) == len(e.exempt),
	} {
		if !same {
			t.Errorf("%s, message %d refused: %s: not as before (%v)", op.name, n, what, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return true
}
