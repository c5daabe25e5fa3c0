package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"ipsecagent/auth"
)

// charonPlugins are those of strongSwan's daemon that the handshakes need,
// openssl first: it is the fastest.
const charonPlugins = "openssl random nonce x509 revocation constraints pubkey pkcs1 pkcs8 pem gmp hmac kdf gcm " +
	"sha1 sha2 kernel-netlink socket-default vici"

// charonConf is charon as its makers tune it for many peers: nothing logged,
// no protection against floods, hash tables in segments.
const charonConf = `charon {
  load = %s
  threads = 16
  dos_protection = no
  block_threshold = 0
  init_limit_half_open = 0
  ikesa_table_size = 4096
  ikesa_table_segments = 16
  retransmit_tries = 8
  plugins { vici { socket = unix://%s/charon.vici } }
  filelog { none { path = /dev/null
    default = -1 } }
}
`

// daemon is a charon at work.
type daemon struct {
	cmd     *exec.Cmd
	stop    context.CancelFunc
	counter string
	control *vici
}

// startCharon starts charon in a namespace. It keeps its pid file in /run, so
// it gets a mount namespace of its own.
func (l *lab) startCharon(ns string) (*daemon, error) {
	dir, err := os.MkdirTemp(l.dir, "charon-")
	if err != nil {
		return nil, err
	}
	run, conf, counter := filepath.Join(dir, "run"), filepath.Join(dir, "strongswan.conf"), filepath.Join(dir, "count")
	if err := os.Mkdir(run, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(conf, fmt.Appendf(nil, charonConf, charonPlugins, run), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(counter, make([]byte, 8), 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{stop: cancel, counter: counter}
	d.cmd = exec.CommandContext(ctx, "ip", "netns", "exec", ns, "unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount --bind "$1" /run && LD_PRELOAD="$2" exec /usr/lib/ipsec/charon`, "sh", run, l.shim)
	d.cmd.Env = append(os.Environ(), "STRONGSWAN_CONF="+conf, "XFRMNULL_COUNT="+counter)
	if err := d.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	if d.control, err = waitForVici(filepath.Join(run, "charon.vici")); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func waitForVici(path string) (*vici, error) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		v, err := dialVici(path)
		if err == nil || time.Now().After(deadline) {
			return v, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *daemon) close() {
	if d.control != nil {
		d.control.close()
	}
	d.stop()
	_ = d.cmd.Wait() // killed
}

// associations is how many the daemon has put in force.
func (d *daemon) associations() (int, error) {
	raw, err := os.ReadFile(d.counter)
	if err != nil || len(raw) != 8 {
		return 0, fmt.Errorf("the shim's counter: %d bytes: %w", len(raw), err)
	}
	return int(binary.NativeEndian.Uint64(raw)), nil
}

// connection is one connection of charon's.
func (s scenario) connection(local, remote string, own, peer section) section {
	return section{"version": "1", "unique": "never", "local_addrs": []string{local}, "remote_addrs": []string{remote},
		"proposals": []string{s.ike}, "local-1": own, "remote-1": peer,
		"children": section{"net": section{"mode": "transport", "policies": "no", "esp_proposals": []string{s.esp}}}}
}

// charon measures charon with charon.
func (l *lab) charon(o options, s scenario) (figure, error) {
	one, err := l.startCharon(l.one)
	if err != nil {
		return figure{}, err
	}
	defer one.close()
	many, err := l.startCharon(l.many)
	if err != nil {
		return figure{}, err
	}
	defer many.close()
	if err := l.configure(s, one, many); err != nil {
		return figure{}, err
	}
	w, err := startWatch(one.cmd.Process.Pid, many.cmd.Process.Pid)
	if err != nil {
		return figure{}, err
	}
	if err := l.initiate(o, one, many); err != nil {
		return figure{}, err
	}
	return w.stop(l.peers)
}

// perPair is how many associations a handshake makes on each end.
const perPair = 2

// initiate has all connections come up and waits until they are.
func (l *lab) initiate(o options, one, many *daemon) error {
	deadline := time.Now().Add(patience)
	for begun, done := 0, 0; done < l.peers; {
		for ; begun < l.peers && (o.window == 0 || begun < done+o.window); begun++ {
			name := "c" + strconv.Itoa(begun)
			if err := many.control.call("initiate", section{"ike": name, "child": "net", "timeout": "-1"}); err != nil {
				return err
			}
		}
		a, err := one.associations()
		if err != nil {
			return err
		}
		b, err := many.associations()
		if err != nil {
			return err
		}
		done = min(a, b) / perPair
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d peers have associations after %s", done, l.peers, patience)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// configure loads keys and connections into both.
func (l *lab) configure(s scenario, one, many *daemon) error {
	for _, d := range []*daemon{one, many} {
		if err := l.loadSecrets(s, d, d == one); err != nil {
			return err
		}
	}
	at := server().String()
	server, its := l.identity(s, -1), s.remote("%any")
	if err := one.control.call("load-conn", section{"any": s.connection(at, "%any", server, its)}); err != nil {
		return err
	}
	its = s.remote(server["id"].(string))
	for n := range l.peers {
		conn := s.connection(peerAddr(n).String(), at, l.identity(s, n), its)
		if err := many.control.call("load-conn", section{"c" + strconv.Itoa(n): conn}); err != nil {
			return err
		}
	}
	return nil
}

// loadSecrets loads the preshared key, or the authority and a private key.
func (l *lab) loadSecrets(s scenario, d *daemon, server bool) error {
	if s.method == auth.PSK {
		return d.control.call("load-shared", section{"type": "ike", "data": presharedKey})
	}
	p := l.pkis[s.name]
	own := p.peers
	if server {
		own = []credential{p.server}
	}
	if err := d.control.call("load-cert", section{"type": "X509", "flag": "CA", "data": string(p.authority.Raw)}); err != nil {
		return err
	}
	for _, c := range own {
		if err := d.control.call("load-key", section{"type": "any", "data": string(c.key)}); err != nil {
			return err
		}
	}
	return nil
}

// identity is how the nth peer proves itself; -1: the server.
func (l *lab) identity(s scenario, n int) section {
	switch {
	case s.method == auth.PSK && n < 0:
		return section{"auth": "psk", "id": server().String()}
	case s.method == auth.PSK:
		return section{"auth": "psk", "id": peerAddr(n).String()}
	case n < 0:
		return byCertificate(l.pkis[s.name].server)
	}
	return byCertificate(l.pkis[s.name].peer(n))
}

func byCertificate(c credential) section {
	return section{"auth": "pubkey", "certs": []string{string(c.cert)}, "id": "CN=" + c.name}
}

// remote is who may be at the other end.
func (s scenario) remote(id string) section {
	if s.method == auth.PSK {
		return section{"auth": "psk", "id": id}
	}
	return section{"auth": "pubkey", "id": id}
}
