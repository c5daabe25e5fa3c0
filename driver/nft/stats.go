package nft

import (
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

func (e *engine) stats() (Stats, error) {
	var s Stats
	if e.layout == nil {
		return s, nil
	}
	all := maps.Clone(e.retired)
	for name := range e.layout.setNames() {
		if err := e.tallySet(all, name); err != nil {
			return s, err
		}
	}
	for _, f := range e.filters {
		n := all[f.ID]
		s.Filters = append(s.Filters, driver.FilterStat{Filter: f, Packets: n.packets, Bytes: n.bytes, Dropped: n.dropped})
	}
	named, err := e.counters()
	if err != nil {
		return s, fmt.Errorf("named counters: %w", err)
	}
	s.LastChain, s.InClear, s.Opaque = named[counterLast], named[counterClear], named[counterOpaque]
	return s, nil
}

// counters reads the packets of the named counters.
func (e *engine) counters() (map[string]uint64, error) {
	msgs, err := e.conn.dump(unix.NFT_MSG_GETOBJ, func(ae attrs) {
		ae.String(unix.NFTA_OBJ_TABLE, e.cfg.Table)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	})
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for _, m := range msgs {
		table, name, packets, err := parseCounter(m.Data)
		if err != nil {
			return nil, err
		}
		if table == e.cfg.Table {
			out[name] = packets
		}
	}
	return out, nil
}

// parseCounter reads one message of a listing of named counters.
func parseCounter(data []byte) (table, name string, packets uint64, err error) {
	var body []byte
	err = decode(data, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_OBJ_TABLE:
			table = ad.String()
		case unix.NFTA_OBJ_NAME:
			name = ad.String()
		case unix.NFTA_OBJ_DATA:
			body = ad.Bytes()
		}
	})
	if err != nil {
		return "", "", 0, err
	}
	err = decodeAttrs(body, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_COUNTER_PACKETS {
			packets = ad.Uint64()
		}
	})
	return table, name, packets, err
}

// clearPeers lists the sets of peers in clear, of filters in force.
func (e *engine) clearPeers() (peers []driver.ClearPeer, full bool, err error) {
	if e.layout == nil {
		return nil, false, nil
	}
	known := map[[keySize]byte]sadb.FilterID{}
	for _, f := range e.filters {
		known[clearKey(f.ID)] = f.ID
	}
	now, since := time.Now(), map[peerKey]time.Time{}
	for _, way := range []struct{ inbound, v6 bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		list, err := e.elements(e.cfg.clearSet(way.inbound, way.v6))
		if err != nil {
			return nil, false, err
		}
		full = full || len(list) >= e.cfg.clearPeersMax()
		for _, x := range list {
			p, ok := x.peer(known, now)
			if !ok {
				continue
			}
			p.Inbound = way.inbound
			key := peerKey{p.Filter, p.Local, p.Remote, p.Inbound}
			if at, ok := e.since[key]; ok && at.Before(p.Since) {
				p.Since = at
			}
			since[key] = p.Since
			peers = append(peers, p)
		}
	}
	e.since = since
	return peers, full, nil
}

// peerKey names an entry of a set of peers in clear.
type peerKey struct {
	filter        sadb.FilterID
	local, remote netip.Addr
	inbound       bool
}

// peer reads an element of a set of peers in clear. The kernel tells when the
// last packet was, by the time the element has left.
func (x *counted) peer(known map[[keySize]byte]sadb.FilterID, now time.Time) (driver.ClearPeer, bool) {
	if len(x.key) != keySize+2*4 && len(x.key) != keySize+2*16 {
		return driver.ClearPeer{}, false
	}
	addrs := x.key[keySize:]
	local, _ := netip.AddrFromSlice(addrs[:len(addrs)/2])
	remote, _ := netip.AddrFromSlice(addrs[len(addrs)/2:])
	id, ok := known[[keySize]byte(x.key)]
	idle := clearTimeout - time.Duration(x.expiration)*time.Millisecond
	last := now.Add(-max(0, idle))
	return driver.ClearPeer{Filter: id, Local: local, Remote: remote, Since: last, Last: last, Packets: x.packets}, ok
}
