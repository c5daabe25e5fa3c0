package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServerConfig is what a server needs.
type ServerConfig struct {
	Backend Backend
	Log     *slog.Logger
	// Group is the name of the group whose members may look; "": DefaultGroup.
	Group   string
	Version VersionInfo
}

// Times of the server.
const (
	headerTimeout  = 5 * time.Second
	bodyTimeout    = 10 * time.Second
	backendTimeout = 60 * time.Second
	writeTimeout   = 10 * time.Second
	idleTimeout    = 30 * time.Second
	goodbyeTimeout = 2 * time.Second
	maxHeader      = 16 << 10
)

// server answers requests. Its fields do not change.
type server struct {
	cfg     ServerConfig
	readers int64 // number of the group that may look
	// One token for each event stream, as for connections.
	rootStreams, otherStreams chan struct{}
}

// Serve answers requests on ln until ctx ends; then it closes ln, lets requests
// under way finish for a moment and returns nil.
func Serve(ctx context.Context, ln net.Listener, cfg ServerConfig) error {
	if cfg.Group == "" {
		cfg.Group = DefaultGroup
	}
	readers, err := groupID(cfg.Group)
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, readers: readers, rootStreams: make(chan struct{}, maxStreams), otherStreams: make(chan struct{}, maxStreams)}
	h := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withCaller,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	return serveUntil(ctx, h, newGate(ln))
}

func serveUntil(ctx context.Context, h *http.Server, ln net.Listener) error {
	done := make(chan error, 1)
	go func() { done <- h.Serve(ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("control: serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
	defer cancel()
	if h.Shutdown(end) != nil {
		h.Close()
	}
	<-done
	return nil
}

type callerKey struct{}

func withCaller(ctx context.Context, conn net.Conn) context.Context {
	if a, ok := conn.(*admitted); ok {
		return context.WithValue(ctx, callerKey{}, a.who)
	}
	return ctx // a request without a caller is refused
}

// answer handles a request and returns what is answered as JSON.
type answer func(*http.Request) (any, error)

func (s *server) handler() http.Handler {
	b := s.cfg.Backend
	mux := http.NewServeMux()
	mux.Handle("GET /v1/version", s.read(func(*http.Request) (any, error) { return s.cfg.Version, nil }))
	mux.Handle("GET /v1/status", s.read(func(r *http.Request) (any, error) { return b.Status(r.Context()) }))
	mux.Handle("GET /v1/policies", s.read(s.policies))
	mux.Handle("GET /v1/policy", s.read(s.policy))
	mux.Handle("GET /v1/sas", s.read(func(r *http.Request) (any, error) { return b.SAs(r.Context()) }))
	mux.Handle("GET /v1/why", s.read(s.why))
	mux.Handle("GET /v1/explain", s.read(s.explain))
	mux.Handle("POST /v1/lint", s.read(s.lint))
	mux.Handle("GET /v1/events", s.permit(accessRead, http.HandlerFunc(s.events)))
	mux.Handle("GET /v1/trace", s.permit(accessRead, http.HandlerFunc(s.trace)))
	mux.Handle("POST /v1/assign", s.change(s.assign))
	mux.Handle("POST /v1/unassign", s.change(without(b.Unassign)))
	mux.Handle("POST /v1/apply", s.change(s.apply))
	mux.Handle("POST /v1/confirm", s.change(s.confirm))
	mux.Handle("POST /v1/rollback", s.change(s.rollback))
	mux.Handle("GET /v1/report", s.read(s.report))
	mux.Handle("POST /v1/reload", s.change(without(b.Reload)))
	mux.Handle("/", s.read(unknownRequest))
	return mux
}

func unknownRequest(r *http.Request) (any, error) {
	return nil, &Error{Code: NotFound, Message: fmt.Sprintf("the agent knows no request %s %q; is ipsecctl newer than the agent?", r.Method, r.URL.Path)}
}

func (s *server) read(f answer) http.Handler   { return s.permit(accessRead, s.answer(f)) }
func (s *server) change(f answer) http.Handler { return s.permit(accessChange, s.answer(f)) }

// permit lets callers with enough access through.
func (s *server) permit(need access, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, known := r.Context().Value(callerKey{}).(caller)
		if known && accessOf(who, s.readers) >= need {
			if need == accessChange {
				s.cfg.Log.Info("control request", "path", r.URL.Path, "uid", who.uid, "pid", who.pid)
			}
			next.ServeHTTP(w, r)
			return
		}
		s.cfg.Log.Warn("control request refused", "path", r.URL.Path, "uid", who.uid, "pid", who.pid)
		s.fail(w, &Error{Code: NotPermitted, Message: s.refusal(need)})
	})
}

func (s *server) refusal(need access) string {
	if need == accessChange {
		return "not permitted: only root may change what is in force; run the command as root (sudo)"
	}
	return fmt.Sprintf("not permitted: root and members of group %s may ask the agent; run the command as root (sudo) or join the group", s.cfg.Group)
}

func (s *server) answer(f answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), backendTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		if err := readBody(w, r); err != nil {
			s.fail(w, asError(err))
			return
		}
		v, err := f(r)
		if err != nil {
			s.fail(w, asError(err))
			return
		}
		s.write(w, http.StatusOK, v)
	})
}

