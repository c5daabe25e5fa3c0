// Package ike is the Internet Key Exchange, version 1 (RFC 2407–2409): main
// mode, quick mode and the informational exchange.
//
// Machine is a value without I/O, clock or goroutine: inputs go in with the
// time, outputs come out. Server is the loop that runs a Machine on a
// Transport. Neither knows what a policy document, a driver or a socket is.
package ike

import (
	"net/netip"
	"time"

	"ipsecagent/auth"
	"ipsecagent/sadb"
)

// Transport carries IKE datagrams. Recv blocks; Close ends it.
type Transport interface {
	Recv(b []byte) (n int, local, remote netip.AddrPort, err error)
	Send(b []byte, local, remote netip.AddrPort) error
	Close() error
}

// Policy is what a Machine may offer and accept: two pure functions over
// immutable data, so that asking costs a flood of strangers nothing but a
// look-up, and no message waits for another loop. The zero value refuses
// everything.
type Policy struct {
	// Main answers what main mode with a peer may look like. An error
	// refuses: no rule speaks of this peer.
	Main func(MainQuery) (MainOffer, error)
	// Quick answers what a quick mode that the peer proposes may look like.
	// A *Refusal error carries the notify for the peer.
	Quick func(QuickQuery) (QuickOffer, error)
}

// MainQuery asks about main mode with a peer that has proved nothing yet.
type MainQuery struct {
	Local, Remote netip.Addr
}

// MainOffer is what a main mode may look like.
type MainOffer struct {
	Suites   []sadb.ISAKMPSuite // in order of preference
	Lifetime time.Duration      // 0: 8 h
	Sessions int                // quick modes under it; 0: no limit
	Auth     []auth.Requirement // in order of preference
	// Named: a rule names this very peer, so that it has a place among
	// half-open exchanges kept for it. Of no meaning to an initiator.
	Named bool
}

// QuickQuery asks about a quick mode a proven peer proposes, seen from this
// host. An input may be kept.
type QuickQuery struct {
	Local, Remote netip.Addr // outer addresses
	Selector      sadb.Selector
	Mode          sadb.Mode
	auth.Proof    // what the peer has proven of itself
}

// QuickOffer is what a quick mode may look like.
type QuickOffer struct {
	Filter    sadb.FilterID
	Selector  sadb.Selector // narrowed to this pair of hosts
	Mode      sadb.Mode
	Proposals []sadb.Proposal // in order of preference
	PFS       sadb.Group      // 0: none
	// PFSAny: PFS is required, in the group of the main mode.
	PFSAny          bool
	DefaultResponse bool
	// ESN: 64-bit sequence numbers (RFC 4304) may be used. They are offered to
	// peers that are known to have them.
	ESN bool
}

// Refusal is the reason why a peer's wish is refused, and the notify it gets.
type Refusal struct {
	Notify uint16 // RFC 2408 §3.14.1; 0: no answer
	Reason string
}

// Error returns the reason.
func (r *Refusal) Error() string { return r.Reason }

// Input is what a Machine's Handle takes.
type Input interface{ input() }

// Packet is a datagram as it came, without the non-ESP marker.
type Packet struct {
	Local, Remote netip.AddrPort
	Data          []byte // the machine keeps no reference
}

// Initiate asks for a pair of associations. Main mode is made first if no
// ISAKMP SA with this peer satisfies the requirement. Answered by Established
// or Failed with the same Request.
type Initiate struct {
	Request       uint64
	Local, Remote netip.Addr
	Main          MainOffer
	Quick         QuickOffer
	Replaces      sadb.PairID // a rekey; 0: none
	// NoInitialContact: the host holds adopted associations with this peer,
	// so that it must not claim to know nothing.
	NoInitialContact bool
}

// WorkDone answers Work.
type WorkDone struct {
	ID     uint64
	Result any
}

// SPIReserved answers ReserveSPI.
type SPIReserved struct {
	ID  uint64
	SPI sadb.SPI
	Err error
}

// Installed answers Install.
type Installed struct {
	ID  uint64
	Err error
}

// NotInstalled is an Err of Installed that is policy's word, not the driver's.
type NotInstalled struct{ Reason, Hint string }

// Error returns the reason.
func (r *NotInstalled) Error() string { return r.Reason }

// Rekey asks for a new pair in place of one: a soft lifetime was reached.
type Rekey struct{ Pair sadb.PairID }

