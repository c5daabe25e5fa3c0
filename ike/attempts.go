package ike

import (
	"net/netip"
	"slices"

	"ipsecagent/auth"
)

// attempts is what an initiator remembers of the authentications with a peer
// that failed since one succeeded: it tries the next key, or another method.
type attempts struct {
	failed map[auth.Method]int
	last   auth.Method // by which the last one failed
}

// maxAttempts bounds the peers of which failed attempts are remembered.
const maxAttempts = 1024

// countAttempt has the next attempt as initiator try something else.
func (m *Machine) countAttempt(x *mainMode) {
	if !x.initiator {
		return
	}
	if len(m.attempts) >= maxAttempts {
		clear(m.attempts)
	}
	addr, method := x.remote.Addr(), x.choice.Method
	a := m.attempts[addr]
	if a.failed == nil {
		a.failed = map[auth.Method]int{}
	}
	a.failed[method]++
	a.last = method
	m.attempts[addr] = a
}

// failedBy returns how many attempts with the peer of x failed by a method.
func (m *Machine) failedBy(x *mainMode, method auth.Method) int {
	return m.attempts[x.remote.Addr()].failed[method]
}

// inTurn leaves out the method by which the last attempt with a peer failed, if
// policy names another: every second attempt has all of them.
func (m *Machine) inTurn(peer netip.Addr, choices []mainChoice) []mainChoice {
	last := m.attempts[peer].last
	others := slices.DeleteFunc(slices.Clone(choices), func(c mainChoice) bool { return c.Method == last })
	if last == 0 || len(others) == 0 {
		return choices
	}
	return others
}
