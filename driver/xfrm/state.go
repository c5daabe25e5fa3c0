package xfrm

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// state reads what is in force.
func (e *engine) state() (driver.State, error) {
	e.expire(now())
	if err := e.probe(); err != nil {
		return driver.State{}, err
	}
	s := driver.State{Name: "xfrm", Started: e.started, Exempt: exemptInWords(), Suites: e.suites, ModeTunnel: true}
	states, err := e.link.states()
	if err != nil {
		return driver.State{}, err
	}
	byID := make(map[sadb.SAID]wire.State, len(states))
	for _, st := range states {
		byID[st.ID] = st
	}
	for _, a := range e.sas.all() {
		if st, ok := byID[a.SA.ID]; ok {
			s.SAs = append(s.SAs, saState(a, st, now()))
			count(&s.Counters, a.SA.Dir, st)
		}
	}
	if err := e.tableState(&s); err != nil {
		return driver.State{}, err
	}
	e.countSecured(s.Filters, byID)
	return s, e.counters(&s.Counters)
}

// tally is what associations have carried for a filter.
type tally struct {
	packets, bytes uint64
}

// countSecured adds to filters what their associations have carried, those that
// have ended since this process began included.
func (e *engine) countSecured(filters []driver.FilterStat, states map[sadb.SAID]wire.State) {
	carried := maps.Clone(e.carried)
	for _, a := range e.sas.byID {
		if st, ok := states[a.SA.ID]; ok {
			e.tally(carried, a, st.Use)
		}
	}
	for i := range filters {
		if t := carried[filters[i].Filter.ID]; filters[i].Filter.Action.Kind == sadb.Negotiate {
			filters[i].Packets += t.packets
			filters[i].Bytes += t.bytes
		}
	}
}

// tally adds what an association has carried to its filter's. A packet of a
// bundle goes through both halves: that of AH counts.
func (e *engine) tally(to map[sadb.FilterID]tally, a *association, use wire.Use) {
	if a.SA.Bundle != (sadb.SAID{}) && a.SA.ID.Proto == sadb.ESP {
		return
	}
	t := to[a.root]
	to[a.root] = tally{t.packets + use.Packets, t.bytes + use.Bytes}
}

// tableState adds what the table counts: packets that were blocked or went in
// clear.
func (e *engine) tableState(s *driver.State) error {
	stats, err := e.table.Stats()
	if err != nil {
		return err
	}
	s.Filters, s.Counters.LastChain, s.Counters.InClear = stats.Filters, stats.LastChain, stats.InClear
	if len(s.Filters) == 0 { // not applied by this process yet
		for _, f := range sadb.Splice(e.filters, e.overlays) {
			s.Filters = append(s.Filters, driver.FilterStat{Filter: f})
		}
	}
	s.Clear, s.ClearLost, err = e.table.ClearPeers()
	return err
}

// saState returns what the agent is told of a state. Most kernels keep the time of
// its first packet and no later one: its last is as late as the last look that has
// found more of them.
func saState(a *association, st wire.State, now time.Time) driver.SAState {
	if st.Use.Packets > a.packets {
		a.packets, a.moved = st.Use.Packets, now
	}
	out := driver.SAState{SA: a.SA, Added: a.Added, LastUsed: latest(st.LastUsed, st.Use.First, a.moved), Bytes: st.Use.Bytes, Packets: st.Use.Packets,
		Seq: st.SeqIn, Replayed: uint64(st.Replayed), BadICV: uint64(st.BadIntegrity)}
	if a.SA.Dir == sadb.Out {
		out.Seq = st.SeqOut
	}
	return out
}

func latest(all ...time.Time) time.Time {
	return slices.MaxFunc(all, time.Time.Compare)
}

func count(c *driver.Counters, d sadb.Directions, st wire.State) {
	if d == sadb.Out {
		c.OutPackets += st.Use.Packets
		return
	}
	c.InPackets += st.Use.Packets
}

// counters adds the namespace's drop counters, those of others included.
func (e *engine) counters(c *driver.Counters) error {
	b := make([]byte, maxStat)
	n, err := e.stat.ReadAt(b, 0)
	if n == 0 && err != nil {
		return fmt.Errorf("read %s: %w", e.stat.Name(), err)
	}
	stat, err := parseStat(b[:n])
	if err != nil {
		return err
	}
	c.NoSA = stat["XfrmInNoStates"]
	c.BadICV = stat["XfrmInStateProtoError"]
	c.Replayed = stat["XfrmInStateSeqError"]
	c.Malformed = stat["XfrmInHdrError"] + stat["XfrmInBufferError"]
	c.BadSelector = stat["XfrmInStateMismatch"] + stat["XfrmInNoPols"] + stat["XfrmInTmplMismatch"]
	c.QueueDrops = stat["XfrmOutNoStates"]
	return nil
}
