package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// How long an apply may wait to be confirmed.
const (
	MinConfirm = 5 * time.Second
	MaxConfirm = 24 * time.Hour
)

// maxSource bounds the name of a document's file in bytes (PATH_MAX of Linux).
const maxSource = 4096

// ApplyRequest asks to put the policy of a document in force.
type ApplyRequest struct {
	// Document is the policy as YAML. Once it is in force for good it stands
	// in the policies folder, under the policy's name.
	Document string `json:"document"`
	// Source is what mistakes call the document: its file. "": "document".
	Source string `json:"source,omitempty"`
	// Auth and Keys are as in AssignRequest. Keys cannot be taken back, so
	// they do not go together with Confirm.
	Auth string `json:"auth,omitempty"`
	Keys string `json:"keys,omitempty"`
	// Confirm is after how many seconds what was in force before is in force
	// again, unless Confirm is asked for; 0: it is in force for good.
	Confirm int `json:"confirm,omitempty"`
	// Replace: the folder may hold another policy of that name.
	Replace bool `json:"replace,omitempty"`
	// DryRun: say what would change, and change nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// ApplyResult says what is in force now, or, of a dry run, what would be.
type ApplyResult struct {
	AssignResult
	// Pending is nil when nothing waits to be confirmed.
	Pending *Pending `json:"pending,omitempty"`
	// Changes are what differs from what was in force, in words. Bounded.
	Changes []string `json:"changes,omitempty"`
	DryRun  bool     `json:"dryRun,omitempty"`
}

// Pending is a policy that is in force and not yet confirmed.
type Pending struct {
	Policy string `json:"policy"`
	// Before is the policy that is in force again unless it is confirmed; "":
	// none is.
	Before  string    `json:"before"`
	Applied time.Time `json:"applied"`
	Until   time.Time `json:"until"`
	// Problem is why it could not be rolled back; it is tried again.
	Problem string `json:"problem,omitempty"`
}

// Validate says what is wrong with the request's form.
func (r ApplyRequest) Validate() error {
	least, most := int(MinConfirm/time.Second), int(MaxConfirm/time.Second)
	switch {
	case r.Document == "":
		return invalid("apply: the policy document is missing")
	case len(r.Source) > maxSource || strings.ContainsFunc(r.Source, notPrintable):
		return invalid("apply: the name of the document's file is longer than %d bytes or cannot be printed", maxSource)
	case r.Confirm != 0 && (r.Confirm < least || r.Confirm > most):
		return invalid("apply: %d seconds to confirm is not between %v and %v", r.Confirm, MinConfirm, MaxConfirm)
	case r.Confirm != 0 && r.DryRun:
		return invalid("apply: a dry run has nothing to confirm")
	case r.Confirm != 0 && r.Keys != "":
		return invalid("apply: preshared keys take the place of those before at once and are not taken back: put them into the secrets folder first (ipsecctl reload reads it), then apply without a key file")
	}
	// The name is in the document; everything else is as of an assignment.
	return AssignRequest{Policy: "applied", Auth: r.Auth, Keys: r.Keys}.Validate()
}

// CheckPolicyName refuses what cannot be the name of a policy whose document the
// agent keeps in a file of that name: it cannot leave the folder.
func CheckPolicyName(name string) error {
	if strings.Contains(name, "/") {
		return invalid("policy name %q: the document is kept in a file of the policy's name, which has no /", name)
	}
	return checkName(name)
}

func decodeApply(body io.Reader) (ApplyRequest, error) {
	var r ApplyRequest
	if err := decodeStrict(body, &r); err != nil {
		return ApplyRequest{}, err
	}
	return r, r.Validate()
}

func (s *server) apply(r *http.Request) (any, error) {
	req, err := decodeApply(r.Body)
	if err != nil {
		return nil, err
	}
	return s.cfg.Backend.Apply(r.Context(), req)
}

// confirm hands on when the connection of the caller began: who was cut off by
// what was applied cannot make one.
func (s *server) confirm(r *http.Request) (any, error) {
	if err := decodeEmpty(r.Body); err != nil {
		return nil, err
	}
	who, ok := r.Context().Value(callerKey{}).(caller)
	if !ok {
		return nil, fmt.Errorf("control: confirm: the caller is not known")
	}
	return s.cfg.Backend.Confirm(r.Context(), who.began)
}

func (s *server) rollback(r *http.Request) (any, error) {
	if err := decodeEmpty(r.Body); err != nil {
		return nil, err
	}
	return s.cfg.Backend.Rollback(r.Context())
}

// Apply puts the policy of a document in force.
func (c *Client) Apply(ctx context.Context, r ApplyRequest) (v ApplyResult, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/apply", r, &v)
	return v, err
}

// Confirm keeps what was applied.
func (c *Client) Confirm(ctx context.Context) (v ApplyResult, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/confirm", struct{}{}, &v)
	return v, err
}

// Rollback puts in force again what was before the last apply.
func (c *Client) Rollback(ctx context.Context) (v ApplyResult, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/rollback", struct{}{}, &v)
	return v, err
}
