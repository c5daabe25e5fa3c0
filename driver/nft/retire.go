package nft

import (
	"fmt"
	"maps"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// figures is what is counted for a filter.
type figures struct{ packets, bytes, dropped uint64 }

// tally adds an element of a set of filters.
func tally(to map[sadb.FilterID]figures, x counted) {
	f := to[x.id]
	if x.counts&matches != 0 {
		f.packets += x.packets
		f.bytes += x.bytes
	}
	if x.counts&drops != 0 {
		f.dropped += x.packets
	}
	to[x.id] = f
}

// retire removes the sets and chains that the layout does not use, of an earlier
// process or a failed attempt too, and keeps what they counted. Nothing refers
// to them any more.
func (e *engine) retire() error {
	var b batch
	gone, err := e.retireSets(&b)
	if err != nil {
		return err
	}
	if err := e.retireChains(&b); err != nil {
		return err
	}
	if err := e.conn.commit(&b); err != nil {
		return err
	}
	for id, f := range gone {
		e.retired[id] = e.retired[id].plus(f)
	}
	return nil
}

func (e *engine) retireSets(b *batch) (map[sadb.FilterID]figures, error) {
	names, err := e.list(unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME)
	if err != nil {
		return nil, err
	}
	used := e.layout.setNames()
	gone := map[sadb.FilterID]figures{}
	for _, name := range names {
		if used[name] || e.cfg.fixedSet(name) {
			continue
		}
		if err := e.tallySet(gone, name); err != nil {
			return nil, err
		}
		e.deleteSet(b, name)
	}
	return gone, nil
}

func (e *engine) retireChains(b *batch) error {
	names, err := e.list(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME)
	if err != nil {
		return err
	}
	fixed, dispatch := e.cfg.fixed(), e.layout.dispatchRules(e.cfg)
	for _, name := range names {
		_, dispatches := dispatch[name]
		if e.layout.chains[name] == nil && fixed[name] == nil && !dispatches {
			e.deleteChain(b, name)
		}
	}
	return nil
}

// tallySet adds what the elements of a set have counted.
func (e *engine) tallySet(to map[sadb.FilterID]figures, name string) error {
	list, err := e.elements(name)
	if err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	for _, x := range list {
		tally(to, x)
	}
	return nil
}

func (f figures) plus(g figures) figures {
	return figures{f.packets + g.packets, f.bytes + g.bytes, f.dropped + g.dropped}
}

func (c Config) fixedSet(name string) bool {
	if name == setLooked {
		return true
	}
	for _, v6 := range []bool{false, true} {
		if name == c.clearSet(true, v6) || name == c.clearSet(false, v6) {
			return true
		}
	}
	return false
}

// list returns the names of the table's objects of a kind.
func (e *engine) list(kind, tableAttr, nameAttr uint16) ([]string, error) {
	msgs, err := e.conn.dump(kind, func(ae attrs) { ae.String(tableAttr, e.cfg.Table) })
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range msgs {
		var table, name string
		err := decode(m.Data, func(ad *netlink.AttributeDecoder) {
			switch ad.Type() {
			case tableAttr:
				table = ad.String()
			case nameAttr:
				name = ad.String()
			}
		})
		if err != nil {
			return nil, err
		}
		if m.Data[0] == unix.NFPROTO_INET && table == e.cfg.Table {
			names = append(names, name)
		}
	}
	return names, nil
}

// forget drops what was counted for filters that are gone.
func (e *engine) forget() {
	maps.DeleteFunc(e.retired, func(id sadb.FilterID, _ figures) bool { return e.layout.byID[id] == nil })
}
