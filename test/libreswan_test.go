package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// libreswan is where test/install-packages has unpacked it: its package cannot
// be installed beside strongSwan's.
const libreswan = "../out/libreswan/usr/libexec"

// pluto is libreswan's daemon.
type pluto struct{ shimmed }

// plutoConf is the daemon's configuration, with the one connection "peer".
const plutoConf = `config setup
  ikev1-policy=accept
  protostack=xfrm
  uniqueids=no
conn peer
  auto=add
  left=%[1]s
  right=%[2]s
  ikev2=no
  leftupdown=%%disabled
  ike=%[3]s
  %[4]s
  type=%[5]s
  %[6]s
`

// startPluto starts libreswan on peer for one combination with us. impairments
// make it misbehave.
func startPluto(t *testing.T, lib string, peer, us *host, c combination, secret identity, impairments ...string) *pluto {
	t.Helper()
	peer.quiet()
	for _, dir := range []string{"run/pluto", "nss"} {
		if err := os.MkdirAll(filepath.Join(peer.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "certutil", "-N", "-d", "sql:"+filepath.Join(peer.dir, "nss"), "--empty-password")
	second, more := "esp="+c.child+"\n  pfs=no", "authby=secret"
	if c.ah {
		second = "phase2=ah\n  phase2alg=" + c.child + "\n  pfs=no"
	}
	if c.pfs != "" {
		second = strings.Replace(second, "pfs=no", "pfs=yes", 1)
	}
	if c.auth != "psk" {
		secret.importNSS(peer)
		more = "authby=rsasig\n  leftcert=own\n  leftid=%fromcert\n  rightid=%fromcert\n  rightca=%same\n  leftsendcert=always"
	}
	if c.tunnel {
		more += fmt.Sprintf("\n  leftsubnet=%s\n  rightsubnet=%s", c.network(peer), c.network(us))
	}
	peer.write("ipsec.conf", fmt.Sprintf(plutoConf, c.address(peer), c.address(us), c.ike, second, c.mode(), more), 0o600)
	peer.write("ipsec.secrets", fmt.Sprintf("%s %s : PSK %q\n", c.address(peer), c.address(us), secret.key), 0o600)
	d := &pluto{shimmed{h: peer, log: peer.write("xfrm.log", "", 0o600)}}
	d.start(t, lib, impairments)
	return d
}

// importNSS puts the identity into the daemon's data base, where it is called
// "own" as the subject's common name does not matter.
func (i identity) importNSS(h *host) {
	h.t.Helper()
	db := "sql:" + filepath.Join(h.dir, "nss")
	ca := h.write("ca.pem", string(i.ca), 0o600)
	own, key := h.write("own.pem", string(i.own), 0o600), h.write("own.key", string(i.pkc), 0o600)
	p12 := filepath.Join(h.dir, "own.p12")
	must(h.t, "openssl", "pkcs12", "-export", "-in", own, "-inkey", key, "-name", "own", "-passout", "pass:x", "-out", p12)
	must(h.t, "pk12util", "-i", p12, "-d", db, "-W", "x", "-K", "")
	must(h.t, "certutil", "-A", "-d", db, "-n", "ca", "-t", "CT,,", "-i", ca, "-a")
}

// start starts the daemon and loads the connection. It looks for its helpers
// below /usr/libexec: it gets a mount namespace of its own, in which they are
// there.
func (d *pluto) start(t *testing.T, lib string, impairments []string) {
	t.Helper()
	files, err := filepath.Abs(libreswan)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(files, "ipsec/pluto")); err != nil {
		t.Fatalf("libreswan is not unpacked; run test/install-packages test: %v", err)
	}
	cmd := d.h.command(context.Background(), "unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount -t overlay o -o "lowerdir=$1:/usr/libexec" /usr/libexec && LD_PRELOAD="$2" exec /usr/libexec/ipsec/pluto \
		--config "$3/ipsec.conf" --secretsfile "$3/ipsec.secrets" --nssdir "$3/nss" --rundir "$3/run/pluto" \
		--nofork --stderrlog --log-no-audit --no-dnssec`, "sh", files, lib, d.h.dir)
	cmd.Env = append(os.Environ(), "XFRMNULL_LOG="+d.log)
	d.out = startProcess(t, d.h.ns+" pluto", cmd)
	control := filepath.Join(d.h.dir, "run/pluto/pluto.ctl")
	eventually(t, 40*time.Second, "pluto listens", func() bool {
		_, err := d.whack("--listen")
		return err == nil
	})
	for _, what := range impairments {
		if out, err := d.whack("--impair", what); err != nil {
			t.Fatalf("whack --impair %s: %v\n%s", what, err, out)
		}
	}
	eventually(t, 40*time.Second, "pluto has the connection", func() bool {
		exec.Command(filepath.Join(libreswan, "ipsec/addconn"), "--config", filepath.Join(d.h.dir, "ipsec.conf"), "--ctlsocket", control, "peer").Run()
		out, _ := d.whack("--status")
		return strings.Contains(out, `"peer"`)
	})
}

// whack controls the daemon.
func (d *pluto) whack(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(libreswan, "ipsec/whack"),
		append([]string{"--rundir", filepath.Join(d.h.dir, "run/pluto")}, args...)...).CombinedOutput()
	return string(out), err
}

// plutoRows is the table of what is negotiated with libreswan, each row in both
// roles. It has neither DES nor the groups below 1536 bits.
func plutoRows() []combination {
	with := func(c combination, ike, child string) combination {
		c.ike, c.child = ike, child
		return c
	}
	return []combination{
		with(row("psk", "aes256gcm", "aes256-sha256-modp2048", "", "esp-aes256gcm", ""), "aes256-sha2_256;modp2048", "aes_gcm256"),
		with(row("psk", "aes128-sha1", "aes128-sha1-modp2048", "", "esp-aes128-sha1", ""), "aes128-sha1;modp2048", "aes128-sha1"),
		with(row("psk", "3des-sha1-pfs-modp2048", "3des-sha1-modp2048", "", "esp-3des-sha1", "modp2048"), "3des-sha1;modp2048", "3des-sha1"),
		with(row("psk", "aes256-sha256-ecp256", "aes256-sha256-ecp256", "", "esp-aes256-sha256", "ecp256"), "aes256-sha2_256;dh19", "aes256-sha2_256"),
		with(overIPv6(row("psk", "aes128gcm", "aes128-sha256-modp2048", "", "esp-aes128gcm", "")), "aes128-sha2_256;modp2048", "aes_gcm128"),
		with(byHeader(row("psk", "ah-sha1", "aes128-sha1-modp2048", "", "ah-sha1", "")), "aes128-sha1;modp2048", "sha1"),
		with(inTunnel(row("psk", "aes256gcm", "aes256-sha256-modp2048", "", "esp-aes256gcm", "")), "aes256-sha2_256;modp2048", "aes_gcm256"),
		with(row("rsa", "aes256gcm", "aes256-sha256-modp2048", "", "esp-aes256gcm", ""), "aes256-sha2_256;modp2048", "aes_gcm256"),
	}
}

// withPluto makes two hosts, libreswan on one and us on the other.
func withPluto(t *testing.T, lib, tag string, c combination, ids identities, impairments ...string) (us *host, d *pluto) {
	t.Helper()
	us, peer := newPair(t, tag)
	c.addInner(us, peer)
	ours, theirs := ids.pair(t, c.auth)
	d = startPluto(t, lib, peer, us, c, theirs, impairments...)
	startOurs(us, peer, c, ours)
	us.logKeys(c.address(peer))
	return us, d
}

// TestLibreswanAnswersUs and the next hold us against a second implementation
// that knows nothing of the first.
func TestLibreswanAnswersUs(t *testing.T) {
	lib, ids := shim(t), newIdentities(t)
	for i, c := range plutoRows() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			us, d := withPluto(t, lib, fmt.Sprintf("lsr%d", i), c, ids)
			wire := us.capture("wire")
			us.ping(c.inner(d.h), 1)
			eventually(t, 60*time.Second, "an association is established", us.established)
			exchanges(t, us, &d.shimmed, c)
			c.judge(t, wire)
		})
	}
}

