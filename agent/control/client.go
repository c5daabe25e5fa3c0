package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Client asks an agent. Every error it returns is a *Error. It may be used by
// several goroutines at once.
type Client struct {
	socket  string
	timeout time.Duration
	http    *http.Client
}

// NewClient returns a client of the agent at socket. Each request, event
// streams aside, ends after timeout.
func NewClient(socket string, timeout time.Duration) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket, timeout, &http.Client{Transport: &http.Transport{
		DialContext:           dial,
		DisableKeepAlives:     true,
		ResponseHeaderTimeout: timeout,
	}}}
}

// Version returns the version of the running agent.
func (c *Client) Version(ctx context.Context) (v VersionInfo, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/version", nil, &v)
	return v, err
}

// Status returns what is in force, with whom, and what failed.
func (c *Client) Status(ctx context.Context) (v Status, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/status", nil, &v)
	return v, err
}

// Assign puts a policy in force.
func (c *Client) Assign(ctx context.Context, r AssignRequest) (v AssignResult, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/assign", r, &v)
	return v, err
}

// Unassign takes the policy out of force.
func (c *Client) Unassign(ctx context.Context) (v AssignResult, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/unassign", struct{}{}, &v)
	return v, err
}

// Reload reads policy and secrets again.
func (c *Client) Reload(ctx context.Context) (v AssignResult, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/reload", struct{}{}, &v)
	return v, err
}

// Policies returns the policies that can be assigned.
func (c *Client) Policies(ctx context.Context) (v PolicyList, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/policies", nil, &v)
	return v, err
}

// Policy returns one policy; "" is the assigned one.
func (c *Client) Policy(ctx context.Context, name string, effective bool) (v PolicyView, err error) {
	q := url.Values{"effective": {strconv.FormatBool(effective)}}
	if name != "" {
		q.Set("name", name)
	}
	err = c.call(ctx, http.MethodGet, "/v1/policy?"+q.Encode(), nil, &v)
	return v, err
}

// SAs returns the associations in force.
func (c *Client) SAs(ctx context.Context) (v SAList, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/sas", nil, &v)
	return v, err
}

// Why returns what is known of one peer.
func (c *Client) Why(ctx context.Context, peer netip.Addr) (v Why, err error) {
	q := url.Values{"peer": {peer.String()}}
	err = c.call(ctx, http.MethodGet, "/v1/why?"+q.Encode(), nil, &v)
	return v, err
}

// Explain returns how a packet is treated by what is in force.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (v Explanation, err error) {
	q := url.Values{"flow": {r.Flow}}
	for name, value := range map[string]string{"direction": r.Direction, "connection": r.Connection} {
		if value != "" {
			q.Set(name, value)
		}
	}
	err = c.call(ctx, http.MethodGet, "/v1/explain?"+q.Encode(), nil, &v)
	return v, err
}

// Events calls each for the events the agent remembers, oldest first, and,
// with follow, for those that come until ctx ends. It returns nil at the end
// and when ctx was cancelled; an error of each ends it and is returned as is.
func (c *Client) Events(ctx context.Context, keep bool, each func(Event) error) error {
	return follow(ctx, c, "/v1/events?follow="+strconv.FormatBool(keep), keep, each)
}

// follow calls each for the values of a stream, with keep one without an end.
func follow[T any](ctx context.Context, c *Client, path string, keep bool, each func(T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !keep {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, c.timeout)
		defer stop()
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return c.ended(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(resp)
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var v T
		if err := dec.Decode(&v); err != nil {
			return c.streamEnd(ctx, err, keep)
		}
		if err := each(v); err != nil {
			return err
		}
	}
}

func (c *Client) streamEnd(ctx context.Context, err error, follow bool) error {
	if errors.Is(err, io.EOF) && !follow {
		return nil
	}
	if errors.Is(err, io.EOF) && ctx.Err() == nil {
		return &Error{Code: NotReachable, Message: "the agent ended the event stream: it stopped, or this program read too slowly"}
	}
	return c.ended(ctx, err)
}

// ended is nil when the caller ended a stream on purpose.
func (c *Client) ended(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return c.explain(err)
}

// call sends in as JSON, if there is any, and reads the answer into out.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(resp)
	}
	body, err := readAnswer(resp.Body)
	if err != nil {
		return c.explain(err)
	}
	if err := checkSchema(body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &Error{Code: Failed, Message: fmt.Sprintf("the agent's answer to %s is not understood: %v", path, err)}
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	body := io.Reader(http.NoBody)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.http.Do(req)
}

func readAnswer(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxAnswer+1))
	if err == nil && len(body) > MaxAnswer {
		err = fmt.Errorf("the answer is larger than %d bytes", MaxAnswer)
	}
	return body, err
}

// answerError returns the error an agent answered with.
func answerError(resp *http.Response) error {
	var e Error
	body, err := readAnswer(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil || e.Code == OK || e.Message == "" {
		return &Error{Code: Failed, Message: "the agent answered " + resp.Status + " without a reason; is this the socket of ipsecagent?"}
	}
	return &e
}

// checkSchema refuses answers of another major version, which mean something
// else.
func checkSchema(body []byte) error {
	var head struct {
		SchemaVersion string `json:"schemaVersion"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return &Error{Code: Failed, Message: "the agent's answer is not understood: " + err.Error()}
	}
	got, _, _ := strings.Cut(head.SchemaVersion, ".")
	want, _, _ := strings.Cut(SchemaVersion, ".")
	if got != want {
		return &Error{Code: Failed, Message: fmt.Sprintf("the agent answers in schema version %q, this program reads %q: use the ipsecctl that came with the agent", head.SchemaVersion, SchemaVersion)}
	}
	return nil
}

// explain turns a failed connection into what the administrator can do.
func (c *Client) explain(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, fs.ErrPermission):
		return &Error{NotPermitted, fmt.Sprintf("not permitted to use socket %s: run the command as root (sudo), or join the group of the socket to look", c.socket)}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTSOCK):
		return &Error{NotReachable, fmt.Sprintf("the agent does not answer at %s: start it (systemctl start ipsecagent, or the program ipsecagent), or name its socket with --socket", c.socket)}
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return &Error{TimedOut, fmt.Sprintf("the agent at %s did not answer within %s: look at its log (journalctl -u ipsecagent), or allow more time with --timeout", c.socket, c.timeout)}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		strings.Contains(err.Error(), "server closed idle connection"): // net/http has no name for it
		return &Error{NotReachable, fmt.Sprintf("the agent at %s closed the connection: it is stopping, or has too many open; try again", c.socket)}
	case errors.Is(err, context.Canceled):
		return &Error{Failed, "interrupted"}
	}
	return &Error{Failed, fmt.Sprintf("ask the agent at %s: %v", c.socket, err)}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
