package sadb

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"
)

// ActionKind is what a filter does with a packet.
type ActionKind uint8

// Block is the zero value: what is not decided does not pass.
const (
	Block ActionKind = iota
	Permit
	Negotiate
)

// String returns "block", "permit" or "negotiate".
func (k ActionKind) String() string {
	switch k {
	case Block:
		return "block"
	case Permit:
		return "permit"
	case Negotiate:
		return "negotiate"
	}
	return fmt.Sprintf("action %d", uint8(k))
}

// Action is what a filter does. The zero value blocks.
type Action struct {
	Kind ActionKind
	// PassThrough (Negotiate only): inbound packets in clear are accepted,
	// the answer is negotiated. The Windows model's "accept unsecured
	// communication, but always respond using IPSec".
	PassThrough bool
	// AllowClear (Negotiate only): outbound packets without an association
	// go in clear while the negotiation runs and after it failed. The
	// Windows model's "allow unsecured communication with non-IPSec-aware
	// computers". Without it such packets wait for the association.
	AllowClear bool
	// ClearDelay holds packets that long before they may go in clear.
	ClearDelay time.Duration
}

// Requires reports whether outbound traffic is never to leave in clear.
func (a Action) Requires() bool { return a.Kind == Negotiate && !a.AllowClear }

// opens reports whether a packet may pass in clear in some direction.
func (a Action) opens() bool {
	return a.Kind == Permit || a.Kind == Negotiate && (a.AllowClear || a.PassThrough)
}

// String returns the action in words.
func (a Action) String() string {
	if a.Kind != Negotiate {
		return a.Kind.String()
	}
	s := "require security"
	if a.AllowClear {
		s = "request security"
	}
	if a.PassThrough {
		s += ", accept unsecured"
	}
	return s
}

// ConnectionType limits a filter to packets of a kind of network connection
// (the Windows model's connection type of a rule).
type ConnectionType uint8

// AllConnections is the zero value. RemoteAccess is dial-up: PPP and what the
// host's settings add to it; LAN is every other connection.
const (
	AllConnections ConnectionType = iota
	LAN
	RemoteAccess
)

// String returns "all", "lan" or "remote-access".
func (c ConnectionType) String() string {
	switch c {
	case AllConnections:
		return "all"
	case LAN:
		return "lan"
	case RemoteAccess:
		return "remote-access"
	}
	return fmt.Sprintf("connection type %d", uint8(c))
}

// Matches reports whether a filter of type c takes packets of a connection of
// type d. LAN is what is not remote access, so that a connection of unknown
// type (AllConnections) counts as LAN.
func (c ConnectionType) Matches(d ConnectionType) bool {
	return c == AllConnections || (c == RemoteAccess) == (d == RemoteAccess)
}

// FilterID names a filter, the same on every run for the same policy and host
// facts. Printable; at most 64 bytes.
type FilterID string

// NewFilterID derives an ID from the parts that identify a filter.
func NewFilterID(parts ...string) FilterID {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return FilterID(hex.EncodeToString(h.Sum(nil)[:8]))
}

// Filter is an entry of the security policy database (RFC 4301 §4.4.1). A
// driver holds them in order; the first that matches decides.
type Filter struct {
	ID FilterID
	// Name says where the filter comes from, in the administrator's words:
	// rule and filter list.
	Name     string
	Selector Selector
	Dir      Directions
	// Connections: packets of other connections do not match.
	Connections ConnectionType
	Action      Action

	// Mode, TunnelLocal and TunnelRemote are the shape of the associations.
	Mode                      Mode
	TunnelLocal, TunnelRemote netip.Addr

	// Parent is set for an overlay: a temporary filter that stands directly
	// above the filter it narrows and decides in its place until Expires.
	Parent FilterID
	// Expires ends an overlay; the zero time: when it is removed.
	Expires time.Time
}

// Matches reports whether a packet with headers p in direction d is the
// filter's to decide.
func (f Filter) Matches(p Flow, d Directions) bool {
	return f.Dir&d != 0 && f.Connections.Matches(p.Connection) && f.Selector.Matches(p)
}

// Overlay reports whether f is a temporary filter above another.
func (f Filter) Overlay() bool { return f.Parent != "" }
