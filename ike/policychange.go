package ike

import "time"

// recheck ends the ISAKMP SAs that the policy in force would not have made. The
// peer is told, so that it negotiates anew with what this policy accepts
// instead of trying the old one in vain.
func (m *Machine) recheck(now time.Time) {
	for _, s := range m.established() {
		if !m.stillWanted(s) {
			m.closeSA(now, s, unwanted)
		}
	}
}

// unwanted is why such an ISAKMP SA ends.
const unwanted = "the policy no longer accepts what it stands on"

// stillWanted reports whether some rule accepts the identity that was proven in
// main mode, and its methods.
func (m *Machine) stillWanted(s *isakmp) bool {
	if m.policy.Main == nil {
		return false
	}
	offer, err := m.policy.Main(MainQuery{Local: s.local.Addr(), Remote: s.remote.Addr()})
	return err == nil && s.satisfies(offer)
}