// Used says that the first valid packet arrived on an inbound association.
type Used struct{ ID sadb.SAID }

// Silent says that packets go out on a pair and none have come in for a while:
// the peer is asked whether it still lives. If it does not answer, its pairs end.
type Silent struct{ Pair sadb.PairID }

// Moved says that valid packets of an inbound association come from another UDP
// endpoint: a translator has given the peer another port. IKE answers there too.
type Moved struct {
	ID   sadb.SAID
	From netip.AddrPort
}

// Gone says that a pair has ended in the driver (hard lifetime, swept); the
// peer is told, nothing more is output for it but the delete.
type Gone struct{ Pair sadb.PairID }

// Close ends pairs and, with Main, the ISAKMP SAs of a peer; the peer is told.
type Close struct {
	Pair   sadb.PairID // 0: all with Remote
	Remote netip.Addr  // invalid: with every peer
	Main   bool
	Reason string
}

// Adopt makes a pair of an earlier process known, so that a delete by its
// authenticated peer is honoured and a rekey can be asked for. Main and Quick
// are what the current policy offers for it.
type Adopt struct {
	Pair  sadb.Pair
	Main  MainOffer
	Quick QuickOffer
}

// SetPolicy replaces what may be offered and accepted from now on. What is
// already established stays until the agent closes it.
type SetPolicy struct{ Policy Policy }

// Recheck ends the ISAKMP SAs that no rule of the policy accepts any more; their
// peers are told. Pairs stay: which of them are still wanted the agent knows.
type Recheck struct{}

// Cancel gives up a request: policy no longer wants it.
type Cancel struct{ Request uint64 }

// SetTrace says of which peers the exchanges are put out in readable form. The
// zero value: of none.
type SetTrace struct {
	All   bool
	Peers []netip.Addr
	// Keys are the peers of whom KeyLog is put out too. Root only; the caller
	// notes it in the audit log.
	Keys []netip.Addr
	// Show is a peer of whom the keys of the ISAKMP SAs that are there already
	// are put out at once, with For; the zero address: of none.
	Show netip.Addr
	For  uint64
}

func (Packet) input()      {}
func (Initiate) input()    {}
func (WorkDone) input()    {}
func (SPIReserved) input() {}
func (Installed) input()   {}
func (Rekey) input()       {}
func (Used) input()        {}
func (Gone) input()        {}
func (Moved) input()       {}
func (Silent) input()      {}
func (Close) input()       {}
func (Adopt) input()       {}
func (SetPolicy) input()   {}
func (Recheck) input()     {}
func (Cancel) input()      {}
func (SetTrace) input()    {}

// Output is what a Machine's Poll gives.
type Output interface{ output() }

// Send is a datagram to send.
type Send struct {
	Local, Remote netip.AddrPort
	Data          []byte
}

// Work is something that takes long: Diffie-Hellman, a signature, a KDC. Run
// it in a pool and answer WorkDone with its result. Near work, the last of an
// exchange with a peer that is known or that this host has asked, goes first,
// then work that is marked as nothing. Unproven work, over the proof of a peer
// that has begun an exchange, comes after them and before Low work, for peers
// that have shown no more than their address: of a thousand exchanges under way,
// some are to end before the peers of all repeat themselves.
type Work struct {
	ID                  uint64
	Near, Unproven, Low bool
	Run                 func() any
}

// ReserveSPI asks for an inbound SPI.
type ReserveSPI struct {
	ID       uint64
	Src, Dst netip.Addr // from peer to this host
	Proto    sadb.Proto
}

// Install asks to put an association in force. The exchange goes on when it
// is answered.
type Install struct {
	ID   uint64
	SA   sadb.SA
	Pair sadb.Pair // what the association is part of
}

// Established says that a pair is whole: both directions in force.
type Established struct {
	Request uint64 // 0: the peer asked
	Pair    sadb.Pair
}

// Failed says that a negotiation failed. Nothing of it is in force.
type Failed struct {
	Request       uint64 // 0: the peer asked
	Local, Remote netip.Addr
	Filter        sadb.FilterID // "" when it is not known
	Step          string        // "main mode message 3", ...
	Reason        string        // in words, with what to change
	// Code tells kinds apart for the agent and for scripts: one of the
	// Fail constants.
	Code FailCode
	// Silence: the peer never answered anything.
	Silence bool
	// Offered and Received are the two offers, where a comparison failed.
	Offered, Received []string
	Differs           string // the first item that differs
	Hint              string // what to do about it; "" when Reason says it
}

