package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be one of our two ends, as the command is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == endCommand {
		exit(runEnd(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// TestBothFinish runs the whole benchmark with a few peers: both daemons
// finish every handshake, and there is a figure for each. How fast they were
// is not its business.
func TestBothFinish(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	o, err := parse([]string{"-peers", "12", "-rounds", "2", "-shim", "../../test/peers/xfrmnull.c", "-profile", t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(o, &out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	for _, name := range scenarioNames() {
		for _, who := range []string{"ours", "charon", "ratio"} {
			if !hasRow(out.String(), name, who) {
				t.Errorf("no figure of %s with %s", who, name)
			}
		}
	}
}

func hasRow(text, name, who string) bool {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 4 && f[0] == name && f[1] == who && f[2] != "0" {
			return true
		}
	}
	return false
}

func TestMedianAndRatios(t *testing.T) {
	figures := func(seconds ...int) []figure {
		var all []figure
		for _, s := range seconds {
			all = append(all, figure{peers: 100, wall: time.Duration(s) * time.Second})
		}
		return all
	}
	if got := median(figures(4, 1, 2), rate); got != 50 {
		t.Errorf("median rate %v, want 50", got)
	}
	if got := median(figures(1, 2), rate); got != 75 {
		t.Errorf("median rate of two %v, want 75", got)
	}
	got := ratios(figures(1, 1, 2), figures(2, 4, 4), func(o, c figure) float64 { return o.perSecond() / c.perSecond() })
	if got != "2.00 (2.00–4.00)" {
		t.Errorf("ratios %q", got)
	}
}

func TestUnknownScenarioIsRefused(t *testing.T) {
	if _, err := findScenario("kerberos"); err == nil {
		t.Error("accepted")
	}
	for _, args := range [][]string{{"-peers", "0"}, {"-peers", "60001"}, {"-rounds", "0"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v accepted", args)
		}
	}
}

// TestViciMessage compares with the message that strongSwan's own description
// of the protocol gives as its example.
func TestViciMessage(t *testing.T) {
	m := section{"key1": "value1", "section1": section{"list1": []string{"item1", "item2"},
		"sub-section": section{"key2": "value2"}}}
	want := "\x03\x04key1\x00\x06value1" + "\x01\x08section1" +
		"\x04\x05list1" + "\x05\x00\x05item1" + "\x05\x00\x05item2" + "\x06" +
		"\x01\x0bsub-section" + "\x03\x04key2\x00\x06value2" + "\x02" + "\x02"
	if got := string(m.append(nil)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestViciAnswersMayBeCutShort: no prefix of an answer makes texts fail.
func TestViciAnswersMayBeCutShort(t *testing.T) {
	whole := section{"errmsg": "why", "success": "no"}.append(nil)
	if got := texts(whole); len(got) != 2 || got[1] != "success=no" {
		t.Fatalf("read %q", got)
	}
	for n := range whole {
		if got := texts(whole[:n]); len(got) > 1 {
			t.Errorf("of %d bytes: %q", n, got)
		}
	}
}
