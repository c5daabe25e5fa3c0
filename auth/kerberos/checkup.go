package kerberos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/msgtype"
	"github.com/jcmturner/gokrb5/v8/messages"

	"ipsecagent/auth/gss"
)

// Checkup is what a login at the KDC of this host's realm has shown.
type Checkup struct {
	Principal string
	Realm     string
	// Version and Etype are of the key under which the KDC makes tickets for this
	// host; 0: it was not asked.
	Version uint32
	Etype   string
	// Ahead is how far the KDC's clock is before this host's, zero with Timed
	// false: it did not say. That is not authenticated, a hint alone.
	Ahead time.Duration
	Timed bool
}

// Checkup logs in by the keytab and asks for a ticket for this host itself, anew
// whatever tickets there are. The error, an
// *auth.Error, says what does not fit; what was found until then is returned
// with it.
func (a *Authenticator) Checkup(ctx context.Context) (Checkup, error) {
	f, err := a.facts()
	if err != nil {
		return Checkup{}, err
	}
	c := f.tickets.client
	found := Checkup{Principal: f.self.String(), Realm: f.self.Realm}
	etypes := c.etypes()
	if len(etypes) == 0 {
		return found, explain(fmt.Errorf("%w: the keytab has no usable key of %s", gss.ErrNoKey, c.self), "%s cannot log in", f.self)
	}
	var tgt *gss.Credential
	err = c.kdc.try(ctx, f.self.Realm, func(ask asker) (err error) {
		tgt, err = c.checkupAt(ask, etypes, &found)
		return err
	})
	if err != nil {
		return found, explain(err, "%s cannot log in at realm %s", f.self, f.self.Realm)
	}
	return found, c.ownKey(ctx, tgt, &found)
}

// checkupAt logs in at one KDC and notes what it says of itself.
func (c *client) checkupAt(ask asker, etypes []int32, found *Checkup) (*gss.Credential, error) {
	body, err := c.body(krbtgt(c.self.Realm, c.self.Realm), etypes)
	if err != nil {
		return nil, err
	}
	req := messages.ASReq{KDCReqFields: messages.KDCReqFields{PVNO: iana.PVNO, MsgType: msgtype.KRB_AS_REQ, ReqBody: body}}
	answer, err := askAS(ask, req)
	var said *gss.PeerError
	if errors.As(err, &said) && !said.Time.IsZero() {
		found.Ahead, found.Timed = said.Time.Sub(c.now()).Round(time.Second), true
	}
	if said != nil && said.Code == errorcode.KDC_ERR_PREAUTH_REQUIRED {
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

// ownKey notes the key under which the KDC makes tickets for this host: peers
// come with such.
func (c *client) ownKey(ctx context.Context, tgt *gss.Credential, found *Checkup) error {
	ticket, err := c.service(ctx, tgt, c.self)
	if err != nil {
		return explain(err, "the KDC gives no ticket for %s, as peers ask it for", c.self)
	}
	var etype int32
	found.Version, etype = ticket.ServiceKey()
	found.Etype = gss.EtypeName(etype)
	if _, ok := c.keytab.Version(c.self, etype, found.Version); !ok {
		return refuse(codeKeyVersion, nil, "the KDC makes tickets for %s under key version %d (%s), which the keytab does not have", c.self, found.Version, found.Etype)
	}
	return nil
}