// FailCode is why a negotiation failed.
type FailCode string

// The reasons of Failed, but for those that a method of authentication knows
// (auth.Error.Code). The list is closed and documented.
const (
	// FailNoAnswer: the peer never answered, or fell silent.
	FailNoAnswer FailCode = "no-answer"
	// FailNAT: there is address translation on the way, and nothing offered
	// gets through it.
	FailNAT FailCode = "address-translation"
	// FailNoProposal: the two ends have no method in common, in main mode or in
	// quick mode. Differs names the first item, where this host knows both offers.
	FailNoProposal FailCode = "no-proposal"
	// FailFilters: one end's filters have no place for the traffic that the
	// other asks for.
	FailFilters FailCode = "filters"
	// FailAuth: an identity was not proven, and nothing says more.
	FailAuth FailCode = "authentication"
	// FailPSK: the preshared keys differ.
	FailPSK FailCode = "preshared-key"
	// FailPrincipal: an identity was proven, and the rule does not accept it.
	FailPrincipal FailCode = "principal-refused"
	// FailAltered: somebody on the way changes the negotiation.
	FailAltered FailCode = "altered"
	// FailPolicy: policy refuses: no rule is for this peer, or it was proven by
	// another method than the rule wants.
	FailPolicy FailCode = "policy"
	// FailCrowded: the peer has all that one peer may have of this host.
	FailCrowded FailCode = "too-many"
	// FailRefused: the peer refuses, and its notify does not tell why.
	FailRefused FailCode = "refused"
	// FailProtocol: a message breaks the protocol.
	FailProtocol FailCode = "protocol"
	// FailLocal: this host stands in the way: its data path, its randomness, a
	// request that makes no sense.
	FailLocal FailCode = "local"
	// FailCancelled: the agent has given the request up.
	FailCancelled FailCode = "cancelled"
)

// Ended says that a pair is over and must be taken out of force: deleted by
// the peer, replaced, or closed. It may come for a pair that never was
// Established, if its negotiation failed after an association was installed.
type Ended struct {
	Pair   sadb.PairID
	Reason string
	ByPeer bool // the peer, proven, has ended it or says that it has nothing of ours
}

// MainMode says that an ISAKMP SA is established or has ended.
type MainMode struct {
	SA    ISAKMPSA
	Ended string // reason; "" when established
}

// InternalError begins the Reason of Dropped where a panic was caught: a mistake
// of ours, which is counted so that it is seen.
const InternalError = "internal error"

// Dropped counts datagrams that were not acted on, by reason; put out at most
// once a second.
type Dropped struct {
	Remote netip.AddrPort
	Reason string
	Count  int
}

// Traced is a step of an exchange in readable form, for a peer that SetTrace
// names: a message with its payloads decrypted, or a decision. Keys, hashes and
// proofs are redacted.
type Traced struct {
	Local, Remote netip.AddrPort
	Sent          bool // false: received, or no message
	// Text is a message, a line for its header and more for its payloads, or,
	// beginning with "* ", a decision or an event.
	Text string
}

// KeyLog is a line of one of Wireshark's key tables, for a peer whose keys
// SetTrace asks for.
type KeyLog struct {
	Remote netip.AddrPort
	Table  string // "ikev1_decryption_table" or "esp_sa"
	Line   string
	// For is the For of the SetTrace that has asked for what was there already;
	// 0: it is new.
	For uint64
}

func (Traced) output()      {}
func (KeyLog) output()      {}
func (Send) output()        {}
func (Work) output()        {}
func (ReserveSPI) output()  {}
func (Install) output()     {}
func (Established) output() {}
func (Failed) output()      {}
func (Ended) output()       {}
func (MainMode) output()    {}
func (Dropped) output()     {}

// ISAKMPSA is what the status shows of an ISAKMP SA; without keys.
type ISAKMPSA struct {
	ICookie, RCookie [8]byte
	Local, Remote    netip.AddrPort
	Initiator        bool
	Suite            sadb.ISAKMPSuite
	Method           auth.Method
	Principal        auth.Principal
	Since, Expires   time.Time
	QuickModes       int
	// Vendor is what the peer says it is ("strongSwan", "Windows 2000"), ""
	// when it does not say.
	Vendor string
	// NAT: there is address translation on the way.
	NAT bool
}
