package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
)

func failureAt(i int, own bool) control.Failure {
	return control.Failure{Time: time.Unix(int64(i), 0), Own: own, Code: fmt.Sprint(i)}
}

func numbered(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

func TestFailuresAreBoundedAndStrangersApart(t *testing.T) {
	f := newFailures()
	f.put(bob(), failureAt(0, true))
	for i := range 3 * maxFailedPeers {
		f.put(numbered(i), failureAt(i+1, false))
	}
	if _, ok := f.of(bob()); !ok || len(f.byPeer) != maxFailedPeers+1 {
		t.Errorf("%d peers, bob is there: %v", len(f.byPeer), ok)
	}
	if _, ok := f.of(numbered(0)); ok {
		t.Error("the oldest is not the one that went")
	}
	f.put(bob(), failureAt(9999, false))
	if v, _ := f.of(bob()); v.Time.Unix() != 0 {
		t.Error("a stranger in bob's name hides what happened with bob")
	}
	f.settle(bob())
	if _, ok := f.of(bob()); ok {
		t.Error("a failure lasts although the peer was secured since")
	}
	if got := f.all(bob()); len(got) != 2 || got[0].Time.Unix() != 9999 {
		t.Errorf("history of bob: %+v", got)
	}
}

func TestThePeerThatFailedLongestAgoGivesWay(t *testing.T) {
	f := newFailures()
	for i := range maxFailedPeers {
		f.put(numbered(i), failureAt(i, true))
	}
	f.put(numbered(0), failureAt(5000, true)) // again: now the newest
	f.put(bob(), failureAt(5001, true))
	if _, ok := f.of(numbered(0)); !ok {
		t.Error("the peer that has just failed again went")
	}
	if _, ok := f.of(numbered(1)); ok {
		t.Error("the peer that failed longest ago stays")
	}
}

func TestFailuresOfOnePeerAreFewAndCounted(t *testing.T) {
	f := newFailures()
	for i := range 100 {
		f.put(bob(), failureAt(i, true))
	}
	if got := f.all(bob()); len(got) != maxRecords || got[0].Code != "99" {
		t.Errorf("%d records, the newest %q", len(got), got[0].Code)
	}
	for i := range 5 {
		v := failureAt(200+i, true)
		v.Code = "no-answer"
		f.put(bob(), v)
	}
	got := f.all(bob())
	if got[0].Times != 5 || got[0].First.Unix() != 200 || got[0].Time.Unix() != 204 || got[1].Code != "99" {
		t.Errorf("the same failure again and again: %+v", got[:2])
	}
}

func TestOffersThatAreKeptAreBounded(t *testing.T) {
	many := make([]string, 1000)
	for i := range many {
		many[i] = strings.Repeat("x", 100)
	}
	size := 0
	for _, w := range printables(many) {
		size += len(w)
	}
	if size > maxOffer+maxField {
		t.Errorf("%d bytes are kept of an offer", size)
	}
}

func TestEveryFailureHasAHint(t *testing.T) {
	if got := hintOf(ike.Failed{Code: ike.FailPSK}); !strings.Contains(got, "same key") {
		t.Errorf("hint %q", got)
	}
	if got := hintOf(ike.Failed{Code: ike.FailPSK, Hint: "ask bob"}); got != "ask bob" {
		t.Errorf("hint %q", got)
	}
}
