package control

import (
	"strings"
	"testing"
	"time"
)

func TestApplyConfirmAndRollbackReachTheBackend(t *testing.T) {
	needsRoot(t)
	f := newFake()
	c := NewClient(serve(t, f), 10*time.Second)
	want := ApplyRequest{Document: "kind: Policy", Source: "/root/x.yaml", Auth: "kerberos", Confirm: 60, Replace: true}
	if v, err := c.Apply(t.Context(), want); err != nil || v.Policy != "applied" {
		t.Errorf("apply: %+v, %v", v, err)
	}
	if got := <-f.applied; got != want {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
	if v, err := c.Rollback(t.Context()); err != nil || v.Policy != "former" {
		t.Errorf("rollback: %+v, %v", v, err)
	}
	if v, err := c.Reported(t.Context()); err != nil || v.Policy != "reported" {
		t.Errorf("report: %+v, %v", v, err)
	}
}

// TestConfirmSaysWhenItsConnectionBegan: each request of a client has a
// connection of its own, so what it says is when the request was made.
func TestConfirmSaysWhenItsConnectionBegan(t *testing.T) {
	needsRoot(t)
	f := newFake()
	c := NewClient(serve(t, f), 10*time.Second)
	for range 2 {
		before := time.Now()
		if _, err := c.Confirm(t.Context()); err != nil {
			t.Fatal(err)
		}
		if began := <-f.confirmed; began.Before(before) || began.After(time.Now()) {
			t.Errorf("the connection began at %v, not after %v", began, before)
		}
	}
}

func TestMalformedApplyIsRefused(t *testing.T) {
	needsRoot(t)
	f := newFake()
	path := serve(t, f)
	for name, tt := range map[string]struct{ route, body string }{
		"no document":         {"/v1/apply", `{}`},
		"unknown field":       {"/v1/apply", `{"document":"x","force":true}`},
		"confirm at once":     {"/v1/apply", `{"document":"x","confirm":1}`},
		"confirm before":      {"/v1/apply", `{"document":"x","confirm":-60}`},
		"confirm in a year":   {"/v1/apply", `{"document":"x","confirm":31536000}`},
		"confirm nothing":     {"/v1/apply", `{"document":"x","confirm":60,"dryRun":true}`},
		"keys to confirm":     {"/v1/apply", `{"document":"x","confirm":60,"auth":"psk-file","keys":"k"}`},
		"keys without use":    {"/v1/apply", `{"document":"x","keys":"k"}`},
		"unknown method":      {"/v1/apply", `{"document":"x","auth":"none"}`},
		"a terminal's words":  {"/v1/apply", `{"document":"x","source":"a\u001b[2J"}`},
		"too large":           {"/v1/apply", `{"document":"` + strings.Repeat("x", MaxRequest) + `"}`},
		"confirm something":   {"/v1/confirm", `{"policy":"x"}`},
		"roll back something": {"/v1/rollback", `{"steps":2}`},
	} {
		if status, answer := post(t, path, tt.route, tt.body); status != 400 || !strings.Contains(answer, `"message":"`) {
			t.Errorf("%s: status %d, answer %s", name, status, answer)
		}
	}
	if len(f.applied)+len(f.confirmed) > 0 {
		t.Error("a malformed request reached the backend")
	}
}

// FuzzDecodeApply: what is let through is within the bounds.
func FuzzDecodeApply(f *testing.F) {
	f.Add(`{"document":"x","confirm":60}`)
	f.Add(`{"document":"x","auth":"cert:CN=A","replace":true}`)
	f.Fuzz(func(t *testing.T, body string) {
		r, err := decodeApply(strings.NewReader(body))
		wait := time.Duration(r.Confirm) * time.Second
		if err == nil && (r.Document == "" || r.Confirm != 0 && (wait < MinConfirm || wait > MaxConfirm || r.Keys != "")) {
			t.Errorf("let through: %+v", r)
		}
	})
}