func TestWeAnswerLibreswan(t *testing.T) {
	lib, ids := shim(t), newIdentities(t)
	for i, c := range plutoRows() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			us, d := withPluto(t, lib, fmt.Sprintf("lsi%d", i), c, ids)
			wire := us.capture("wire")
			d.whack("--name", "peer", "--initiate", "--asynchronous")
			eventually(t, 60*time.Second, "an association is established", us.established)
			exchanges(t, us, &d.shimmed, c)
			c.judge(t, wire)
		})
	}
}

// impairment is a way in which libreswan can be told to misbehave as initiator,
// and whether a pair comes of it all the same.
type impairment struct {
	switches []string
	pair     bool
}

func impairments() []impairment {
	hash := func(what string) impairment {
		return impairment{[]string{"v1-hash-exchange:QUICK", "v1-hash-payload:" + what}, false}
	}
	no := func(what string) impairment { return impairment{[]string{what}, false} }
	yes := func(what string) impairment { return impairment{[]string{what}, true} }
	return []impairment{
		yes("jacob-two-two"), yes("replay-duplicates"), yes("replay-forward"), yes("replay-backward"), yes("replay-encrypted"),
		no("ke-payload:OMIT"), no("ke-payload:EMPTY"), no("ke-payload:0"), no("ke-payload:DUPLICATE"), no("drop-i2"),
		no("ike-initiator-spi:0"), no("ike-key-length-attribute:OMIT"), no("ike-key-length-attribute:0"), no("ike-key-length-attribute:DUPLICATE"),
		no("child-key-length-attribute:OMIT"), no("child-key-length-attribute:EMPTY"), no("child-key-length-attribute:DUPLICATE"),
		hash("OMIT"), hash("EMPTY"), hash("DUPLICATE"), hash("0"),
		yes("send-bogus-isakmp-flag"), yes("send-bogus-payload-flag"), yes("minor-version-bump"), yes("major-version-bump"),
		yes("corrupt-encrypted"), yes("bust-mi2"), yes("ikev1-del-with-notify"), {[]string{"v1-hash-exchange:DELETE", "v1-hash-payload:EMPTY"}, true},
	}
}

