package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// charonPlugins are the plugins of strongSwan's daemon, openssl first: it has
// the old algorithms.
const charonPlugins = "openssl random nonce x509 revocation constraints pubkey pkcs1 pkcs8 pem gmp hmac kdf gcm " +
	"sha1 sha2 md5 attr kernel-netlink socket-default vici"

// charon is strongSwan's IKE daemon on a host, on the shim that lets it
// negotiate transport mode on a kernel without ESP.
type charon struct {
	h   *host
	log string // the shim's, with the keys
}

// suite is one combination under test: in strongSwan's names and in ours.
type suite struct {
	name     string
	ike, esp string // strongSwan
	main, qm string // ours
}

func suites() []suite {
	return []suite{
		{"aes256-sha256-ecp256+aes256gcm", "aes256-sha256-ecp256", "aes256gcm16", "aes256-sha256-ecp256", "esp-aes256gcm"},
		{"aes128-sha1-modp2048+aes128-sha1", "aes128-sha1-modp2048", "aes128-sha1", "aes128-sha1-modp2048", "esp-aes128-sha1"},
		{"3des-sha1-modp1024+3des-sha1", "3des-sha1-modp1024", "3des-sha1", "3des-sha1-modp1024", "esp-3des-sha1"},
	}
}

// shim compiles xfrmnull once a test.
func shim(t *testing.T) string {
	t.Helper()
	so := filepath.Join(t.TempDir(), "xfrmnull.so")
	must(t, "gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-O2", "-o", so, "peers/xfrmnull.c", "-ldl")
	return so
}