// readBody reads the whole body and lifts the deadline for reading, which
// would otherwise end the request while the backend works on it.
func readBody(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return invalid("the request is larger than %d bytes", large.Limit)
	}
	if err != nil {
		return invalid("the request cannot be read: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (s *server) policies(r *http.Request) (any, error) {
	list, err := s.cfg.Backend.Policies(r.Context())
	return PolicyList{SchemaVersion: SchemaVersion, Policies: list}, err
}

func (s *server) policy(r *http.Request) (any, error) {
	name, effective, err := policyQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	return s.cfg.Backend.Policy(r.Context(), name, effective)
}

func (s *server) why(r *http.Request) (any, error) {
	peer, err := peerQuery(r.URL.Query(), "peer")
	if err != nil {
		return nil, err
	}
	return s.cfg.Backend.Why(r.Context(), peer)
}

func (s *server) assign(r *http.Request) (any, error) {
	req, err := decodeAssign(r.Body)
	if err != nil {
		return nil, err
	}
	return s.cfg.Backend.Assign(r.Context(), req)
}

func without(f func(context.Context) (AssignResult, error)) answer {
	return func(r *http.Request) (any, error) {
		if err := decodeEmpty(r.Body); err != nil {
			return nil, err
		}
		return f(r.Context())
	}
}

// asError gives an error of the backend its code.
func asError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: TimedOut, Message: "the agent did not finish in time: " + err.Error()}
	}
	return &Error{Code: Failed, Message: err.Error()}
}

func (s *server) fail(w http.ResponseWriter, e *Error) { s.write(w, httpStatus(e.Code), e) }

// httpStatus is for readers other than ipsecctl; the code in the body decides.
func httpStatus(c Code) int {
	switch c {
	case Invalid, Usage:
		return http.StatusBadRequest
	case NotFound:
		return http.StatusNotFound
	case NotPermitted:
		return http.StatusForbidden
	case NotReachable:
		return http.StatusServiceUnavailable
	case TimedOut:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

func (s *server) write(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.cfg.Log.Error("control answer cannot be encoded", "error", err)
		status, body = http.StatusInternalServerError, []byte(`{"code":1,"message":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // the unix socket has deadlines
	w.WriteHeader(status)
	w.Write(append(body, '\n')) // the caller is gone: nobody to tell
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	if err := onlyKeys(r.URL.Query(), "follow"); err != nil {
		s.fail(w, asError(err))
		return
	}
	follow, err := boolParam(r.URL.Query(), "follow")
	if err != nil {
		s.fail(w, asError(err))
		return
	}
	streamed(s, w, r, func(ctx context.Context) (<-chan Event, error) { return s.cfg.Backend.Events(ctx, follow) })
}

// streamed answers with what open gives, as it comes, if there is room for one
// more stream.
func streamed[T any](s *server, w http.ResponseWriter, r *http.Request, open func(context.Context) (<-chan T, error)) {
	tokens := s.otherStreams
	if who, ok := r.Context().Value(callerKey{}).(caller); ok && who.uid == 0 {
		tokens = s.rootStreams
	}
	select {
	case tokens <- struct{}{}:
		defer func() { <-tokens }()
	default:
		s.fail(w, &Error{Code: Failed, Message: fmt.Sprintf("%d streams are open, there is no room for more; end one (ipsecctl events -f, ipsecctl trace)", maxStreams)})
		return
	}
	// When the handler ends, so does the backend's side of the stream.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	values, err := open(ctx)
	if err != nil {
		s.fail(w, asError(err))
		return
	}
	stream(w, values)
}

// stream writes values as they come, one JSON object in each line.
func stream[T any](w http.ResponseWriter, values <-chan T) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	out.SetReadDeadline(time.Time{}) // the body is read; a stream lasts
	out.Flush()
	enc := json.NewEncoder(w)
	for e := range values {
		out.SetWriteDeadline(time.Now().Add(writeTimeout))
		if enc.Encode(e) != nil || out.Flush() != nil {
			return
		}
	}
}
