package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// realm is a Kerberos realm whose KDC is a third host, on a wire of its own
// with each of two hosts.
type realm struct {
	t   *testing.T
	dir string
	kdc *host
}

const realmName = "BANK.EXAMPLE"

// newRealm makes a realm, joins the hosts to it and starts its KDC.
func newRealm(t *testing.T, tag string, hosts ...*host) *realm {
	t.Helper()
	r := &realm{t: t, dir: t.TempDir(), kdc: &host{t: t, ns: tag + "-k", dir: t.TempDir()}}
	exec.Command("ip", "netns", "del", r.kdc.ns).Run()
	must(t, "ip", "netns", "add", r.kdc.ns)
	t.Cleanup(r.kdc.remove)
	must(t, "ip", "-n", r.kdc.ns, "link", "set", "lo", "up")
	for i, h := range hosts {
		device := fmt.Sprintf("kdc%d", i)
		must(t, "ip", "link", "add", "kdc", "netns", h.ns, "type", "veth", "peer", "name", device, "netns", r.kdc.ns)
		must(t, "ip", "-n", h.ns, "addr", "add", fmt.Sprintf("10.78.%d.1/24", i), "dev", "kdc")
		must(t, "ip", "-n", r.kdc.ns, "addr", "add", fmt.Sprintf("10.78.%d.9/24", i), "dev", device)
		must(t, "ip", "-n", h.ns, "link", "set", "kdc", "up")
		must(t, "ip", "-n", r.kdc.ns, "link", "set", device, "up")
		h.write("krb5.conf", fmt.Sprintf("[libdefaults]\n default_realm = %s\n dns_lookup_kdc = false\n rdns = false\n[realms]\n %s = {\n  kdc = 10.78.%d.9\n }\n", realmName, realmName, i), 0o644)
	}
	r.write("kdc.conf", strings.ReplaceAll("[realms]\n "+realmName+" = {\n  database_name = DIR/principal\n  key_stash_file = DIR/stash\n  acl_file = DIR/acl\n }\n", "DIR", r.dir))
	r.write("krb5.conf", "[libdefaults]\n default_realm = "+realmName+"\n[realms]\n "+realmName+" = {\n  kdc = 127.0.0.1\n }\n")
	r.admin("kdb5_util", "create", "-s", "-P", "master")
	for i, h := range hosts {
		r.admin("kadmin.local", "-q", "addprinc -randkey "+service(i))
		r.keytab(h, service(i))
	}
	kdc := r.kdc.command(t.Context(), "krb5kdc", "-n")
	kdc.Env = r.env()
	startProcess(t, "krb5kdc", kdc)
	return r
}

// service is the principal of a host by its number.
func service(i int) string { return fmt.Sprintf("host/%c.bank.example", 'a'+i) }

func (r *realm) write(name, text string) {
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *realm) env() []string {
	return append(os.Environ(), "KRB5_CONFIG="+filepath.Join(r.dir, "krb5.conf"), "KRB5_KDC_PROFILE="+filepath.Join(r.dir, "kdc.conf"))
}

func (r *realm) admin(name string, args ...string) {
	r.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = r.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// keytab gives a host new keys of a principal; those before are no longer its.
func (r *realm) keytab(h *host, principal string) {
	r.t.Helper()
	path := filepath.Join(h.dir, "keytab")
	os.Remove(path)
	r.admin("kadmin.local", "-q", "ktadd -k "+path+" "+principal)
}

// startMember starts the agent of a host of the realm.
func startMember(h *host, i int) {
	h.t.Helper()
	h.settings = []string{fmt.Sprintf("kerberos: {keytab: %q, krb5conf: %q, principal: %q}",
		filepath.Join(h.dir, "keytab"), filepath.Join(h.dir, "krb5.conf"), service(i))}
	h.startAgent(nil)
}

// peerView is what ipsecctl why says, as far as the tests look at it.
type peerView struct {
	State    string
	Secured  []struct{ Principal, Method, Suite string }
	Failures []struct {
		Code, Hint string
		Own        bool
	}
}

func (h *host) why(peer string) (v peerView) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.mustCtl("why", peer, "-o", "json")), &v); err != nil {
		h.t.Fatal(err)
	}
	return v
}

