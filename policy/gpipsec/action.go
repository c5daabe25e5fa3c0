package gpipsec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Protocols of an offer, and what zero lifetimes of one mean (KB 2790970).
const (
	protocolAH     = 1
	protocolESP    = 2
	usualLifetime  = time.Hour
	usualKilobytes = 100_000
)

// action reads a filter action into the model, that of a default response rule
// too.
func (r *report) action(o *Object) policy.FilterAction {
	a := policy.FilterAction{GUID: o.GUID.String(), Name: o.Name, Description: o.Description}
	r.actionKind(o.Action, &a)
	d, ok := parse(r, ParseNegotiation, o.Data)
	if !ok {
		return a
	}
	soft := slices.ContainsFunc(d.Offers, func(o Offer) bool { return o.Count == 0 })
	offers := slices.DeleteFunc(slices.Clone(d.Offers), func(o Offer) bool { return o.Count == 0 })
	if a.Kind != sadb.Negotiate {
		if len(d.Offers) > 0 {
			r.warn("it does not negotiate, and its %d security methods are left out", len(d.Offers))
		}
		r.extend(o.Data, d.Tail, &struct{}{})
		return a
	}
	a.AllowClear, a.Methods = soft, r.methods(offers)
	a.SessionKeyPFS = r.pfs(offers)
	x := extAction{}
	if r.extend(o.Data, d.Tail, &x) {
		x.apply(&a)
	} else if len(a.Methods) == 0 {
		r.fail("it negotiates security and none of its security methods is known here")
	}
	return a
}

func (r *report) actionKind(id GUID, a *policy.FilterAction) {
	switch id {
	case actionBlock():
		a.Kind = sadb.Block
	case actionPermit():
		a.Kind = sadb.Permit
	case actionNegotiate():
		a.Kind = sadb.Negotiate
	case actionPass():
		a.Kind, a.AcceptUnsecured = sadb.Negotiate, true
	case GUID{}:
		r.fail("it does not say what to do (iPSECNegotiationPolicyAction is missing); the reader may not be permitted to read it")
	default:
		r.fail("its action %s is neither permit, block nor negotiate", id)
	}
}

func actionID(a policy.FilterAction) GUID {
	switch {
	case a.Kind == sadb.Permit:
		return actionPermit()
	case a.Kind == sadb.Negotiate && a.AcceptUnsecured:
		return actionPass()
	case a.Kind == sadb.Negotiate:
		return actionNegotiate()
	}
	return actionBlock()
}

func (x extAction) apply(a *policy.FilterAction) {
	a.Methods = nil
	for _, m := range x.Methods {
		method := policy.SecurityMethod{Lifetime: time.Duration(m.Lifetime), Bytes: m.Bytes}
		for _, s := range m.Suites {
			method.Suites = append(method.Suites, sadb.Suite(s))
		}
		a.Methods = append(a.Methods, method)
	}
	a.AllowClear, a.ClearDelay = x.AllowClear, time.Duration(x.ClearDelay)
	a.SessionKeyPFS, a.PFSGroup = x.PFS, sadb.Group(x.PFSGroup)
}

func extOfAction(a policy.FilterAction) extAction {
	x := extAction{AllowClear: a.AllowClear, ClearDelay: span(a.ClearDelay), PFS: a.SessionKeyPFS, PFSGroup: group(a.PFSGroup)}
	for _, m := range a.Methods {
		method := extMethod{Lifetime: span(m.Lifetime), Bytes: m.Bytes}
		for _, s := range m.Suites {
			method.Suites = append(method.Suites, suite(s))
		}
		x.Methods = append(x.Methods, method)
	}
	return x
}

// pfs: Windows keeps it with each method and its tools set all alike. Where they
// differ, all get it: the stricter side.
func (r *report) pfs(offers []Offer) bool {
	with := 0
	for _, o := range offers {
		if o.PFS != 0 {
			with++
		}
	}
	if with > 0 && with < len(offers) {
		r.warn("%d of its %d security methods use session key perfect forward secrecy; here all of them do", with, len(offers))
	}
	return with > 0
}

func (r *report) methods(offers []Offer) []policy.SecurityMethod {
	var all []policy.SecurityMethod
	for i, o := range offers {
		m := policy.SecurityMethod{Lifetime: time.Duration(o.Seconds) * time.Second, Bytes: uint64(o.Kilobytes) * 1024}
		if o.Seconds == 0 {
			m.Lifetime = usualLifetime
		}
		if o.Kilobytes == 0 {
			m.Bytes = usualKilobytes * 1024
		}
		m.Lifetime = within(r, "lifetime", m.Lifetime, minLifetime, maxLifetime)
		m.Bytes = within(r, "lifetime in bytes", m.Bytes, minBytes, maxBytes)
		var err error
		if m.Suites, err = o.suites(); err != nil {
			r.warn("security method %d is left out: %v", i+1, err)
			continue
		}
		all = append(all, m)
	}
	return all
}

