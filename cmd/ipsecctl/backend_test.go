package main

import (
	"context"
	"net/netip"
	"time"

	"ipsecagent/agent/control"
)

// now is the time of every test.
func now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func ago(d time.Duration) time.Time { return now().Add(-d) }

// backend is an agent that has the answers of a busy host.
type backend struct {
	status   control.Status
	assigned chan control.AssignRequest
	applied  chan control.ApplyRequest
	events   []control.Event
	err      error
}

func newBackend() *backend {
	return &backend{status: busyStatus(), assigned: make(chan control.AssignRequest, 1), applied: make(chan control.ApplyRequest, 1), events: someEvents()}
}

func (b *backend) Status(context.Context) (control.Status, error) { return b.status, b.err }

func (b *backend) Assign(_ context.Context, r control.AssignRequest) (control.AssignResult, error) {
	if b.err != nil {
		return control.AssignResult{}, b.err
	}
	b.assigned <- r
	return control.AssignResult{SchemaVersion: control.SchemaVersion, Policy: r.Policy, Origin: "predefined", Filters: 5,
		Warnings: []string{"no key is known for 10.0.0.9"}}, nil
}

func (b *backend) Unassign(context.Context) (control.AssignResult, error) {
	return control.AssignResult{SchemaVersion: control.SchemaVersion}, b.err
}

func (b *backend) Apply(_ context.Context, r control.ApplyRequest) (control.ApplyResult, error) {
	if b.err != nil {
		return control.ApplyResult{}, b.err
	}
	b.applied <- r
	v := control.ApplyResult{AssignResult: control.AssignResult{SchemaVersion: control.SchemaVersion, Policy: "sql", Origin: "applied, not confirmed", Filters: 3}, DryRun: r.DryRun}
	if r.DryRun {
		v.Changes = []string{"added: tcp me port 1433 <-> any: require security (rule \"sql\")", "removed: any me <-> any: permit (rule \"all\")"}
	}
	if r.Confirm > 0 {
		v.Pending = &control.Pending{Policy: "sql", Before: "server", Applied: now(), Until: now().Add(time.Duration(r.Confirm) * time.Second)}
	}
	return v, nil
}

func (b *backend) Confirm(context.Context, time.Time) (control.ApplyResult, error) {
	return control.ApplyResult{AssignResult: control.AssignResult{SchemaVersion: control.SchemaVersion, Policy: "sql", Origin: "/etc/ipsecagent/policies.d/sql.yaml", Filters: 3}}, b.err
}

func (b *backend) Rollback(context.Context) (control.ApplyResult, error) {
	return control.ApplyResult{AssignResult: control.AssignResult{SchemaVersion: control.SchemaVersion, Policy: "server", Origin: "predefined", Filters: 5}}, b.err
}

func (b *backend) Reported(context.Context) (control.Report, error) {
	until := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	return control.Report{SchemaVersion: control.SchemaVersion, Policy: "rollout", More: 2,
		Rules: []control.ReportedRule{{Rule: "all IP traffic", Enforced: "require security", Until: until}},
		Blocked: []control.WouldBlock{
			{Peer: "10.0.0.3", Local: "10.0.0.1", Rule: "all IP traffic", Filter: "f1", Flow: "me <-> any any", Sent: 1500, Received: 20, First: ago(2 * time.Hour), Last: ago(4 * time.Second), Why: "the peer did not answer"},
			{Peer: "10.0.0.9", Local: "10.0.0.1", Rule: "all IP traffic", Filter: "f1", Flow: "me <-> any any", Received: 1, First: ago(time.Minute), Last: ago(time.Minute), Why: "the peer sends in clear"},
		}}, b.err
}

func (b *backend) Reload(context.Context) (control.AssignResult, error) {
	return control.AssignResult{SchemaVersion: control.SchemaVersion, Policy: "server", Origin: "predefined", Filters: 1}, b.err
}

func (b *backend) Policies(context.Context) ([]control.PolicyInfo, error) {
	return []control.PolicyInfo{
		{Name: "client", Description: "Answers when asked", Origin: "predefined"},
		{Name: "server", Description: "Asks, and talks in clear with those who do not answer: for all IP traffic, with all the world", Origin: "predefined", Assigned: true},
		{Name: "sql", Origin: "/etc/ipsecagent/policies.d/sql.yaml", Error: "sql.yaml:4:1: unknown field colour\n    colour: green\n    ^"},
	}, b.err
}

