package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	// One batch is one message to the kernel's socket and one buffer here.
	maxBatchMessages = 1000
	maxBatchBytes    = 8 << 20
	socketBuffer     = 16 << 20
)

// conn is the netlink socket that owns the table: every change goes over it.
type conn struct{ nl *netlink.Conn }

func dial() (*conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	err = errors.Join(nl.SetReadBuffer(socketBuffer), nl.SetWriteBuffer(socketBuffer),
		nl.SetOption(netlink.CapAcknowledge, true))
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("prepare netfilter netlink: %w", err)
	}
	return &conn{nl: nl}, nil
}

// attrs encodes a message's attributes; integers are big-endian.
type attrs = *netlink.AttributeEncoder

func encode(family uint8, f func(attrs)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	f(ae)
	b, err := ae.Encode()
	return append([]byte{family, unix.NFNETLINK_V0, 0, 0}, b...), err
}

// nest encodes nested attributes.
func nest(ae attrs, typ uint16, f func(attrs)) {
	ae.Nested(typ, func(n *netlink.AttributeEncoder) error {
		n.ByteOrder = binary.BigEndian
		f(n)
		return nil
	})
}

// batch is a list of changes that take effect together.
type batch struct {
	msgs []netlink.Message
	size int
	sets uint32
	err  error
}

func (b *batch) add(kind uint16, flags netlink.HeaderFlags, f func(attrs)) {
	data, err := encode(unix.NFPROTO_INET, f)
	b.err = errors.Join(b.err, err)
	b.size += len(data) + unix.NLMSG_HDRLEN
	b.msgs = append(b.msgs, netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem | kind), Flags: netlink.Request | flags},
		Data:   data,
	})
}

// full reports whether the batch should be sent before more is added; only for
// changes that need not take effect together.
func (b *batch) full() bool { return len(b.msgs) >= maxBatchMessages || b.size >= maxBatchBytes }

func envelope(kind netlink.HeaderType) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}

// commit sends b as one transaction and empties it. All of it takes effect or
// nothing.
func (c *conn) commit(b *batch) error {
	msgs, err := b.msgs, b.err
	*b = batch{}
	if len(msgs) == 0 || err != nil {
		return err
	}
	all := append([]netlink.Message{envelope(unix.NFNL_MSG_BATCH_BEGIN)}, msgs...)
	if _, err := c.nl.SendMessages(append(all, envelope(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	return c.settle(len(all))
}

// settle collects the errors of a batch. The kernel answers a batch only where
// it fails, so a question that is always answered is asked behind it.
func (c *conn) settle(answers int) error {
	data, err := encode(unix.AF_UNSPEC, func(attrs) {})
	if err != nil {
		return err
	}
	question, err := c.nl.Send(netlink.Message{
		Header: netlink.Header{Type: subsystem | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   data,
	})
	if err != nil {
		return err
	}
	var first error
	for range answers + 2 {
		replies, err := c.nl.Receive()
		if err != nil && first == nil {
			first = err
		}
		if len(replies) > 0 && replies[0].Header.Sequence == question.Header.Sequence {
			return first
		}
	}
	return errors.Join(first, errors.New("the kernel did not answer"))
}

// dump lists objects of a kind. A listing that changes of other programs have
// interrupted may be incomplete and is asked for again.
func (c *conn) dump(kind uint16, f func(attrs)) ([]netlink.Message, error) {
	data, err := encode(unix.NFPROTO_INET, f)
	if err != nil {
		return nil, err
	}
	const attempts = 10
	for range attempts {
		msgs, err := c.nl.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(subsystem | kind), Flags: netlink.Request | netlink.Dump},
			Data:   data,
		})
		if err != nil || !slices.ContainsFunc(msgs, interrupted) {
			return msgs, err
		}
	}
	return nil, fmt.Errorf("other programs changed nftables during each of %d listings", attempts)
}

func interrupted(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }

// decode walks a message's attributes.
func decode(data []byte, f func(*netlink.AttributeDecoder)) error {
	if len(data) < 4 {
		return errors.New("netfilter message shorter than its header")
	}
	return decodeAttrs(data[4:], f)
}

func decodeAttrs(data []byte, f func(*netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		f(ad)
	}
	return ad.Err()
}

// Flags of nftables that x/sys/unix does not have or spells otherwise.
const (
	tableOwner   = 0x2
	tablePersist = 0x4
	setConcat    = 0x80
	setExprList  = 0x100 // NFT_SET_EXPR
	attrSetExpr  = 0x11  // NFTA_SET_EXPR
	attrSetExprs = 0x12  // NFTA_SET_EXPRESSIONS
	attrDescList = 0x2   // NFTA_SET_DESC_CONCAT
	attrFieldLen = 0x1   // NFTA_SET_FIELD_LEN
	attrKeyEnd   = 0xa   // NFTA_SET_ELEM_KEY_END
	attrElemExpr = 0x7   // NFTA_SET_ELEM_EXPR
	attrElemList = 0xb   // NFTA_SET_ELEM_EXPRESSIONS
	typeVerdict  = 0xffffff00
	policyAccept = 1 // NF_ACCEPT
)

func (e *engine) addTable(b *batch) {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, func(ae attrs) {
		ae.String(unix.NFTA_TABLE_NAME, e.cfg.Table)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, e.flags)
	})
}

func (e *engine) deleteTable(b *batch) {
	b.add(unix.NFT_MSG_DELTABLE, 0, func(ae attrs) { ae.String(unix.NFTA_TABLE_NAME, e.cfg.Table) })
}

// hook says where a base chain hangs.
type hook struct {
	kind     string
	number   uint32
	priority int32
}

func (e *engine) addChain(b *batch, name string, h *hook) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae attrs) {
		ae.String(unix.NFTA_CHAIN_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_CHAIN_NAME, name)
		if h == nil {
			return
		}
		nest(ae, unix.NFTA_CHAIN_HOOK, func(n attrs) {
			n.Uint32(unix.NFTA_HOOK_HOOKNUM, h.number)
			n.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
		})
		ae.Uint32(unix.NFTA_CHAIN_POLICY, policyAccept)
		ae.String(unix.NFTA_CHAIN_TYPE, h.kind)
	})
}

func (e *engine) deleteChain(b *batch, name string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, func(ae attrs) {
		ae.String(unix.NFTA_CHAIN_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_CHAIN_NAME, name)
	})
}

// emptyChain removes the rules of a chain.
func (e *engine) emptyChain(b *batch, name string) {
	b.add(unix.NFT_MSG_DELRULE, 0, func(ae attrs) {
		ae.String(unix.NFTA_RULE_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_RULE_CHAIN, name)
	})
}

func (e *engine) addRule(b *batch, chain string, r rule) {
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae attrs) {
		ae.String(unix.NFTA_RULE_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		nest(ae, unix.NFTA_RULE_EXPRESSIONS, func(n attrs) { b.exprs(n, r) })
	})
}

// exprs appends expressions as list elements.
func (b *batch) exprs(ae attrs, list []expr.Any) {
	for _, x := range list {
		data, err := expr.Marshal(unix.NFPROTO_INET, x)
		b.err = errors.Join(b.err, err)
		ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, data)
	}
}

func (e *engine) addCounter(b *batch, name string) {
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, func(ae attrs) {
		ae.String(unix.NFTA_OBJ_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_OBJ_NAME, name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		nest(ae, unix.NFTA_OBJ_DATA, func(attrs) {})
	})
}
