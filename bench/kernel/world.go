package main

import (
	"crypto/sha512"
	"fmt"
	"slices"
	"time"

	"ipsecagent/sadb"
)

// port is where peers are spoken to.
const port = 4242

// bobsFilter is the one filter of the far end.
const bobsFilter = "alice"

// few is how many filters listFew has.
const few = 50

func filterID(n int) sadb.FilterID { return sadb.FilterID(fmt.Sprint("peer", n)) }

// Kinds of lists of filters.
const (
	listAll     = "all"
	listChanged = "changed" // one filter has another action
	listShorter = "shorter" // one filter is gone
	listFew     = "few"     // some of them
	listBob     = "bob"     // the far end's
)

// filtersOf returns a list of filters for so many peers.
func filtersOf(kind string, n int) []sadb.Filter {
	require := sadb.Action{Kind: sadb.Negotiate}
	if kind == listBob {
		return []sadb.Filter{{ID: bobsFilter, Name: bobsFilter, Dir: sadb.Both, Action: require,
			Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(alice()), Proto: sadb.UDP, LocalPorts: sadb.Port(port)}}}
	}
	var list []sadb.Filter
	for i := range n {
		list = append(list, sadb.Filter{ID: filterID(i), Name: string(filterID(i)), Dir: sadb.Both, Action: require,
			Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(peerAddr(i)), Proto: sadb.UDP, RemotePorts: sadb.Port(port)}})
	}
	switch kind {
	case listFew:
		return list[:min(n, few)]
	case listChanged:
		list[n/2].Action = sadb.Action{Kind: sadb.Permit}
	case listShorter:
		list = slices.Delete(list, n/2, n/2+1)
	}
	return list
}

// association returns the one of a pair that carries what leaves alice, or what
// leaves bob, as the end that is bob or not sees it. Both ends know the keys.
func association(pair, generation int, leavesAlice, bob bool) sadb.SA {
	spi := sadb.SPI(0x10000 + generation*0x200000 + pair*2)
	sa := sadb.SA{Src: alice(), ID: sadb.SAID{Dst: peerAddr(pair), Proto: sadb.ESP, SPI: spi}, Dir: sadb.Out,
		Suite: sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}, ESN: true, Replay: 1024,
		Lifetime: sadb.Lifetime{Soft: sadb.Limits{Time: 50 * time.Minute}, Hard: sadb.Limits{Time: time.Hour}},
		Filter:   filterID(pair), Pair: sadb.PairID(generation<<32 + pair + 1)}
	sa.Selector = sadb.Selector{Local: sadb.Addr(alice()), Remote: sadb.Addr(peerAddr(pair)), Proto: sadb.UDP, RemotePorts: sadb.Port(port)}
	if !leavesAlice {
		sa.ID.SPI++
		sa.Src, sa.ID.Dst = sa.ID.Dst, sa.Src
	}
	if bob {
		sa.Filter, sa.Selector = bobsFilter, sa.Selector.Mirror()
	}
	if leavesAlice == bob {
		sa.Dir = sadb.In
	}
	key := sha512.Sum512(fmt.Append(nil, sa.ID.SPI))
	sa.EncKey = sadb.NewSecret(key[:36])
	return sa
}
