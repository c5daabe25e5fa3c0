package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// clearTimeout is how long a peer stays listed after its last packet in clear.
const clearTimeout = 10 * time.Minute

// The rate of first-packet reports over all peers of a filter. That for one
// peer is one a second, kept by the set of peers.
const askedPerSecond = 500

const keySize = 8

// clearKey is how the sets of peers in clear name a filter.
func clearKey(id sadb.FilterID) [keySize]byte {
	h := sha256.Sum256([]byte(id))
	return [keySize]byte(h[:keySize])
}

// clearSet names a set of peers in clear. Its parameters are part of the name:
// the kernel refuses a set of the same name with others.
func (c Config) clearSet(inbound, v6 bool) string {
	way := "out"
	if inbound {
		way = "in"
	}
	return fmt.Sprintf("clear-%s-%d", dispatch(way, v6), c.clearPeersMax())
}

func (c Config) clearPeersMax() int {
	if c.ClearPeersMax == 0 {
		return defaultClearPeers
	}
	return c.ClearPeersMax
}

// record updates the set of peers in clear: filter, local and remote address.
// The rule ends here when the set is full or, outbound, when the peer was
// reported within the last second.
func (c Config) record(id sadb.FilterID, inbound, v6 bool) rule {
	src, dst, size := uint32(12), uint32(16), uint32(4)
	if v6 {
		src, dst, size = 8, 24, 16
	}
	if inbound {
		src, dst = dst, src
	}
	key := clearKey(id)
	local := scratch + keySize/4
	return rule{
		&expr.Immediate{Register: scratch, Data: key[:]},
		load(expr.PayloadBaseNetworkHeader, src, size, local),
		load(expr.PayloadBaseNetworkHeader, dst, size, local+size/4),
		&expr.Dynset{SrcRegKey: scratch, SetName: c.clearSet(inbound, v6), Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: clearTimeout},
	}
}

// clearOut is the rules of a filter that requests security: packets pass, the
// peer is listed, and the first packet is reported.
func (c Config) clearOut(f sadb.Filter, v6 bool) []rule {
	report := []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: askedPerSecond, Unit: expr.LimitTimeSecond, Burst: askedPerSecond},
		&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
			Group: c.LogGroup, Snaplen: snapLen, Data: []byte(f.ID)},
	}
	return []rule{
		clamp(v6),
		join(c.record(f.ID, false, v6), daddrType(expr.CmpOpNeq, typeMulticast), daddrType(expr.CmpOpNeq, typeBroadcast), report),
		join(accept()),
	}
}

// clearIn is the rules of a filter that accepts unsecured packets: packets pass
// and the peer is listed. Multicast and broadcast cannot be answered securely
// and pass only where the filter lets traffic go in clear.
func (c Config) clearIn(f sadb.Filter, v6 bool) []rule {
	var rules []rule
	if !f.Action.AllowClear {
		rules = append(rules,
			join(daddrType(expr.CmpOpEq, typeMulticast), goTo(chainRefuse)),
			join(daddrType(expr.CmpOpEq, typeBroadcast), goTo(chainRefuse)))
	}
	return append(rules, clamp(v6), c.record(f.ID, true, v6), join(accept()))
}

// clearChain names the chain of a filter on a way. Its rules depend on nothing
// that is not part of the name.
func (l *layout) clearChain(way string, f sadb.Filter, v6 bool) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%q %v", f.ID, f.Action))
	return fmt.Sprintf("clear-%s-%s-%s", dispatch(way, v6), l.epoch, hex.EncodeToString(h[:8]))
}

// clearRules returns the rules of the chain that a box leads to on its way, and
// its name; "" where it leads to none of its own.
func (l *layout) clearRules(c Config, x *placed) (name string, rules func() []rule) {
	f, v6 := *x.entry.filter, x.space.v6
	switch {
	case x.space.dir == sadb.Out && f.Action.Kind == sadb.Negotiate && f.Action.AllowClear:
		return l.clearChain("out", f, v6), func() []rule { return c.clearOut(f, v6) }
	case x.space.dir == sadb.In && f.Action.Kind == sadb.Negotiate && f.Action.PassThrough:
		return l.clearChain("in", f, v6), func() []rule { return c.clearIn(f, v6) }
	}
	return "", nil
}

// clearRulesAll returns the rules of all chains of single filters.
func (l *layout) clearRulesAll() map[string][]rule {
	all := make(map[string][]rule, len(l.chains))
	for name, c := range l.chains {
		all[name] = c.rules
	}
	return all
}

// use notes which chains new boxes lead to and returns the new ones.
func (l *layout) use(c Config, boxes []*placed) []string {
	var fresh []string
	for _, x := range boxes {
		name, rules := l.clearRules(c, x)
		if name == "" {
			continue
		}
		if l.chains[name] == nil {
			l.chains[name] = &chain{rules: rules()}
			fresh = append(fresh, name)
		}
		l.chains[name].users++
	}
	return fresh
}

// release is the reverse, for boxes that are gone; it returns the chains that
// no box leads to any more.
func (l *layout) release(c Config, boxes []*placed) []string {
	var idle []string
	for _, x := range boxes {
		name, _ := l.clearRules(c, x)
		if name == "" {
			continue
		}
		if l.chains[name].users--; l.chains[name].users == 0 {
			delete(l.chains, name)
			idle = append(idle, name)
		}
	}
	return idle
}
