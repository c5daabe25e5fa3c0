// Package policy is the Windows 2000 IPSec policy model: policies made of
// rules, each a filter list, a filter action, authentication methods, a tunnel
// setting and a connection type. It validates a policy, holds the predefined
// ones and compiles a policy with the facts of a host to ordered filters.
//
// It is pure: no I/O, no clock. It does not read documents (policy/file does)
// and does not enforce anything (a driver does).
package policy

import (
	"net/netip"
	"time"

	"ipsecagent/sadb"
)

// Policy is one policy as an administrator wrote it.
type Policy struct {
	GUID        string // of the directory object; empty for local documents
	Name        string
	Description string
	// PollingInterval is how often the source is asked for changes; 0: 3 h.
	PollingInterval time.Duration
	KeyExchange     KeyExchange
	FilterLists     []FilterList
	FilterActions   []FilterAction
	Rules           []Rule
	DefaultResponse DefaultResponse
	Tests           []Test
	// Mode ReportOnly: nothing that a rule asks to be secured is blocked, until
	// ReportUntil, which is zero otherwise. Imported policies never have it.
	Mode        Enforcement
	ReportUntil time.Time // in UTC
	// Uplift: where the policy lists only old algorithms, the modern ones of
	// the same class are offered before them. Policies of Windows have it set.
	Uplift bool
}

// KeyExchange is the main-mode settings.
type KeyExchange struct {
	GUID string // of the directory object
	// Identity is the GUID that the settings carry themselves: not that of
	// the object.
	Identity string
	Methods  []sadb.ISAKMPSuite // in order of preference
	Lifetime time.Duration      // 0: 8 h
	// Sessions is the number of quick modes under one main mode; 0: no limit.
	Sessions int
	// MasterKeyPFS: one quick mode for each main mode.
	MasterKeyPFS bool
}

// FilterList is a named list of filters, shared by rules.
type FilterList struct {
	GUID        string
	Name        string
	Description string
	Filters     []Filter
}

// Filter is one filter as the administrator wrote it: From and To are source
// and destination.
type Filter struct {
	GUID               string
	Description        string
	From, To           Endpoint
	Protocol           uint8 // 0: any
	FromPorts, ToPorts sadb.Ports
	ICMPType, ICMPCode sadb.Octets
	// Mirrored: also the filter with addresses and ports exchanged.
	Mirrored bool
}

// EndpointKind is the kind of a filter's source or destination (spec of the
// policy model §1.4).
type EndpointKind uint8

// Any is the zero value. The last four are sets taken from the host's own
// configuration and followed as it changes.
const (
	Any EndpointKind = iota
	Me
	Addresses // an address, a prefix or a range
	Name      // a DNS name
	DNSServers
	WINSServers
	DHCPServers
	DefaultGateway
)

// Endpoint is one side of a filter.
type Endpoint struct {
	Kind  EndpointKind
	Addrs sadb.Addrs // Addresses only
	Name  string     // Name only
}

// FilterAction says what to do with the traffic of a filter list.
type FilterAction struct {
	GUID        string
	Name        string
	Description string
	// Kind: the zero value blocks.
	Kind sadb.ActionKind
	// Methods are the security methods in order of preference (Negotiate).
	Methods []SecurityMethod
	// AcceptUnsecured: accept unsecured communication, but always respond
	// using IPSec (inbound pass-through).
	AcceptUnsecured bool
	// AllowClear: allow unsecured communication with computers that are not
	// IPSec-aware.
	AllowClear bool
	// ClearDelay is how long traffic waits before it may go in clear. 0: not.
	ClearDelay time.Duration
	// SessionKeyPFS: a Diffie-Hellman exchange in every quick mode, in
	// PFSGroup; 0: the group of the main mode.
	SessionKeyPFS bool
	PFSGroup      sadb.Group
}

// SecurityMethod is one choice of quick mode: the protocols applied together
// and how long their keys live.
type SecurityMethod struct {
	Suites   []sadb.Suite  // one, or AH and ESP
	Lifetime time.Duration // 0: 1 h
	Bytes    uint64        // 0: 100 GB
}

// AuthKind is a way to prove an identity, in the model's words.
type AuthKind uint8

// Kerberos is the model's default.
const (
	Kerberos AuthKind = iota + 1
	Certificate
	PresharedKey
)

// AuthMethod is one authentication method of a rule.
type AuthMethod struct {
	Kind AuthKind
	CA   string // Certificate: distinguished name of the authority
	// Key names a preshared key of the host's secrets; empty: the default
	// ones. The key itself is never part of a policy.
	Key string
	// AcceptPrincipals are the identities that may stand at the other end;
	// empty: every one the method trusts.
	AcceptPrincipals []string
	// ExcludeCAName and MapToAccount are the certificate options of 2003.
	ExcludeCAName bool
	MapToAccount  bool
}

// TunnelSetting names the tunnel endpoint of a rule; the zero value: none.
type TunnelSetting struct {
	Endpoint netip.Addr
	Name     string // a DNS name instead of the address
}

// IsZero reports whether the rule has no tunnel.
func (t TunnelSetting) IsZero() bool { return !t.Endpoint.IsValid() && t.Name == "" }

// Rule joins a filter list to a filter action.
type Rule struct {
	GUID           string
	Name           string
	Description    string
	Disabled       bool
	FilterList     string // by name
	FilterAction   string // by name
	Authentication []AuthMethod
	Tunnel         TunnelSetting
	Connections    sadb.ConnectionType
	// Mode and ReportUntil are as of Policy, which decides where the rule says
	// nothing.
	Mode        Enforcement
	ReportUntil time.Time // in UTC
}

// DefaultResponse is the default response rule: it never initiates and
// answers a peer that asks for security where no rule says anything.
type DefaultResponse struct {
	GUID           string // of the rule's directory object
	ActionGUID     string // of its filter action's
	Active         bool
	Methods        []SecurityMethod
	Authentication []AuthMethod
	// SessionKeyPFS and PFSGroup are as those of FilterAction: a peer that asks
	// without is refused.
	SessionKeyPFS bool
	PFSGroup      sadb.Group
}

// Test is a flow and the decision the author expects for it.
type Test struct {
	Flow   string // for example "tcp me:1433 -> 10.1.2.3"
	Expect string // "permit", "block", "negotiate" or "none"
}

// Store is what one place keeps: whole policies, and the filter lists and
// filter actions beside them. Imports make one and exports take one.
type Store struct {
	// Policies are whole: each carries the lists and actions its rules name.
	Policies []Policy
	// FilterLists and FilterActions are those that no policy uses.
	FilterLists   []FilterList
	FilterActions []FilterAction
	// Assigned is the name of the policy the place says is assigned; "": none.
	Assigned string
}

// State of an assignment.
type State uint8

// The zero State is invalid: a source must say what it knows.
const (
	None State = iota + 1
	Assigned
)

// Assignment is what a policy source says is assigned to this host.
type Assignment struct {
	State   State
	Policy  *Policy // nil unless Assigned
	Origin  string  // "predefined client", a file, a directory object
	Fetched time.Time
	Cached  bool // from the last good copy: the source is unreachable
}
