package control

import "time"

// Event is something that happened, also a structured log line.
type Event struct {
	Time time.Time `json:"time"`
	// ID is the stable number of the kind, Windows2000 and Windows those of
	// the audit event that Windows 2000 to 2003, and Windows since Vista,
	// write at such an occasion; 0: none.
	ID          int `json:"id"`
	Windows2000 int `json:"windows2000,omitempty"`
	Windows     int `json:"windows,omitempty"`
	// Kind is one of the Event constants.
	Kind     string            `json:"kind"`
	Severity string            `json:"severity"` // "info", "warning", "error"
	Peer     string            `json:"peer,omitempty"`
	Message  string            `json:"message"` // in words, one line
	Fields   map[string]string `json:"fields,omitempty"`
}

// The kinds of events; EventTypes says what each means.
const (
	EventAgentStarted    = "agent-started"
	EventAgentEnded      = "agent-ended"
	EventAgent           = "agent"
	EventTraceBegan      = "trace-began"
	EventTraceEnded      = "trace-ended"
	EventPolicyApplied   = "policy-applied"
	EventPolicyRejected  = "policy-rejected"
	EventPolicyRemoved   = "policy-unassigned"
	EventPending         = "policy-pending"
	EventConfirmed       = "policy-confirmed"
	EventRolledBack      = "policy-rolled-back"
	EventReport          = "report-mode"
	EventDirectory       = "directory"
	EventName            = "name-resolution"
	EventMainModeUp      = "main-mode-up"
	EventMainModeDown    = "main-mode-down"
	EventIdentityChanged = "identity-changed"
	EventDowngraded      = "identity-downgraded"
	EventSAUp            = "sa-up"
	EventSADown          = "sa-down"
	EventAdopted         = "sa-adopted"
	EventFailed          = "negotiation-failed"
	EventCrowded         = "too-many-negotiations"
	EventInClear         = "in-clear"          // and a negotiation has begun
	EventClear           = "fallback-to-clear" // because it failed, or ended
	EventDataPathLost    = "data-path-lost"
	EventDataPathBack    = "data-path-back"
	EventTampered        = "tampered"
	EventResync          = "resync"
	EventCertificate     = "certificate-expiry"
)

// EventType is a kind of event with the numbers that programs can rely on.
type EventType struct {
	Kind string
	ID   int
	// Windows2000 and Windows are as in Event. Of negotiation-failed and
	// main-mode-up they are the general ones; Numbers knows the others.
	Windows2000, Windows int
	Meaning              string
}

// EventTypes returns every kind of event, in the order of their IDs. An ID is
// never given to another kind.
func EventTypes() []EventType {
	return []EventType{
		{EventAgentStarted, 101, 613, 5478, "the agent has started"},
		{EventAgentEnded, 102, 614, 5479, "the agent has ended; what is in force stays"},
		{EventAgent, 103, 616, 5483, "the agent itself, its files, its keys or the data path need a look"},
		{EventTraceBegan, 111, 0, 0, "somebody reads the exchanges with a peer; keys=yes: with the keys"},
		{EventTraceEnded, 112, 0, 0, "that reading has ended"},
		{EventPolicyApplied, 201, 615, 5460, "a policy is in force"},
		{EventPolicyRejected, 202, 615, 5461, "a policy, or a change of it, is not put in force"},
		{EventPolicyRemoved, 203, 615, 0, "no policy is in force any more"},
		{EventName, 204, 0, 0, "a DNS name of the policy does not resolve any more, or does again"},
		{EventPending, 205, 615, 5460, "a policy is in force until it is confirmed or rolled back"},
		{EventConfirmed, 206, 615, 5460, "a policy that waited is confirmed"},
		{EventRolledBack, 207, 615, 5460, "what was in force before an apply is in force again, or could not be put in force"},
		{EventReport, 208, 615, 0, "rules are in report mode: each day, and when they begin and end"},
		{EventDirectory, 209, 616, 5466, "the directory that policy comes from cannot be asked, or not read, or answers again"},
		{EventMainModeUp, 301, 541, 4650, "a peer has proven its identity"},
		{EventMainModeDown, 302, 543, 4655, "an ISAKMP security association has ended"},
		{EventIdentityChanged, 303, 0, 0, "the peer at an address has proven another identity than before"},
		{EventDowngraded, 304, 0, 0, "a peer that was secured by modern methods before is secured, or refused, by old ones"},
		{EventSAUp, 401, 541, 5451, "a pair of associations is in force: traffic is secured"},
		{EventSADown, 402, 542, 5452, "a pair of associations has ended"},
		{EventAdopted, 403, 0, 0, "a pair of an earlier process of the agent is taken over"},
		{EventFailed, 404, 547, 4654, "a negotiation has failed; the fields say where and why"},
		{EventCrowded, 405, 0, 0, "more negotiations than can be under way: some are given up"},
		{EventInClear, 501, 0, 0, "traffic of a filter that allows it goes in clear while a negotiation runs"},
		{EventClear, 502, 0, 0, "traffic of a filter that allows it goes in clear: a negotiation has failed, or associations have ended"},
		{EventDataPathLost, 601, 616, 5484, "the data path has ended; what must be secured is dropped"},
		{EventDataPathBack, 602, 0, 0, "a new data path is in force"},
		{EventTampered, 603, 616, 0, "another program has removed or changed what the data path owns"},
		{EventResync, 604, 0, 0, "events of the data path were lost, its state is read anew"},
		{EventCertificate, 701, 0, 0, "a certificate of this host or of an authority expires soon, or has expired"},
	}
}

// Numbers returns what Windows 2000 to 2003, and Windows since Vista, call an
// event of this type with these fields (code, method, mode).
func (t EventType) Numbers(fields map[string]string) (windows2000, windows int) {
	switch t.Kind {
	case EventFailed:
		return failedNumbers(fields)
	case EventMainModeUp:
		if byCertificate(fields["method"]) {
			return t.Windows2000, 4651
		}
	}
	return t.Windows2000, t.Windows
}

// failedNumbers tells apart as Windows does: no common proposal, a certificate
// that is not trusted, an identity that was not proven, and the rest.
func failedNumbers(fields map[string]string) (windows2000, windows int) {
	windows = 4654
	if fields["mode"] == "main" {
		windows = 4653
		if byCertificate(fields["method"]) {
			windows = 4652
		}
	}
	switch fields["code"] {
	case "no-proposal":
		return 546, windows
	case "certificate-untrusted", "certificate-revoked", "certificate-expired", "certificate-not-yet-valid":
		return 544, windows
	case "authentication", "preshared-key", "principal-refused", "signature", "certificate-identity", "replay", "wrong-key":
		return 545, windows
	}
	return 547, windows
}

func byCertificate(method string) bool { return len(method) > 11 && method[:11] == "certificate" }