// TestLibreswanMisbehaves: whatever libreswan does as initiator, our responder
// stays well: it makes no pair out of what is wrong, and the next good
// negotiation succeeds.
func TestLibreswanMisbehaves(t *testing.T) {
	t.Parallel()
	c := plutoRows()[0]
	us, d := withPluto(t, shim(t), "lsm", c, nil)
	pid := us.agentPID()
	for _, i := range impairments() {
		for _, s := range i.switches {
			if out, err := d.whack("--impair", s); err != nil {
				t.Fatalf("whack --impair %s: %v\n%s", s, err, out)
			}
		}
		d.whack("--name", "peer", "--initiate", "--asynchronous")
		if i.pair {
			eventually(t, 20*time.Second, fmt.Sprintf("%v: a pair", i.switches), us.established)
		}
		for until := time.Now().Add(700 * time.Millisecond); !i.pair && time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			if us.established() {
				t.Fatalf("%v: a pair is made", i.switches)
			}
		}
		us.unharmed(pid)
		d.whack("--name", "peer", "--terminate")
		d.whack("--impair", "none")
		d.again(us)
	}
	d.whack("--name", "peer", "--initiate", "--asynchronous")
	eventually(t, 30*time.Second, "a good association", us.established)
	echoes(t, us, &d.shimmed, c)
	t.Logf("figure: our responder is well after %d ways of libreswan to misbehave", len(impairments()))
}

// again has both ends forget each other.
func (d *pluto) again(us *host) {
	us.t.Helper()
	us.mustCtl("unassign")
	us.mustCtl("assign", "peer")
	eventually(us.t, 10*time.Second, "nothing is left", func() bool {
		l := us.associations()
		return len(l.Pairs) == 0 && len(l.MainMode) == 0
	})
}
