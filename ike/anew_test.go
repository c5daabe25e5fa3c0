package ike

import (
	"slices"
	"testing"
	"time"

	"ipsecagent/ike/wire"
)

// TestStartingAnewForgetsForgedAnswers: somebody who sees the cookies spends
// what this side computes over messages 4. The exchange starts anew with other
// cookies, and the genuine message 4 is welcome.
func TestStartingAnewForgetsForgedAnswers(t *testing.T) {
	w, a, b := two(t, 1)
	w.net.OnNth(w.at(b), w.at(a), 2, func(data []byte) []byte {
		for n := range byte(maxKEWork) { // no point of the curve, each another message
			forged := rewrite(t, data, func(p []wire.Payload) []wire.Payload {
				p = slices.Clone(p)
				p[0].Body = append(make([]byte, 63), n)
				return p
			})
			a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: forged})
			for o, ok := a.m.Poll(); ok; o, ok = a.m.Poll() {
				w.output(a, o)
			}
		}
		return nil
	})
	for n := 3; n < 3+silentKE-1; n++ {
		w.net.DropNth(w.at(b), w.at(a), n) // the repeated ones
	}
	w.ask(a, b, 1)
	w.run(30 * time.Second)
	if a.dropped["main mode message 4: too many of them"] != 0 || len(a.failed) != 0 {
		t.Errorf("dropped %v, failed %+v", a.dropped, a.failed)
	}
	w.checkPaired(a, b)
}