// What the model takes; Windows' tools allow a little more.
const (
	minLifetime = time.Minute
	maxLifetime = 48 * time.Hour
	minBytes    = uint64(1_000_000)
	maxBytes    = uint64(4_000_000_000_000)
	minPolling  = time.Minute
	maxPolling  = 7 * 24 * time.Hour
)

// within brings a value to the nearest that the model takes.
func within[T cmp.Ordered](r *report, what string, v, least, most T) T {
	near := min(max(v, least), most)
	if near != v {
		r.warn("its %s is %v; %v is taken", what, v, near)
	}
	return near
}

// suites returns what is applied together, AH first.
func (o Offer) suites() ([]sadb.Suite, error) {
	var all []sadb.Suite
	for _, t := range o.Transforms[:o.Count] {
		s, err := t.suite()
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	if len(all) == 2 && all[0].Proto == sadb.ESP {
		slices.Reverse(all)
	}
	if len(all) == 1 || len(all) == 2 && all[0].Proto == sadb.AH && all[1].Proto == sadb.ESP {
		return all, nil
	}
	return nil, fmt.Errorf("it is not AH, ESP or one of each")
}

func (t Transform) suite() (sadb.Suite, error) {
	integrity := map[uint32]sadb.Integrity{algMD5: sadb.HMACMD5, algSHA1: sadb.HMACSHA1}
	s := sadb.Suite{}
	switch t.Protocol {
	case protocolAH:
		s = sadb.Suite{Proto: sadb.AH, Integrity: integrity[t.Algorithm]}
	case protocolESP:
		s = sadb.Suite{Proto: sadb.ESP, Integrity: integrity[t.Integrity]}
		s.Encryption = map[uint32]sadb.Encryption{0: sadb.Null, algDES: sadb.DES, alg3DES: sadb.TripleDES}[t.Algorithm]
	}
	if !s.Valid() {
		return s, fmt.Errorf("protocol %d with algorithms %d and %d is not known here, or protects nothing", t.Protocol, t.Algorithm, t.Integrity)
	}
	return s, nil
}

// encodeAction writes what an action does: for Windows with the nearest methods
// it knows, for us exactly.
func (r *report) encodeAction(a policy.FilterAction) []byte {
	d := &NegotiationData{Tail: trailer()}
	if a.Kind != sadb.Negotiate {
		return d.Canonical()
	}
	for _, m := range a.Methods {
		d.offer(m, a.SessionKeyPFS)
	}
	if len(d.Offers) == 0 {
		d.offer(policy.SecurityMethod{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.TripleDES, Integrity: sadb.HMACSHA1}}}, a.SessionKeyPFS)
	}
	if a.AllowClear {
		d.Offers = append(d.Offers, Offer{})
	}
	value := d.Canonical()
	read := (&report{}).action(&Object{Data: value, Action: actionID(a)})
	if same(extOfAction(read), extOfAction(a)) {
		return value
	}
	if methods := suitesOf(read); methods != suitesOf(a) {
		r.warn("Windows sees the security methods %s instead", methods)
	}
	return extended(value, extOfAction(a))
}

func suitesOf(a policy.FilterAction) string {
	var all []string
	for _, m := range a.Methods {
		all = append(all, sadb.Proposal{Suites: m.Suites}.String())
	}
	return strings.Join(unique(all), ", ")
}

// offer adds a method, unless Windows would see the same one again.
func (d *NegotiationData) offer(m policy.SecurityMethod, pfs bool) {
	o := Offer{Seconds: seconds(m.Lifetime), Kilobytes: kilobytes(m.Bytes)}
	if m.Lifetime == usualLifetime && m.Bytes == usualKilobytes*1024 {
		o.Seconds, o.Kilobytes = 0, 0
	}
	if pfs {
		o.PFS = 1
	}
	for _, s := range m.Suites[:min(len(m.Suites), len(o.Transforms))] {
		o.Transforms[o.Count] = transformOf(s)
		o.Count++
	}
	if o.Count > 0 && !slices.Contains(d.Offers, o) {
		d.Offers = append(d.Offers, o)
	}
}

// kilobytes rounds up, so that a lifetime that is set stays set.
func kilobytes(n uint64) uint32 {
	return uint32(min((n+1023)/1024, 1<<32-1))
}

func transformOf(s sadb.Suite) Transform {
	integrity := uint32(algSHA1)
	if s.Integrity == sadb.HMACMD5 {
		integrity = algMD5
	}
	t := Transform{KeyLength: keyLength, Rounds: rounds}
	if s.Proto == sadb.AH {
		t.Protocol, t.Algorithm = protocolAH, integrity
		return t
	}
	t.Protocol, t.Integrity, t.Algorithm = protocolESP, integrity, alg3DES
	switch s.Encryption {
	case sadb.Null:
		t.Algorithm = 0
	case sadb.DES:
		t.Algorithm = algDES
	}
	return t
}