// startCharon starts strongSwan on h with one connection to remote.
func startCharon(t *testing.T, h *host, remote string, s suite, key string) *charon {
	t.Helper()
	run := filepath.Join(h.dir, "run")
	if err := os.MkdirAll(filepath.Join(h.dir, "swanctl"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	h.write("strongswan.conf", fmt.Sprintf(`charon {
  load = %s
  block_threshold = 0
  plugins { vici { socket = unix://%s/charon.vici } }
  filelog { stderr { default = 1
    ike = 2
    enc = 1 } }
}
`, charonPlugins, run), 0o600)
	h.write("swanctl/swanctl.conf", fmt.Sprintf(`connections { peer { version = 1
  local_addrs = %[1]s
  remote_addrs = %[2]s
  proposals = %[3]s
  local { auth = psk
    id = %[1]s }
  remote { auth = psk
    id = %[2]s }
  children { net { mode = transport
    esp_proposals = %[4]s } } } }
secrets { ike-peer { secret = "%[5]s" } }
`, h.v4, remote, s.ike, s.esp, key), 0o600)
	c := &charon{h: h, log: filepath.Join(h.dir, "xfrm.log")}
	// charon keeps its pid file in /run: a mount namespace of its own.
	cmd := h.command(context.Background(), "unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount --bind "$1" /run && LD_PRELOAD="$2" exec /usr/lib/ipsec/charon`, "sh", run, shim(t))
	cmd.Env = append(os.Environ(), "STRONGSWAN_CONF="+filepath.Join(h.dir, "strongswan.conf"), "XFRMNULL_LOG="+c.log)
	startProcess(t, h.ns+" charon", cmd)
	eventually(t, 40*time.Second, "charon has a control socket", func() bool {
		_, err := os.Stat(filepath.Join(run, "charon.vici"))
		return err == nil
	})
	if out, err := c.swanctl("--load-all", "--noprompt"); err != nil {
		t.Fatalf("swanctl --load-all: %v\n%s", err, out)
	}
	return c
}

func (c *charon) swanctl(args ...string) (string, error) {
	cmd := exec.Command("swanctl", append(args, "--uri", "unix://"+filepath.Join(c.h.dir, "run", "charon.vici"))...)
	cmd.Env = append(os.Environ(), "SWANCTL_DIR="+filepath.Join(c.h.dir, "swanctl"),
		"STRONGSWAN_CONF="+filepath.Join(c.h.dir, "strongswan.conf"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// plane runs the peer's data path.
func (c *charon) plane(args ...string) *process {
	p := c.h.start("/usr/bin/python3", append([]string{"peers/dataplane.py", c.log, c.h.v4}, args...)...)
	eventually(c.h.t, 40*time.Second, "the peer's data path is up", func() bool { return strings.Contains(p.output(), "ready") })
	return p
}

// requirePolicy secures everything with one peer by one suite.
func requirePolicy(peer string, s suite) string {
	return fmt.Sprintf(`apiVersion: ipsecagent/v1
kind: Policy
name: peer
keyExchange:
  methods: [%s]
filterLists:
  peer:
    - {from: me, to: %s}
filterActions:
  require:
    negotiate:
      methods: [%s]
rules:
  - {name: peer, filterList: peer, filterAction: require, authentication: [psk]}
`, s.main, peer, s.qm)
}

// saysEstablished reads the pair out of "sa list".
func saysEstablished(h *host) bool {
	out, code := h.ctl("sa", "list", "-o", "json")
	return code == 0 && regexp.MustCompile(`"spiOut":\s*"0x`).MatchString(out)
}

// TestStrongSwanAnswersUs: we initiate, and ESP that scapy opens and seals
// with the keys charon derived passes both ways. The keys of both ends are
// equal, or nothing would.
func TestStrongSwanAnswersUs(t *testing.T) {
	for _, s := range suites() {
		t.Run(s.name, func(t *testing.T) {
			us, peer := newPair(t, "swr")
			key := aKey(s.name)
			c := startCharon(t, peer, us.v4, s, key)
			us.startAgent(map[string]string{"peer.yaml": requirePolicy(peer.v4, s)})
			us.assign("peer", key)
			wire := us.capture("wire")
			us.ping(peer.v4, 1) // asks for the association
			eventually(t, 40*time.Second, "an association is established", func() bool { return saysEstablished(us) })
			c.plane("serve")
			if got := us.ping(peer.v4, 5); got != 5 {
				t.Errorf("%d of 5 echo requests answered under ESP", got)
			}
			all := wire.end()
			// Until its data path is up the peer's kernel answers ESP with
			// "protocol unreachable".
			unreachable := func(p packet) bool { return p.src.String() == peer.v4 && p.proto == 1 && p.icmpType == 3 }
			if found := leaks(all, unreachable); len(found) > 0 {
				t.Errorf("in clear: %v", found)
			}
			if n := count(all, packet.esp); n < 10 {
				t.Errorf("%d ESP packets on the wire", n)
			}
			if out, _ := c.swanctl("--list-sas"); !strings.Contains(out, "INSTALLED, TRANSPORT") {
				t.Errorf("strongSwan says:\n%s", out)
			}
		})
	}
}

// TestWeAnswerStrongSwan: charon initiates, scapy sends echo requests under
// the association, our host's own stack answers them under ours.
func TestWeAnswerStrongSwan(t *testing.T) {
	for _, s := range suites() {
		t.Run(s.name, func(t *testing.T) {
			us, peer := newPair(t, "swi")
			key := aKey(s.name)
			c := startCharon(t, peer, us.v4, s, key)
			us.startAgent(map[string]string{"peer.yaml": requirePolicy(peer.v4, s)})
			us.assign("peer", key)
			wire := us.capture("wire")
			if out, err := c.swanctl("--initiate", "--child", "net", "--timeout", "20"); err != nil {
				t.Fatalf("strongSwan could not initiate: %v\n%s", err, out)
			}
			eventually(t, 40*time.Second, "an association is established", func() bool { return saysEstablished(us) })
			p := c.plane("ping", us.v4, "5")
			select {
			case <-p.done:
			case <-time.After(40 * time.Second):
				t.Fatal("the peer's ping did not end")
			}
			if !strings.Contains(p.output(), "answers: 5") {
				t.Errorf("the peer got: %s", p.output())
			}
			if found := leaks(wire.end(), nil); len(found) > 0 {
				t.Errorf("in clear: %v", found)
			}
		})
	}
}

// TestIKEScanGetsACorrectAnswer: a prober nobody here wrote gets a main-mode
// answer for an acceptable transform, and a refusal for another.
func TestIKEScanGetsACorrectAnswer(t *testing.T) {
	us, peer := newPair(t, "scan")
	s := suites()[2]
	us.startAgent(map[string]string{"peer.yaml": requirePolicy(peer.v4, s)})
	us.assign("peer", aKey("scan"))
	out := peer.must("ike-scan", "-M", "--retry=2", "--trans=5,2,1,2", us.v4)
	for _, want := range []string{"Main Mode Handshake returned", "Enc=3DES", "Hash=SHA1", "Group=2:modp1024", "Auth=PSK"} {
		if !strings.Contains(out, want) {
			t.Errorf("ike-scan does not say %q:\n%s", want, out)
		}
	}
	if out := peer.must("ike-scan", "-M", "--retry=2", "--trans=1,1,1,1", us.v4); !strings.Contains(out, "NO-PROPOSAL-CHOSEN") {
		t.Errorf("DES, MD5, group 1 must be refused:\n%s", out)
	}
}

// TestStrongSwanWithAnotherKey: both sides fail, and nothing passes in clear.
func TestStrongSwanWithAnotherKey(t *testing.T) {
	us, peer := newPair(t, "swk")
	s := suites()[0]
	c := startCharon(t, peer, us.v4, s, aKey("theirs"))
	us.startAgent(map[string]string{"peer.yaml": requirePolicy(peer.v4, s)})
	us.assign("peer", aKey("ours"))
	wire := us.capture("wire")
	if out, err := c.swanctl("--initiate", "--child", "net", "--timeout", "10"); err == nil {
		t.Errorf("strongSwan is satisfied:\n%s", out)
	}
	eventually(t, 40*time.Second, "an event that says why", func() bool {
		out, _ := us.ctl("events", "-o", "json")
		return strings.Contains(out, "preshared key does not match")
	})
	if n := us.ping(peer.v4, 3); n != 0 {
		t.Errorf("%d echo requests answered", n)
	}
	if found := leaks(wire.end(), nil); len(found) > 0 {
		t.Errorf("in clear: %v", found)
	}
}
