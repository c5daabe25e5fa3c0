package control

import (
	"context"
	"io"
	"net/http"

	"ipsecagent/policy"
)

// maxServers bounds the servers that a LintRequest names.
const maxServers = 64

// LintRequest asks what is probably not meant in a policy, on this host.
type LintRequest struct {
	// Policy is the name of one the agent knows; "": the one in force.
	Policy string `json:"policy,omitempty"`
	// Document is a policy to look at instead, as YAML.
	Document string `json:"document,omitempty"`
	// SSH is the caller's own session, as a flow that comes in, for example
	// "tcp 10.0.8.5:50000 -> me=10.0.0.1:22".
	SSH string `json:"ssh,omitempty"`
	// Servers are what the host has to reach, as policy.ParseServer reads
	// them; its DNS servers the agent knows.
	Servers []string `json:"servers,omitempty"`
}

// Environment returns what the request says of the host.
func (r LintRequest) Environment() (policy.Environment, error) {
	var env policy.Environment
	if r.SSH != "" {
		q, err := policy.ParseQuestion(r.SSH, "in")
		if err != nil {
			return env, invalid("lint: the SSH session: %v", err)
		}
		env.SSH = &q
	}
	if len(r.Servers) > maxServers {
		return env, invalid("lint: more than %d servers", maxServers)
	}
	for _, s := range r.Servers {
		servers, err := policy.ParseServer(s)
		if err != nil {
			return env, invalid("lint: %v", err)
		}
		env.Servers = append(env.Servers, servers...)
	}
	return env, nil
}

// LintResult is what was found.
type LintResult struct {
	SchemaVersion string `json:"schemaVersion"`
	Policy        string `json:"policy"`
	Origin        string `json:"origin"`
	// Host: what this host knows of itself was looked at, too.
	Host     bool      `json:"host"`
	Findings []Finding `json:"findings"` // the worst first
}

// Finding is one thing that is probably not meant.
type Finding struct {
	// Code is one of the codes of docs/policy.md.
	Code     string `json:"code"`
	Severity string `json:"severity"` // "error", "warning" or "note"
	// Object is what it is about, Path where that stands in the document.
	Object  string `json:"object"`
	Path    string `json:"path"`
	Message string `json:"message"`
	Do      string `json:"do"` // what to do about it
	// Line and Column are where in the file, from 1, when one was given.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
}

// Findings returns what Lint found as it is shown.
func Findings(found []policy.Finding) []Finding {
	all := []Finding{}
	for _, f := range found {
		all = append(all, Finding{Code: string(f.Code), Severity: f.Severity.String(), Object: f.Object, Path: f.Path, Message: f.Message, Do: f.Do})
	}
	return all
}

// decodeLint reads the body of /v1/lint.
func decodeLint(body io.Reader) (LintRequest, error) {
	var r LintRequest
	if err := decodeStrict(body, &r); err != nil {
		return LintRequest{}, err
	}
	if err := checkName(r.Policy); err != nil {
		return LintRequest{}, err
	}
	if r.Policy != "" && r.Document != "" {
		return LintRequest{}, invalid("lint: a name and a document are given; one is enough")
	}
	_, err := r.Environment()
	return r, err
}

func (s *server) lint(r *http.Request) (any, error) {
	req, err := decodeLint(r.Body)
	if err != nil {
		return nil, err
	}
	return s.cfg.Backend.Lint(r.Context(), req)
}

// Lint returns what is probably not meant in a policy, on the agent's host.
func (c *Client) Lint(ctx context.Context, r LintRequest) (v LintResult, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/lint", r, &v)
	return v, err
}
