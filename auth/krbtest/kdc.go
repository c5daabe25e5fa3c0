// Package krbtest runs a Kerberos realm for tests: MIT's krb5kdc on a high
// port of the loopback address, with its database in a temporary directory.
//
// It is imported by tests alone and knows nothing of this project.
package krbtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Realm is a running realm.
type Realm struct {
	Name string
	Dir  string
	Conf string // krb5.conf
	Addr string // address and port of the KDC
	tb   testing.TB
	kdc  *exec.Cmd
}

// Start makes a realm and starts its KDC, which ends with the test. extra goes
// into [libdefaults] of krb5.conf.
func Start(tb testing.TB, name, extra string) *Realm {
	tb.Helper()
	r := &Realm{Name: name, Dir: tb.TempDir(), Addr: freeAddr(tb), tb: tb}
	r.Conf = filepath.Join(r.Dir, "krb5.conf")
	r.write("krb5.conf", fmt.Sprintf(krb5Conf, name, extra, name, r.Addr))
	r.write("kdc.conf", strings.ReplaceAll(fmt.Sprintf(kdcConf, r.Addr, r.Addr, name), "DIR", r.Dir))
	r.run("kdb5_util", "-r", name, "create", "-s", "-P", "master")
	r.StartKDC()
	tb.Cleanup(r.StopKDC)
	return r
}

const krb5Conf = `[libdefaults]
 default_realm = %s
 dns_lookup_kdc = false
 dns_lookup_realm = false
 rdns = false
 dns_canonicalize_hostname = false
 udp_preference_limit = 1465
 allow_weak_crypto = true
 allow_rc4 = true
%s
[realms]
 %s = {
  kdc = %s
 }
`

const kdcConf = `[kdcdefaults]
 kdc_listen = %s
 kdc_tcp_listen = %s
[realms]
 %s = {
  database_name = DIR/principal
  key_stash_file = DIR/stash
  acl_file = DIR/acl
  max_life = 10h
  supported_enctypes = aes256-cts-hmac-sha384-192:normal aes128-cts-hmac-sha256-128:normal aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
 }
[logging]
 kdc = FILE:DIR/kdc.log
`

// freeAddr returns a loopback address with a port that is free for UDP and TCP,
// below those that the system gives to connections, so that none takes it
// before the KDC does.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err != nil {
			continue
		}
		u.Close()
		return addr
	}
	tb.Fatal("no free port")
	return ""
}

func (r *Realm) write(name, content string) {
	r.tb.Helper()
	if err := os.WriteFile(filepath.Join(r.Dir, name), []byte(content), 0o600); err != nil {
		r.tb.Fatal(err)
	}
}

// Env returns the environment for programs that shall use this realm.
func (r *Realm) Env() []string {
	return append(os.Environ(), "KRB5_CONFIG="+r.Conf, "KRB5_KDC_PROFILE="+filepath.Join(r.Dir, "kdc.conf"),
		"KRB5CCNAME="+filepath.Join(r.Dir, "ccache"), "KRB5RCACHENAME=dfl:", "KRB5RCACHEDIR="+r.Dir)
}

// command finds the administrators' programs, which are not in every PATH.
func (r *Realm) command(name string, args ...string) *exec.Cmd {
	if path, err := exec.LookPath(name); err == nil {
		name = path
	} else {
		name = filepath.Join("/usr/sbin", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = r.Env()
	return cmd
}

func (r *Realm) run(name string, args ...string) {
	r.tb.Helper()
	if out, err := r.command(name, args...).CombinedOutput(); err != nil {
		r.tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// Admin runs one command of kadmin.local.
func (r *Realm) Admin(query string) {
	r.tb.Helper()
	r.run("kadmin.local", "-r", r.Name, "-q", query)
}

// Add makes a principal with random keys of these encryption types (names of
// MIT, with commas; empty: all). Its tickets' session keys are of the first.
func (r *Realm) Add(principal, etypes string) {
	r.tb.Helper()
	if etypes == "" {
		r.Admin("addprinc -randkey " + principal)
		return
	}
	first, _, _ := strings.Cut(etypes, ",")
	r.Admin("addprinc -randkey -e " + salted(etypes) + " " + principal)
	r.Admin("setstr " + principal + " session_enctypes " + first)
}

func salted(etypes string) string {
	return `"` + strings.ReplaceAll(etypes, ",", ":normal,") + `:normal"`
}

// Rekey gives a principal new keys under the next version.
func (r *Realm) Rekey(principal string) {
	r.tb.Helper()
	r.Admin("cpw -randkey " + principal)
}

// Keytab writes the principals' present keys into a file of this name and
// returns its path. Keys already in the file stay.
func (r *Realm) Keytab(name string, principals ...string) string {
	r.tb.Helper()
	path := filepath.Join(r.Dir, name)
	r.Admin("ktadd -norandkey -k " + path + " " + strings.Join(principals, " "))
	return path
}

// StartKDC starts the KDC and waits until it answers.
func (r *Realm) StartKDC() {
	r.tb.Helper()
	r.kdc = r.command("krb5kdc", "-n", "-r", r.Name, "-P", filepath.Join(r.Dir, "kdc.pid"))
	if err := r.kdc.Start(); err != nil {
		r.tb.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", r.Addr); err == nil {
			c.Close()
			return
		}
	}
	r.tb.Fatal("krb5kdc does not listen")
}

// StopKDC stops the KDC.
func (r *Realm) StopKDC() {
	if r.kdc == nil {
		return
	}
	r.kdc.Process.Kill()
	r.kdc.Wait()
	r.kdc = nil
}
