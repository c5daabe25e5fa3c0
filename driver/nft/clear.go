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

// addClearOut makes the chain of a filter that requests security: packets
// pass, the peer is listed, and the first packet is reported.
func (p *plan) addClearOut(cfg Config, f sadb.Filter, v6 bool) string {
	report := []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: askedPerSecond, Unit: expr.LimitTimeSecond, Burst: askedPerSecond},
		&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
			Group: cfg.LogGroup, Snaplen: snapLen, Data: []byte(f.ID)},
	}
	return p.addChain("out", f, v6, []rule{
		clamp(v6),
		join(cfg.record(f.ID, false, v6), daddrType(expr.CmpOpNeq, typeMulticast), daddrType(expr.CmpOpNeq, typeBroadcast), report),
		join(accept()),
	})
}

// addClearIn makes the chain of a filter that accepts unsecured packets:
// packets pass and the peer is listed. Multicast and broadcast cannot be
// answered securely and pass only where the filter lets traffic go in clear.
func (p *plan) addClearIn(cfg Config, f sadb.Filter, v6 bool) string {
	var rules []rule
	if !f.Action.AllowClear {
		rules = append(rules,
			join(daddrType(expr.CmpOpEq, typeMulticast), goTo(chainRefuse)),
			join(daddrType(expr.CmpOpEq, typeBroadcast), goTo(chainRefuse)))
	}
	return p.addChain("in", f, v6, append(rules, clamp(v6), cfg.record(f.ID, true, v6), join(accept())))
}

func (p *plan) addChain(way string, f sadb.Filter, v6 bool, rules []rule) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%q %v", f.ID, f.Action))
	name := fmt.Sprintf("clear-%s-%s-%s", dispatch(way, v6), p.epoch, hex.EncodeToString(h[:8]))
	p.chains[name] = rules
	return name
}
