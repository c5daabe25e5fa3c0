package control

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// maxPassed bounds the groups of filters that an explanation lists.
const maxPassed = 12

// ExplainRequest asks how a packet is treated.
type ExplainRequest struct {
	// Flow is the packet in the words of policy.ParseFlow.
	Flow string
	// Direction is "in", "out", or "" for what the flow says.
	Direction string
	// Connection is "lan" or "remote-access"; "": what
	// the own address belongs to, where it is known, else "lan".
	Connection string
}

// Question returns the request as Explain takes it.
func (r ExplainRequest) Question() (policy.Question, error) {
	q, err := policy.ParseQuestion(r.Flow, r.Direction)
	if err != nil {
		return q, invalid("explain: %v", err)
	}
	switch r.Connection {
	case "":
	case sadb.LAN.String():
		q.Flow.Connection = sadb.LAN
	case sadb.RemoteAccess.String():
		q.Flow.Connection = sadb.RemoteAccess
	default:
		return q, invalid("explain: connection %q is not lan or remote-access", r.Connection)
	}
	return q, nil
}

// Explanation says how a packet is treated and why.
type Explanation struct {
	SchemaVersion string `json:"schemaVersion"`
	Policy        string `json:"policy"` // "": none is in force
	Origin        string `json:"origin,omitempty"`
	// Flow is the packet as it was understood, Direction "in", "out" or
	// "forwarded".
	Flow      string `json:"flow"`
	Direction string `json:"direction"`
	// Decision is "permit", "block", "negotiate", "none" when no filter
	// matches, or "exempt" when none is asked. Outcome says in words what
	// becomes of the packet.
	Decision string `json:"decision"`
	Outcome  string `json:"outcome"`
	// Decided is the filter that decides, at Place, from 1, of Filters.
	Decided *FilterView `json:"decided,omitempty"`
	Place   int         `json:"place,omitempty"`
	Filters int         `json:"filters"`
	// Next is the filter that would decide if Decided were not there.
	Next *FilterAt `json:"next,omitempty"`
	// Passed are the filters before it, those first that match but for the
	// fewest things; MorePassed is how many more there are.
	Passed     []PassedFilters `json:"passed"`
	MorePassed int             `json:"morePassed,omitempty"`
	// Offer is what is negotiated by the filter that decides, or by the
	// default response rule when none does.
	Offer *Offer   `json:"offer,omitempty"`
	Notes []string `json:"notes,omitempty"`
	// Live is what is in force with the peer now; absent: nobody was asked.
	Live *Live `json:"live,omitempty"`
}

// FilterAt is a filter and its place in the order of decision, from 1.
type FilterAt struct {
	Place     int    `json:"place"`
	Rule      string `json:"rule"`
	List      string `json:"filterList"`
	Selector  string `json:"selector"`
	Direction string `json:"direction"`
	Action    string `json:"action"`
}

// PassedFilters are filters that do not match a packet for the same reasons.
type PassedFilters struct {
	// Differs names in what the packet is not what they ask for, for example
	// "remote address".
	Differs []string   `json:"differs"`
	Count   int        `json:"count"`
	First   []FilterAt `json:"first"` // the first of them
}

// Offer is what a negotiation proposes and accepts, each in order of preference.
type Offer struct {
	By             string   `json:"by"` // the rule
	MainMode       []string `json:"mainMode"`
	Methods        []string `json:"methods"`
	Authentication []string `json:"authentication"`
	PFS            string   `json:"pfs"`
}

// Live is what is in force with a peer: of the associations and negotiations
// those that the packet belongs to.
type Live struct {
	Peer  string `json:"peer"`  // the other end: the peer, or its gateway
	State string `json:"state"` // of the peer: one of the Peer constants
	Words string `json:"words"`
	// Since when that state lasts, where it is known.
	Since       time.Time     `json:"since,omitzero"`
	Secured     []SecuredPeer `json:"secured"`
	InClear     []ClearPeer   `json:"inClear"`
	Negotiating []Negotiating `json:"negotiating"`
	Failures    []Failure     `json:"failures"` // newest first
}

