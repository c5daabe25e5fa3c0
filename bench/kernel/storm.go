package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"ipsecagent/sadb"
)

// What the driver may take with all filters and associations, and after the
// storm, in bytes.
const (
	maxHeap = 60 << 20
	maxRSS  = 128 << 20
)

// wave is how many pairs are replaced at once, as when as many exchanges are
// under way.
const wave = 20

// storm replaces pairs of associations while traffic passes by each of them, and
// then reads how much memory the driver takes.
func (b *bench) storm() error {
	a, far, err := b.stations()
	if err != nil {
		return err
	}
	defer removeNamespace(a.ns)
	defer removeNamespace(far.ns)
	defer a.close()
	defer far.close()
	t, err := startTraffic(a.ns, far.ns, b.options.storm)
	if err != nil {
		return err
	}
	defer t.stop()
	if err := t.pass(b.options.storm, patience); err != nil {
		return fmt.Errorf("before the storm: %w", err)
	}
	began := time.Now()
	for from := 0; from < b.options.storm; from += wave {
		if err := replace(a, far, from, min(from+wave, b.options.storm)); err != nil {
			return err
		}
	}
	took := time.Since(began)
	if err := t.pass(b.options.storm, patience); err != nil {
		return fmt.Errorf("after the storm: %w", err)
	}
	sent, echoed, returned := t.stop()
	b.say("storm: %d pairs replaced in %s while %d packets were sent: %d arrived, %d of their answers came back", b.options.storm, took, sent, echoed, returned)
	b.limit(sent == echoed && echoed == returned, "the storm lost %d packets and %d answers", sent-echoed, echoed-returned)
	for _, s := range []*stationIn{a, far} {
		if drops, err := dropped(s.ns); err != nil {
			return err
		} else if drops != "" {
			b.say("storm: counters of XFRM in %s: %s", s.ns, drops)
		}
	}
	return b.weigh(a)
}

// stationIn is a station with its namespace.
type stationIn struct {
	*remote
	ns string
}

// stations makes both ends with filters and associations in force: alice has
// all, bob those that traffic passes by.
func (b *bench) stations() (a, far *stationIn, err error) {
	for _, s := range []struct {
		at   **stationIn
		name string
		bob  bool
	}{{&a, "alice", false}, {&far, "bob", true}} {
		ns, err := namespace(s.name)
		if err != nil {
			return nil, nil, err
		}
		r, err := b.station(ns, s.bob)
		if err != nil {
			return nil, nil, err
		}
		*s.at = &stationIn{r, ns}
	}
	if err := join(a.ns, far.ns, b.options.storm); err != nil {
		return nil, nil, err
	}
	for _, o := range []struct {
		to *stationIn
		order
	}{
		{far, order{Do: doFilters, List: listBob}},
		{far, order{Do: doAdd, Dir: sadb.Both, To: b.options.storm}},
		{a, order{Do: doFilters, List: listAll}},
		{a, order{Do: doAdd, Dir: sadb.Both, To: b.pairs}},
	} {
		if _, err := o.to.tell(o.order); err != nil {
			return nil, nil, err
		}
	}
	return a, far, nil
}

// replace replaces a wave of pairs in the order in which an exchange does that
// alice begins: what comes in before what goes out, at the far end first; the
// old ones at last.
func replace(a, far *stationIn, from, to int) error {
	o := order{From: from, To: to, Generation: 1}
	for _, step := range []struct {
		at  *stationIn
		do  string
		dir sadb.Directions
	}{{far, doAdd, sadb.In}, {a, doAdd, sadb.In}, {a, doAdd, sadb.Out}, {far, doAdd, sadb.Out}} {
		o.Do, o.Dir = step.do, step.dir
		if _, err := step.at.tell(o); err != nil {
			return err
		}
	}
	o.Do, o.Dir, o.Generation = doDelete, sadb.Both, 0
	_, err := a.tell(o)
	if err == nil {
		_, err = far.tell(o)
	}
	return err
}

// weigh reads how much memory the driver takes.
func (b *bench) weigh(a *stationIn) error {
	r, err := a.tell(order{Do: doList})
	if err != nil {
		return err
	}
	if r.Count != 2*b.pairs {
		return fmt.Errorf("%d associations are listed after the storm, not %d", r.Count, 2*b.pairs)
	}
	if r, err = a.tell(order{Do: doMemory}); err != nil {
		return err
	}
	b.say("memory: with %d filters and %d associations, after the storm: %.1f MiB live, %.1f MiB resident, %.1f MiB at most",
		b.options.filters, 2*b.pairs, mebibytes(r.Heap), mebibytes(r.RSS), mebibytes(r.Peak))
	b.limit(r.Heap <= maxHeap, "%.1f MiB live, limit %d", mebibytes(r.Heap), maxHeap>>20)
	b.limit(r.RSS <= maxRSS, "%.1f MiB resident, limit %d", mebibytes(r.RSS), maxRSS>>20)
	return nil
}

func mebibytes(n uint64) float64 { return float64(n) / (1 << 20) }

// dropped returns the counters of XFRM in a namespace that are not zero.
func dropped(ns string) (string, error) {
	out, err := exec.Command("ip", "netns", "exec", ns, "cat", "/proc/net/xfrm_stat").Output()
	if err != nil {
		return "", fmt.Errorf("read the counters of XFRM: %w", err)
	}
	var all []string
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) == 2 && f[1] != "0" {
			all = append(all, f[0]+" "+f[1])
		}
	}
	return strings.Join(all, ", "), nil
}

// patience is how long something may take before it has failed.
const patience = 5 * time.Minute

var errSilence = errors.New("what was sent has not come back")
