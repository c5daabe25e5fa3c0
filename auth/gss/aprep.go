package gss

import (
	"fmt"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/iana"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/iana/msgtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// usageAPRep is the key usage of an AP-REP's encrypted part (RFC 4120 §7.5.1).
const usageAPRep = 12

// reply is what an AP-REP says: the initiator's own time back, and the
// acceptor's key and first sequence number.
type reply struct {
	ctime  time.Time // seconds
	cusec  int
	subkey Key
	seq    uint32
}

// marshal seals the reply under the session key.
func (r reply) marshal(session Key) ([]byte, error) {
	plain, err := asn1.Marshal(messages.EncAPRepPart{
		CTime:          r.ctime.UTC().Truncate(time.Second),
		Cusec:          r.cusec,
		Subkey:         r.subkey.wire(),
		SequenceNumber: int64(r.seq),
	})
	if err != nil {
		return nil, err
	}
	sealed, err := session.Encrypt(asn1tools.AddASNAppTag(plain, asnAppTag.EncAPRepPart), usageAPRep)
	if err != nil {
		return nil, err
	}
	b, err := asn1.Marshal(messages.APRep{
		PVNO:    iana.PVNO,
		MsgType: msgtype.KRB_AP_REP,
		EncPart: types.EncryptedData{EType: session.Etype(), Cipher: sealed},
	})
	if err != nil {
		return nil, err
	}
	return asn1tools.AddASNAppTag(b, asnAppTag.APREP), nil
}

// parseReply opens an AP-REP.
func parseReply(b []byte, session Key) (r reply, err error) {
	defer guard(&err)
	var rep messages.APRep
	if err := rep.Unmarshal(b); err != nil {
		return r, fmt.Errorf("%w: AP-REP", ErrMalformed)
	}
	if rep.EncPart.EType != session.Etype() {
		return r, fmt.Errorf("%w: AP-REP under %s", ErrMismatch, EtypeName(rep.EncPart.EType))
	}
	plain, err := session.Decrypt(rep.EncPart.Cipher, usageAPRep)
	if err != nil {
		return r, err
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		return r, fmt.Errorf("%w: the sealed part of the AP-REP", ErrMalformed)
	}
	r = reply{ctime: part.CTime, cusec: part.Cusec, seq: uint32(part.SequenceNumber)}
	if len(part.Subkey.KeyValue) > 0 {
		r.subkey, err = NewKey(part.Subkey.KeyType, part.Subkey.KeyValue)
	}
	return r, err
}
