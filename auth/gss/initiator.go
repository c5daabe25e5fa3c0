package gss

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// InitiatorConfig is what an initiator works with.
type InitiatorConfig struct {
	Credential *Credential
	// Flags beyond mutual authentication, which is always asked for; 0:
	// replay, sequence, confidentiality and integrity.
	Flags uint32
	// Bindings is the hash of the channel's bindings; zero: none.
	Bindings [16]byte
	// AllowRC4 admits the RC4 encryption type.
	AllowRC4 bool
	Clock    Clock
}

// Initiator makes one context with one service.
type Initiator struct {
	config InitiatorConfig
	ctx    *Context
	subkey Key
	ctime  time.Time
	cusec  int
	seq    uint32
	state  int
}

// What an initiator waits for.
const (
	stateStart = iota
	stateReply
	stateDone
)

// NewInitiator starts a context. The ticket's session key must be of an
// allowed type.
func NewInitiator(c InitiatorConfig) (*Initiator, error) {
	if err := allowed(c.Credential.key.Etype(), c.AllowRC4); err != nil {
		return nil, fmt.Errorf("gss: start context with %s: %w", c.Credential.service, err)
	}
	if c.Flags == 0 {
		c.Flags = FlagReplay | FlagSequence | FlagConf | FlagInteg
	}
	c.Flags |= FlagMutual
	return &Initiator{config: c}, nil
}

// Step takes the acceptor's token, nil at first, and returns the next one to
// send, nil when there is none. Once done, Context has the result. A token
// that is refused changes nothing: where anybody can send one, the acceptor's
// own may follow.
func (i *Initiator) Step(in []byte) (out []byte, done bool, err error) {
	switch {
	case i.state == stateStart && len(in) == 0:
		out, err = i.request()
		i.state = stateReply
	case i.state == stateReply:
		if err = i.reply(in); err == nil {
			i.state, done = stateDone, true
		}
	default:
		err = ErrState
	}
	if err != nil {
		return nil, false, fmt.Errorf("gss: context with %s: %w", i.config.Credential.service, err)
	}
	return out, done, nil
}

// Context returns the finished context; nil before.
func (i *Initiator) Context() *Context { return i.ctx }

// request builds the AP-REQ token.
func (i *Initiator) request() ([]byte, error) {
	cred := i.config.Credential
	now := i.config.Clock.now()
	if !now.Before(cred.ends) {
		return nil, fmt.Errorf("%w at %s", ErrExpired, cred.ends.Format(time.RFC3339))
	}
	var err error
	if i.subkey, err = generate(cred.key.Etype()); err != nil {
		return nil, err
	}
	if i.seq, err = newSequence(); err != nil {
		return nil, err
	}
	i.ctime, i.cusec = now.Truncate(time.Second), now.Nanosecond()/1000
	req, err := messages.NewAPReq(cred.ticket, cred.key.wire(), types.Authenticator{
		AVNO:      iana.PVNO,
		CRealm:    cred.client.Realm,
		CName:     cred.client.Wire(),
		Cksum:     authChecksum(i.config.Bindings, i.config.Flags),
		Cusec:     i.cusec,
		CTime:     i.ctime,
		SubKey:    i.subkey.wire(),
		SeqNumber: int64(i.seq),
	})
	if err != nil {
		return nil, err
	}
	types.SetFlag(&req.APOptions, flags.APOptionMutualRequired)
	b, err := req.Marshal()
	if err != nil {
		return nil, err
	}
	return frame(tokAPReq, b)
}

// newSequence draws a first sequence number, small enough that no peer takes
// it for a negative one.
func newSequence() (uint32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b[:]) & 0x3fffffff, nil
}

// reply verifies the AP-REP token and finishes the context.
func (i *Initiator) reply(tok []byte) error {
	id, inner, err := unframe(tok, MaxToken)
	if err != nil {
		return err
	}
	if id == tokError {
		return ParsePeerError(inner)
	}
	if id != tokAPRep {
		return fmt.Errorf("%w: token %04x where an AP-REP belongs", ErrMalformed, id)
	}
	cred := i.config.Credential
	r, err := parseReply(inner, cred.key)
	if err != nil {
		return err
	}
	if !r.ctime.Equal(i.ctime) || r.cusec != i.cusec {
		return fmt.Errorf("%w: the AP-REP answers another AP-REQ", ErrMismatch)
	}
	key := i.subkey
	if !r.subkey.IsZero() {
		if err := allowed(r.subkey.Etype(), i.config.AllowRC4); err != nil {
			return err
		}
		key = r.subkey
	}
	i.ctx = &Context{
		key: key, initiator: true, acceptorSubkey: !r.subkey.IsZero(),
		send: uint64(i.seq), recv: uint64(r.seq),
		self: cred.client, peer: cred.service, flags: i.config.Flags, ends: cred.ends,
	}
	return nil
}
