package main

import (
	"golang.org/x/sys/unix"
)

// messages counts what SetFilters asks the kernel: of XFRM, and of nftables for
// the table that stands beside it.
func (b *bench) messages() error {
	ns, err := namespace("count")
	if err != nil {
		return err
	}
	defer removeNamespace(ns)
	s, err := b.station(ns, false)
	if err != nil {
		return err
	}
	defer s.close()
	c, err := startCapture(ns)
	if err != nil {
		return err
	}
	defer c.close()
	for _, step := range []struct {
		list, words string
		most        int // policies written or deleted; -1: no limit
	}{
		{listAll, "at first", -1},
		{listAll, "the same again", 0},
		{listChanged, "one filter has another action", perFilter},
		{listShorter, "that filter is gone", perFilter},
		{listAll, "it is there again", perFilter},
	} {
		n, err := c.during(func() error {
			_, err := s.tell(order{Do: doFilters, List: step.list})
			return err
		})
		if err != nil {
			return err
		}
		xfrm, table := n[unix.NETLINK_XFRM], n[unix.NETLINK_NETFILTER]
		b.say("messages: %d filters, %s: %d of XFRM, %d of nftables", b.options.filters, step.words, xfrm, table)
		b.limit(step.most < 0 || xfrm <= step.most, "%s: %d messages of XFRM, limit %d", step.words, xfrm, step.most)
		b.limit(step.most != 0 || table == 0, "%s: %d messages of nftables, limit 0", step.words, table)
	}
	return nil
}

// perFilter is how many policies a filter of the benchmark has: one for what
// leaves, one for what comes.
const perFilter = 2
