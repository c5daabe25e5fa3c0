// Package control is the control socket of the agent: requests and answers,
// the server and the client. HTTP and JSON on a unix socket, callers known by
// SO_PEERCRED, paths /v1/…, event streams as NDJSON.
//
// It shows and asks; it decides nothing. The agent's loop answers through
// Backend.
package control

import (
	"context"
	"net/netip"
	"time"
)

// SchemaVersion of the JSON answers: the minor number grows with additions,
// the major one with anything else.
const SchemaVersion = "1.4"

// Backend is the agent as the control socket sees it. Each call is answered by
// the agent's loop. Errors of type *Error keep their code.
type Backend interface {
	Status(ctx context.Context) (Status, error)
	// Assign puts a policy in force and remembers it.
	Assign(ctx context.Context, r AssignRequest) (AssignResult, error)
	Unassign(ctx context.Context) (AssignResult, error)
	// Apply puts the policy of a document in force, for good or until it is
	// confirmed. Confirm keeps what waits; its caller's connection began at
	// that time. Rollback puts in force again what was before.
	Apply(ctx context.Context, r ApplyRequest) (ApplyResult, error)
	Confirm(ctx context.Context, began time.Time) (ApplyResult, error)
	Rollback(ctx context.Context) (ApplyResult, error)
	// Reported says what report mode has let pass.
	Reported(ctx context.Context) (Report, error)
	// Reload reads sources and configuration again.
	Reload(ctx context.Context) (AssignResult, error)
	Policies(ctx context.Context) ([]PolicyInfo, error)
	// Policy shows one policy; "" is the assigned one. Effective: as
	// compiled for this host, in order, with what is exempt.
	Policy(ctx context.Context, name string, effective bool) (PolicyView, error)
	SAs(ctx context.Context) (SAList, error)
	// Why says what is known of one peer, however little.
	Why(ctx context.Context, peer netip.Addr) (Why, error)
	// Explain says how a packet is treated by what is in force.
	Explain(ctx context.Context, r ExplainRequest) (Explanation, error)
	// Lint says what is probably not meant in a policy, on this host.
	Lint(ctx context.Context, r LintRequest) (LintResult, error)
	// Events returns past events from the agent's ring, oldest first, and,
	// with follow, those that come until ctx ends; then it closes.
	Events(ctx context.Context, follow bool) (<-chan Event, error)
	// Trace returns the exchanges with a peer, from now until ctx ends; then
	// it closes.
	Trace(ctx context.Context, r TraceRequest) (<-chan TraceLine, error)
}

// Code says what kind of error an answer is; ipsecctl's exit code.
type Code int

// The codes (exit codes of ipsecctl).
const (
	OK           Code = 0
	Failed       Code = 1
	Usage        Code = 2
	NotReachable Code = 3
	NotFound     Code = 4
	NotPermitted Code = 5
	Invalid      Code = 6
	Differs      Code = 7
	TimedOut     Code = 8
	Degraded     Code = 9
)

// Error is an error with a code for the caller.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// AssignRequest asks to put a policy in force.
type AssignRequest struct {
	// Policy is the name of a predefined policy (client, server,
	// secure-server) or of one in the policies folder.
	Policy string `json:"policy"`
	// Auth replaces the authentication of every rule: "" keeps it,
	// "psk-file" uses the keys of Keys, "kerberos" this host's key table,
	// "cert:NAME" certificates of the authority of that distinguished name.
	Auth string `json:"auth,omitempty"`
	// Compat "windows2000": the predefined policy as Windows 2000 has it.
	Compat string `json:"compat,omitempty"`
	// Keys is the content of the preshared-key file that the caller read;
	// kept by the agent in its own secrets, never shown again.
	Keys string `json:"keys,omitempty"`
}

// AssignResult says what is in force now.
type AssignResult struct {
	SchemaVersion string   `json:"schemaVersion"`
	Policy        string   `json:"policy"` // "" : none
	Origin        string   `json:"origin"`
	Filters       int      `json:"filters"`
	Warnings      []string `json:"warnings,omitempty"`
}

