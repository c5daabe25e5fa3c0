package control

import (
	"errors"
	"net/url"
	"testing"
	"time"
)

func TestExplainAsksByFlow(t *testing.T) {
	needsRoot(t)
	c := NewClient(serve(t, newFake()), 10*time.Second)
	v, err := c.Explain(t.Context(), ExplainRequest{Flow: "tcp 10.0.0.1 -> 10.0.0.2", Direction: "in", Connection: "lan"})
	if err != nil || v.Flow != "tcp 10.0.0.1 -> 10.0.0.2" || v.Direction != "in" || v.Outcome != "lan" {
		t.Errorf("%+v, %v", v, err)
	}
	var refused *Error
	if _, err := c.Explain(t.Context(), ExplainRequest{Flow: "tcp me"}); !errors.As(err, &refused) || refused.Code != Invalid {
		t.Errorf("%v", err)
	}
}

func TestExplainQueryRefuses(t *testing.T) {
	flow := "tcp me -> 10.0.0.1"
	if r, err := explainQuery(url.Values{"flow": {flow}}); err != nil || r.Flow != flow {
		t.Errorf("%+v, %v", r, err)
	}
	for name, q := range map[string]url.Values{
		"nothing":         {},
		"two flows":       {"flow": {flow, flow}},
		"another":         {"flow": {flow}, "peer": {"10.0.0.1"}},
		"a direction":     {"flow": {flow}, "direction": {"up"}},
		"a contradiction": {"flow": {flow}, "direction": {"in"}},
		"a connection":    {"flow": {flow}, "connection": {"dsl"}},
	} {
		if r, err := explainQuery(q); err == nil {
			t.Errorf("%s: %+v is taken", name, r)
		}
	}
}
