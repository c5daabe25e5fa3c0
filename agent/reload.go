package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const (
	// defaultPolling is how often a source is asked when the policy does
	// not say.
	defaultPolling = 3 * time.Hour
	// retryDriver is how soon filters that the driver did not take are
	// tried again.
	retryDriver = 10 * time.Second
	// retryNothing is how soon a policy that does not load is tried again
	// while none is in force at all.
	retryNothing = time.Minute
	// longList is how many filters make it worth a collection of garbage to
	// give memory back: 1000 take about ten megabytes for a moment.
	longList = 1000
	// maxProblems is how many problems of a rejected policy become events.
	maxProblems = 50
)

// candidate is a policy that is fit to be put in force.
type candidate struct {
	state    policy.State
	as       assignment
	origin   string
	cached   bool
	policy   *policy.Policy
	compiled *policy.Compiled
	warnings []string
	host     policy.Host // that it is compiled for
}

// reload asks the source what is assigned and puts it in force. On any error
// the last good policy stays in force and the status says why.
func (a *Agent) reload(now time.Time, cause string) error {
	defer a.lookAtLibrary(now) // it has to know what is in force
	as, got, known, err := a.decided()
	if !known && a.pending == nil {
		return nil // nobody has assigned or unassigned anything yet
	}
	if a.lost != "" {
		a.behind = true // made good when the data path is back
		return a.noDataPath()
	}
	if a.pending != nil {
		a.recompile(now, cause) // what is assigned has its turn when that is decided
		return nil
	}
	if err = a.putFetched(now, as, got, err, cause); err != nil {
		a.reject(now, as.Name, err)
		if a.inForce.state == 0 {
			a.retryLater(now, retryNothing)
		}
	}
	return err
}

// putFetched puts in force what a source has answered to the question what is
// assigned.
func (a *Agent) putFetched(now time.Time, as assignment, got policy.Assignment, err error, cause string) error {
	if err != nil {
		return unreadable(as.Name, err)
	}
	c, err := a.prepare(as, got)
	if err != nil {
		return err
	}
	return a.put(now, c, cause)
}

// unreadable says why a policy cannot be loaded, with the code for the caller.
func unreadable(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &control.Error{Code: control.NotFound, Message: fmt.Sprintf("there is no policy %q: see ipsecctl policy list", name)}
	}
	return refused(fmt.Sprintf("policy %q does not load", name), err)
}

// rejection is a policy that was not put in force because of what it says.
type rejection struct {
	say   *control.Error
	cause error // joins its problems
}

func refused(what string, cause error) error {
	return &rejection{&control.Error{Code: control.Invalid, Message: fmt.Sprintf("%s:\n%v", what, cause)}, cause}
}

// Error returns all problems, one below the other.
func (r *rejection) Error() string { return r.say.Message }

// Unwrap returns the answer for the caller and the problems.
func (r *rejection) Unwrap() []error { return []error{r.say, r.cause} }

// problemsOf returns what is wrong, one text for each problem.
func problemsOf(err error) []string {
	var r *rejection
	if errors.As(err, &r) {
		return flatten(r.cause)
	}
	return []string{err.Error()}
}

