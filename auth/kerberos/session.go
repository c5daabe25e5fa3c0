package kerberos

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/auth"
	"ipsecagent/auth/gss"
)

// Identification types (RFC 2407 §4.6.2.1).
const (
	idIPv4 = 1
	idFQDN = 2
	idIPv6 = 5
)

// session is one authentication: the names of both ends, one token each way,
// and the context they make.
type session struct {
	host    *Authenticator
	facts   *facts
	request auth.Request
	quirk   quirk

	peer      auth.Claim
	target    gss.Principal // as initiator: whom a ticket is for
	initiator *gss.Initiator
	ctx       *gss.Context
	sent, got tokens
}

// tokens is what one end sent in its GSS payload.
type tokens struct {
	prefix string
	token  []byte
}

func (t tokens) body() []byte { return append([]byte(t.prefix), t.token...) }

// who names the peer in reasons.
func (s *session) who() string { return s.request.Remote.String() }

// Local claims the name of this host: its principal as attribute of the SA, its
// DNS name as identification, or its address if it has none.
func (s *session) Local() auth.Claim {
	c := auth.Claim{GSS: utf16le(s.facts.self.String())}
	if name := hostName(s.facts.self); strings.Contains(name, ".") {
		c.IDType, c.ID = idFQDN, []byte(name)
		return c
	}
	addr := s.request.Local.Unmap()
	c.IDType, c.ID = idIPv6, addr.AsSlice()
	if addr.Is4() {
		c.IDType = idIPv4
	}
	return c
}

// Remote takes the peer's claim. An initiator learns from it whom to ask a
// ticket for; the name is in clear and anybody's, so that policy has its say
// before a KDC is asked.
func (s *session) Remote(c auth.Claim) error {
	s.peer = c
	if !s.request.Initiator || s.ctx != nil || s.initiator != nil {
		return nil
	}
	if len(c.GSS) == 0 {
		return refuse(codeTargetRefused, nil, "peer %s does not say for which Kerberos principal a ticket is needed", s.who())
	}
	target, err := s.facts.peerName(c.GSS)
	if err != nil {
		return refuse(codeTargetRefused, err, "peer %s cannot be asked a ticket for", s.who())
	}
	if reason := s.unwelcome(target); reason != "" {
		return refuse(targetCode(reason), nil, "peer %s asks for a ticket for %s, %s; no ticket was asked for", s.who(), target, reason)
	}
	s.target = target
	return nil
}

// Why a principal is not welcome.
const (
	notListed    = "which the rule does not accept"
	noComputer   = "which is no computer (host/NAME or NAME$)"
	foreignRealm = "of a realm that this host does not trust"
)

// unwelcome returns why policy does not want a principal; empty: it does.
func (s *session) unwelcome(p gss.Principal) string {
	switch r := s.request.Requirement; {
	case slices.Contains(r.AcceptPrincipals, p.String()):
		return ""
	case len(r.AcceptPrincipals) > 0 && !r.AcceptTrusted:
		return notListed
	}
	return s.distrusted(p)
}

// distrusted returns why a principal that no rule lists is not welcome; empty:
// it is.
func (s *session) distrusted(p gss.Principal) string {
	switch {
	case !isComputer(p):
		return noComputer
	case !slices.Contains(s.facts.realms, p.Realm):
		return foreignRealm
	}
	return ""
}

func targetCode(reason string) string {
	if reason == foreignRealm {
		return codeWrongRealm
	}
	return codeTargetRefused
}

func principalCode(reason string) string {
	if reason == foreignRealm {
		return codeWrongRealm
	}
	return codePrincipalRefused
}

// Trusted reports whether the peer is a computer of a trusted realm.
func (s *session) Trusted() bool {
	switch {
	case s.ctx == nil:
		return false
	case s.request.Initiator:
		return s.distrusted(s.target) == ""
	}
	return s.distrusted(s.ctx.Peer()) == ""
}

// Seeds returns none: SKEYID starts from g^xy.
func (s *session) Seeds() [][]byte { return nil }

// Token makes and takes the tokens: as initiator the AP-REQ for nil and then
// nothing for the AP-REP, as responder the AP-REP for the AP-REQ.
func (s *session) Token(in []byte) ([]byte, error) {
	switch {
	case s.request.Initiator && len(in) == 0 && s.initiator == nil:
		return s.ask()
	case s.request.Initiator && s.initiator != nil && s.ctx == nil:
		return nil, s.finish(in)
	case !s.request.Initiator && s.ctx == nil:
		return s.accept(in)
	}
	return nil, refuse("", gss.ErrState, "peer %s: a GSS token that nobody asked for", s.who())
}

// ask gets a ticket for the peer and makes the AP-REQ.
func (s *session) ask() ([]byte, error) {
	if len(s.target.Name) == 0 {
		return nil, refuse(codeTargetRefused, nil, "peer %s has no Kerberos name", s.who())
	}
	ctx, cancel := context.WithTimeout(context.Background(), overall)
	defer cancel()
	cred, err := s.facts.tickets.get(ctx, s.target, s.request.Attempt > 0)
	if err != nil {
		return nil, explain(err, "no ticket for %s at %s", s.target, s.who())
	}
	s.initiator, err = gss.NewInitiator(gss.InitiatorConfig{
		Credential: cred, Clock: s.host.config.Clock, AllowRC4: s.host.config.AllowRC4,
		Flags: gss.FlagSequence | gss.FlagConf | gss.FlagInteg,
	})
	if err != nil {
		return nil, explain(err, "the ticket for %s cannot be used", s.target)
	}
	token, _, err := s.initiator.Step(nil)
	if err != nil {
		return nil, explain(err, "the ticket for %s cannot be used", s.target)
	}
	s.sent = tokens{s.quirk.prefix, token}
	return s.sent.body(), nil
}

