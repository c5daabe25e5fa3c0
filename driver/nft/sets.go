package nft

import (
	"errors"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// elementsPerMessage keeps the list of elements below the 64 KiB an attribute
// can hold.
const elementsPerMessage = 200

// addSet makes the map of boxes of a shape to verdicts, still without elements.
// Each element counts. No size is given: the kernel lets the set grow.
func (e *engine) addSet(b *batch, name string, sh shape, v6 bool) {
	fields := sh.fields(v6)
	flags, length := uint32(unix.NFT_SET_MAP), 0
	if sh.has(ranges) {
		flags |= unix.NFT_SET_INTERVAL
	}
	if len(fields) > 1 {
		flags |= setConcat
	}
	for _, f := range fields {
		length += (f + 3) / 4 * 4
	}
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae attrs) {
		ae.String(unix.NFTA_SET_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_SET_NAME, name)
		ae.Uint32(unix.NFTA_SET_FLAGS, flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, sh.keyType(v6))
		ae.Uint32(unix.NFTA_SET_KEY_LEN, uint32(length))
		ae.Uint32(unix.NFTA_SET_DATA_TYPE, typeVerdict)
		ae.Uint32(unix.NFTA_SET_DATA_LEN, 0)
		ae.Uint32(unix.NFTA_SET_ID, b.nextSetID())
		if len(fields) > 1 {
			nest(ae, unix.NFTA_SET_DESC, func(n attrs) {
				nest(n, attrDescList, func(n attrs) { putFields(n, fields) })
			})
		}
		b.setExprs(ae, &expr.Counter{})
	})
}

func putFields(ae attrs, fields []int) {
	for _, f := range fields {
		nest(ae, unix.NFTA_LIST_ELEM, func(n attrs) { n.Uint32(attrFieldLen, uint32(f)) })
	}
}

// setExprs says which state the kernel keeps for each element.
func (b *batch) setExprs(ae attrs, list ...expr.Any) {
	if len(list) == 1 {
		data, err := expr.Marshal(unix.NFPROTO_INET, list[0])
		b.err = errors.Join(b.err, err)
		ae.Bytes(unix.NLA_F_NESTED|attrSetExpr, data)
		return
	}
	nest(ae, attrSetExprs, func(n attrs) { b.exprs(n, list) })
}

// nextSetID numbers the sets of a batch; rules name them by name.
func (b *batch) nextSetID() uint32 {
	b.sets++
	return b.sets
}

// setElements adds elements to a set or, with NFT_MSG_DELSETELEM, removes them;
// at most elementsPerMessage.
func (e *engine) setElements(b *batch, message uint16, name string, part []element) {
	flags, encode := netlink.Create, (*element).encode
	if message == unix.NFT_MSG_DELSETELEM {
		flags, encode = 0, (*element).encodeKey
	}
	b.add(message, flags, func(ae attrs) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, name)
		nest(ae, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(n attrs) {
			for i := range part {
				nest(n, unix.NFTA_LIST_ELEM, func(n attrs) { encode(&part[i], n) })
			}
		})
	})
}

func (x *element) encodeKey(ae attrs) {
	value := func(typ uint16, b []byte) {
		nest(ae, typ, func(n attrs) { n.Bytes(unix.NFTA_DATA_VALUE, b) })
	}
	value(unix.NFTA_SET_ELEM_KEY, x.from)
	if x.to != nil {
		value(attrKeyEnd, x.to)
	}
}

func (x *element) encode(ae attrs) {
	x.encodeKey(ae)
	if x.target.kind == noVerdict {
		return
	}
	nest(ae, unix.NFTA_SET_ELEM_DATA, func(n attrs) {
		nest(n, unix.NFTA_DATA_VERDICT, func(n attrs) {
			n.Uint32(unix.NFTA_VERDICT_CODE, uint32(x.target.kind))
			if x.target.chain != "" {
				n.String(unix.NFTA_VERDICT_CHAIN, x.target.chain)
			}
		})
	})
	ae.Bytes(unix.NFTA_SET_ELEM_USERDATA, userData(x.id, x.target.counts))
}

// User data are types, lengths and values. The nft command shows the comment.
const (
	userComment = 0   // NFTNL_UDATA_SET_ELEM_COMMENT, ends with a zero byte
	userMeaning = 100 // ours
)

func userData(id sadb.FilterID, counts meaning) []byte {
	b := append([]byte{userComment, byte(len(id) + 1)}, id...)
	return append(b, 0, userMeaning, 1, byte(counts))
}

// parseUserData is the reverse; what it does not know is skipped.
func parseUserData(b []byte) (id sadb.FilterID, counts meaning) {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		value := b[2 : 2+int(b[1])]
		switch {
		case b[0] == userComment && len(value) > 0:
			id = sadb.FilterID(value[:len(value)-1])
		case b[0] == userMeaning && len(value) == 1:
			counts = meaning(value[0])
		}
		b = b[2+len(value):]
	}
	return id, counts
}

// noVerdict marks elements of plain sets.
const noVerdict expr.VerdictKind = -100

