package dirtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Names of the tree that StartSlapd serves.
const (
	SlapdBase  = "dc=example,dc=org"
	SlapdAdmin = "cn=admin,dc=example,dc=org"
	SlapdName  = "localhost" // of the server, as its certificate and its ticket have it
)

// Slapd is a running OpenLDAP server, on ports of the loopback address. It needs
// no privileges.
type Slapd struct {
	Dir       string
	Port, TLS uint16
	CA        string // certificate of its authority
	cmd       *exec.Cmd
	env       []string
	net       *Namespace
}

// SlapdConfig is what a server is made of.
type SlapdConfig struct {
	Schema   string     // more classes, in the form of slapd.conf
	LDIF     string     // the first entries
	Options  []string   // more lines of slapd.conf, before the database
	Database []string   // and at its end
	Access   []string   // rules of access that go before its own
	Env      []string   // as KRB5_KTNAME
	Net      *Namespace // nil: that of the caller
}

// StartSlapd serves a new tree until Close.
func StartSlapd(dir string, c SlapdConfig) (*Slapd, error) {
	s := &Slapd{Dir: dir, CA: filepath.Join(dir, "ca.pem"), env: c.Env, net: c.Net}
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o700); err != nil {
		return nil, err
	}
	if err := writeCertificates(dir, SlapdName); err != nil {
		return nil, err
	}
	conf := strings.NewReplacer("DIR", dir, "OPTIONS", strings.Join(c.Options, "\n"), "DATABASE", strings.Join(c.Database, "\n"), "ACCESS", strings.Join(c.Access, "\n")).Replace(slapdConf)
	for name, text := range map[string]string{"slapd.conf": conf, "more.schema": c.Schema, "first.ldif": slapdFirst + c.LDIF} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if out, err := exec.Command("/usr/sbin/slapadd", "-q", "-f", filepath.Join(dir, "slapd.conf"), "-l", filepath.Join(dir, "first.ldif")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("dirtest: slapadd: %w: %s", err, out)
	}
	var err error
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	if s.TLS, err = freePort(); err != nil {
		return nil, err
	}
	if err := s.Start(); err != nil {
		s.Close()
		return nil, fmt.Errorf("dirtest: start slapd: %w", err)
	}
	return s, nil
}

const slapdConf = `include /etc/ldap/schema/core.schema
include DIR/more.schema
pidfile DIR/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload syncprov
TLSCACertificateFile DIR/ca.pem
TLSCertificateFile DIR/cert.pem
TLSCertificateKeyFile DIR/key.pem
OPTIONS
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw secret
directory DIR/db
maxsize 67108864
index objectClass,entryCSN,entryUUID,cn,member eq
overlay syncprov
syncprov-checkpoint 10 1
syncprov-sessionlog 100
DATABASE
ACCESS
access to attrs=userPassword by anonymous auth
access to * by users read by anonymous auth
`

const slapdFirst = `dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

`

func freePort() (uint16, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

// Start starts the server again, after Stop.
func (s *Slapd) Start() error {
	dial, command := (&net.Dialer{}).DialContext, exec.Command
	if s.net != nil {
		dial, command = s.net.Dial, s.net.Command
	}
	s.cmd = command("/usr/sbin/slapd", "-d", "0", "-f", filepath.Join(s.Dir, "slapd.conf"),
		"-h", fmt.Sprintf("ldap://127.0.0.1:%d/ ldaps://127.0.0.1:%d/", s.Port, s.TLS))
	s.cmd.Env = append(os.Environ(), s.env...)
	var words bytes.Buffer
	s.cmd.Stderr = &words
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := dial(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", s.TLS)); err == nil {
			c.Close()
			return nil
		}
	}
	s.Stop()
	return fmt.Errorf("slapd does not listen: %s", words.String())
}

// Stop kills the server.
func (s *Slapd) Stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// Close ends everything. The folder stays.
func (s *Slapd) Close() { s.Stop() }

// TestSchema loads a schema in LDIF into a new configuration database below dir,
// after those that come with the server.
func TestSchema(dir, schema string) error {
	config := filepath.Join(dir, "slapd.d")
	if err := os.Mkdir(config, 0o700); err != nil {
		return err
	}
	first := filepath.Join(dir, "config.ldif")
	text := "dn: cn=config\nobjectClass: olcGlobal\ncn: config\n\ndn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n\ninclude: file:///etc/ldap/schema/core.ldif\n\ninclude: file://" + schema + "\n"
	if err := os.WriteFile(first, []byte(text), 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("/usr/sbin/slapadd", "-F", config, "-n", "0", "-l", first).CombinedOutput(); err != nil {
		return fmt.Errorf("dirtest: slapadd: %w: %s", err, out)
	}
	return nil
}