// Status is what an administrator asks first: what is in force, with whom is
// traffic secured, with whom not, and what failed.
type Status struct {
	SchemaVersion string        `json:"schemaVersion"`
	Agent         AgentStatus   `json:"agent"`
	Policy        PolicyStatus  `json:"policy"`
	DataPath      DataPath      `json:"dataPath"`
	Secured       []SecuredPeer `json:"secured"`
	InClear       []ClearPeer   `json:"inClear"`
	Negotiating   []Negotiating `json:"negotiating"`
	Failures      []Failure     `json:"failures"` // last one of each peer, newest first, bounded
	// Problems are what makes the state degraded, in words; empty: fine.
	Problems []string `json:"problems"`
	// Warnings are what may become a problem, as a policy that is not
	// assigned and does not load.
	Warnings []string `json:"warnings,omitempty"`
	// Pending is the policy that waits to be confirmed; nil: none does.
	Pending *Pending `json:"pending,omitempty"`
	// Report is nil unless a rule is in report mode.
	Report *ReportStatus `json:"report,omitempty"`
	// Directory is nil unless this host takes policy from a directory.
	Directory *DirectoryStatus `json:"directory,omitempty"`
}

// How it can stand with a directory.
const (
	DirectoryPending     = "pending"     // it has not answered yet, or its "none" waits to be confirmed
	DirectoryFresh       = "fresh"       // it has answered
	DirectoryUnreachable = "unreachable" // it cannot be asked; what it said last counts
	DirectoryUnreadable  = "unreadable"  // a policy is assigned that cannot be read; what it said last counts
)

// DirectoryStatus is how it stands with the directory that policy comes from.
type DirectoryStatus struct {
	State string `json:"state"` // one of the Directory constants
	// Assigned is the policy that the directory assigns; empty: none, or that is
	// not known. Origin says by what.
	Assigned string `json:"assigned,omitempty"`
	Origin   string `json:"origin,omitempty"`
	// GPO is the group policy object that assigns it and Link the entry that it
	// is linked to, or in other directories the entry that points to it.
	GPO  string `json:"gpo,omitempty"`
	Link string `json:"link,omitempty"`
	// Server and Site are those of the connection; empty: there is none.
	Server string `json:"server,omitempty"`
	Site   string `json:"site,omitempty"`
	// Since is since when it says so, Confirmed when it last did, Next when it
	// is asked again at the latest.
	Since     time.Time `json:"since,omitzero"`
	Confirmed time.Time `json:"confirmed,omitzero"`
	Next      time.Time `json:"next,omitzero"`
	// Copied is when the policy in force was kept for the day that the directory
	// is away.
	Copied time.Time `json:"copied,omitzero"`
	// Problem is what is to be mended, in words; empty: nothing.
	Problem string `json:"problem,omitempty"`
	// Warnings are what is wrong in the directory without harm to the policy.
	Warnings []string `json:"warnings,omitempty"`
}

// ReportStatus is what report mode amounts to.
type ReportStatus struct {
	Rules int `json:"rules"` // in report mode
	// Until is when the first of them is enforced.
	Until time.Time `json:"until"`
	// Peers with whom traffic would have been blocked.
	Peers int `json:"peers"`
}

// AgentStatus is the daemon itself.
type AgentStatus struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Host    string    `json:"host"`
}

// PolicyStatus is what policy is in force.
type PolicyStatus struct {
	// State is "assigned"; "none": there is no policy, traffic passes in clear;
	// "held": it cannot be known or put in force what is assigned, and what the
	// data path enforces stays as it is.
	State   string    `json:"state"`
	Name    string    `json:"name,omitempty"`
	Origin  string    `json:"origin,omitempty"`
	Applied time.Time `json:"applied,omitzero"`
	Filters int       `json:"filters"`
	// Error is why the last reload did not take; the policy named above is
	// the last good one and still in force.
	Error string `json:"error,omitempty"`
	// From is "directory" if the directory assigned it, "persistent" if nothing
	// else is assigned; empty: it is assigned on this host.
	From string `json:"from,omitempty"`
	// Cached: it is the kept copy, its source could not be asked.
	Cached bool `json:"cached,omitempty"`
	// DefaultResponse: the rule is active.
	DefaultResponse bool `json:"defaultResponse"`
}

