package gss

import (
	"fmt"
	"time"

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
	service, err := principalOf(ticket.SName, ticket.Realm)
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

// Ticket returns the ticket as messages carry it.
func (c *Credential) Ticket() messages.Ticket { return c.ticket }

// SessionKey returns the key shared with the service.
func (c *Credential) SessionKey() Key { return c.key }
