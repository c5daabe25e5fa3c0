package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ipsecagent/policy/directory/dirtest"
)

// realm is a KDC of MIT in a namespace.
type realm struct {
	name, dir string
	kdc       *exec.Cmd
}

const realmConf = `[libdefaults]
 default_realm = REALM
 dns_lookup_kdc = false
 rdns = false
 dns_canonicalize_hostname = false
[realms]
 REALM = {
  kdc = 127.0.0.1:88
 }
`

const kdcConf = `[kdcdefaults]
 kdc_listen = 127.0.0.1:88
 kdc_tcp_listen = 127.0.0.1:88
[realms]
 REALM = {
  database_name = DIR/principal
  key_stash_file = DIR/stash
  acl_file = DIR/acl
  supported_enctypes = aes256-cts-hmac-sha1-96:normal
 }
[logging]
 kdc = FILE:DIR/kdc.log
`

func (r *realm) conf() string { return filepath.Join(r.dir, "krb5.conf") }

// startRealm makes a realm and serves it.
func startRealm(ns *dirtest.Namespace, name, dir string) (*realm, error) {
	r := &realm{name: name, dir: dir}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	names := strings.NewReplacer("REALM", name, "DIR", dir)
	for file, text := range map[string]string{r.conf(): realmConf, filepath.Join(dir, "kdc.conf"): kdcConf} {
		if err := os.WriteFile(file, []byte(names.Replace(text)), 0o600); err != nil {
			return nil, err
		}
	}
	if err := r.run("", "/usr/sbin/kdb5_util", "-r", name, "create", "-s", "-P", "master"); err != nil {
		return nil, err
	}
	r.kdc = ns.Command("/usr/sbin/krb5kdc", "-n", "-r", name, "-P", filepath.Join(dir, "kdc.pid"))
	r.kdc.Env = r.env()
	if err := r.kdc.Start(); err != nil {
		return nil, err
	}
	if err := ns.Await("127.0.0.1:88"); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *realm) env() []string {
	return append(os.Environ(), "KRB5_CONFIG="+r.conf(), "KRB5_KDC_PROFILE="+filepath.Join(r.dir, "kdc.conf"))
}

// run runs one of the realm's programs with an input.
func (r *realm) run(input, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdin = r.env(), strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.500s", name, err, out)
	}
	return nil
}

// fill makes principals for hosts and a service, and returns the keytabs of all
// hosts and of the service.
func (r *realm) fill(hosts int, service string) (all, own string, err error) {
	all, own = filepath.Join(r.dir, "all.keytab"), filepath.Join(r.dir, "service.keytab")
	var b strings.Builder
	for n := range hosts {
		fmt.Fprintf(&b, "addprinc -randkey host/%s\n", hostName(n))
	}
	fmt.Fprintf(&b, "addprinc -randkey %s\n", service)
	fmt.Fprintf(&b, "ktadd -norandkey -k %s %s\n", own, service)
	fmt.Fprintf(&b, "ktadd -norandkey -k %s -glob host/h*\n", all)
	return all, own, r.run(b.String(), "/usr/sbin/kadmin.local", "-r", r.name)
}

func (r *realm) stop() {
	_ = r.kdc.Process.Kill() // it may have ended
	_ = r.kdc.Wait()
}