// DataPath is what carries the traffic.
type DataPath struct {
	Driver   string            `json:"driver"`
	Why      string            `json:"why,omitempty"` // this driver was chosen, in words
	Started  time.Time         `json:"started"`
	Counters map[string]uint64 `json:"counters"`
	Exempt   []string          `json:"exempt"`
}

// SecuredPeer is a peer with an association pair in force.
type SecuredPeer struct {
	Peer       string    `json:"peer"`
	Local      string    `json:"local"`
	Flow       string    `json:"flow"`
	Rule       string    `json:"rule"`
	Filter     string    `json:"filter"`
	Principal  string    `json:"principal"`
	Method     string    `json:"method"`
	Suite      string    `json:"suite"`
	Mode       string    `json:"mode"`
	Since      time.Time `json:"since"`
	Expires    time.Time `json:"expires,omitzero"`
	BytesIn    uint64    `json:"bytesIn"`
	BytesOut   uint64    `json:"bytesOut"`
	PacketsIn  uint64    `json:"packetsIn"`
	PacketsOut uint64    `json:"packetsOut"`
	SPIIn      string    `json:"spiIn"`
	SPIOut     string    `json:"spiOut"`
	// CA is the authority that the identity was proven under (certificates).
	CA string `json:"ca,omitempty"`
	// NAT: "OWN - PEER", the UDP endpoints of ESP in UDP; empty: plain ESP.
	NAT string `json:"nat,omitempty"`
	// LastUsed is when the association last carried a packet, in either
	// direction.
	LastUsed time.Time `json:"lastUsed,omitzero"`
}

// ClearPeer is a peer with which traffic goes in clear although a filter asks
// for security.
type ClearPeer struct {
	Peer    string    `json:"peer"`
	Local   string    `json:"local"`
	Rule    string    `json:"rule"`
	Filter  string    `json:"filter"`
	Since   time.Time `json:"since"`
	Last    time.Time `json:"last"`
	Packets uint64    `json:"packets"`
	Why     string    `json:"why"`
	// Inbound: the packets came in clear and were accepted; none is sent.
	Inbound bool `json:"inbound,omitempty"`
}

// Negotiating is a negotiation under way.
type Negotiating struct {
	Peer  string    `json:"peer"`
	Rule  string    `json:"rule"`
	Since time.Time `json:"since"`
	Why   string    `json:"why"` // what asked for it
}

// Failure is a negotiation that failed, or the same one again and again.
type Failure struct {
	Time time.Time `json:"time"` // of the last time
	// First is when it failed for the first time in this way, Times how often
	// it has since, one after the other.
	First time.Time `json:"first"`
	Times int       `json:"times"`
	Peer  string    `json:"peer"`
	Local string    `json:"local,omitempty"`
	// Own: this host began the negotiation; else the peer did.
	Own    bool   `json:"own"`
	Rule   string `json:"rule,omitempty"`
	Filter string `json:"filter,omitempty"` // ID; empty: not known at this step
	Step   string `json:"step"`
	// Code is one of the reason codes of docs/troubleshooting.md.
	Code   string    `json:"code"`
	Reason string    `json:"reason"`
	Hint   string    `json:"hint,omitempty"` // what to do about it
	Retry  time.Time `json:"retry,omitzero"`
	// Offered is what this host wanted or accepts, Received what the peer
	// offered, Differs the first item that differs.
	Offered  []string `json:"offered,omitempty"`
	Received []string `json:"received,omitempty"`
	Differs  string   `json:"differs,omitempty"`
}

// The states of a peer.
const (
	PeerSecured     = "secured"
	PeerPartly      = "secured in part" // other traffic of it goes in clear
	PeerInClear     = "in clear"
	PeerNegotiating = "negotiating"
	PeerFailed      = "failed"
	PeerEnded       = "association ended"
	PeerNever       = "never negotiated"
	PeerNoRule      = "not negotiated" // no rule asks for security with it
	PeerHeld        = "not known"      // what is assigned is not; what the data path enforces stays as it is
)