func (b *backend) Policy(_ context.Context, name string, effective bool) (control.PolicyView, error) {
	if name == "" {
		name = "server"
	}
	v := control.PolicyView{SchemaVersion: control.SchemaVersion, Name: name, Origin: "predefined", Assigned: name == "server",
		Document: "apiVersion: ipsecagent/v1\nkind: Policy\nname: server\nrules:\n  - {name: all IP traffic}\n"}
	if effective {
		v.MainMode = []string{"aes256-sha256-ecp256 (uplifted)", "3des-sha1-modp1024"}
		v.Filters, v.Exempt = someFilters(), []string{"IKE and ESP of this agent", "IPv6 neighbour discovery"}
		v.Unresolved = []string{`rule "r", filter list "l", filter 1: gone.example.com stands for no address now: the filter matches nothing`}
	}
	return v, b.err
}

func (b *backend) SAs(context.Context) (control.SAList, error) {
	return control.SAList{
		SchemaVersion: control.SchemaVersion,
		MainMode: []control.MainModeSA{{
			Peer: "10.0.0.2:500", Local: "10.0.0.1:500", Cookies: "0102030405060708:1112131415161718",
			Suite: "aes256-sha256-ecp256", Method: "preshared key", Principal: "psk:default", Initiator: true,
			Since: ago(10 * time.Minute), Expires: now().Add(7 * time.Hour), QuickModes: 2,
		}},
		Pairs: busyStatus().Secured,
	}, b.err
}

func (b *backend) Why(_ context.Context, peer netip.Addr) (control.Why, error) {
	s := busyStatus()
	w := control.Why{SchemaVersion: control.SchemaVersion, Peer: peer.String(), State: control.PeerInClear, Since: ago(2 * time.Hour),
		Words: "policy allows it for now: nothing in common", Filters: someFilters()[2:], MoreFilters: 3, InClear: s.InClear[1:],
		MainMode: []control.MainModeSA{}, Secured: []control.SecuredPeer{}, Negotiating: s.Negotiating, Failures: s.Failures[:1]}
	if peer.Is6() {
		w = control.Why{SchemaVersion: control.SchemaVersion, Peer: peer.String(), State: control.PeerNoRule, Words: "no rule asks for security with it"}
	}
	return w, b.err
}

func (b *backend) Trace(ctx context.Context, r control.TraceRequest) (<-chan control.TraceLine, error) {
	out := make(chan control.TraceLine, 5)
	out <- control.TraceLine{Time: now(), Local: "10.0.0.1:500", Remote: r.Peer.String() + ":500", Sent: true, Text: "main mode message 1\n  SA: aes256-sha256-ecp256"}
	out <- control.TraceLine{Time: now(), Local: "10.0.0.1:500", Remote: r.Peer.String() + ":500", Text: "main mode message 2\x1b[31m", Lost: 3}
	out <- control.TraceLine{Time: now(), Local: "10.0.0.1:500", Remote: r.Peer.String() + ":500", Text: "* dropped: not a message"}
	if r.Keys {
		out <- control.TraceLine{Time: now(), Table: "ikev1_decryption_table", Line: "0102,0304"}
		out <- control.TraceLine{Time: now(), Table: "esp_sa", Line: `"IPv4","10.0.0.1"`}
	}
	close(out)
	return out, b.err
}

func (b *backend) Events(ctx context.Context, follow bool) (<-chan control.Event, error) {
	out := make(chan control.Event)
	go func() {
		defer close(out)
		for _, e := range b.events {
			out <- e
		}
		if follow {
			<-ctx.Done()
		}
	}()
	return out, b.err
}