// finish takes the AP-REP.
func (s *session) finish(in []byte) error {
	s.got.prefix, s.got.token = splitToken(in)
	if _, _, err := s.initiator.Step(s.got.token); err != nil {
		return explain(err, "peer %s does not prove to be %s", s.who(), s.target)
	}
	s.ctx = s.initiator.Context()
	return nil
}

// accept takes the AP-REQ and makes the AP-REP, in the form that the AP-REQ
// came in.
func (s *session) accept(in []byte) ([]byte, error) {
	s.got.prefix, s.got.token = splitToken(in)
	acceptor := gss.NewAcceptor(gss.AcceptorConfig{
		Keytab: s.facts.keytab, Names: s.facts.names(), Replay: s.host.replay, Skew: s.facts.skew(),
		AllowRC4: s.host.config.AllowRC4, Clock: s.host.config.Clock,
	})
	token, _, err := acceptor.Step(s.got.token)
	if err != nil {
		return nil, explain(err, "the ticket of peer %s is not accepted", s.who())
	}
	client := acceptor.Context().Peer()
	if reason := s.unwelcome(client); reason != "" {
		return nil, refuse(principalCode(reason), nil, "peer %s is %s, %s", s.who(), client, reason)
	}
	s.ctx = acceptor.Context()
	s.sent = tokens{s.got.prefix, token}
	return s.sent.body(), nil
}

// extra is what the sender's hash covers beside IKE's own: its name in one
// form, if both ends have sent names, and its tokens.
func (s *session) extra(f form, name []byte, tokens []byte) (extra []byte, ok bool) {
	if f == formNone || len(s.peer.GSS) == 0 {
		return tokens, f == formNone
	}
	if f == formWire {
		return slices.Concat(name, tokens), true
	}
	text, err := decodeName(name)
	if err != nil {
		return nil, false
	}
	short, ok := latin1(text)
	return slices.Concat(short, tokens), ok
}

// Prove seals this side's hash.
func (s *session) Prove(hash func(extra []byte) []byte) ([]byte, error) {
	if s.ctx == nil {
		return nil, refuse("", gss.ErrState, "peer %s: the GSS context is not complete", s.who())
	}
	extra, ok := s.extra(s.quirk.form, s.Local().GSS, s.sent.token)
	if !ok {
		extra, _ = s.extra(formNone, nil, s.sent.token)
	}
	proof, err := s.ctx.Wrap(hash(extra), true)
	if err != nil {
		return nil, explain(err, "the proof for %s cannot be sealed", s.who())
	}
	return proof, nil
}

// Check opens the peer's sealed hash and compares it with every form it may
// have. The principal is the context's: neither the name that came with the SA
// nor the identification counts.
func (s *session) Check(hash func(extra []byte) []byte, proof []byte) (auth.Principal, error) {
	if s.ctx == nil {
		return "", refuse("", gss.ErrState, "peer %s: the GSS context is not complete", s.who())
	}
	got, err := s.ctx.Unseal(proof)
	if err != nil {
		return "", &auth.Error{Reason: fmt.Sprintf("the proof of peer %s (%s) does not open", s.who(), s.ctx.Peer()), Err: err}
	}
	q, ok := s.match(hash, got)
	if !ok {
		return "", &auth.Error{Reason: fmt.Sprintf("the proof of peer %s (%s) is for another exchange, or in a form that is not known", s.who(), s.ctx.Peer())}
	}
	if err := s.checkID(s.ctx.Peer()); err != nil {
		return "", err
	}
	s.quirk = q
	s.host.learn(s.request.Remote, q)
	return auth.Principal(s.ctx.Peer().String()), nil
}

// match finds the form that the peer's hash has.
func (s *session) match(hash func(extra []byte) []byte, got []byte) (quirk, bool) {
	bodies := [][]byte{s.got.token}
	if s.got.prefix != "" {
		bodies = append(bodies, s.got.body())
	}
	for _, body := range bodies {
		for f := range forms {
			extra, ok := s.extra(f, s.peer.GSS, body)
			if !ok {
				continue
			}
			if want := hash(extra); len(want) > 0 && hmac.Equal(want, got) {
				return quirk{f, s.got.prefix}, true
			}
		}
	}
	return quirk{}, false
}

// checkID compares the identification with what was proven: nobody has proven
// that, and others may go by it.
func (s *session) checkID(proven gss.Principal) error {
	if s.host.config.LooseID {
		return nil
	}
	switch s.peer.IDType {
	case idIPv4, idIPv6:
		if addr, ok := netip.AddrFromSlice(s.peer.ID); ok && addr == s.request.Remote.Unmap().WithZone("") {
			return nil
		}
	case idFQDN:
		if s.facts.isNameOf(strings.ToLower(string(bytes.TrimRight(s.peer.ID, "\x00"))), proven) {
			return nil
		}
	}
	return refuse(codeIdentity, nil, "peer %s proves to be %s, but identifies itself as %s", s.who(), proven, printID(s.peer))
}

// printID shows an identification in a line of text.
func printID(c auth.Claim) string {
	switch c.IDType {
	case idFQDN:
		return fmt.Sprintf("%.128q", c.ID)
	case idIPv4, idIPv6:
		if addr, ok := netip.AddrFromSlice(c.ID); ok {
			return addr.String()
		}
	}
	return fmt.Sprintf("type %d, %s", c.IDType, hex.EncodeToString(c.ID[:min(len(c.ID), 64)]))
}
