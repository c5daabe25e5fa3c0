package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ipsecagent/agent/control"
)

// status returns what the host's agent says.
func (h *host) status() control.Status {
	h.t.Helper()
	var s control.Status
	if err := json.Unmarshal([]byte(h.mustCtl("status", "-o", "json")), &s); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// pairs returns the association pairs in force.
func (h *host) pairs() []control.SecuredPeer {
	h.t.Helper()
	var l control.SAList
	if err := json.Unmarshal([]byte(h.mustCtl("sa", "list", "-o", "json")), &l); err != nil {
		h.t.Fatal(err)
	}
	return l.Pairs
}

// serve runs a web server on the host with a file of n bytes.
func (h *host) serve(n int) {
	h.t.Helper()
	h.write("file", strings.Repeat(demoMarker+" ", n/38+1)[:n], 0o644)
	h.start("/usr/bin/python3", "-m", "http.server", "--bind", "::", "--directory", h.dir, "8080")
	eventually(h.t, 10*time.Second, "the web server listens", func() bool {
		out, _ := h.run(5*time.Second, "ss", "-Hltn", "sport = :8080")
		return out != ""
	})
}

// fetch fetches the file of another host within d and reports success.
func (h *host) fetch(from string, d time.Duration) bool {
	h.t.Helper()
	_, err := h.run(d+5*time.Second, "curl", "-sS", "-g", "-f", "-o", "/dev/null", "--max-time", fmt.Sprint(d.Seconds()), "http://"+from+":8080/file")
	return err == nil
}

func TestAssignmentSurvivesARestart(t *testing.T) {
	a, b := secured(t, "rst")
	before := a.pairs()
	a.agent.signal(t, syscall.SIGTERM)
	if n := a.ping(b.v4, 3); n != 3 {
		t.Errorf("with the agent stopped %d of 3 echo requests were answered", n)
	}
	wire := a.capture("wire")
	a.startAgent(nil)
	if s := a.status(); s.Policy.Name != "require-all" {
		t.Errorf("after the restart the policy is %q", s.Policy.Name)
	}
	if n := a.ping(b.v4, 10); n != 10 {
		t.Errorf("after the restart %d of 10 echo requests were answered", n)
	}
	if found := leaks(wire.end(), nil); len(found) > 0 {
		t.Errorf("in clear: %v", found[0])
	}
	if len(before) == 0 || len(a.pairs()) == 0 {
		t.Errorf("pairs before: %d, after: %d", len(before), len(a.pairs()))
	}
	out := a.mustCtl("events", "-o", "json")
	if !strings.Contains(out, control.EventAdopted) {
		t.Errorf("no pair was adopted:\n%s", out)
	}
}

func TestInvalidPolicyKeepsTheLastGoodOne(t *testing.T) {
	a, _ := newPair(t, "bad")
	a.startAgent(map[string]string{"require-all.yaml": requireAll})
	a.assign("require-all", aKey("bad"))
	broken := strings.NewReplacer("name: require-all", "name: broken\ncolour: green", "esp-aes256gcm", "esp-rot13").Replace(requireAll)
	path := a.write("policies.d/broken.yaml", broken, 0o644)
	out, code := a.ctl("assign", "broken")
	if code != int(control.Invalid) {
		t.Errorf("exit code %d, want 6", code)
	}
	for _, want := range []string{filepath.Base(path) + ":4:", "colour", "esp-rot13", "^"} {
		if !strings.Contains(out, want) {
			t.Errorf("the error does not show %q:\n%s", want, out)
		}
	}
	if s := a.status(); s.Policy.Name != "require-all" || s.Policy.State != "assigned" {
		t.Errorf("in force is %+v", s.Policy)
	}
	if _, code := a.ctl("assign", "no-such-policy"); code != int(control.NotFound) {
		t.Errorf("an unknown policy: exit code %d, want 4", code)
	}
}

func TestRefusesToStartWithoutWhatItNeeds(t *testing.T) {
	a, _ := newPair(t, "pre")
	dirs := []string{"--config", a.config(), "--state-dir", filepath.Join(a.dir, "state"), "--run-dir", a.dir, "--socket", a.socket(),
		"--policies-dir", a.dir, "--secrets-dir", a.dir}
	agent := filepath.Join(programs, "ipsecagent")
	refused := func(t *testing.T, want []string, name string, args ...string) {
		t.Helper()
		out, err := a.run(patient(15*time.Second), name, args...)
		if err == nil {
			t.Fatalf("it started:\n%s", out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("the refusal does not say %q:\n%s", w, out)
			}
		}
	}
	t.Run("another IKE daemon", func(t *testing.T) {
		p := a.start("/usr/bin/python3", "-c", `
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 500)); print("bound", flush=True); time.sleep(60)`)
		eventually(t, 30*time.Second, "port 500 is taken", func() bool { return strings.Contains(p.output(), "bound") })
		refused(t, []string{"UDP", "500"}, agent, dirs...)
		p.signal(t, syscall.SIGKILL)
	})
	if a.drivenBy() == byUser {
		t.Run("no TUN", func(t *testing.T) {
			refused(t, []string{"/dev/net/tun"}, "unshare", append([]string{"-m", "sh", "-c", `mount -t tmpfs none /dev/net && exec "$@"`, "sh", agent}, dirs...)...)
		})
	}
	t.Run("no nftables", func(t *testing.T) {
		refused(t, []string{"nftables"}, "/usr/bin/python3", append([]string{"without-nft.py", agent}, dirs...)...)
	})
	t.Run("not root", func(t *testing.T) {
		os.Chmod(filepath.Dir(a.dir), 0o755)
		refused(t, []string{"root"}, "setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", agent}, dirs...)...)
	})
}

