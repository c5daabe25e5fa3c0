package control

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// TraceRequest asks for the exchanges with one peer in readable form.
type TraceRequest struct {
	Peer netip.Addr
	// Keys: also the keys, as lines of Wireshark's tables. Root only.
	Keys bool
	// By is who asks, for the audit.
	By string
}

// TraceLine is a step of an exchange, or a line of a key table.
type TraceLine struct {
	Time   time.Time `json:"time"`
	Local  string    `json:"local,omitempty"`
	Remote string    `json:"remote,omitempty"`
	Sent   bool      `json:"sent,omitempty"` // by this host; else received, or a decision when Text says so
	Text   string    `json:"text,omitempty"` // several lines; keys, hashes and proofs are left out
	// Table and Line: a line of that table of Wireshark instead of a step.
	Table string `json:"table,omitempty"`
	Line  string `json:"line,omitempty"`
	// Lost is how many were left out before this one: the reader is slower
	// than the exchanges.
	Lost int `json:"lost,omitempty"`
}

// traceQuery reads the parameters of /v1/trace.
func traceQuery(q url.Values) (TraceRequest, error) {
	peer, err := peerQuery(q, "peer", "keys")
	if err != nil {
		return TraceRequest{}, err
	}
	keys, err := boolParam(q, "keys")
	return TraceRequest{Peer: peer, Keys: keys}, err
}

// trace streams the exchanges with a peer; with keys to root alone.
func (s *server) trace(w http.ResponseWriter, r *http.Request) {
	req, err := traceQuery(r.URL.Query())
	if err != nil {
		s.fail(w, asError(err))
		return
	}
	who, known := r.Context().Value(callerKey{}).(caller)
	if req.Keys && (!known || accessOf(who, s.readers) < accessChange) {
		s.fail(w, &Error{Code: NotPermitted, Message: "not permitted: only root may have the keys of associations; run the command as root (sudo)"})
		return
	}
	req.By = who.String()
	streamed(s, w, r, func(ctx context.Context) (<-chan TraceLine, error) { return s.cfg.Backend.Trace(ctx, req) })
}

// Trace calls each for the steps of the exchanges with a peer, until ctx ends. It
// returns nil when ctx was cancelled; an error of each ends it and is returned
// as is.
func (c *Client) Trace(ctx context.Context, r TraceRequest, each func(TraceLine) error) error {
	q := url.Values{"peer": {r.Peer.String()}}
	if r.Keys {
		q.Set("keys", "true")
	}
	return follow(ctx, c, "/v1/trace?"+q.Encode(), true, each)
}