// Why is what is known of one peer: how its traffic goes now, which filters
// decide, and what failed.
type Why struct {
	SchemaVersion string    `json:"schemaVersion"`
	Peer          string    `json:"peer"`
	State         string    `json:"state"`          // one of the Peer constants
	Since         time.Time `json:"since,omitzero"` // of that state, where it is known
	Words         string    `json:"words"`          // the state in a sentence
	// Filters are those that speak of the peer, in the order of decision;
	// MoreFilters is how many are left out.
	Filters     []FilterView  `json:"filters"`
	MoreFilters int           `json:"moreFilters,omitempty"`
	MainMode    []MainModeSA  `json:"mainMode"`
	Secured     []SecuredPeer `json:"secured"`
	InClear     []ClearPeer   `json:"inClear"`
	Negotiating []Negotiating `json:"negotiating"`
	Failures    []Failure     `json:"failures"` // newest first, also those made good since
}

// PolicyInfo is a policy that can be assigned.
type PolicyInfo struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Origin      string `json:"origin"` // "predefined" or a file
	Assigned    bool   `json:"assigned"`
	Error       string `json:"error,omitempty"` // the file does not load
}

// PolicyView is a policy shown.
type PolicyView struct {
	SchemaVersion string `json:"schemaVersion"`
	Name          string `json:"name"`
	Origin        string `json:"origin"`
	Assigned      bool   `json:"assigned"`
	// Document is the policy as YAML, without keys.
	Document string `json:"document"`
	// Filters is the compiled order (effective only).
	Filters []FilterView `json:"filters,omitempty"`
	Exempt  []string     `json:"exempt,omitempty"`
	// MainMode is the main-mode methods in order of preference (effective
	// only). Of these and of a filter's, "(uplifted)" marks what the policy
	// does not list.
	MainMode []string `json:"mainMode,omitempty"`
	// Unresolved is the names and sets that stand for nothing now, with the
	// filters that match nothing for it (effective only).
	Unresolved []string `json:"unresolved,omitempty"`
}

// FilterView is one compiled filter.
type FilterView struct {
	ID        string `json:"id"`
	Weight    int    `json:"weight"`
	Reason    string `json:"reason"`
	Rule      string `json:"rule"`
	List      string `json:"filterList"`
	Selector  string `json:"selector"`
	Direction string `json:"direction"`
	Action    string `json:"action"`
	Tunnel    string `json:"tunnel,omitempty"` // "OWN - OTHER", the two gateways
	// Connections is the type of connection that the filter is limited to:
	// "lan" or "remote-access"; empty: it is not.
	Connections string `json:"connections,omitempty"`
	// Origins is the names and sets that the addresses come from, each with
	// when it was resolved, in words.
	Origins []string `json:"origins,omitempty"`
	Methods []string `json:"methods,omitempty"`
	Auth    []string `json:"authentication,omitempty"`
	Packets uint64   `json:"packets"`
	Dropped uint64   `json:"dropped"`
	// Overlay: temporary, above the filter of ID Parent.
	Overlay bool      `json:"overlay,omitempty"`
	Parent  string    `json:"parent,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// SAList is the associations in force.
type SAList struct {
	SchemaVersion string        `json:"schemaVersion"`
	MainMode      []MainModeSA  `json:"mainMode"`
	Pairs         []SecuredPeer `json:"pairs"`
}

// MainModeSA is an ISAKMP SA.
type MainModeSA struct {
	Peer       string    `json:"peer"`
	Local      string    `json:"local"`
	Cookies    string    `json:"cookies"`
	Suite      string    `json:"suite"`
	Method     string    `json:"method"`
	Principal  string    `json:"principal"`
	Initiator  bool      `json:"initiator"`
	Since      time.Time `json:"since"`
	Expires    time.Time `json:"expires"`
	QuickModes int       `json:"quickModes"`
}
