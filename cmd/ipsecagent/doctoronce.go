package main

import (
	"slices"
	"strings"
	"unicode"

	"ipsecagent/agent/control"
)

// once leaves out what the agent says of itself where a check says the same: that
// one knows what to do.
func once(found []control.Check) []control.Check {
	return slices.DeleteFunc(slices.Clone(found), func(c control.Check) bool {
		return c.Name == policyName && c.State == control.CheckProblem && repeated(c.Says, found)
	})
}

// repeated reports whether problems of other checks say all that words say.
func repeated(words string, found []control.Check) bool {
	words = bare(words)
	rest := words
	for _, c := range found {
		if c.Name == policyName || c.State != control.CheckProblem {
			continue
		}
		rest = strings.ReplaceAll(rest, bare(c.Says), "")
	}
	return rest != words && !strings.ContainsFunc(rest, unicode.IsLetter)
}

// bare is a problem without the words that only the agent, or only a check, puts
// around it.
func bare(says string) string {
	for _, lead := range []string{keysStay, settingsStay} {
		says = strings.TrimPrefix(says, lead)
	}
	if strings.HasPrefix(says, "policy \"") {
		_, after, _ := strings.Cut(says[len("policy \""):], "\": ")
		says = after
	}
	return strings.ReplaceAll(says, " on this host:", ":")
}
