package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// maxFilterRatio is how long SetFilters may take for each second of ip -batch.
const maxFilterRatio = 2

// filters measures SetFilters against ip -batch of the same policies, and
// against no more than their messages.
func (b *bench) filters() error {
	if err := b.warm(order{Do: doFilters, List: listFew}); err != nil {
		return err
	}
	var ours, theirs, bare, again, changed, shorter []time.Duration
	for range b.rounds {
		all, took, err := b.setFilters()
		if err != nil {
			return err
		}
		ours, again, changed, shorter = append(ours, took[0]), append(again, took[1]), append(changed, took[2]), append(shorter, took[3])
		byIP, byMessages, err := b.alone(all)
		if err != nil {
			return err
		}
		theirs, bare = append(theirs, byIP), append(bare, byMessages)
	}
	ratio, words := ratios(ours, theirs)
	b.say("filters: SetFilters with %d filters takes %s of the time of ip -batch (%s, %s)", b.options.filters, words, median(ours), median(theirs))
	_, words = ratios(ours, bare)
	b.say("filters: it takes %s of the time of the messages of its policies alone (%s)", words, median(bare))
	b.say("filters: the same again takes %.4f of the first time, with one changed %.4f, with one less %.4f",
		share(again, ours), share(changed, ours), share(shorter, ours))
	b.limit(ratio <= maxFilterRatio, "SetFilters takes %.2f times as long as ip -batch, limit %d", ratio, maxFilterRatio)
	return nil
}

// warm has a station obey in a namespace that is not used any more: the kernel
// loads the modules it needs for what is then measured.
func (b *bench) warm(orders ...order) error {
	ns, err := namespace("warm")
	if err != nil {
		return err
	}
	defer removeNamespace(ns)
	s, err := b.station(ns, false)
	if err != nil {
		return err
	}
	defer s.close()
	for _, o := range orders {
		if _, err := s.tell(o); err != nil {
			return err
		}
	}
	return nil
}

func share(part, whole []time.Duration) float64 {
	return float64(median(part)) / float64(median(whole))
}

// setFilters puts lists in force in a new namespace: all at first, the same
// again, with one changed, with one less. It returns the policies of the first.
func (b *bench) setFilters() (all []wire.Policy, took []time.Duration, err error) {
	ns, err := namespace("filters")
	if err != nil {
		return nil, nil, err
	}
	defer removeNamespace(ns)
	s, err := b.station(ns, false)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	for i, list := range []string{listAll, listAll, listChanged, listShorter} {
		r, err := s.tell(order{Do: doFilters, List: list})
		if err != nil {
			return nil, nil, err
		}
		took = append(took, r.Took)
		if i > 0 {
			continue
		}
		if all, err = in(ns, policies); err != nil {
			return nil, nil, err
		}
	}
	return all, took, nil
}

// alone writes policies in a new namespace by ip -batch, and in another by
// their messages on one socket.
func (b *bench) alone(all []wire.Policy) (byIP, byMessages time.Duration, err error) {
	ns, err := namespace("batch")
	if err != nil {
		return 0, 0, err
	}
	defer removeNamespace(ns)
	if byIP, err = b.timed(ns, policyBatch(all), "-batch", "-"); err != nil {
		return 0, 0, err
	}
	bare, err := namespace("bare")
	if err != nil {
		return 0, 0, err
	}
	defer removeNamespace(bare)
	byMessages, err = in(bare, func() (time.Duration, error) { return write(all) })
	return byIP, byMessages, err
}

