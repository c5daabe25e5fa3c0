package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// presharedKey is the one of all.
const presharedKey = "a preshared key of the benchmark 0617"

// daemon is one IKE daemon at work.
type daemon struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func (b *bench) start(cmd *exec.Cmd) (*daemon, error) {
	d := &daemon{cmd: cmd}
	cmd.Stdout, cmd.Stderr = &d.out, &d.out
	cmd.WaitDelay = time.Second
	return d, cmd.Start()
}

// stop kills the daemon; what it printed is for its errors alone.
func (d *daemon) stop() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// ready waits until a command succeeds.
func ready(cmd func(context.Context) *exec.Cmd) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		out, err := cmd(ctx).CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: %w: %s", patience, err, out)
		case <-time.After(captureWait):
		}
	}
}

// both starts a daemon at each end.
func both(alices, bobs string, start func(ns, local string, others []string) (func(), error), peers int) (func(), error) {
	var them []string
	for n := range peers {
		them = append(them, peerAddr(n).String())
	}
	stopA, err := start(alices, alice().String(), them)
	if err != nil {
		return nil, err
	}
	stopB, err := start(bobs, "", []string{alice().String()})
	if err != nil {
		stopA()
		return nil, err
	}
	return func() { stopA(); stopB() }, nil
}

// agentPolicy secures UDP with others.
const agentPolicy = `apiVersion: ipsecagent/v1
kind: Policy
name: bench
keyExchange:
  methods: [aes256-sha256-ecp256]
filterLists:
  peers:
%s
filterActions:
  require:
    negotiate:
      methods: [esp-aes256gcm]
rules:
  - {name: peers, filterList: peers, filterAction: require, authentication: [psk]}
`

// startAgents starts our agent at both ends.
func (b *bench) startAgents(alices, bobs string) (func(), error) {
	return both(alices, bobs, b.startAgent, b.peers)
}

func (b *bench) startAgent(ns, _ string, others []string) (func(), error) {
	dir := filepath.Join(b.dir, ns)
	var list []string
	for _, o := range others {
		list = append(list, fmt.Sprintf("    - {from: me, to: %s, protocol: udp}", o))
	}
	if err := writeFiles(dir, map[string]string{
		"agent.yaml":            "driver: kernel\n",
		"policies.d/bench.yaml": fmt.Sprintf(agentPolicy, strings.Join(list, "\n")),
		"secrets.d/.keep":       "", "state/.keep": "", "key": presharedKey + "\n",
	}); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "agent.sock")
	d, err := b.start(exec.Command("ip", "netns", "exec", ns, filepath.Join(b.programs, "ipsecagent"),
		"--state-dir", filepath.Join(dir, "state"), "--run-dir", dir, "--socket", socket, "--config", filepath.Join(dir, "agent.yaml"),
		"--policies-dir", filepath.Join(dir, "policies.d"), "--secrets-dir", filepath.Join(dir, "secrets.d")))
	if err != nil {
		return nil, err
	}
	ctl := func(args ...string) func(context.Context) *exec.Cmd {
		return func(ctx context.Context) *exec.Cmd {
			return exec.CommandContext(ctx, filepath.Join(b.programs, "ipsecctl"), append([]string{"--socket", socket}, args...)...)
		}
	}
	err = ready(ctl("version"))
	if err == nil {
		err = ready(ctl("assign", "bench", "--auth", "psk-file:"+filepath.Join(dir, "key")))
	}
	if err != nil {
		d.stop()
		return nil, fmt.Errorf("%w\n%s", err, d.out.String())
	}
	return d.stop, nil
}

// charonPlugins are those that it takes, openssl first: it is the fastest.
const charonPlugins = "openssl random nonce gmp hmac kdf gcm sha1 sha2 kernel-netlink socket-default vici"

// charonConf is charon without log files.
const charonConf = `charon {
  load = %s
  plugins { vici { socket = unix://%s/charon.vici } }
  filelog { none { path = /dev/null
    default = -1 } }
}
`

// charonConnection is one connection: with trap policies for one end, for
// whoever comes for the other.
const charonConnection = `%[1]s { version = 1
  local_addrs = %[2]s
  remote_addrs = %[3]s
  proposals = aes256-sha256-ecp256
  local { auth = psk }
  remote { auth = psk }
  children { net { mode = transport
    esp_proposals = aes256gcm16
    local_ts = dynamic[udp]
    remote_ts = dynamic[udp]
    start_action = %[4]s } } }
`

// startCharons starts strongSwan at both ends.
func (b *bench) startCharons(alices, bobs string) (func(), error) {
	return both(alices, bobs, b.startCharon, b.peers)
}

func (b *bench) startCharon(ns, local string, others []string) (func(), error) {
	dir := filepath.Join(b.dir, ns)
	run := filepath.Join(dir, "run")
	if err := writeFiles(dir, map[string]string{
		"run/.keep":            "",
		"strongswan.conf":      fmt.Sprintf(charonConf, charonPlugins, run),
		"swanctl/swanctl.conf": charonConnections(local, others),
	}); err != nil {
		return nil, err
	}
	env := append(os.Environ(), "STRONGSWAN_CONF="+filepath.Join(dir, "strongswan.conf"), "SWANCTL_DIR="+filepath.Join(dir, "swanctl"))
	// It keeps its pid file in /run: it gets a mount namespace of its own.
	cmd := exec.Command("ip", "netns", "exec", ns, "unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount --bind "$1" /run && exec /usr/lib/ipsec/charon`, "sh", run)
	cmd.Env = env
	d, err := b.start(cmd)
	if err != nil {
		return nil, err
	}
	load := func(ctx context.Context) *exec.Cmd {
		c := exec.CommandContext(ctx, "swanctl", "--load-all", "--noprompt", "--uri", "unix://"+filepath.Join(run, "charon.vici"))
		c.Env = env
		return c
	}
	if err := ready(load); err != nil {
		d.stop()
		return nil, fmt.Errorf("%w\n%s", err, d.out.String())
	}
	return d.stop, nil
}

// charonConnections are the connections of one end; local is "" where each of
// its addresses is a peer.
func charonConnections(local string, others []string) string {
	var out strings.Builder
	action := "trap"
	if local == "" {
		local, action = "%any", "none"
	}
	out.WriteString("connections {\n")
	for i, o := range others {
		fmt.Fprintf(&out, charonConnection, fmt.Sprint("c", i), local, o, action)
	}
	fmt.Fprintf(&out, "}\nsecrets { ike-bench { secret = %q } }\n", presharedKey)
	return out.String()
}

// writeFiles writes files below a directory.
func writeFiles(dir string, files map[string]string) error {
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}
