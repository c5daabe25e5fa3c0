package gss

import (
	"bytes"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// lab is a KDC's knowledge without a KDC: one client, one service, and the
// keys to make tickets with.
type lab struct {
	t       testing.TB
	now     time.Time
	etype   int32
	client  Principal
	service Principal
	long    Key // of the service
	session Key
	part    messages.EncTicketPart
	keytab  *Keytab
	kvno    uint32
	keys    byte
}

func newLab(t testing.TB, etype int32) *lab {
	t.Helper()
	l := &lab{
		t: t, etype: etype, kvno: 3,
		now:     time.Date(2026, 5, 4, 3, 2, 1, 123456000, time.UTC),
		client:  Principal{Type: NamePrincipal, Name: []string{"host", "a.lab.test"}, Realm: "LAB.TEST"},
		service: Principal{Type: NamePrincipal, Name: []string{"host", "b.lab.test"}, Realm: "LAB.TEST"},
	}
	l.long, l.session = l.key(), l.key()
	l.part = messages.EncTicketPart{
		Flags: types.NewKrbFlags(), Key: l.session.wire(), CRealm: l.client.Realm, CName: l.client.Wire(),
		AuthTime: l.now.Add(-time.Hour), StartTime: l.now.Add(-time.Hour), EndTime: l.now.Add(time.Hour),
	}
	l.keytab = &Keytab{[]keytabEntry{{l.service, l.kvno, l.long}}}
	return l
}

// key returns a new key, the same in every run, so that fuzzing repeats.
func (l *lab) key() Key {
	l.t.Helper()
	l.keys++
	k, err := NewKey(l.etype, bytes.Repeat([]byte{l.keys}, keyLength(l.etype)))
	if err != nil {
		l.t.Fatal(err)
	}
	return k
}

func (l *lab) clock() time.Time { return l.now }

// credential seals the ticket as it stands.
func (l *lab) credential() *Credential {
	l.t.Helper()
	plain, err := asn1.Marshal(l.part)
	if err != nil {
		l.t.Fatal(err)
	}
	sealed, err := l.long.Encrypt(asn1tools.AddASNAppTag(plain, asnAppTag.EncTicketPart), usageTicket)
	if err != nil {
		l.t.Fatal(err)
	}
	ticket := messages.Ticket{
		TktVNO: 5, Realm: l.service.Realm, SName: l.service.Wire(),
		EncPart: types.EncryptedData{EType: l.etype, KVNO: int(l.kvno), Cipher: sealed},
	}
	cred, err := NewCredential(l.client, ticket, l.session.wire(), l.now.Add(10*time.Hour))
	if err != nil {
		l.t.Fatal(err)
	}
	return cred
}

func (l *lab) initiator() *Initiator {
	l.t.Helper()
	i, err := NewInitiator(InitiatorConfig{Credential: l.credential(), AllowRC4: true, Clock: l.clock})
	if err != nil {
		l.t.Fatal(err)
	}
	return i
}

// request returns an AP-REQ token.
func (l *lab) request() []byte {
	l.t.Helper()
	tok, done, err := l.initiator().Step(nil)
	if err != nil || done {
		l.t.Fatal(done, err)
	}
	return tok
}

func (l *lab) config() AcceptorConfig {
	return AcceptorConfig{Keytab: l.keytab, Replay: NewReplayCache(), AllowRC4: true, Clock: l.clock}
}

// accept gives a token to a fresh acceptor.
func (l *lab) accept(tok []byte) error {
	_, _, err := NewAcceptor(l.config()).Step(tok)
	return err
}

// contexts makes a pair that has proven itself to each other.
func (l *lab) contexts() (initiator, acceptor *Context) {
	l.t.Helper()
	i, a := l.initiator(), NewAcceptor(l.config())
	req, _, err := i.Step(nil)
	if err != nil {
		l.t.Fatal(err)
	}
	rep, done, err := a.Step(req)
	if err != nil || !done {
		l.t.Fatal(done, err)
	}
	if out, done, err := i.Step(rep); err != nil || !done || out != nil {
		l.t.Fatal(out, done, err)
	}
	return i.Context(), a.Context()
}
