// Package wire is the codec of the kernel's XFRM messages (netlink family 6,
// linux/xfrm.h): values in, bytes out, and back.
//
// It owns the layouts of policies, states, templates, algorithms and events,
// and the numbers of messages and attributes. It opens no socket, sends
// nothing and decides nothing. Keys go in as sadb.Secret; states read back
// carry none: what the kernel returns of keys is not looked at.
//
// Integers are of the machine's byte order, addresses, ports and SPIs of the
// network's. Every parser is given untrusted lengths and refuses what does not
// fit; attributes it does not know it skips, as the kernel adds them over time.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Types of messages (enum of linux/xfrm.h).
const (
	MsgNewSA        = 0x10
	MsgDelSA        = 0x11
	MsgGetSA        = 0x12
	MsgNewPolicy    = 0x13
	MsgDelPolicy    = 0x14
	MsgGetPolicy    = 0x15
	MsgAllocSPI     = 0x16
	MsgAcquire      = 0x17
	MsgExpire       = 0x18
	MsgUpdatePolicy = 0x19
	MsgUpdateSA     = 0x1a
	MsgPolExpire    = 0x1b
	MsgFlushSA      = 0x1c // parsed, never sent: it would take what is not ours
	MsgFlushPolicy  = 0x1d // parsed, never sent
	MsgNewAE        = 0x1e
	MsgGetAE        = 0x1f
	MsgMigrate      = 0x21
	MsgMapping      = 0x26
	MsgSetDefault   = 0x27 // Linux 5.14
	MsgGetDefault   = 0x28
	MsgNewSPDInfo   = 0x24
	MsgGetSPDInfo   = 0x25
)

// Multicast groups of netlink (enum xfrm_nlgroups).
const (
	GroupAcquire = 1
	GroupExpire  = 2
	GroupSA      = 3
	GroupPolicy  = 4
	GroupAEvents = 5
	GroupMigrate = 7
	GroupMapping = 8
)

// Types of attributes (enum xfrm_attr_type_t).
const (
	attrAlgCrypt     = 2
	attrEncap        = 4
	attrTemplates    = 5
	attrState        = 6
	attrPolicy       = 7
	attrLifetime     = 9
	attrReplay       = 10
	attrCareOf       = 14
	attrLastUsed     = 15
	attrPolicyType   = 16
	attrMigrate      = 17
	attrAlgAEAD      = 18
	attrAlgAuthTrunc = 20
	attrMark         = 21
	attrReplayESN    = 23
	attrSetMark      = 29
	attrSetMarkMask  = 30
	attrIfID         = 31
)

// ErrShort means that a message ends before its fixed part does.
var ErrShort = errors.New("wire: the message is too short")

var native = binary.NativeEndian

// need refuses a message without the n bytes of its fixed part.
func need(b []byte, n int, what string) error {
	if len(b) < n {
		return fmt.Errorf("%w: %s of %d bytes, want %d", ErrShort, what, len(b), n)
	}
	return nil
}

// zeros appends n zero bytes and returns the whole and the new part.
func zeros(b []byte, n int) (all, part []byte) {
	b = append(b, make([]byte, n)...)
	return b, b[len(b)-n:]
}
