package agent

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
)

func TestJournalKeepsTheNewest(t *testing.T) {
	j := newJournal(slog.New(slog.DiscardHandler))
	now := time.Unix(0, 0)
	for i := range ringSize + 50 {
		now = now.Add(time.Second)
		j.add(now, control.Event{Kind: "k", Message: fmt.Sprint(i)})
	}
	c, err := j.follow(false)
	if err != nil {
		t.Fatal(err)
	}
	var got []control.Event
	for e := range c {
		got = append(got, e)
	}
	if len(got) != ringSize || got[0].Message != "50" || got[ringSize-1].Message != fmt.Sprint(ringSize+49) {
		t.Errorf("%d events, from %q", len(got), got[0].Message)
	}
}

func TestJournalLimitsOneKindAndCounts(t *testing.T) {
	j := newJournal(slog.New(slog.DiscardHandler))
	now := time.Unix(0, 0)
	for range kindBurst + 300 {
		j.add(now, control.Event{Kind: "flood"})
	}
	j.add(now, control.Event{Kind: "other"})
	if len(j.ring) != kindBurst+1 {
		t.Errorf("%d events kept", len(j.ring))
	}
	j.add(now.Add(time.Second), control.Event{Kind: "flood"})
	if got := j.ring[len(j.ring)-1].Fields["suppressed"]; got != "300" {
		t.Errorf("suppressed %q", got)
	}
}

func TestJournalEscapesAndBoundsAPeersWords(t *testing.T) {
	var log bytes.Buffer
	j := newJournal(slog.New(slog.NewTextHandler(&log, nil)))
	fields := map[string]string{}
	for i := range 20 {
		fields[fmt.Sprint("field", i)] = strings.Repeat("\x1b[31m\n", 100)
	}
	j.add(time.Unix(0, 0), control.Event{Kind: "k", Severity: "warning", Message: "bad\n\x1b[2J" + strings.Repeat("é", 5000), Fields: fields})
	if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 || log.Len() > 1024 {
		t.Errorf("%d lines, %d bytes", n, log.Len())
	}
	if bytes.ContainsAny(log.Bytes(), "\x1b") || strings.ContainsAny(j.ring[0].Message, "\x1b\n") {
		t.Errorf("control characters in %q", log.String())
	}
}

func TestSlowFollowerIsLeftBehindWithANote(t *testing.T) {
	j := newJournal(slog.New(slog.DiscardHandler))
	c, err := j.follow(true)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	for range 2 * followerSlack {
		now = now.Add(time.Second)
		j.add(now, control.Event{Kind: "k", Message: "event"})
	}
	var last control.Event
	n := 0
	for e := range c {
		last = e
		n++
	}
	if n != followerSlack || !strings.Contains(last.Message, "too slow") || len(j.followers) != 0 {
		t.Errorf("%d events, the last %q", n, last.Message)
	}
}

func TestFollowersAreBounded(t *testing.T) {
	j := newJournal(slog.New(slog.DiscardHandler))
	for range maxFollowers {
		if _, err := j.follow(true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.follow(true); err == nil {
		t.Error("one more follower")
	}
	j.close()
	if _, err := j.follow(true); err != nil {
		t.Error(err)
	}
}

func TestFollowEndsWithItsReader(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		events, err := r.agent.Events(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		r.assign("server")
		cancel()
		applied := 0
		for e := range events {
			if e.Kind == control.EventPolicyApplied {
				applied++
			}
		}
		if applied != 1 {
			t.Errorf("%d events of the assignment", applied)
		}
	})
}

func TestFollowersEndWithTheAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		events, err := r.agent.Events(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.stop = func() error { return nil }
		var last control.Event
		for e := range events {
			last = e
		}
		if !strings.Contains(last.Message, "stay in force") {
			t.Errorf("the last event is %q", last.Message)
		}
	})
}

func TestTimersRunInOrder(t *testing.T) {
	var ts timers
	var ran []int
	start := time.Unix(100, 0)
	note := func(i int) func(time.Time) { return func(time.Time) { ran = append(ran, i) } }
	ts.at(start.Add(3), note(3))
	ts.at(start.Add(1), func(now time.Time) {
		ran = append(ran, 1)
		ts.at(now, note(2))
	})
	ts.at(start.Add(9), note(9))
	ts.run(start.Add(5))
	if fmt.Sprint(ran) != "[1 3 2]" {
		t.Errorf("ran %v", ran)
	}
	if next, ok := ts.next(); !ok || !next.Equal(start.Add(9)) {
		t.Errorf("next %v", next)
	}
}

// TestEveryEventHasANumber reads the source: what the agent reports is of a
// kind that control declares, and control gives each of those its number.
func TestEveryEventHasANumber(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "event" {
				calls++
				if _, handed := call.Args[1].(*ast.Ident); handed && name == "backend.go" {
					return true // Report hands on what its caller says
				}
				if kind, ok := call.Args[1].(*ast.SelectorExpr); !ok || !strings.HasPrefix(kind.Sel.Name, "Event") {
					t.Errorf("%s: an event of a kind that control does not declare", name)
				}
			}
			return true
		})
	}
	if calls < 20 {
		t.Errorf("%d events found: does the test still see them?", calls)
	}
}
