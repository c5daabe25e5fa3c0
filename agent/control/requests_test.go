package control

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// post sends a raw body and returns status and answer.
func post(t *testing.T, path, route, body string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	resp, err := c.Post("http://agent"+route, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	needsRoot(t)
	f := newFake()
	path := serve(t, f)
	tests := []struct {
		name, route, body string
		status            int
	}{
		{"unknown field", "/v1/assign", `{"policy":"client","force":true}`, 400},
		{"two objects", "/v1/assign", `{"policy":"client"}{}`, 400},
		{"no object", "/v1/assign", `["client"]`, 400},
		{"no name", "/v1/assign", `{}`, 400},
		{"empty", "/v1/assign", ``, 400},
		{"leaves the folder", "/v1/assign", `{"policy":"../secrets.d/keys"}`, 400},
		{"hidden file", "/v1/assign", `{"policy":".client"}`, 400},
		{"control characters", "/v1/assign", `{"policy":"client\u001b[2J"}`, 400},
		{"long name", "/v1/assign", `{"policy":"` + strings.Repeat("a", 256) + `"}`, 400},
		{"unknown authentication", "/v1/assign", `{"policy":"client","auth":"none"}`, 400},
		{"keys without use", "/v1/assign", `{"policy":"client","keys":"k"}`, 400},
		{"no keys", "/v1/assign", `{"policy":"client","auth":"psk-file","keys":" \n"}`, 400},
		{"too large", "/v1/assign", `{"policy":"client","auth":"psk-file","keys":"` + strings.Repeat("k", MaxRequest) + `"}`, 400},
		{"parameters of unassign", "/v1/unassign", `{"policy":"client"}`, 400},
		{"parameters of reload", "/v1/reload", `{"now":true}`, 400},
		{"unknown request", "/v1/erase", `{}`, 404},
		{"wrong method", "/v1/status", `{}`, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, answer := post(t, path, tt.route, tt.body)
			if status != tt.status || !strings.Contains(answer, `"message":"`) {
				t.Errorf("status %d, answer %s", status, answer)
			}
		})
	}
	if len(f.assigned) > 0 {
		t.Errorf("a malformed request reached the backend: %+v", <-f.assigned)
	}
}

func TestQueriesAreChecked(t *testing.T) {
	needsRoot(t)
	path := serve(t, newFake())
	for _, q := range []string{
		"/v1/policy?nam=x", "/v1/policy?name=a&name=b", "/v1/policy?effective=1", "/v1/policy?name=..%2Fx", "/v1/events?follow=yes", "/v1/events?since=1",
	} {
		req, err := http.NewRequest(http.MethodGet, "http://agent"+q, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := NewClient(path, 10*time.Second).http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("%s answered %s", q, resp.Status)
		}
	}
}

func TestEveryPrefixOfARequestIsRefused(t *testing.T) {
	whole := `{"policy":"client","auth":"psk-file","keys":"any: k"}`
	if _, err := decodeAssign(strings.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if r, err := decodeAssign(strings.NewReader(whole[:n])); err == nil {
			t.Errorf("the prefix %q was taken as %+v", whole[:n], r)
		}
	}
}

func FuzzDecodeAssign(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"policy":"client"}`, `{"policy":"a/b"}`, `{"policy":"a/../b"}`, `{"policy":"x","auth":"psk-file","keys":"k"}`, `{"policy":1}`, "{\"policy\":\"\xff\"}", `{"policy":"a"} x`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r, err := decodeAssign(strings.NewReader(body))
		if err != nil {
			if r != (AssignRequest{}) || codeOf(err) != Invalid {
				t.Fatalf("refused with %+v, %v", r, err)
			}
			return
		}
		if !filepath.IsLocal(r.Policy) || strings.HasPrefix(r.Policy, ".") || strings.ContainsFunc(r.Policy, notPrintable) {
			t.Fatalf("accepted the name %q", r.Policy)
		}
		if (r.Auth == AuthPSKFile) != (r.Keys != "") {
			t.Fatalf("accepted authentication %q with keys %q", r.Auth, r.Keys)
		}
	})
}

// Policies of Windows have names with a slash.
func TestNamesWithASlash(t *testing.T) {
	for name, fine := range map[string]bool{"HTTP/S servers": true, "a/b": true, "../a": false, "a/../b": false, "/a": false, ".a": false, "a/.b": false} {
		r, err := decodeAssign(strings.NewReader(fmt.Sprintf(`{"policy":%q}`, name)))
		if fine != (err == nil) || fine && r.Policy != name {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestManualNamesEveryRequest: docs/control.md lists the requests that exist.
func TestManualNamesEveryRequest(t *testing.T) {
	needsRoot(t)
	page, err := os.ReadFile("../../docs/control.md")
	if err != nil {
		t.Fatal(err)
	}
	path := serve(t, newFake())
	for _, line := range strings.Split(string(page), "\n") {
		method, rest, ok := strings.Cut(strings.TrimPrefix(line, "| `"), " /v1/")
		if !ok || method != http.MethodPost {
			continue
		}
		name, _, _ := strings.Cut(rest, "`")
		body := map[string]string{"assign": `{"policy":"client"}`, "apply": `{"document":"kind: Policy"}`}[name]
		if status, answer := post(t, path, "/v1/"+name, body); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	for _, name := range []string{"version", "status", "policies", "policy", "sas", "events", "assign", "unassign", "apply", "confirm", "rollback", "report", "reload"} {
		if !strings.Contains(string(page), " /v1/"+name) {
			t.Errorf("%s is not in the manual", name)
		}
	}
}
