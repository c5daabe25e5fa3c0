package control

import (
	"context"
	"net/http"
	"time"
)

// Report is what report mode has let pass, and enforcing would have blocked.
type Report struct {
	SchemaVersion string `json:"schemaVersion"`
	Policy        string `json:"policy"`
	// Rules are those in report mode; empty: everything is enforced.
	Rules []ReportedRule `json:"rules"`
	// Blocked is what would have been blocked, the most first. More is how
	// many peers and filters did not fit into the table.
	Blocked []WouldBlock `json:"blocked"`
	More    uint64       `json:"more,omitempty"`
}

// ReportedRule is a rule in report mode.
type ReportedRule struct {
	Rule     string    `json:"rule"`
	Enforced string    `json:"enforced"` // what it does from Until on
	Until    time.Time `json:"until"`
}

// WouldBlock is traffic with one peer, by one filter, that enforcing would have
// blocked.
type WouldBlock struct {
	Peer   string `json:"peer"`
	Local  string `json:"local"`
	Rule   string `json:"rule"`
	Filter string `json:"filter"`
	// Flow is the traffic of the filter.
	Flow string `json:"flow"`
	// Sent and Received are packets in clear, in each direction.
	Sent     uint64    `json:"sent"`
	Received uint64    `json:"received"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	// Why it was not secured.
	Why string `json:"why"`
}

func (s *server) report(r *http.Request) (any, error) {
	if err := onlyKeys(r.URL.Query()); err != nil {
		return nil, err
	}
	return s.cfg.Backend.Reported(r.Context())
}

// Reported returns what report mode has let pass.
func (c *Client) Reported(ctx context.Context) (v Report, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/report", nil, &v)
	return v, err
}
