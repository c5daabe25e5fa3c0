package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/sadb"
)

func methodsOf(t *testing.T, names ...string) []SecurityMethod {
	t.Helper()
	var all []SecurityMethod
	for _, n := range names {
		var suites []sadb.Suite
		for part := range strings.SplitSeq(n, "+") {
			s, err := sadb.ParseSuite(part)
			if err != nil {
				t.Fatal(err)
			}
			suites = append(suites, s)
		}
		all = append(all, SecurityMethod{Suites: suites, Lifetime: 5 * time.Minute})
	}
	return all
}

func TestUpliftPutsModernMethodsOfTheSameClassFirst(t *testing.T) {
	const modernESP = "esp-aes256gcm esp-aes128gcm esp-aes128-sha256"
	tests := []struct{ name, listed, offered string }{
		{"encryption", "esp-3des-sha1 esp-des-md5", modernESP + " esp-3des-sha1 esp-des-md5"},
		{"integrity", "esp-null-sha1", "esp-null-sha256 esp-null-sha1"},
		{"AH", "ah-sha1 ah-md5", "ah-sha256 ah-sha1 ah-md5"},
		{"order between classes", "ah-md5 esp-3des-sha1", "ah-sha256 ah-md5 " + modernESP + " esp-3des-sha1"},
		{"AH and ESP", "ah-sha1+esp-3des-sha1", "ah-sha256+esp-aes256gcm ah-sha256+esp-aes128gcm ah-sha256+esp-aes128-sha256 ah-sha1+esp-3des-sha1"},
		{"AH and ESP without encryption", "ah-sha1+esp-null-sha1", "ah-sha256+esp-null-sha256 ah-sha1+esp-null-sha1"},
		{"a class with a modern method is left alone", "esp-3des-sha1 esp-aes128-sha256 ah-sha1", "esp-3des-sha1 esp-aes128-sha256 ah-sha256 ah-sha1"},
		{"nothing old", "esp-aes256gcm", "esp-aes256gcm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			listed := methodsOf(t, strings.Fields(tt.listed)...)
			got, marks := upliftMethods(listed)
			var names []string
			for i, p := range proposals(got) {
				names = append(names, p.String())
				own := slices.ContainsFunc(listed, func(m SecurityMethod) bool { return slices.Equal(m.Suites, p.Suites) })
				if marks != nil && marks[i] == own {
					t.Errorf("%s: marked %v", p, marks[i])
				}
				if p.Lifetime.Time != 5*time.Minute {
					t.Errorf("%s lives %v", p, p.Lifetime.Time)
				}
			}
			if strings.Join(names, " ") != tt.offered {
				t.Errorf("offered %v, want %s", names, tt.offered)
			}
		})
	}
}

func TestUpliftOfMainMode(t *testing.T) {
	p := originalClient()
	k, n := p.effectiveKeyExchange(true)
	if n != len(modernKeyExchange()) || k.Methods[0] != modernKeyExchange()[0] || k.Methods[n] != p.KeyExchange.Methods[0] {
		t.Errorf("%d uplifted: %v", n, k.Methods)
	}
	if k, n := p.effectiveKeyExchange(false); n != 0 || len(k.Methods) != 4 {
		t.Errorf("without uplift: %d, %v", n, k.Methods)
	}
	modern := Client()
	if _, n := modern.effectiveKeyExchange(true); n != 0 {
		t.Errorf("a modern policy is uplifted by %d", n)
	}
}

func TestUpliftIsForMarkedPoliciesAndCanBeSwitchedOff(t *testing.T) {
	p := originalServer()
	for _, tt := range []struct {
		marked bool
		host   Host
		want   bool
	}{{true, Host{}, true}, {true, Host{NoUplift: true}, false}, {false, Host{}, false}} {
		p.Uplift = tt.marked
		c, err := Compile(p, tt.host)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.DefaultResponse.Uplifted != nil && c.UpliftedMain > 0; got != tt.want {
			t.Errorf("%+v: uplifted %v", tt, got)
		}
	}
}

func TestMasterKeyPFSIsOneQuickModeEach(t *testing.T) {
	p := Server()
	p.KeyExchange.MasterKeyPFS, p.KeyExchange.Sessions = true, 9
	if k, _ := p.effectiveKeyExchange(false); k.Sessions != 1 {
		t.Errorf("%d sessions", k.Sessions)
	}
}

func TestOnlyWhatTheHostCarriesIsOffered(t *testing.T) {
	carries := func(names ...string) (all []sadb.Suite) {
		for _, m := range methodsOf(t, names...) {
			all = append(all, m.Suites...)
		}
		return all
	}
	tests := []struct {
		name, listed    string
		carries         []sadb.Suite // nil: not known
		offered, left   string
		uplifted, first bool
	}{
		{"not known", "esp-3des-sha1 ah-sha1", nil, "esp-aes256gcm esp-aes128gcm esp-aes128-sha256 esp-3des-sha1 ah-sha256 ah-sha1", "", true, true},
		{"all", "esp-aes256gcm", carries("esp-aes256gcm"), "esp-aes256gcm", "", false, false},
		{"an uplifted one is not missed", "esp-3des-sha1", carries("esp-aes128gcm", "esp-3des-sha1"), "esp-aes128gcm esp-3des-sha1", "", true, true},
		{"no uplifted one at all", "esp-3des-sha1", carries("esp-3des-sha1"), "esp-3des-sha1", "", false, false},
		{"a listed one is missed", "esp-3des-sha1", carries("esp-aes256gcm"), "esp-aes256gcm", "esp-3des-sha1", true, true},
		{"both of a pair are needed", "ah-sha1+esp-3des-sha1 esp-aes256gcm", carries("esp-3des-sha1", "esp-aes256gcm"), "esp-aes256gcm", "ah-sha1+esp-3des-sha1", false, false},
		{"nothing", "esp-aes256gcm", []sadb.Suite{}, "", "esp-aes256gcm", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var n Negotiation
			n.offer(methodsOf(t, strings.Fields(tt.listed)...), true, tt.carries)
			var names []string
			for _, p := range n.Proposals {
				names = append(names, p.String())
			}
			if got := strings.Join(names, " "); got != tt.offered || n.LeftWords() != tt.left {
				t.Errorf("offered %q, left %q; want %q, %q", got, n.LeftWords(), tt.offered, tt.left)
			}
			if tt.uplifted != (n.Uplifted != nil) || tt.uplifted && (len(n.Uplifted) != len(n.Proposals) || n.Uplifted[0] != tt.first) {
				t.Errorf("marks %v", n.Uplifted)
			}
		})
	}
}