func busyStatus() control.Status {
	return control.Status{
		SchemaVersion: control.SchemaVersion,
		Agent:         control.AgentStatus{Version: "v1.2.3", PID: 4242, Started: ago(26 * time.Hour), Host: "alice"},
		Policy:        control.PolicyStatus{State: "assigned", Name: "server", Origin: "predefined", Applied: ago(3 * time.Minute), Filters: 2, DefaultResponse: true},
		DataPath: control.DataPath{Driver: "user", Started: ago(26 * time.Hour), Counters: map[string]uint64{
			"outPackets": 1234567, "inPackets": 999, "queued": 0, "lastChain": 3, "somethingNew": 7,
		}, Exempt: []string{"IKE and ESP of this agent"}},
		Secured: []control.SecuredPeer{{
			Peer: "10.0.0.2", Local: "10.0.0.1", Flow: "any 10.0.0.1 <-> 10.0.0.2", Rule: "all IP traffic", Filter: "f1",
			Principal: "psk:default", Method: "preshared key", Suite: "esp-aes256gcm", Mode: "transport",
			Since: ago(5 * time.Minute), Expires: now().Add(55*time.Minute + 3*time.Second),
			BytesIn: 1_234_567, BytesOut: 99_960_000, PacketsIn: 1000, PacketsOut: 80000, SPIIn: "0x01020304", SPIOut: "0xf0f1f2f3",
			NAT: "10.0.0.1:4500 - 10.0.0.2:62001", LastUsed: ago(3 * time.Second),
		}},
		InClear: []control.ClearPeer{{
			Peer: "10.0.0.8", Local: "10.0.0.1", Rule: "all IP traffic", Filter: "f1", Since: ago(time.Minute), Last: ago(time.Second), Packets: 1,
			Why: "the peer has sent it in clear, and the filter accepts that", Inbound: true,
		}, {
			Peer: "10.0.0.3", Local: "10.0.0.1", Rule: "all IP traffic", Filter: "f1",
			Since: ago(2 * time.Hour), Last: ago(4 * time.Second), Packets: 1500,
			Why: "10.0.0.3 does not answer IKE; the filter action allows unsecured communication",
		}},
		Negotiating: []control.Negotiating{{Peer: "10.0.0.4", Rule: "all IP traffic", Since: ago(2 * time.Second), Why: "a packet to 10.0.0.4 asked for it"}},
		Failures: []control.Failure{
			{
				Time: ago(90 * time.Second), Peer: "10.0.0.5", Rule: "all IP traffic", Step: "main mode message 2", Code: "no-proposal",
				First: ago(10 * time.Minute), Times: 3, Local: "10.0.0.1", Own: true, Filter: "f1", Hint: "give both policies a method in common",
				Reason: "the peer accepts none of our main mode methods: give both the same one", Retry: now().Add(4 * time.Minute),
				Offered: []string{"aes256-sha256-ecp256", "aes128-sha256-modp2048"}, Received: []string{"3des-sha1-modp1024"}, Differs: "encryption: aes256 against 3des",
			},
			{Time: ago(20 * time.Minute), Peer: "10.0.0.6", Step: "main mode message 5", Code: "preshared-key", Reason: "preshared key does not match: \x1b[31mset the same key\x1b[0m on both hosts"},
		},
		Problems: []string{"the policy file does not load:\nserver.yaml:3:1: unknown field colour", "10.0.0.5 cannot be secured"},
		Warnings: []string{"a policy that is not assigned does not load: policies.d/old.yaml:2:1: unknown field shape"},
	}
}

func someFilters() []control.FilterView {
	return []control.FilterView{
		{ID: "f0", Weight: 90, Reason: "ICMP is more specific than any protocol", Rule: "permit ICMP", List: "ICMP", Selector: "icmp me <-> any", Direction: "both", Action: "permit", Packets: 12,
			Connections: "lan", Origins: []string{"dc1.example.com, resolved 3 min ago"}},
		{ID: "o1", Weight: 60, Reason: "stands above the filter it narrows", Rule: "all IP traffic", List: "all IP", Selector: "any 10.0.0.1 <-> 10.0.0.2", Direction: "both", Action: "negotiate", Packets: 81000, Overlay: true, Parent: "f1", Expires: now().Add(time.Hour)},
		{ID: "f1", Weight: 50, Reason: "one side is this host", Rule: "all IP traffic", List: "all IP", Selector: "any me <-> any", Direction: "both", Action: "negotiate, may go in clear", Methods: []string{"esp-aes256gcm", "esp-aes128gcm"}, Auth: []string{"preshared key"}, Packets: 1500, Dropped: 2},
	}
}

func someEvents() []control.Event {
	return []control.Event{
		{Time: ago(time.Hour), Kind: control.EventPolicyApplied, Severity: "info", Message: `policy "server" is in force: 2 filters`},
		{Time: ago(5 * time.Minute), Kind: control.EventSAUp, Severity: "info", Peer: "10.0.0.2", Message: "secured with 10.0.0.2: esp-aes256gcm", Fields: map[string]string{"spiIn": "0x01020304"}},
		{Time: ago(time.Minute), ID: 404, Windows2000: 546, Windows: 4653, Kind: control.EventFailed, Severity: "warning", Peer: "10.0.0.5", Message: "no proposal chosen\x1b]0;owned\x07\nforged line"},
	}
}