// addLooked makes the set of protocols whose headers are looked into.
func (e *engine) addLooked(b *batch) {
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae attrs) {
		ae.String(unix.NFTA_SET_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_SET_NAME, setLooked)
		ae.Uint32(unix.NFTA_SET_FLAGS, 0)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, dataProtocol)
		ae.Uint32(unix.NFTA_SET_KEY_LEN, 1)
		ae.Uint32(unix.NFTA_SET_ID, b.nextSetID())
	})
	var all []element
	for _, p := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP} {
		all = append(all, element{from: []byte{p}, target: target{kind: noVerdict}})
	}
	e.setElements(b, unix.NFT_MSG_NEWSETELEM, setLooked, all)
}

// addClearSet makes a set of peers in clear, which packets fill. Outbound
// elements also limit how often a peer is reported.
func (e *engine) addClearSet(b *batch, inbound, v6 bool) {
	length := uint32(keySize + 4 + 4)
	if v6 {
		length = keySize + 16 + 16
	}
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae attrs) {
		ae.String(unix.NFTA_SET_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_SET_NAME, e.cfg.clearSet(inbound, v6))
		flags := uint32(unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL)
		if !inbound {
			flags |= setExprList
		}
		ae.Uint32(unix.NFTA_SET_FLAGS, flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, dataInteger)
		ae.Uint32(unix.NFTA_SET_KEY_LEN, length)
		ae.Uint32(unix.NFTA_SET_ID, b.nextSetID())
		ae.Uint64(unix.NFTA_SET_TIMEOUT, uint64(clearTimeout.Milliseconds()))
		nest(ae, unix.NFTA_SET_DESC, func(n attrs) {
			n.Uint32(unix.NFTA_SET_DESC_SIZE, uint32(e.cfg.clearPeersMax()))
		})
		if inbound {
			b.setExprs(ae, &expr.Counter{})
			return
		}
		b.setExprs(ae, &expr.Counter{}, &expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeSecond, Burst: 1})
	})
}

func (e *engine) deleteSet(b *batch, name string) {
	b.add(unix.NFT_MSG_DELSET, 0, func(ae attrs) {
		ae.String(unix.NFTA_SET_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_SET_NAME, name)
	})
}

// Numbers by which the nft command knows types, so that it can print sets.
const (
	dataFamily   = 2
	dataInteger  = 4
	dataAddr4    = 7
	dataAddr6    = 8
	dataProtocol = 12
	dataPort     = 13
	dataICMP     = 14
	dataBits     = 6 // of each type in a concatenation
)

// keyType is the concatenation of the fields' types; the kernel only keeps it.
func (s shape) keyType(v6 bool) uint32 {
	addr := uint32(dataAddr4)
	if v6 {
		addr = dataAddr6
	}
	t := uint32(dataFamily)
	for _, f := range []struct {
		part shape
		data uint32
	}{{localAddr, addr}, {remoteAddr, addr}, {withProto, dataProtocol}, {withLocalPort, dataPort},
		{withRemotePort, dataPort}, {withICMPType, dataICMP}, {withICMPCode, dataICMP}} {
		if s.has(f.part) {
			t = t<<dataBits | f.data
		}
	}
	return t
}

// counted is an element as the kernel lists it.
type counted struct {
	key        []byte
	id         sadb.FilterID // "" in sets that packets fill
	counts     meaning
	packets    uint64
	bytes      uint64
	expiration uint64 // milliseconds
}

// elements lists a set.
func (e *engine) elements(name string) ([]counted, error) {
	msgs, err := e.conn.dump(unix.NFT_MSG_GETSETELEM, func(ae attrs) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, e.cfg.Table)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, name)
	})
	if err != nil {
		return nil, err
	}
	var out []counted
	for _, m := range msgs {
		list, err := parseElements(m.Data)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// parseElements reads one message of a listing of elements.
func parseElements(data []byte) ([]counted, error) {
	var out []counted
	var errs []error
	err := decode(data, func(ad *netlink.AttributeDecoder) {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return
		}
		errs = append(errs, decodeAttrs(ad.Bytes(), func(ad *netlink.AttributeDecoder) {
			x, err := parseElement(ad.Bytes())
			out, errs = append(out, x), append(errs, err)
		}))
	})
	return out, errors.Join(append(errs, err)...)
}

func parseElement(data []byte) (x counted, err error) {
	var errs []error
	err = decodeAttrs(data, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			errs = append(errs, decodeAttrs(ad.Bytes(), func(ad *netlink.AttributeDecoder) { x.key = ad.Bytes() }))
		case unix.NFTA_SET_ELEM_USERDATA:
			x.id, x.counts = parseUserData(ad.Bytes())
		case unix.NFTA_SET_ELEM_EXPIRATION:
			x.expiration = ad.Uint64()
		case attrElemExpr:
			errs = append(errs, x.readCounter(ad.Bytes()))
		case attrElemList:
			errs = append(errs, decodeAttrs(ad.Bytes(), func(ad *netlink.AttributeDecoder) {
				errs = append(errs, x.readCounter(ad.Bytes()))
			}))
		}
	})
	return x, errors.Join(append(errs, err)...)
}

// readCounter takes the figures of a counter expression and ignores others.
func (x *counted) readCounter(data []byte) error {
	name, body := "", []byte(nil)
	err := decodeAttrs(data, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			body = ad.Bytes()
		}
	})
	if err != nil || name != "counter" {
		return err
	}
	return decodeAttrs(body, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_COUNTER_BYTES:
			x.bytes = ad.Uint64()
		case unix.NFTA_COUNTER_PACKETS:
			x.packets = ad.Uint64()
		}
	})
}