// TestRequestGoesInClearAndStaysSecuredOnceSecured: 'server' talks to a host
// without policy, in clear and saying so; from the moment the peer answers,
// everything is secured and clear packets are refused.
func TestRequestGoesInClearAndStaysSecuredOnceSecured(t *testing.T) {
	a, b := newPair(t, "req")
	key := aKey("req")
	a.startAgent(nil)
	b.startAgent(nil)
	b.assign("server", key)
	b.serve(100_000)
	if !a.fetch(b.v4, 10*time.Second) {
		t.Fatal("'server' must talk to a host without policy")
	}
	var entry control.ClearPeer
	eventually(t, 30*time.Second, "the peer is listed in clear", func() bool {
		for _, p := range b.status().InClear {
			if p.Peer == a.v4 {
				entry = p
				return true
			}
		}
		return false
	})
	if entry.Why == "" || entry.Since.IsZero() || entry.Rule == "" {
		t.Errorf("listed without since, why or rule: %+v", entry)
	}

	a.assign("client", key)
	eventually(t, 60*time.Second, "the two are secured", func() bool {
		a.fetch(b.v4, 3*time.Second)
		return len(b.pairs()) > 0
	})
	wire := a.capture("secured")
	if !a.fetch(b.v4, 10*time.Second) {
		t.Error("no traffic once secured")
	}
	allowed := func(p packet) bool { return p.icmp() || p.syn && p.src.String() == a.v4 }
	all := wire.end()
	if found := leaks(all, allowed); len(found) > 0 {
		t.Errorf("%d packets in clear once secured, the first: %v", len(found), found[0])
	}
	if n := count(all, packet.esp); n < 10 {
		t.Errorf("%d ESP packets", n)
	}

	// alice forgets everything without a word; what she sends in clear now
	// must not be heard.
	a.forget()
	if a.fetch(b.v4, 4*time.Second) {
		t.Error("bob answered in clear although secured before")
	}
}

func TestWrongKeySaysSoAndBlocks(t *testing.T) {
	a, b := newPair(t, "psk")
	for i, h := range []*host{a, b} {
		h.startAgent(map[string]string{"require-all.yaml": requireAll})
		h.assign("require-all", aKey(fmt.Sprint("psk", i)))
	}
	wire := a.capture("wire")
	if n := a.ping(b.v4, 3); n != 0 {
		t.Errorf("%d echo requests answered", n)
	}
	eventually(t, 40*time.Second, "an event on the side that can know", func() bool {
		return strings.Contains(b.mustCtl("events"), "preshared key does not match")
	})
	if found := leaks(wire.end(), nil); len(found) > 0 {
		t.Errorf("in clear: %v", found[0])
	}
	eventually(t, 40*time.Second, "both list the failure", func() bool {
		return len(a.status().Failures) > 0 && len(b.status().Failures) > 0
	})
}

func TestNoCommonProposalSaysWhatDiffers(t *testing.T) {
	a, b := newPair(t, "prop")
	key := aKey("prop")
	theirs := strings.Replace(requireAll, "filterLists:", "keyExchange: {methods: [aes128-sha1-modp2048]}\nfilterLists:", 1)
	ours := strings.Replace(requireAll, "filterLists:", "keyExchange: {methods: [aes256-sha256-ecp256]}\nfilterLists:", 1)
	a.startAgent(map[string]string{"require-all.yaml": ours})
	b.startAgent(map[string]string{"require-all.yaml": theirs})
	a.assign("require-all", key)
	b.assign("require-all", key)
	a.ping(b.v4, 1)
	var f control.Failure
	eventually(t, 40*time.Second, "the responder says why", func() bool {
		for _, e := range b.status().Failures {
			if e.Code == "no-proposal" && len(e.Offered)+len(e.Received) > 0 && e.Differs != "" {
				f = e
				return true
			}
		}
		return false
	})
	text := fmt.Sprint(f)
	for _, want := range []string{"aes128-sha1-modp2048", "aes256-sha256-ecp256"} {
		if !strings.Contains(text, want) {
			t.Errorf("the failure does not list %s: %+v", want, f)
		}
	}
}

