package control

// The states of a check.
const (
	CheckFine    = "ok"
	CheckWarning = "warning" // works, or works now, and may not be what is wanted
	CheckProblem = "problem" // something of the agent's does not work for it
)

// Check is one thing that was looked at on a host.
type Check struct {
	Name  string `json:"check"` // what was looked at
	State string `json:"state"` // one of the constants
	Says  string `json:"says"`  // what was found, in words
	Do    string `json:"do,omitempty"`
}

// Doctor is what 'ipsecctl doctor' finds.
type Doctor struct {
	SchemaVersion string  `json:"schemaVersion"`
	Checks        []Check `json:"checks"`
}

// Count returns how many checks are in a state.
func (d Doctor) Count(state string) (n int) {
	for _, c := range d.Checks {
		if c.State == state {
			n++
		}
	}
	return n
}