// write writes policies in the calling thread's namespace.
func write(all []wire.Policy) (time.Duration, error) {
	c, err := netlink.Dial(unix.NETLINK_XFRM, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	for _, p := range all {
		p.Index, p.Use = 0, wire.Use{}
		if _, err := c.Execute(netlink.Message{Header: netlink.Header{Type: wire.MsgNewPolicy, Flags: netlink.Request | netlink.Acknowledge}, Data: p.Append(nil)}); err != nil {
			return 0, fmt.Errorf("write a policy: %w", err)
		}
	}
	return time.Since(began), nil
}

// policies lists those of the calling thread's namespace.
func policies() ([]wire.Policy, error) {
	c, err := netlink.Dial(unix.NETLINK_XFRM, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	all, err := c.Execute(netlink.Message{Header: netlink.Header{Type: wire.MsgGetPolicy, Flags: netlink.Request | netlink.Dump}})
	if err != nil {
		return nil, err
	}
	var out []wire.Policy
	for _, m := range all {
		p, err := wire.ParsePolicy(m.Data)
		if err != nil {
			return nil, err
		}
		if p.Dir < wire.SocketIn {
			out = append(out, p)
		}
	}
	return out, nil
}

// policyBatch writes policies as commands of ip.
func policyBatch(all []wire.Policy) string {
	var out strings.Builder
	for _, p := range all {
		fmt.Fprintf(&out, "xfrm policy add %s dir %s priority %d mark 0 mask %#x", selectorWords(p.Selector), p.Dir, p.Priority, p.Mark.Mask)
		if p.Action == wire.Block {
			out.WriteString(" action block")
		}
		for _, t := range p.Templates {
			fmt.Fprintf(&out, " tmpl proto %s reqid %d mode transport", strings.ToLower(t.Proto.String()), t.ReqID)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

func selectorWords(s wire.Selector) string {
	words := fmt.Sprintf("src %s dst %s", s.Src, s.Dst)
	if s.Proto != 0 {
		words += fmt.Sprintf(" proto %d", s.Proto)
	}
	names := [2]string{"sport", "dport"}
	if sadb.HasICMP(s.Proto) {
		names = [2]string{"type", "code"}
	}
	for i, p := range []wire.PortMask{s.SrcPort, s.DstPort} {
		if p.Mask != 0 {
			words += fmt.Sprintf(" %s %d", names[i], p.Port)
		}
	}
	return words
}

// associations measures how long it takes to put associations in force and to
// list them, against ip.
func (b *bench) associations() error {
	if err := b.warm(order{Do: doFilters, List: listFew}, order{Do: doAdd, Dir: sadb.Both, To: 1}, order{Do: doList}); err != nil {
		return err
	}
	var add, addIP, list, listIP []time.Duration
	for range b.rounds {
		a, l, err := b.addAll()
		if err != nil {
			return err
		}
		aIP, lIP, err := b.addAllByIP()
		if err != nil {
			return err
		}
		add, list, addIP, listIP = append(add, a), append(list, l), append(addIP, aIP), append(listIP, lIP)
	}
	_, words := ratios(add, addIP)
	b.say("associations: %d beside %d filters are in force in %s of the time of ip -batch (%s, %s)", 2*b.pairs, b.options.filters, words, median(add), median(addIP))
	_, words = ratios(list, listIP)
	b.say("associations: all are listed with what is counted in %s of the time of ip xfrm state (%s, %s)", words, median(list), median(listIP))
	return nil
}

func (b *bench) addAll() (add, list time.Duration, err error) {
	ns, err := namespace("sas")
	if err != nil {
		return 0, 0, err
	}
	defer removeNamespace(ns)
	s, err := b.station(ns, false)
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	// The first list of a driver has it try all algorithms.
	for _, o := range []order{{Do: doFilters, List: listAll}, {Do: doList}} {
		if _, err := s.tell(o); err != nil {
			return 0, 0, err
		}
	}
	added, err := s.tell(order{Do: doAdd, Dir: sadb.Both, To: b.pairs})
	if err != nil {
		return 0, 0, err
	}
	listed, err := s.tell(order{Do: doList})
	if err == nil && listed.Count != 2*b.pairs {
		err = fmt.Errorf("%d associations are listed, not %d", listed.Count, 2*b.pairs)
	}
	return added.Took, listed.Took, err
}

func (b *bench) addAllByIP() (add, list time.Duration, err error) {
	ns, err := namespace("ip")
	if err != nil {
		return 0, 0, err
	}
	defer removeNamespace(ns)
	var batch strings.Builder
	for pair := range b.pairs {
		stateCommand(&batch, association(pair, 0, true, false))
		stateCommand(&batch, association(pair, 0, false, false))
	}
	if add, err = b.timed(ns, batch.String(), "-batch", "-"); err != nil {
		return 0, 0, err
	}
	list, err = b.timed(ns, "", "xfrm", "state")
	return add, list, err
}

// stateCommand writes an association as a command of ip.
func stateCommand(out *strings.Builder, sa sadb.SA) {
	from, to := single(sa.Selector.Local), single(sa.Selector.Remote)
	ports := fmt.Sprintf("dport %d", port)
	if sa.Dir == sadb.In {
		from, to, ports = to, from, fmt.Sprintf("sport %d", port)
	}
	fmt.Fprintf(out, "xfrm state add src %s dst %s proto esp spi %#x reqid %d mode transport aead rfc4106(gcm(aes)) 0x%x 128 replay-window %d flag esn "+
		"limit time-soft %d limit time-hard %d sel src %s dst %s proto udp %s\n",
		sa.Src, sa.ID.Dst, uint32(sa.ID.SPI), sa.Pair, sa.EncKey.Bytes(), sa.Replay,
		int(sa.Lifetime.Soft.Time.Seconds()), int(sa.Lifetime.Hard.Time.Seconds()), from, to, ports)
}

// single is the address of a side that has one alone.
func single(a sadb.Addrs) netip.Addr {
	addr, _ := a.Single()
	return addr
}