// transfers are files fetched one after another, each in twelve seconds, by
// associations that live for a sixth of one: they are renewed every other
// second.
type transfers struct {
	count     int
	megabytes int // of a file, a multiple of 6
}

// TestRekeyUnderTrafficLosesNothing: neither of the file nor of the echo requests
// beside it.
func TestRekeyUnderTrafficLosesNothing(t *testing.T) {
	all := transfers{1, 60}
	if full() {
		all.count = 18 // more than 100 renewals
	}
	rekeyUnderTraffic(t, "rky", all)
}

func rekeyUnderTraffic(t *testing.T, tag string, all transfers) {
	t.Helper()
	a, b := newPair(t, tag)
	key := aKey(tag)
	method := fmt.Sprintf("[{esp: aes256gcm, lifetime: 1h, bytes: %dMB}]", all.megabytes/6)
	doc := strings.Replace(requireAll, "[esp-aes256gcm]", method, 1)
	for _, h := range []*host{a, b} {
		h.startAgent(map[string]string{"require-all.yaml": doc})
		h.assign("require-all", key)
	}
	b.serve(all.megabytes * 1_000_000)
	eventually(t, 30*time.Second, "traffic is secured", func() bool { return a.ping(b.v4, 1) == 1 })
	wire := a.captureHeaders("wire", 128)
	pings := a.start("ping", "-n", "-D", "-O", "-i", "0.05", "-c", fmt.Sprint(all.count*240), b.v4)
	rate := fmt.Sprint(all.megabytes * 1_000_000 / 12)
	for range all.count {
		if out, err := a.run(patient(30*time.Second), "curl", "-sS", "-f", "-o", "/dev/null", "--limit-rate", rate, "http://"+b.v4+":8080/file"); err != nil {
			t.Fatalf("the transfer failed: %v %s", err, out)
		}
	}
	<-pings.done
	if found := leaks(wire.end(), nil); len(found) > 0 {
		t.Errorf("in clear: %v", found[0])
	}
	ups := strings.Count(a.mustCtl("events", "-o", "json"), `"`+control.EventSAUp+`"`)
	sent, answered := pings.figures(t)
	t.Logf("figure: %d associations in %d MB; of %d echo requests %d were answered", ups, all.count*all.megabytes, sent, answered)
	if answered != sent {
		t.Errorf("%d of %d echo requests were lost in %d renewals\n%s", sent-answered, sent, ups, lossReport(pings.output(), a, b))
	}
	if ups < 5*all.count {
		t.Errorf("only %d associations were established for %d transfers of %d MB", ups, all.count, all.megabytes)
	}
	eventually(t, 90*time.Second, "one pair is left", func() bool { return len(a.pairs()) == 1 && len(b.pairs()) == 1 })
}

// figures returns how many echo requests a ping that has ended sent, and how
// many were answered.
func (p *process) figures(t *testing.T) (sent, answered int) {
	t.Helper()
	_, line, _ := strings.Cut(p.output(), "ping statistics ---\n")
	if _, err := fmt.Sscanf(line, "%d packets transmitted, %d received", &sent, &answered); err != nil {
		t.Fatalf("ping printed: %s", tail(p.output(), 200))
	}
	return sent, answered
}

// lossReport says what is known of echo requests without an answer: when they
// were sent, and what devices and data paths have dropped.
func lossReport(ping string, hosts ...*host) string {
	var b strings.Builder
	for line := range strings.Lines(ping) {
		if strings.Contains(line, "no answer") {
			b.WriteString(line)
		}
	}
	for _, h := range hosts {
		out, _ := h.run(5*time.Second, "ip", "-s", "link", "show")
		fmt.Fprintf(&b, "%s: %v\n%s", h.ns, h.status().DataPath.Counters, out)
	}
	return b.String()
}

// full reports whether the long figures are wanted.
func full() bool { return os.Getenv("IPSECAGENT_FULL") != "" }

// TestPermittedTrafficOfASecuredPeerPasses: 'secure-server' permits ICMP in
// clear; 'client' secures everything with a peer that asked. A ping between
// them works, before and after.
func TestPermittedTrafficOfASecuredPeerPasses(t *testing.T) {
	a, b := newPair(t, "icmp")
	key := aKey("icmp")
	for _, h := range []*host{a, b} {
		h.startAgent(nil)
	}
	a.assign("client", key)
	b.assign("secure-server", key)
	b.serve(1000)
	pings := func(when string) {
		t.Helper()
		for _, c := range []struct {
			from *host
			to   string
		}{{a, b.v4}, {b, a.v4}, {a, b.v6}, {b, a.v6}} {
			if n := c.from.ping(c.to, 3); n != 3 {
				t.Errorf("%s: %d of 3 echo requests of %s to %s were answered", when, n, c.from.ns, c.to)
			}
		}
	}
	pings("before")
	for _, to := range []string{b.v4, "[" + b.v6 + "]"} {
		if !a.fetch(to, 10*time.Second) {
			t.Fatalf("no traffic to %s", to)
		}
	}
	pings("once secured")
}
