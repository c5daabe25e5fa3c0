package agent

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/agent/control"
)

// maxBroken bounds how many documents the warnings name.
const maxBroken = 20

// lookAtLibrary notes which documents of the library do not load: not that of
// the policy in force, which is a problem, but those that somebody may count on
// tomorrow.
func (a *Agent) lookAtLibrary(now time.Time) {
	if a.cfg.Library.List == nil {
		return
	}
	former := a.broken
	a.broken = a.brokenDocuments()
	for i, words := range a.broken {
		if i < maxBroken && !slices.Contains(former, words) {
			a.event(now, control.EventAgent, "warning", words, nil)
		}
	}
}

// brokenDocuments says of each document that does not load what is wrong with
// it first.
func (a *Agent) brokenDocuments() []string {
	entries, err := a.cfg.Library.List()
	if err != nil {
		return []string{"the policies folder cannot be read: " + err.Error()}
	}
	var words []string
	for _, e := range entries {
		if e.Err != nil && !a.speaksOf(e) {
			words = append(words, "a policy that is not assigned does not load: "+firstProblem(e.Err))
		}
	}
	if more := len(words) - maxBroken; more > 0 {
		words = append(words[:maxBroken], fmt.Sprintf("and %d more policies do not load: ipsecctl policy list", more))
	}
	return words
}

// speaksOf reports whether a document is that of the assigned policy, which a
// problem speaks of.
func (a *Agent) speaksOf(e Entry) bool {
	return a.assigned != nil && a.assigned.Name != "" && (e.Origin == a.inForce.origin || e.Name == a.assigned.Name)
}

// firstProblem returns the first thing that is wrong, on one line, and how many
// more there are.
func firstProblem(err error) string {
	problems := flatten(err)
	words := firstLine(problems[0])
	if more := len(problems) - 1; more > 0 {
		words += fmt.Sprintf(" (and %d more)", more)
	}
	return words
}
