package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

func TestPoliciesListsWhatCanBeAssigned(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", delayed)
		if err := os.WriteFile(filepath.Join(dir, "broken.yaml"), []byte("kind: x"), 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := r.agent.Policies(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]control.PolicyInfo{}
		for _, p := range list {
			got[p.Name] = p
		}
		if len(list) != 5 || got["client"].Origin != "predefined" || got["client"].Assigned || got["client"].Description == "" {
			t.Errorf("list %+v", list)
		}
		if !got["delayed"].Assigned || got["broken.yaml"].Error == "" {
			t.Errorf("list %+v", list)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestPolicyInForceIsShownWithOverlaysAndCounters(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.secure(tcp(bob(), 80))
		v, err := r.agent.Policy(t.Context(), "", true)
		if err != nil {
			t.Fatal(err)
		}
		if v.Name != "server" || !v.Assigned || !strings.Contains(v.Document, "psk") || len(v.Filters) != 4 {
			t.Fatalf("view %+v", v)
		}
		overlays := 0
		for _, f := range v.Filters {
			if f.Overlay {
				overlays++
				if f.Action != "require security" || f.Parent == "" || f.Expires.IsZero() || !strings.Contains(f.Reason, "secured") {
					t.Errorf("overlay %+v", f)
				}
				continue
			}
			if f.Rule == "" || f.Reason == "" || f.List == "" {
				t.Errorf("filter %+v", f)
			}
		}
		if overlays != 1 {
			t.Errorf("%d overlays", overlays)
		}
	})
}

func TestOtherPolicyIsShownAsItWouldBe(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		_, err := r.agent.Policy(t.Context(), "", false)
		wantCode(t, err, control.NotFound)
		_, err = r.agent.Policy(t.Context(), "nowhere", false)
		wantCode(t, err, control.NotFound)
		v, err := r.agent.Policy(t.Context(), "server", false)
		if err != nil || v.Assigned || v.Origin != "predefined" || !strings.Contains(v.Document, "kind: Policy") {
			t.Errorf("view %+v, %v", v, err)
		}
		v, err = r.agent.Policy(t.Context(), "server", true)
		if err != nil || len(v.Filters) == 0 || !strings.Contains(strings.Join(v.Filters[len(v.Filters)-1].Auth, " "), "Kerberos") {
			t.Errorf("view %+v, %v", v, err)
		}
		r.assign("server")
		v, err = r.agent.Policy(t.Context(), "client", false)
		if err != nil || v.Assigned {
			t.Errorf("view %+v, %v", v, err)
		}
	})
}

func wantCode(t *testing.T, err error, code control.Code) {
	t.Helper()
	var e *control.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("error %v, want code %d", err, code)
	}
}

func TestSAsListsBothPhases(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		list, err := r.agent.SAs(t.Context())
		if err != nil || len(list.Pairs) != 1 || len(list.MainMode) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		if list.Pairs[0].SPIIn != p.In[0].SPI.String() || list.Pairs[0].Suite != "esp-aes256gcm" || list.Pairs[0].Rule == "" {
			t.Errorf("pair %+v", list.Pairs[0])
		}
		m := list.MainMode[0]
		if m.Peer != "192.0.2.2:500" || m.Method != "preshared key" || m.Suite != "aes256-sha256-ecp256" || len(m.Cookies) != 33 {
			t.Errorf("main mode %+v", m)
		}
	}, func(c *Config) {
		c.IKE.SAs = func(context.Context) ([]ike.ISAKMPSA, error) {
			return []ike.ISAKMPSA{{Local: addrPort(alice()), Remote: addrPort(bob()), Method: 1, Principal: "psk:default",
				Suite: sadb.ISAKMPSuite{Encryption: sadb.AESCBC, KeyBits: 256, Hash: sadb.SHA256, Group: sadb.ECP256}}}, nil
		}
	})
}

func TestNoKeyInEventsStatusOrState(t *testing.T) {
	const canary = "CANARY-a-secret-of-the-administrator"
	inBubble(t, func(t *testing.T, r *rig) {
		_, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "server", Auth: "psk-file", Keys: canary})
		if err != nil {
			t.Fatal(err)
		}
		r.secure(tcp(bob(), 80))
		v, err := r.agent.Policy(t.Context(), "", true)
		if err != nil {
			t.Fatal(err)
		}
		events, err := r.agent.Events(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		shown := fmt.Sprintf("%+v %+v", r.status(), v)
		for e := range events {
			shown += fmt.Sprintf("%+v", e)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.stop = func() error { return nil }
		state, err := os.ReadFile(r.cfg.StateFile)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(shown, canary) || strings.Contains(string(state), canary) {
			t.Error("the key is shown or kept")
		}
	})
}