// Explained returns an explanation as it is shown.
func Explained(c *policy.Compiled, x policy.Explanation) Explanation {
	v := Explanation{SchemaVersion: SchemaVersion, Policy: x.Policy, Flow: x.Question.String(), Direction: x.Question.Dir.String(),
		Decision: x.Decision(), Outcome: x.Outcome(), Place: x.Place, Filters: x.Filters, Passed: []PassedFilters{}, Notes: x.Notes()}
	if x.Question.Forwarded() {
		v.Direction = "forwarded"
	}
	for i, p := range x.Passed {
		if i >= maxPassed {
			v.MorePassed += p.Count
			continue
		}
		g := PassedFilters{Differs: p.Differs.Words(), Count: p.Count}
		for _, place := range p.First {
			g.First = append(g.First, filterAt(c, place))
		}
		v.Passed = append(v.Passed, g)
	}
	if x.Decided != nil {
		d := explainedFilter(x.Decided)
		v.Decided = &d
	}
	if x.Next != nil {
		n := filterAt(c, x.NextPlace)
		v.Next = &n
	}
	v.Offer = offerOf(c, x)
	return v
}

func filterAt(c *policy.Compiled, place int) FilterAt {
	f := &c.Filters[place-1]
	return FilterAt{Place: place, Rule: f.Rule, List: f.FilterList, Selector: f.Selector.String(), Direction: f.Dir.String(), Action: f.ActionWords()}
}

func explainedFilter(f *policy.CompiledFilter) FilterView {
	v := FilterView{ID: string(f.ID), Weight: f.Weight, Reason: f.Reason, Rule: f.Rule, List: f.FilterList, Selector: f.Selector.String(),
		Direction: f.Dir.String(), Action: f.ActionWords(), Overlay: f.Overlay(), Parent: string(f.Parent), Expires: f.Expires}
	if f.Mode == sadb.Tunnel {
		v.Tunnel = endName(f.TunnelLocal) + " - " + f.TunnelRemote.String()
	}
	return v
}

// endName names the own end of a tunnel; which address it is may not be known.
func endName(a netip.Addr) string {
	if a.IsUnspecified() {
		return "this host"
	}
	return a.String()
}

// offerOf returns what is negotiated about the packet, nil if nothing is.
func offerOf(c *policy.Compiled, x policy.Explanation) *Offer {
	n, by := x.DefaultResponse, "the default response rule"
	if x.Decided != nil {
		n, by = x.Decided.Negotiation, x.Decided.Rule
	}
	if n == nil || x.Exempt != "" {
		return nil
	}
	o := &Offer{By: by, PFS: pfsWords(n), MainMode: []string{}, Methods: []string{}, Authentication: []string{}}
	for i, m := range c.KeyExchange.Methods {
		o.MainMode = append(o.MainMode, marked(m.String(), i < c.UpliftedMain))
	}
	for i, p := range n.Proposals {
		o.Methods = append(o.Methods, marked(p.String(), n.Uplifted != nil && n.Uplifted[i]))
	}
	for _, p := range n.Left {
		o.Methods = append(o.Methods, p.String()+" (not offered: the data path does not carry it)")
	}
	for _, m := range n.Authentication {
		o.Authentication = append(o.Authentication, authentication(m))
	}
	return o
}

func marked(method string, uplifted bool) string {
	if uplifted {
		return method + " (uplifted)"
	}
	return method
}

func authentication(m policy.AuthMethod) string {
	if len(m.AcceptPrincipals) == 0 {
		return m.String()
	}
	return m.String() + " of " + strings.Join(m.AcceptPrincipals, ", ")
}

func pfsWords(n *policy.Negotiation) string {
	switch {
	case !n.PFS:
		return "no"
	case n.PFSGroup == 0:
		return "in the group of the main mode"
	}
	return n.PFSGroup.String()
}

// explainQuery reads the parameters of /v1/explain.
func explainQuery(q url.Values) (ExplainRequest, error) {
	if err := onlyKeys(q, "flow", "direction", "connection"); err != nil {
		return ExplainRequest{}, err
	}
	r := ExplainRequest{Flow: q.Get("flow"), Direction: q.Get("direction"), Connection: q.Get("connection")}
	_, err := r.Question()
	return r, err
}

func (s *server) explain(r *http.Request) (any, error) {
	req, err := explainQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	return s.cfg.Backend.Explain(r.Context(), req)
}
