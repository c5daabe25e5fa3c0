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

// combination is one way to meet strongSwan: in its names and in ours.
type combination struct {
	name      string
	auth      string // psk, rsa, ecdsa256, ecdsa384 or ecdsa521
	ike       string // strongSwan's proposal of main mode
	child     string // and of quick mode, with the PFS group
	ah        bool   // child is an AH proposal
	main      string // our method of main mode
	method    string // our security method
	pfs       string // our PFS group; "": none
	tunnel    bool   // between the inner networks of the two hosts
	v6        bool
	charon    string // further settings of charon
	libipsec  bool   // charon carries ESP itself, in a tunnel in UDP, without the shim
	conn      string // further settings of strongSwan's connection
	childConf string // and of its child
	ours      string // further settings of our key exchange
}

// mode is strongSwan's word for the encapsulation mode.
func (c combination) mode() string {
	if c.tunnel {
		return "tunnel"
	}
	return "transport"
}

// local is the address by which h takes part, as h has it.
func (c combination) local(h *host) string {
	if c.v6 {
		return h.v6
	}
	return h.v4
}

// address is the same as the other host sees it.
func (c combination) address(h *host) string {
	if h.seen != "" {
		return h.seen
	}
	return c.local(h)
}

// inner is the address whose traffic is secured: in tunnel mode one of a
// network behind the host.
func (c combination) inner(h *host) string {
	switch {
	case c.tunnel && c.v6:
		return "fd78::" + h.number() + ":1"
	case c.tunnel:
		return "10.78." + h.number() + ".1"
	}
	return c.address(h)
}

// number tells the hosts of a test apart.
func (h *host) number() string {
	if strings.HasSuffix(h.ns, "-a") {
		return "1"
	}
	return "2"
}

// innerLocal is the same as h itself has it.
func (c combination) innerLocal(h *host) string {
	if c.tunnel {
		return c.inner(h)
	}
	return c.local(h)
}

// network is what stands in a policy for inner.
func (c combination) network(h *host) string {
	switch {
	case c.tunnel && c.v6:
		return "fd78::" + h.number() + ":0/112"
	case c.tunnel:
		return "10.78." + h.number() + ".0/24"
	}
	return c.address(h)
}

// shimmed is a host whose IKE daemon is on the shim that lets it negotiate on a
// kernel without ESP.
type shimmed struct {
	h   *host
	log string // the shim's, with the keys
	out *process
}

// charon is strongSwan's daemon.
type charon struct{ shimmed }

// shim compiles xfrmnull.
func shim(t *testing.T) string {
	t.Helper()
	so := filepath.Join(t.TempDir(), "xfrmnull.so")
	must(t, "gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-O2", "-o", so, "peers/xfrmnull.c", "-ldl")
	return so
}

// charonConf is the daemon's own configuration.
const charonConf = `charon {
  load = %s
  block_threshold = 0
  %s
  plugins { vici { socket = unix://%s/charon.vici } }
  filelog { stderr { default = 1
    ike = 2
    enc = 1
    flush_line = yes } }
}
`

// connection is the daemon's one connection, with the child "net".
const connection = `connections { peer { version = 1
  local_addrs = %[1]s
  remote_addrs = %[2]s
  proposals = %[3]s
  %[4]s
  local { %[5]s }
  remote { %[6]s }
  children { net { mode = %[7]s
    %[8]s
    %[9]s } } } }
secrets { ike-peer { secret = "%[10]s" } }
`

