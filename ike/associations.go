package ike

import (
	"errors"
	"time"

	"ipsecagent/ike/crypt"
	"ipsecagent/sadb"
)

// associations makes the associations of one direction, with their keys.
func (q *quickMode) associations(dir sadb.Directions) ([]sadb.SA, error) {
	var all []sadb.SA
	for i, suite := range q.pick.Suites {
		sa := sadb.SA{Dir: dir, Mode: q.pick.Shape.Mode, Suite: suite, Lifetime: q.lifetime,
			Selector: q.selector, Filter: q.offer.Filter, Pair: q.pair.ID, Encap: q.pair.Encap, ESN: q.pick.Shape.ESN}
		ids, src := q.pair.Out, q.sa.local.Addr()
		if dir == sadb.In {
			ids, src = q.pair.In, q.sa.remote.Addr()
			sa.Replay = replayWindow
		}
		said := ids[i]
		sa.ID, sa.Src = said, src
		if len(ids) == 2 {
			sa.Bundle = ids[1-i]
		}
		var err error
		sa.EncKey, sa.AuthKey, err = q.sa.keys.Keymat(crypt.Quick{Ni: q.ni, Nr: q.nr, Shared: q.shared, SPI: said.SPI, Suite: suite})
		if err != nil {
			return nil, err
		}
		all = append(all, sa)
	}
	return all, nil
}

// replayWindow is the window of inbound associations in packets.
const replayWindow = 1024

// settle fixes what the pair is, once both sides have chosen.
func (m *Machine) settle(now time.Time, q *quickMode) {
	s := q.sa
	id, replaces, round := q.pair.ID, q.pair.Replaces, q.pair.Round
	q.pair = sadb.Pair{ID: id, Filter: q.offer.Filter, Local: s.local.Addr(), Remote: s.remote.Addr(),
		Selector: q.selector, Flow: q.selector.String(), Mode: q.pick.Shape.Mode, Suites: q.pick.Suites, Main: s.suite,
		Lifetime: q.pick.Lifetime, Initiator: q.initiator, Principal: string(s.proof.Principal), Method: s.proof.Method.String(), CA: s.proof.CA,
		Mapped: s.proof.Mapped, Subject: string(s.proof.Subject), Named: s.proof.Named, Listed: s.proof.Listed,
		Since: now, Replaces: replaces, Round: round, DefaultResponse: q.offer.DefaultResponse, Encap: s.encap()}
	for i, suite := range q.pick.Suites {
		q.pair.In = append(q.pair.In, sadb.SAID{Dst: s.local.Addr(), Proto: suite.Proto, SPI: q.spis[suite.Proto]})
		q.pair.Out = append(q.pair.Out, sadb.SAID{Dst: s.remote.Addr(), Proto: suite.Proto, SPI: q.pick.Peer[i]})
	}
	q.lifetime = sadb.Lifetime{Soft: m.softLimits(q.pick.Lifetime, q.initiator), Hard: q.pick.Lifetime}
}

// softLimits returns when a pair is renewed.
func (m *Machine) softLimits(hard sadb.Limits, initiator bool) sadb.Limits {
	soft := hard.Fraction(m.renewVolumeAt(initiator), 1000)
	soft.Time = hard.Fraction(m.renewAt(initiator), 1000).Time
	return soft
}

// renewVolumeAt is renewAt for bytes and packets. A transfer that has used
// most of them uses up the rest in no time, and the negotiation needs some.
func (m *Machine) renewVolumeAt(initiator bool) uint64 {
	if initiator {
		return m.fraction(700, 740)
	}
	return m.fraction(760, 800)
}

// installDirection puts one direction in force and goes on.
func (m *Machine) installDirection(now time.Time, q *quickMode, dir sadb.Directions, then func(now time.Time)) {
	sas, err := q.associations(dir)
	if err != nil {
		m.failQuick(now, q, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	for _, sa := range sas {
		m.logKeys(q.sa.path, sa)
	}
	if old := m.pairs[q.pair.Replaces]; old != nil {
		replace(sas, old.pair, dir)
	}
	if dir == sadb.In {
		q.installed = true
		m.rememberInbound(q.pair)
	}
	generation := q.generation
	m.install(now, sas, q.pair, func(now time.Time, err error) {
		switch {
		case q.generation != generation:
		case err != nil:
			m.failQuick(now, q, notInstalled(err))
		default:
			then(now)
		}
	})
}

// notInstalled is the failure of a quick mode of which nothing was installed.
func notInstalled(err error) Failed {
	var r *NotInstalled
	if errors.As(err, &r) {
		return Failed{Code: FailPolicy, Reason: r.Reason, Hint: r.Hint}
	}
	return Failed{Code: FailLocal, Reason: "the driver refused the association: " + err.Error()}
}

// installOutbound puts the outbound direction in force and finishes q, unless
// a higher pair carries the traffic already.
func (m *Machine) installOutbound(now time.Time, q *quickMode) {
	q.step, q.mute = finishingQuick, m.outranked(q.pair)
	if q.mute {
		m.finishQuick(now, q)
		return
	}
	m.installDirection(now, q, sadb.Out, func(now time.Time) { m.finishQuick(now, q) })
}

// replace says which associations of the old pair the new ones retire.
func replace(sas []sadb.SA, old sadb.Pair, dir sadb.Directions) {
	ids := old.Out
	if dir == sadb.In {
		ids = old.In
	}
	for i := range sas {
		for _, id := range ids {
			if id.Proto == sas[i].ID.Proto {
				sas[i].Replaces = id
			}
		}
	}
}

// finishQuick makes the pair known.
func (m *Machine) finishQuick(now time.Time, q *quickMode) {
	clear(q.shared)
	m.keepAnswer(now, q)
	request := uint64(0)
	if q.request != nil {
		request = q.request.Request
	}
	m.put(Established{Request: request, Pair: q.pair})
	m.enterPair(now, q)
	m.nextQuick(now, q.sa)
}
