package gss

import (
	"fmt"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Credential is a service ticket with its session key, as a KDC hands it out.
// It can serve any number of contexts until it ends.
type Credential struct {
	client  Principal
	service Principal
	ends    time.Time
	ticket  messages.Ticket
	key     Key
}

// NewCredential takes a ticket, its session key, for whom it is and when it
// ends.
func NewCredential(client Principal, ticket messages.Ticket, key types.EncryptionKey, ends time.Time) (*Credential, error) {
	k, err := NewKey(key.KeyType, key.KeyValue)
	if err != nil {
		return nil, fmt.Errorf("gss: take ticket: %w", err)
	}
	service, err := PrincipalOf(ticket.SName, ticket.Realm)
	if err != nil {
		return nil, fmt.Errorf("gss: take ticket: %w", err)
	}
	return &Credential{client: client, service: service, ends: ends.UTC(), ticket: ticket, key: k}, nil
}

// Client returns whom the ticket speaks for.
func (c *Credential) Client() Principal { return c.client }

// Service returns the service the ticket is for, as the ticket names it.
func (c *Credential) Service() Principal { return c.service }

// Ends returns when the ticket ends.
func (c *Credential) Ends() time.Time { return c.ends }

// ServiceKey returns version and encryption type of the service's key that the
// ticket is under.
func (c *Credential) ServiceKey() (kvno uint32, etype int32) {
	return uint32(c.ticket.EncPart.KVNO), c.ticket.EncPart.EType
}

// SessionKey returns the key shared with the service.
func (c *Credential) SessionKey() Key { return c.key }

// usageTGSBody is the key usage of the checksum over a request's body in the
// authenticator for a ticket-granting service (RFC 4120 §7.5.1).
const usageTGSBody = 6

// Authorize returns the AP-REQ that goes with a request to the
// ticket-granting service, whose ticket this is (RFC 4120 §5.4.1): its
// authenticator covers the request's body.
func (c *Credential) Authorize(body []byte, now time.Time) (out []byte, err error) {
	defer guard(&err)
	sum, err := c.key.Checksum(body, usageTGSBody)
	if err != nil {
		return nil, err
	}
	seq, err := newSequence()
	if err != nil {
		return nil, err
	}
	now = now.UTC()
	req, err := messages.NewAPReq(c.ticket, c.key.wire(), types.Authenticator{
		AVNO:      iana.PVNO,
		CRealm:    c.client.Realm,
		CName:     c.client.Wire(),
		Cksum:     types.Checksum{CksumType: c.key.ChecksumType(), Checksum: sum},
		Cusec:     now.Nanosecond() / 1000,
		CTime:     now.Truncate(time.Second),
		SeqNumber: int64(seq),
	})
	if err != nil {
		return nil, err
	}
	return req.Marshal()
}
