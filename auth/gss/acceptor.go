package gss

import (
	"fmt"
	"slices"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Key usages (RFC 4120 §7.5.1).
const (
	usageTicket        = 2
	usageAuthenticator = 11
)

// maxTries bounds the keys that one ticket is tried with: who sends it need not
// say which one it is.
const maxTries = 32

// AcceptorConfig is what an acceptor works with.
type AcceptorConfig struct {
	Keytab *Keytab
	// Names are the principals whose keys may open a ticket, for a keytab can
	// hold those of other services beside. Empty: all.
	Names []Principal
	// Replay remembers authenticators. It is shared by all acceptors of a
	// host and must not be nil.
	Replay *ReplayCache
	// Skew is how far clocks may be apart; 0: DefaultSkew.
	Skew     time.Duration
	AllowRC4 bool
	Clock    Clock
}

// Acceptor makes one context with one initiator.
type Acceptor struct {
	config AcceptorConfig
	ctx    *Context
	done   bool
}

// NewAcceptor starts a context.
func NewAcceptor(c AcceptorConfig) *Acceptor {
	if c.Skew == 0 {
		c.Skew = DefaultSkew
	}
	return &Acceptor{config: c}
}

// Step takes the initiator's token and returns the answer. One round is all
// there is: done is true unless there is an error. Context has the result.
func (a *Acceptor) Step(in []byte) (out []byte, done bool, err error) {
	if a.done {
		return nil, false, fmt.Errorf("gss: accept context: %w", ErrState)
	}
	a.done = true
	if out, err = a.accept(in); err != nil {
		return nil, false, fmt.Errorf("gss: accept context: %w", err)
	}
	return out, true, nil
}

// Context returns the finished context; nil before.
func (a *Acceptor) Context() *Context { return a.ctx }

// request is an AP-REQ, opened.
type request struct {
	service Principal // as the ticket names it, in clear
	self    Principal // whose key opened it
	client  Principal
	session Key
	ends    time.Time
	subkey  Key
	seq     uint32
	ctime   time.Time
	cusec   int
	flags   uint32
	sealed  []byte // the encrypted authenticator
}

// accept verifies an AP-REQ token and answers it. The order is the promise:
// only what is fully verified reaches the replay cache.
func (a *Acceptor) accept(tok []byte) (out []byte, err error) {
	defer guard(&err)
	id, inner, err := unframe(tok, MaxToken)
	if err != nil {
		return nil, err
	}
	if id != tokAPReq {
		return nil, fmt.Errorf("%w: token %04x where an AP-REQ belongs", ErrMalformed, id)
	}
	var ap messages.APReq
	if ap.Unmarshal(inner) != nil {
		return nil, fmt.Errorf("%w: AP-REQ", ErrMalformed)
	}
	r, err := a.open(&ap)
	if err != nil {
		return nil, err
	}
	now := a.config.Clock.now()
	if err := a.fresh(r, now); err != nil {
		return nil, err
	}
	if err := a.config.Replay.Use(r.replayID(), r.client, r.ctime, now, a.config.Skew); err != nil {
		return nil, err
	}
	return a.answer(r)
}

// open decrypts ticket and authenticator and checks that they belong together.
func (a *Acceptor) open(ap *messages.APReq) (*request, error) {
	if types.IsFlagSet(&ap.APOptions, flags.APOptionUseSessionKey) {
		return nil, fmt.Errorf("%w: user-to-user tickets are not taken", ErrService)
	}
	service, err := PrincipalOf(ap.Ticket.SName, ap.Ticket.Realm)
	if err != nil {
		return nil, err
	}
	self, part, err := a.ticket(service, ap.Ticket.EncPart)
	if err != nil {
		return nil, err
	}
	r := &request{service: service, self: self, ends: part.EndTime, sealed: ap.EncryptedAuthenticator.Cipher}
	if r.client, err = PrincipalOf(part.CName, part.CRealm); err != nil {
		return nil, err
	}
	if err := allowed(part.Key.KeyType, a.config.AllowRC4); err != nil {
		return nil, err
	}
	if r.session, err = NewKey(part.Key.KeyType, part.Key.KeyValue); err != nil {
		return nil, err
	}
	if err := checkTicket(part, ap.Ticket.Realm, a.config); err != nil {
		return nil, fmt.Errorf("%w (client %s)", err, r.client)
	}
	return r, a.authenticator(r, ap.EncryptedAuthenticator)
}

// ticket opens the ticket with whatever key of the keytab fits.
func (a *Acceptor) ticket(service Principal, sealed types.EncryptedData) (Principal, messages.EncTicketPart, error) {
	var part messages.EncTicketPart
	if err := allowed(sealed.EType, a.config.AllowRC4); err != nil {
		return Principal{}, part, fmt.Errorf("%w: ticket for %s", err, service)
	}
	fit := a.config.Keytab.candidates(service, sealed.EType, uint32(sealed.KVNO))
	if len(a.config.Names) > 0 && len(fit) > 0 {
		fit = slices.DeleteFunc(fit, func(e keytabEntry) bool { return !slices.ContainsFunc(a.config.Names, e.principal.Equal) })
		if len(fit) == 0 {
			return Principal{}, part, fmt.Errorf("%w: %s", ErrService, service)
		}
	}
	if len(fit) == 0 {
		return Principal{}, part, a.config.Keytab.lacks(service, sealed.EType, uint32(sealed.KVNO))
	}
	for _, e := range fit[:min(len(fit), maxTries)] {
		plain, err := e.key.Decrypt(sealed.Cipher, usageTicket)
		if err != nil {
			continue
		}
		if part.Unmarshal(plain) != nil {
			return Principal{}, part, fmt.Errorf("%w: ticket", ErrMalformed)
		}
		return e.principal, part, nil
	}
	return Principal{}, part, fmt.Errorf("%w: no key of the keytab opens the ticket for %s (version %d)", ErrIntegrity, service, sealed.KVNO)
}

// checkTicket checks a ticket's times, flags and way.
func checkTicket(part messages.EncTicketPart, realm string, c AcceptorConfig) error {
	now := c.Clock.now()
	starts := part.StartTime
	if starts.IsZero() {
		starts = part.AuthTime
	}
	switch {
	case now.After(part.EndTime.Add(c.Skew)):
		return fmt.Errorf("%w at %s", ErrExpired, part.EndTime.Format(time.RFC3339))
	case starts.After(now.Add(c.Skew)) || types.IsFlagSet(&part.Flags, flags.Invalid):
		return fmt.Errorf("%w: from %s", ErrNotYetValid, starts.Format(time.RFC3339))
	case part.CRealm != realm && len(part.Transited.Contents) > 0 && !types.IsFlagSet(&part.Flags, flags.TransitedPolicyChecked):
		return fmt.Errorf("%w: from %s to %s", ErrTransit, printable(part.CRealm), printable(realm))
	}
	return nil
}

// authenticator opens the authenticator and checks it against the ticket.
func (a *Acceptor) authenticator(r *request, sealed types.EncryptedData) error {
	if sealed.EType != r.session.Etype() {
		return fmt.Errorf("%w: authenticator under %s", ErrMismatch, EtypeName(sealed.EType))
	}
	plain, err := r.session.Decrypt(sealed.Cipher, usageAuthenticator)
	if err != nil {
		return fmt.Errorf("%w: authenticator", err)
	}
	var auth types.Authenticator
	if auth.Unmarshal(plain) != nil {
		return fmt.Errorf("%w: authenticator", ErrMalformed)
	}
	name, err := PrincipalOf(auth.CName, auth.CRealm)
	if err != nil {
		return err
	}
	if !name.Equal(r.client) {
		return fmt.Errorf("%w: %s with the ticket of %s", ErrMismatch, name, r.client)
	}
	if r.flags, err = authFlags(auth.Cksum); err != nil {
		return err
	}
	r.ctime, r.cusec, r.seq = auth.CTime.UTC(), auth.Cusec, uint32(auth.SeqNumber)
	if len(auth.SubKey.KeyValue) == 0 {
		return nil
	}
	if err := allowed(auth.SubKey.KeyType, a.config.AllowRC4); err != nil {
		return err
	}
	r.subkey, err = NewKey(auth.SubKey.KeyType, auth.SubKey.KeyValue)
	return err
}

// fresh checks the authenticator's time and that the initiator wants to know
// who we are.
func (a *Acceptor) fresh(r *request, now time.Time) error {
	if r.cusec < 0 || r.cusec > 999999 {
		return fmt.Errorf("%w: %d microseconds", ErrMalformed, r.cusec)
	}
	at := r.ctime.Add(time.Duration(r.cusec) * time.Microsecond)
	if d := now.Sub(at); d.Abs() > a.config.Skew {
		return fmt.Errorf("%w: the clock of %s is %s %s ours", ErrSkew, r.client, d.Abs().Round(time.Second), aheadOrBehind(d))
	}
	if r.flags&FlagMutual == 0 {
		return fmt.Errorf("%w (client %s)", ErrMutual, r.client)
	}
	return nil
}

// aheadOrBehind says where the peer's clock is when ours minus its is d.
func aheadOrBehind(d time.Duration) string {
	if d > 0 {
		return "behind"
	}
	return "ahead of"
}

// answer makes context and AP-REP. With AES the acceptor asserts a key of its
// own; with RC4 it must not, for MIT's initiators then go on with theirs.
func (a *Acceptor) answer(r *request) ([]byte, error) {
	key := r.session
	if !r.subkey.IsZero() {
		key = r.subkey
	}
	rep := reply{ctime: r.ctime, cusec: r.cusec}
	var err error
	if key.Etype() != RC4 {
		if rep.subkey, err = generate(key.Etype()); err != nil {
			return nil, err
		}
		key = rep.subkey
	}
	if rep.seq, err = newSequence(); err != nil {
		return nil, err
	}
	b, err := rep.marshal(r.session)
	if err != nil {
		return nil, err
	}
	a.ctx = &Context{
		key: key, acceptorSubkey: !rep.subkey.IsZero(),
		send: uint64(rep.seq), recv: uint64(r.seq),
		self: r.self, peer: r.client, flags: r.flags, ends: r.ends.UTC(),
	}
	return frame(tokAPRep, b)
}
