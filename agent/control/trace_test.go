package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestTraceStreamsUntilTheReaderLeaves(t *testing.T) {
	needsRoot(t)
	c := NewClient(serve(t, newFake()), time.Second)
	ctx, stop := context.WithCancel(t.Context())
	var got []TraceLine
	err := c.Trace(ctx, TraceRequest{Peer: netip.MustParseAddr("10.0.0.7"), Keys: true}, func(l TraceLine) error {
		if got = append(got, l); len(got) == 2 {
			stop()
		}
		return nil
	})
	if err != nil || len(got) != 2 || got[0].Remote != "10.0.0.7" || !strings.HasPrefix(got[0].Text, "user 0, process ") || got[1].Table != "esp_sa" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestKeysAreForRootAlone: whoever may look may read the exchanges, and not the
// keys.
func TestKeysAreForRootAlone(t *testing.T) {
	const readers = 77
	s := &server{cfg: ServerConfig{Backend: newFake(), Log: slog.New(slog.DiscardHandler)}, readers: readers,
		rootStreams: make(chan struct{}, 1), otherStreams: make(chan struct{}, 1)}
	for _, tt := range []struct {
		who    caller
		path   string
		status int
	}{
		{caller{uid: 1000, gid: readers}, "/v1/trace?peer=10.0.0.7&keys=true", http.StatusForbidden},
		{caller{uid: 1000, gid: readers}, "/v1/trace?peer=10.0.0.7", http.StatusOK},
		{caller{uid: 1000, gid: 5}, "/v1/trace?peer=10.0.0.7", http.StatusForbidden},
		{caller{uid: 0}, "/v1/trace?peer=10.0.0.7&keys=true", http.StatusOK},
		{caller{uid: 0}, "/v1/trace?peer=web1", http.StatusBadRequest},
		{caller{uid: 0}, "/v1/trace?peer=10.0.0.7&keys=yes", http.StatusBadRequest},
		{caller{uid: 0}, "/v1/trace?peer=10.0.0.7&all=true", http.StatusBadRequest},
	} {
		ctx, stop := context.WithCancel(context.WithValue(t.Context(), callerKey{}, tt.who))
		stop() // the stream ends at once
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, tt.path, nil))
		if w.Code != tt.status {
			t.Errorf("%s by %v: %d, want %d: %s", tt.path, tt.who, w.Code, tt.status, w.Body)
		}
		if tt.status == http.StatusForbidden && strings.Contains(w.Body.String(), "a line") {
			t.Errorf("%s by %v: %s", tt.path, tt.who, w.Body)
		}
	}
}

func TestWhyAsksForOnePeer(t *testing.T) {
	needsRoot(t)
	socket := serve(t, newFake())
	w, err := NewClient(socket, time.Second).Why(t.Context(), netip.MustParseAddr("::ffff:10.0.0.7"))
	if err != nil || w.Peer != "10.0.0.7" || w.State != PeerNever {
		t.Errorf("%+v, %v", w, err)
	}
	for _, q := range []string{"", "?peer=", "?peer=web1", "?peer=10.0.0.1&peer=10.0.0.2", "?peer=10.0.0.1&more=1"} {
		var e *Error
		err := NewClient(socket, time.Second).call(t.Context(), http.MethodGet, "/v1/why"+q, nil, &json.RawMessage{})
		if !errors.As(err, &e) || e.Code != Invalid {
			t.Errorf("%q: %v", q, err)
		}
	}
}
