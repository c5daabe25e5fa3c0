package kerberos

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/iana"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/msgtype"
	"github.com/jcmturner/gokrb5/v8/iana/patype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
	"ipsecagent/auth/gss"
)

// Key usages (RFC 4120 §7.5.1).
const (
	usageTimestamp = 1
	usageASReply   = 3
	usageTGSReply  = 8
)

// lifetime is how long a ticket is asked for; the KDC decides.
const lifetime = 10 * time.Hour

// errReply: a KDC's answer that does not answer the question.
var errReply = errors.New("the KDC's answer does not fit the request")

// client gets tickets for one principal with the keys of a keytab.
type client struct {
	kdc    *transport
	self   gss.Principal
	keytab *gss.Keytab
	rc4    bool
	skew   time.Duration
	now    func() time.Time
}

// krbtgt is the ticket-granting service of one realm for the clients of
// another (RFC 4120 §7.3).
func krbtgt(realm, at string) gss.Principal {
	return gss.Principal{Type: gss.NameService, Name: []string{"krbtgt", realm}, Realm: at}
}

// body makes a request body for a service.
func (c *client) body(service gss.Principal, etypes []int32) (messages.KDCReqBody, error) {
	var nonce [4]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return messages.KDCReqBody{}, err
	}
	return messages.KDCReqBody{
		KDCOptions: types.NewKrbFlags(),
		CName:      c.self.Wire(),
		Realm:      service.Realm,
		SName:      service.Wire(),
		Till:       c.now().UTC().Add(lifetime).Truncate(time.Second),
		Nonce:      int(binary.BigEndian.Uint32(nonce[:]) >> 1),
		EType:      etypes,
	}, nil
}

// etypes returns what the keytab has keys for and the settings allow.
func (c *client) etypes() []int32 {
	return slices.DeleteFunc(c.keytab.Etypes(c.self), func(e int32) bool { return e == gss.RC4 && !c.rc4 })
}

// login gets the first ticket, for the ticket-granting service of the own
// realm, by a key of the keytab (RFC 4120 §3.1).
func (c *client) login(ctx context.Context) (*gss.Credential, error) {
	etypes := c.etypes()
	if len(etypes) == 0 {
		return nil, fmt.Errorf("%w: the keytab has no usable key of %s", gss.ErrNoKey, c.self)
	}
	var cred *gss.Credential
	err := c.kdc.try(ctx, c.self.Realm, func(ask asker) (err error) {
		cred, err = c.loginAt(ask, etypes)
		return err
	})
	return cred, err
}

// loginAt logs in at one KDC.
func (c *client) loginAt(ask asker, etypes []int32) (*gss.Credential, error) {
	body, err := c.body(krbtgt(c.self.Realm, c.self.Realm), etypes)
	if err != nil {
		return nil, err
	}
	req := messages.ASReq{KDCReqFields: messages.KDCReqFields{PVNO: iana.PVNO, MsgType: msgtype.KRB_AS_REQ, ReqBody: body}}
	answer, err := askAS(ask, req)
	var said *gss.PeerError
	if errors.As(err, &said) && said.Code == errorcode.KDC_ERR_PREAUTH_REQUIRED {
		if req.PAData, err = c.timestamp(said.Data, etypes); err != nil {
			return nil, err
		}
		answer, err = askAS(ask, req)
	}
	if err != nil {
		return nil, err
	}
	return c.takeAS(answer, body)
}

func askAS(ask asker, req messages.ASReq) ([]byte, error) {
	b, err := req.Marshal()
	if err != nil {
		return nil, err
	}
	return ask(b)
}

// timestamp makes the encrypted timestamp that proves the key to the KDC (RFC
// 4120 §5.2.7.2), under the first of its encryption types that is ours too.
func (c *client) timestamp(data []byte, etypes []int32) (pa types.PADataSequence, err error) {
	defer guard(&err)
	var asked types.PADataSequence
	if len(data) > 0 && asked.Unmarshal(data) != nil {
		return nil, fmt.Errorf("%w: the methods of pre-authentication", errReply)
	}
	etype, err := preauthEtype(asked, etypes)
	if err != nil {
		return nil, err
	}
	key, kvno, _ := c.keytab.Key(c.self, etype)
	now := c.now().UTC()
	plain, err := asn1.Marshal(types.PAEncTSEnc{PATimestamp: now.Truncate(time.Second), PAUSec: now.Nanosecond() / 1000})
	if err != nil {
		return nil, err
	}
	sealed, err := key.Encrypt(plain, usageTimestamp)
	if err != nil {
		return nil, err
	}
	b, err := asn1.Marshal(types.EncryptedData{EType: etype, KVNO: int(kvno), Cipher: sealed})
	return types.PADataSequence{{PADataType: patype.PA_ENC_TIMESTAMP, PADataValue: b}}, err
}

// preauthEtype chooses the encryption type of the timestamp.
func preauthEtype(asked types.PADataSequence, ours []int32) (int32, error) {
	for _, pa := range asked {
		if pa.PADataType != patype.PA_ETYPE_INFO2 {
			continue
		}
		info, err := pa.GetETypeInfo2()
		if err != nil {
			return 0, fmt.Errorf("%w: its encryption types", errReply)
		}
		for _, i := range info {
			if slices.Contains(ours, i.EType) {
				return i.EType, nil
			}
		}
		return 0, fmt.Errorf("%w: the keytab has no key of the types that the KDC has for this principal", gss.ErrEtype)
	}
	return ours[0], nil
}

