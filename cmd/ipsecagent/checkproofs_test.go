package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/keytab"
	"go.etcd.io/bbolt"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// policyWith writes the predefined policy 'server' under another name, with one
// authentication method for all rules.
func policyWith(t *testing.T, dir, name string, m policy.AuthMethod) {
	t.Helper()
	p, ok := policy.Predefined("server")
	if !ok {
		t.Fatal("server is not predefined")
	}
	p = policy.WithAuthentication(p, []policy.AuthMethod{m})
	p.Name = name
	doc, err := file.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "policies.d", name+".yaml"), string(doc))
}

// proofFolders is folders with certificates and a key table of the test's own.
func proofFolders(t *testing.T, dir string) []string {
	t.Helper()
	write(t, filepath.Join(dir, "agent.yaml"), fmt.Sprintf("certificates: {dir: %s/certificates}\nkerberos: {keytab: %s/krb5.keytab, krb5conf: %s/krb5.conf}\n", dir, dir, dir))
	return append(folders(dir), "--check")
}

// assigned writes a state file by which a policy is assigned.
func assigned(t *testing.T, dir, document string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, "state", "state.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("state"))
		if err != nil {
			return err
		}
		return b.Put([]byte("assigned"), []byte(document))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// keyTable writes a key table; its principals have keys of the encryption type.
func keyTable(t *testing.T, dir string, etype int32, principals ...string) {
	t.Helper()
	kt := keytab.New()
	for _, p := range principals {
		if err := kt.AddEntry(p, "EXAMPLE.ORG", "secret", time.Unix(1e9, 0), 1, etype); err != nil {
			t.Fatal(err)
		}
	}
	b, err := kt.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "krb5.keytab"), string(b))
}

func TestCheckNamesWhatPoliciesLack(t *testing.T) {
	dir := t.TempDir()
	args := proofFolders(t, dir)
	policyWith(t, dir, "paper", policy.AuthMethod{Kind: policy.Certificate, CA: "CN=Nowhere,O=Bank"})
	policyWith(t, dir, "realm", policy.AuthMethod{Kind: policy.Kerberos})
	out, stderr, code := run(t, args...)
	if code != 0 || !strings.Contains(out, "2 policies") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	for _, want := range []string{
		`policy "paper": rule`, `"CN=Nowhere,O=Bank" of the rule has no certificate on this host`, filepath.Join(dir, "certificates", "ca"),
		`policy "realm": rule`, "krb5.keytab",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it does not say %q:\n%s", want, stderr)
		}
	}
}

func TestAnAssignedPolicyThatCanSecureNothingIsAnError(t *testing.T) {
	dir := t.TempDir()
	args := proofFolders(t, dir)
	policyWith(t, dir, "paper", policy.AuthMethod{Kind: policy.Certificate, CA: "CN=Nowhere,O=Bank"})
	for document, want := range map[string]string{
		`{"name":"paper"}`:                    `policy "paper": rule`,
		`{"name":"client","auth":"kerberos"}`: `policy "client": the default response rule can secure nothing on this host`,
		`{"name":"gone"}`:                     `the policy in use is not checked`,
	} {
		os.RemoveAll(filepath.Join(dir, "state"))
		assigned(t, dir, document)
		out, stderr, code := run(t, args...)
		if code != int(control.Invalid) || out != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, it does not say %q:\n%s%s", document, code, want, out, stderr)
		}
	}
	os.RemoveAll(filepath.Join(dir, "state"))
	assigned(t, dir, `{"name":"paper","auth":"psk-file"}`)
	if _, stderr, code := run(t, args...); code != 0 || !strings.Contains(stderr, `policy "paper"`) {
		t.Errorf("assigned by another method: exit code %d\n%s", code, stderr)
	}
}

func TestCheckCountsWhatThisHostProvesItselfBy(t *testing.T) {
	dir := t.TempDir()
	args := proofFolders(t, dir)
	certificateOf(t, filepath.Join(dir, "certificates"), time.Now().Add(900*time.Hour))
	keyTable(t, dir, 18, "host/a.example.org", "A$")
	out, stderr, code := run(t, args...)
	if code != 0 || stderr != "" || !strings.Contains(out, "1 certificate of this host, 1 authority, 0 revocation lists, 2 principals in the key table") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	policyWith(t, dir, "realm", policy.AuthMethod{Kind: policy.Kerberos})
	if _, stderr, _ := run(t, args...); stderr != "" {
		t.Errorf("with a policy that the key table serves: %s", stderr)
	}
	write(t, filepath.Join(dir, "krb5.keytab"), "no key table")
	if _, stderr, _ := run(t, args...); !strings.Contains(stderr, `policy "realm"`) || !strings.Contains(stderr, "cannot be used") {
		t.Errorf("with a damaged key table: %s", stderr)
	}
	keyTable(t, dir, 18, "someone")
	if _, stderr, _ := run(t, args...); !strings.Contains(stderr, `policy "realm"`) {
		t.Errorf("with a key table without a key of this host: %s", stderr)
	}
}

func TestASettingsFileThatIsNamedMustBeThere(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.yaml")
	for _, args := range [][]string{{"--check"}, {}, {"datapath"}, {"holder"}} {
		_, stderr, code := run(t, append(args, append(folders(dir), "--config", missing)...)...)
		if code != int(control.Invalid) || !strings.Contains(stderr, missing) {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
}

// TestCheckBesideAnAgentOnAnotherSocket: its state file is its own.
func TestCheckBesideAnAgentOnAnotherSocket(t *testing.T) {
	dir := t.TempDir()
	args := proofFolders(t, dir)
	assigned(t, dir, `{"name":"client"}`)
	db, err := bbolt.Open(filepath.Join(dir, "state", "state.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, stderr, code := run(t, args...)
	if code != 0 || !strings.Contains(stderr, "a running agent uses the file") || !strings.Contains(stderr, "agent.sock") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