// startCharon starts strongSwan on peer for one combination with us.
func startCharon(t *testing.T, lib string, peer, us *host, c combination, secret identity) *charon {
	t.Helper()
	peer.quiet()
	run := filepath.Join(peer.dir, "run")
	for _, dir := range []string{"run", "swanctl/x509", "swanctl/x509ca", "swanctl/private"} {
		if err := os.MkdirAll(filepath.Join(peer.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	local, far := fmt.Sprintf("auth = psk\n    id = %s", c.local(peer)), "auth = psk"
	if c.auth != "psk" {
		secret.writeStrongSwan(peer)
		local, far = "auth = pubkey\n    certs = own.pem", "auth = pubkey\n    cacerts = ca.pem"
	}
	proposals := "esp_proposals = " + c.child
	if c.ah {
		proposals = "ah_proposals = " + c.child
	}
	if c.tunnel {
		proposals += fmt.Sprintf("\n    local_ts = %s\n    remote_ts = %s", c.network(peer), c.network(us))
	}
	plugins := charonPlugins
	if c.libipsec {
		plugins, lib = strings.Replace(plugins, "kernel-netlink", "kernel-libipsec kernel-netlink", 1), ""
	}
	peer.write("strongswan.conf", fmt.Sprintf(charonConf, plugins, c.charon, run), 0o600)
	peer.write("swanctl/swanctl.conf", fmt.Sprintf(connection, c.local(peer), c.address(us), c.ike, c.conn,
		local, far, c.mode(), proposals, c.childConf, secret.key), 0o600)
	d := &charon{shimmed{h: peer, log: peer.write("xfrm.log", "", 0o600)}}
	d.start(t, lib, run)
	if out, err := d.swanctl("--load-all", "--noprompt"); err != nil {
		t.Fatalf("swanctl --load-all: %v\n%s", err, out)
	}
	return d
}

// start starts the daemon and waits for its control socket. It keeps its pid
// file in /run: it gets a mount namespace of its own.
func (c *charon) start(t *testing.T, lib, run string) {
	t.Helper()
	cmd := c.h.command(context.Background(), "unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount --bind "$1" /run && LD_PRELOAD="$2" exec /usr/lib/ipsec/charon`, "sh", run, lib)
	cmd.Env = append(os.Environ(), "STRONGSWAN_CONF="+filepath.Join(c.h.dir, "strongswan.conf"), "XFRMNULL_LOG="+c.log)
	c.out = startProcess(t, c.h.ns+" charon", cmd)
	eventually(t, 40*time.Second, "charon has a control socket", func() bool {
		_, err := os.Stat(filepath.Join(run, "charon.vici"))
		return err == nil
	})
}

func (c *charon) swanctl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "swanctl", append(args, "--uri", "unix://"+filepath.Join(c.h.dir, "run", "charon.vici"))...)
	cmd.Env = append(os.Environ(), "SWANCTL_DIR="+filepath.Join(c.h.dir, "swanctl"),
		"STRONGSWAN_CONF="+filepath.Join(c.h.dir, "strongswan.conf"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// mustSwanctl runs swanctl, which has to succeed.
func (c *charon) mustSwanctl(args ...string) string {
	c.h.t.Helper()
	out, err := c.swanctl(args...)
	if err != nil {
		c.h.t.Fatalf("swanctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// plane runs the peer's data path: it sends count echo requests and answers
// ours.
func (s *shimmed) plane(from, to, count string, more ...string) *process {
	local := s.h.v4
	if strings.Contains(from, ":") {
		local = s.h.v6
	}
	args := append([]string{"peers/dataplane.py", s.log, local, from, to, count}, more...)
	p := s.h.start("/usr/bin/python3", args...)
	eventually(s.h.t, 60*time.Second, "the peer's data path is up", func() bool { return strings.Contains(p.output(), "ready") })
	return p
}

// answers waits for the figure the data path prints.
func answers(t *testing.T, p *process, d time.Duration) int {
	t.Helper()
	n := -1
	eventually(t, d, "the peer's ping has ended", func() bool {
		_, after, ok := strings.Cut(p.output(), "answers: ")
		if ok {
			fmt.Sscan(after, &n)
		}
		return ok
	})
	return n
}

// policy secures everything with one peer by one combination.
func (c combination) policy(us, peer *host, secret identity) string {
	method, pfs, auth := c.method, "", "psk"
	if c.pfs != "" {
		pfs = "\n      sessionKeyPFS: " + c.pfs
	}
	if c.auth != "psk" {
		auth = fmt.Sprintf("{certificate: {ca: %q}}", secret.caName)
	}
	lists := fmt.Sprintf("filterLists:\n  peer:\n    - {from: me, to: %s}\n", c.address(peer))
	rules := fmt.Sprintf("rules:\n  - {name: peer, filterList: peer, filterAction: require, authentication: [%s]}\n", auth)
	if c.tunnel {
		lists = fmt.Sprintf("filterLists:\n  out:\n    - {from: %[1]s, to: %[2]s, mirrored: false}\n  in:\n    - {from: %[2]s, to: %[1]s, mirrored: false}\n",
			c.network(us), c.network(peer))
		rules = fmt.Sprintf("rules:\n  - {name: out, filterList: out, filterAction: require, tunnel: %q, authentication: [%[3]s]}\n  - {name: in, filterList: in, filterAction: require, tunnel: %[2]q, authentication: [%[3]s]}\n",
			c.address(peer), c.address(us), auth)
	}
	return fmt.Sprintf(`apiVersion: ipsecagent/v1
kind: Policy
name: peer
keyExchange:
  methods: [%s]
  %s
%sfilterActions:
  require:
    negotiate:
      methods: [%s]%s
%s`, c.main, c.ours, lists, method, pfs, rules)
}

// meet makes two hosts, strongSwan on one and us on the other, ready for c.
func meet(t *testing.T, lib, tag string, c combination, ids identities) (us *host, d *charon) {
	t.Helper()
	us, peer := newPair(t, tag)
	c.addInner(us, peer)
	ours, theirs := ids.pair(t, c.auth)
	d = startCharon(t, lib, peer, us, c, theirs)
	startOurs(us, peer, c, ours)
	us.logKeys(c.address(peer))
	return us, d
}

// startOurs starts the agent with c's policy in force.
func startOurs(us, peer *host, c combination, own identity) {
	us.t.Helper()
	doc := map[string]string{"peer.yaml": c.policy(us, peer, own)}
	if c.auth == "psk" {
		us.startAgent(doc)
		us.assign("peer", own.key)
		return
	}
	own.writeAgent(us)
	us.startAgent(doc, "--certificates-dir", filepath.Join(us.dir, "certificates"))
	us.mustCtl("assign", "peer")
}

// addInner gives us an address in the inner network and a route to the peer's,
// in which nothing but its data path answers.
func (c combination) addInner(us, peer *host) {
	if !c.tunnel {
		return
	}
	us.must("ip", "addr", "add", c.inner(us), "dev", "lo")
	us.must("ip", "route", "add", c.network(peer), "dev", "wire", "src", c.inner(us))
}

// established reports a pair of associations that is up.
func (h *host) established() bool {
	out, code := h.ctl("sa", "list", "-o", "json")
	return code == 0 && regexp.MustCompile(`"spiOut":\s*"0x`).MatchString(out)
}

// carries is exchanges with strongSwan, which has to show the mode.
func carries(t *testing.T, us *host, d *charon, c combination) {
	t.Helper()
	exchanges(t, us, &d.shimmed, c)
	if out, _ := d.swanctl("--list-sas"); !strings.Contains(out, "INSTALLED, "+strings.ToUpper(c.mode())) {
		t.Errorf("strongSwan says:\n%s", out)
	}
}

// exchanges is echoes, and holds the keys of both ends against each other.
func exchanges(t *testing.T, us *host, d *shimmed, c combination) {
	t.Helper()
	echoes(t, us, d, c)
	if !c.ah { // Wireshark has no table for keys of AH, so that there are none to read
		sameKeys(t, us, d.log)
	}
}

// echoes sends echo requests both ways, every packet opened with keys that the
// other end derived.
func echoes(t *testing.T, us *host, d *shimmed, c combination) {
	t.Helper()
	p := d.plane(c.innerLocal(d.h), c.inner(us), "5")
	if got := answers(t, p, 60*time.Second); got != 5 {
		t.Errorf("we answered %d of the peer's 5 echo requests", got)
	}
	if got := us.ping(c.inner(d.h), 5); got != 5 {
		t.Errorf("the peer answered %d of our 5 echo requests", got)
	}
	if t.Failed() {
		out, _ := us.ctl("status")
		t.Logf("our side says:\n%s", out)
	}
}

// quiet keeps the kernel of a peer, which knows no ESP, from answering it with
// "unreachable".
func (h *host) quiet() {
	h.must("nft", `add table inet quiet
		add chain inet quiet out { type filter hook output priority 0; }
		add rule inet quiet out icmp type destination-unreachable drop
		add rule inet quiet out icmpv6 type { destination-unreachable, parameter-problem } drop`)
}

// judge ends the capture and holds it against the promise.
func (c combination) judge(t *testing.T, wire *capture) {
	t.Helper()
	all := wire.end()
	if found := leaks(all, func(p packet) bool { return c.ah && p.proto == 51 }); len(found) > 0 {
		t.Errorf("in clear: %v", found)
	}
	if n := count(all, func(p packet) bool { return p.esp() || p.proto == 51 }); n < 20 {
		t.Errorf("%d secured packets on the wire", n)
	}
}

// TestStrongSwanAnswersUs: we initiate; ESP or AH that scapy opens and seals
// with the keys charon derived passes both ways. The keys of both ends are
// equal, or nothing would.
func TestStrongSwanAnswersUs(t *testing.T) {
	eachCombination(t, "swr", func(t *testing.T, lib, tag string, c combination, ids identities) {
		us, d := meet(t, lib, tag, c, ids)
		wire := us.capture("wire")
		us.ping(c.inner(d.h), 1) // asks for the association
		eventually(t, 60*time.Second, "an association is established", us.established)
		carries(t, us, d, c)
		c.judge(t, wire)
	})
}

// TestWeAnswerStrongSwan: charon initiates.
func TestWeAnswerStrongSwan(t *testing.T) {
	eachCombination(t, "swi", func(t *testing.T, lib, tag string, c combination, ids identities) {
		us, d := meet(t, lib, tag, c, ids)
		wire := us.capture("wire")
		d.mustSwanctl("--initiate", "--child", "net", "--timeout", "30")
		eventually(t, 60*time.Second, "an association is established", us.established)
		carries(t, us, d, c)
		c.judge(t, wire)
	})
}

// eachCombination runs a test for every row of the table, two at a time, and
// names the rows that are not run.
func eachCombination(t *testing.T, tag string, run func(t *testing.T, lib, tag string, c combination, ids identities)) {
	lib, ids := shim(t), newIdentities(t)
	for i, c := range combinations() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			run(t, lib, fmt.Sprintf("%s%d", tag, i), c, ids)
		})
	}
	for _, name := range notRun() {
		t.Logf("figure: not run with strongSwan: %s", name)
	}
}

// TestStrongSwanWithAnotherKey: both sides fail, and nothing passes in clear.
func TestStrongSwanWithAnotherKey(t *testing.T) {
	us, peer := newPair(t, "swk")
	c := combinations()[0]
	d := startCharon(t, shim(t), peer, us, c, identity{key: aKey("theirs")})
	startOurs(us, peer, c, identity{key: aKey("ours")})
	wire := us.capture("wire")
	if out, err := d.swanctl("--initiate", "--child", "net", "--timeout", "10"); err == nil {
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