// takeAS verifies an AS-REP against the request.
func (c *client) takeAS(answer []byte, body messages.KDCReqBody) (cred *gss.Credential, err error) {
	defer guard(&err)
	var rep messages.ASRep
	if rep.Unmarshal(answer) != nil {
		return nil, fmt.Errorf("%w: no AS-REP", errReply)
	}
	key, ok := c.keytab.Version(c.self, rep.EncPart.EType, uint32(rep.EncPart.KVNO))
	if !ok {
		return nil, fmt.Errorf("%w: the KDC uses key version %d (%s) of %s, which the keytab does not have",
			gss.ErrNoKey, rep.EncPart.KVNO, gss.EtypeName(rep.EncPart.EType), c.self)
	}
	plain, err := key.Decrypt(rep.EncPart.Cipher, usageASReply)
	if err != nil {
		return nil, err
	}
	return c.take(rep.KDCRepFields, plain, body)
}

// service gets a ticket with one for a ticket-granting service (RFC 4120
// §3.3). The service's realm must be that of tgt's KDC.
func (c *client) service(ctx context.Context, tgt *gss.Credential, service gss.Principal) (*gss.Credential, error) {
	body, err := c.body(service, gss.Etypes(c.rc4))
	if err != nil {
		return nil, err
	}
	b, err := body.Marshal()
	if err != nil {
		return nil, err
	}
	ap, err := tgt.Authorize(b, c.now())
	if err != nil {
		return nil, err
	}
	req := messages.TGSReq{KDCReqFields: messages.KDCReqFields{
		PVNO: iana.PVNO, MsgType: msgtype.KRB_TGS_REQ, ReqBody: body,
		PAData: types.PADataSequence{{PADataType: patype.PA_TGS_REQ, PADataValue: ap}},
	}}
	if b, err = req.Marshal(); err != nil {
		return nil, err
	}
	var cred *gss.Credential
	err = c.kdc.try(ctx, service.Realm, func(ask asker) error {
		answer, err := ask(b)
		if err != nil {
			return err
		}
		cred, err = c.takeTGS(answer, tgt, body)
		return err
	})
	return cred, err
}

// takeTGS verifies a TGS-REP against the request.
func (c *client) takeTGS(answer []byte, tgt *gss.Credential, body messages.KDCReqBody) (cred *gss.Credential, err error) {
	defer guard(&err)
	var rep messages.TGSRep
	if rep.Unmarshal(answer) != nil {
		return nil, fmt.Errorf("%w: no TGS-REP", errReply)
	}
	plain, err := tgt.SessionKey().Decrypt(rep.EncPart.Cipher, usageTGSReply)
	if err != nil {
		return nil, err
	}
	return c.take(rep.KDCRepFields, plain, body)
}

// take checks what both kinds of answers have in common and makes the
// credential. Only the sealed part counts; the ticket's name, which is in
// clear, has to be the same.
func (c *client) take(rep messages.KDCRepFields, plain []byte, body messages.KDCReqBody) (*gss.Credential, error) {
	var part messages.EncKDCRepPart
	if part.Unmarshal(plain) != nil {
		return nil, fmt.Errorf("%w: its sealed part", errReply)
	}
	got, err := gss.PrincipalOf(part.SName, part.SRealm)
	if err != nil {
		return nil, err
	}
	named, err := gss.PrincipalOf(rep.Ticket.SName, rep.Ticket.Realm)
	if err != nil {
		return nil, err
	}
	switch {
	case part.Nonce != body.Nonce:
		return nil, fmt.Errorf("%w: another nonce", errReply)
	case !rep.CName.Equal(c.self.Wire()) || rep.CRealm != c.self.Realm:
		return nil, fmt.Errorf("%w: a ticket for another client", errReply)
	case !got.Equal(named) || part.SRealm != body.Realm:
		return nil, fmt.Errorf("%w: a ticket for %s", errReply, got)
	case !slices.Equal(got.Name, body.SName.NameString) && !(isKrbtgt(got) && body.SName.NameString[0] == "krbtgt"):
		return nil, fmt.Errorf("%w: a ticket for %s", errReply, got)
	}
	if err := c.checkTimes(part); err != nil {
		return nil, err
	}
	return gss.NewCredential(c.self, rep.Ticket, part.Key, part.EndTime)
}

// isKrbtgt reports whether a principal is a ticket-granting service.
func isKrbtgt(p gss.Principal) bool { return len(p.Name) == 2 && p.Name[0] == "krbtgt" }

// checkTimes finds out whether the KDC's clock and ours agree: the ticket
// starts now by its clock, or was authenticated now.
func (c *client) checkTimes(part messages.EncKDCRepPart) error {
	now := c.now()
	starts := part.StartTime
	if starts.IsZero() {
		starts = part.AuthTime
	}
	if starts.Sub(now) > c.skew {
		return fmt.Errorf("%w: the KDC's clock is %s ahead of ours", gss.ErrSkew, starts.Sub(now).Round(time.Second))
	}
	if !part.EndTime.After(now) {
		return fmt.Errorf("%w: the KDC's ticket ended at %s", gss.ErrExpired, part.EndTime.UTC().Format(time.RFC3339))
	}
	return nil
}

// guard turns a panic of the decoder into an error: a KDC's answer may come
// from anybody.
func guard(err *error) {
	if recover() != nil {
		*err = fmt.Errorf("%w: the decoder gave up", errReply)
	}
}