// failedBy reports whether the last failure with a peer has one of some codes.
func (h *host) failedBy(peer string, codes ...string) bool {
	v := h.why(peer)
	for _, c := range codes {
		if len(v.Failures) > 0 && v.Failures[0].Code == c && v.Failures[0].Hint != "" {
			return true
		}
	}
	return false
}

// reaches sends until an answer comes: a first packet may wait for the
// negotiation.
func (h *host) reaches(port string, to *host) bool {
	out, _ := h.run(6*time.Second, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%s", to.v4, port))
	return strings.Contains(out, "refused") // the other kernel has answered
}

// TestKerberosNeedsNoSecretByHand: two members of a realm require security of
// each other by a predefined policy and nothing else; the KDC is reached all the
// while. A key table that does not fit is named as the reason.
func TestKerberosNeedsNoSecretByHand(t *testing.T) {
	a, b := newPair(t, "idk")
	r := newRealm(t, "idk", a, b)
	for i, h := range []*host{a, b} {
		startMember(h, i)
		h.mustCtl("assign", "secure-server")
	}
	for i, h := range []*host{a, b} {
		other := []*host{b, a}[i]
		if !h.reaches("9", other) {
			t.Errorf("%s does not reach %s: %s", h.ns, other.ns, h.mustCtl("why", other.v4))
		}
		v := h.why(other.v4)
		if v.State != "secured" || len(v.Secured) == 0 || v.Secured[0].Method != "Kerberos" || v.Secured[0].Principal != service(1-i)+"@"+realmName {
			t.Errorf("%s: %+v", h.ns, v)
		}
	}
	if out := a.mustCtl("policy", "show", "--effective"); !strings.Contains(out, "10.78.0.9:88") {
		t.Errorf("the KDC is not listed as exempt:\n%s", out)
	}
	for _, h := range []*host{a, b} {
		h.mustCtl("unassign")
	}
	good, err := os.ReadFile(filepath.Join(b.dir, "keytab"))
	if err != nil {
		t.Fatal(err)
	}
	r.keytab(b, service(1)) // the KDC has newer keys than b
	b.write("keytab", string(good), 0o600)
	a.agent.signal(t, os.Interrupt) // with its ticket
	startMember(a, 0)
	for _, h := range []*host{a, b} {
		h.mustCtl("assign", "secure-server")
	}
	a.reaches("9", b)
	eventually(t, 30*time.Second, "b says that its key table is of another version", func() bool { return b.failedBy(a.v4, "key-version") })
	eventually(t, 30*time.Second, "a says that b did not accept it", func() bool { return a.failedBy(b.v4, "authentication", "peer-refused") })
}

// TestDefaultResponseAnswersByCertificates: a client that never asks is reached
// by a server that requires, under an authority that both trust.
func TestDefaultResponseAnswersByCertificates(t *testing.T) {
	a, b := newPair(t, "idc")
	ids := newIdentities(t)["ecdsa256"]
	for i, h := range []*host{a, b} {
		ids[i].writeAgent(h)
		h.startAgent(nil, "--certificates-dir", filepath.Join(h.dir, "certificates"))
		h.mustCtl("assign", []string{"secure-server", "client"}[i], "--auth", "cert:"+ids[i].caName)
	}
	b.reaches("9", a)
	eventually(t, 20*time.Second, "the client is secured with the server", func() bool { return b.why(a.v4).State == "secured" })
	v := b.why(a.v4)
	if v.Secured[0].Principal != "CN=us,O=Peers" || !strings.Contains(v.Secured[0].Method, "ECDSA") {
		t.Errorf("%+v", v)
	}
}