// flatten returns the texts of a joined error.
func flatten(err error) []string {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var all []string
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// prepare validates and compiles what a source gave. Nothing is changed.
func (a *Agent) prepare(as assignment, got policy.Assignment) (candidate, error) {
	c := candidate{state: got.State, as: as, origin: got.Origin, cached: got.Cached, policy: got.Policy}
	switch {
	case got.State == policy.None:
		c.compiled = &policy.Compiled{}
		return c, nil
	case got.State != policy.Assigned || got.Policy == nil:
		return candidate{}, &control.Error{Code: control.Failed, Message: "the policy source does not say what is assigned"}
	}
	if err := a.compile(&c); err != nil {
		return candidate{}, refused(fmt.Sprintf("policy %q is not valid", got.Policy.Name), err)
	}
	left, err := a.carried(c.compiled)
	if err != nil {
		return candidate{}, refused(fmt.Sprintf("policy %q is beyond this host", got.Policy.Name), err)
	}
	c.warnings = slices.Concat(c.warnings, left, a.authWarnings(c.policy))
	return c, nil
}

func (a *Agent) compile(c *candidate) error {
	a.knowCarried()
	c.host = a.hostFor(c.policy)
	compiled, err := policy.Compile(c.policy, c.host)
	if err != nil {
		return each(err)
	}
	if err := a.tryTests(c.policy); err != nil {
		return err
	}
	c.compiled = compiled
	if n := len(compiled.Unresolved); n > 0 {
		c.warnings = append(c.warnings, fmt.Sprintf("names or sets of the policy that stand for nothing at this moment: %d; names are asked for now, ipsecctl status lists those that do not resolve", n))
	}
	for _, w := range policy.Warnings(c.policy) {
		c.warnings = append(c.warnings, w.Message)
	}
	return nil
}

// each returns the problems of a policy as an error that joins them, without
// what stands before them.
func each(err error) error {
	var all []error
	for _, p := range policy.Problems(err) {
		all = append(all, p)
	}
	if all == nil {
		return err
	}
	return errors.Join(all...)
}

// tryTests runs the tests of a policy, as if every tunnel had its way.
func (a *Agent) tryTests(p *policy.Policy) error {
	if len(p.Tests) == 0 {
		return nil
	}
	c, err := policy.Compile(p, a.hostFor(p).Reachable(p))
	if err != nil {
		return err
	}
	return policy.RunTests(c, p.Tests)
}

// put enforces a candidate and keeps what must outlive the process.
func (a *Agent) put(now time.Time, c candidate, cause string) error {
	changed, err := a.enforce(now, c)
	if err != nil {
		if a.lost == "" {
			a.retryLater(now, retryDriver)
		}
		return err
	}
	a.pollLater(now)
	a.watchTunnels(now)
	if changed || c.as.From == fromDirectory && (a.copyFailed || a.domain == nil) {
		a.keep(now, c)
	}
	if changed {
		a.reportApplied(now, cause)
	}
	return nil
}

// enforce puts a candidate in force: filters first, then associations that are
// no longer wanted, then what the key exchange may agree to.
func (a *Agent) enforce(now time.Time, c candidate) (changed bool, err error) {
	if a.lost != "" {
		return false, a.noDataPath()
	}
	if err := a.setFilters(c.compiled); err != nil {
		return false, &control.Error{Code: control.Failed, Message: fmt.Sprintf("the data path did not take the filters, the former ones stay in force: %v", err)}
	}
	a.tellEnforced(c)
	former := a.inForce.state
	changed = a.adopt(now, c)
	a.followNames()
	a.settle(now)
	if changed {
		a.protectAll(now)
		a.followReport(now)
		giveBack(c.compiled)
	}
	a.cfg.IKE.Submit(ike.SetPolicy{Policy: a.inForce.snapshot.ikePolicy(c.state)})
	if a.pending != nil { // what the one before made stays until that is decided
		a.sweepOverlays(now)
		return changed, nil
	}
	a.sweep(now)
	if changed && c.state == policy.Assigned {
		a.cfg.IKE.Submit(ike.Recheck{})
	}
	if c.state == policy.None && former == policy.Assigned {
		a.cfg.IKE.Submit(ike.Close{Main: true, Reason: "no policy is assigned any more"})
	}
	return changed, nil
}

// giveBack returns to the system what putting a long list in force has taken
// for a moment, which would else stay resident.
func giveBack(c *policy.Compiled) {
	if c != nil && len(c.Filters) >= longList {
		debug.FreeOSMemory()
	}
}

func (a *Agent) noDataPath() error {
	return &control.Error{Code: control.Failed, Message: "nothing can be put in force: " + a.lost + "; it is being started again"}
}

// setFilters gives the driver the whole SPD.
func (a *Agent) setFilters(c *policy.Compiled) error {
	ctx, cancel := a.driverContext()
	defer cancel()
	return a.cfg.Driver.SetFilters(ctx, enforced(c.SPD()))
}

// enforced returns the filters as a driver is to hold them. Where traffic waits
// before it may go in clear, it is held as if security were required; the
// agent lets it go when the time has come, so that it never flows by a
// driver's own clock.
func enforced(spd []sadb.Filter) []sadb.Filter {
	for i, f := range spd {
		if f.Action.ClearDelay > 0 {
			spd[i].Action.AllowClear, spd[i].Action.ClearDelay = false, 0
		}
	}
	return spd
}

// adopt makes c what is in force and reports whether that is a change.
func (a *Agent) adopt(now time.Time, c candidate) (changed bool) {
	changed = a.inForce.state != c.state || a.inForce.as() != c.as ||
		!reflect.DeepEqual(a.inForce.compiled, c.compiled)
	a.held = ""
	a.problem("policy", "")
	a.problem("recompile", "")
	if !changed {
		a.inForce.host = c.host
		if !maps.Equal(a.inForce.snapshot.remoteAccess, remoteAccess(a.facts)) {
			a.inForce.snapshot = newSnapshot(a.inForce.compiled, a.cfg.Unusable).at(a.facts)
		}
		a.inForce.policy, a.inForce.warnings, a.inForce.rejected, a.inForce.origin = c.policy, c.warnings, "", c.origin
		a.inForce.cached = c.cached
		a.noteUnprovable(now) // a key may be there now
		return false
	}
	a.inForce = inForce{state: c.state, name: c.as.Name, auth: c.as.Auth, compat: c.as.Compat, from: c.as.From, cached: c.cached, origin: c.origin, applied: now, policy: c.policy, host: c.host,
		compiled: c.compiled, snapshot: newSnapshot(c.compiled, a.cfg.Unusable).at(a.facts), warnings: c.warnings, reloads: a.inForce.reloads}
	a.forgiveAll(now)
	a.noteUnprovable(now)
	return true
}

// as is the assignment by which a policy came in force.
func (f inForce) as() assignment {
	return assignment{Name: f.name, Auth: f.auth, Compat: f.compat, From: f.from}
}

// ikePolicy returns what the key exchange may agree to; nothing at all when no
// policy is assigned.
func (s *snapshot) ikePolicy(state policy.State) ike.Policy {
	if state != policy.Assigned {
		return ike.Policy{}
	}
	return s.policy()
}

func (a *Agent) pollLater(now time.Time) {
	interval := a.inForce.compiled.PollingInterval
	if interval <= 0 {
		interval = defaultPolling
	}
	a.inForce.reloads++
	turn := a.inForce.reloads
	a.timers.at(now.Add(interval), func(now time.Time) {
		if turn == a.inForce.reloads {
			a.reload(now, "polled")
		}
	})
}

// retryLater puts the assigned policy in force later, if nothing has until
// then.
func (a *Agent) retryLater(now time.Time, in time.Duration) {
	if a.retrying {
		return
	}
	a.retrying = true
	a.timers.at(now.Add(in), func(now time.Time) {
		a.retrying = false
		if a.inForce.rejected != "" {
			a.reload(now, "tried again")
		}
	})
}

// reject says why what is assigned was not put in force.
func (a *Agent) reject(now time.Time, name string, err error) {
	words := err.Error()
	if words == a.inForce.rejected {
		return // said already
	}
	a.inForce.rejected = words
	a.problem("policy", fmt.Sprintf("policy %q was not put in force, the last good one stays: %s", name, firstLine(words)))
	a.reportProblems(now, name, err)
}

// reportProblems makes an event of each thing that is wrong with a policy.
func (a *Agent) reportProblems(now time.Time, name string, err error) {
	problems := problemsOf(err)
	for i, p := range problems {
		if i == maxProblems {
			p = fmt.Sprintf("%d more problems are not listed", len(problems)-i)
		}
		p, _, _ = strings.Cut(p, "\n") // without the excerpt of a document
		a.event(now, control.EventPolicyRejected, "error", p, map[string]string{"policy": name})
		if i == maxProblems {
			return
		}
	}
}

// firstLine returns the first line, with the first problem where it only
// announces them.
func firstLine(s string) string {
	line, rest, more := strings.Cut(s, "\n")
	if more && strings.HasSuffix(line, ":") {
		next, _, _ := strings.Cut(rest, "\n")
		return line + " " + strings.TrimSpace(next)
	}
	return line
}

func (a *Agent) reportApplied(now time.Time, cause string) {
	f := a.inForce
	if f.state == policy.None {
		a.event(now, control.EventPolicyRemoved, "info", "no policy is assigned: all traffic passes unprotected", map[string]string{"cause": cause})
		return
	}
	a.event(now, control.EventPolicyApplied, "info", fmt.Sprintf("policy %q is in force", f.name),
		map[string]string{"policy": f.name, "origin": f.origin, "filters": strconv.Itoa(len(f.compiled.Filters)), "cause": cause})
}

// sweep ends what policy no longer wants: temporary filters, associations,
// negotiations.
func (a *Agent) sweep(now time.Time) {
	a.sweepOverlays(now)
	at := now
	for _, p := range a.book.All() {
		if _, _, ok := a.inForce.snapshot.offersFor(p, methodOf(p)); !ok {
			a.endPair(now, p.ID, ending{reason: "policy no longer wants it", tell: true})
			a.deleteSAs(now, p.In) // nothing of it is welcome any more
			a.remakeUnder(now, at, p)
			at = at.Add(renewEvery)
		}
	}
	for _, t := range a.talks.all() {
		if _, _, ok := a.inForce.snapshot.offersOf(t); !ok {
			a.cancel(now, t)
		}
	}
}
