package dirtest

import (
	"bufio"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed ad.py
var adScript string

// Names of the domain that StartAD makes.
const (
	Realm  = "EXAMPLE.TEST"
	Domain = "example.test"
	Base   = "DC=example,DC=test"
	DC     = "dc1.example.test"
)

// AD is a running domain controller of Samba in a network namespace of its own,
// on its loopback address.
type AD struct {
	Dir  string
	Conf string // krb5.conf
	CA   string // certificate of the authority of the controller's TLS
	Net  *Namespace
	// Model is how Samba makes processes, from the next Start on; "": single.
	Model string

	address string
	server  *exec.Cmd
	tool    *exec.Cmd
	ask     *json.Encoder
	answer  *bufio.Scanner
}

// Loopback is an address of a controller whose clients all reach it by Dial.
const Loopback = "127.0.0.1"

// StartAD provisions a domain in a folder and serves it at an IPv4 address, in a
// network namespace of its own, until Close.
func StartAD(dir, address string) (*AD, error) {
	d := &AD{Dir: dir, address: address, Conf: filepath.Join(dir, "krb5.conf"), CA: filepath.Join(dir, "tls/ca.pem")}
	err := d.prepare()
	if err == nil {
		d.Net, err = NewNamespace()
	}
	if err == nil && address != Loopback {
		err = exec.Command("ip", "-n", d.Net.Name(), "addr", "add", address+"/32", "dev", "lo").Run()
	}
	if err == nil {
		err = d.provision()
	}
	if err == nil {
		err = d.Start()
	}
	if err == nil {
		err = d.Do("keytab", "Administrator", "administrator.keytab")
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("dirtest: start a domain: %w", err)
	}
	return d, nil
}

func (d *AD) smbConf() string { return filepath.Join(d.Dir, "smb.conf") }

// prepare writes the files that the domain begins with.
func (d *AD) prepare() error {
	for _, sub := range strings.Fields("private state cache lock run ncalrpc winbindd ntp bind log tls") {
		if err := os.MkdirAll(filepath.Join(d.Dir, sub), 0o755); err != nil {
			return err
		}
	}
	for path, text := range map[string]string{
		d.smbConf():                   strings.ReplaceAll(smbConf, "DIR", d.Dir),
		d.Conf:                        strings.ReplaceAll(krb5Conf, "ADDRESS", d.address),
		filepath.Join(d.Dir, "ad.py"): adScript,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return writeCertificates(filepath.Join(d.Dir, "tls"), DC)
}

const smbConf = `[global]
 netbios name = DC1
 workgroup = EXAMPLE
 realm = EXAMPLE.TEST
 server role = active directory domain controller
 server services = ldap cldap kdc rpc dns
 interfaces = lo
 bind interfaces only = yes
 dns forwarder =
 private dir = DIR/private
 state directory = DIR/state
 cache directory = DIR/cache
 lock directory = DIR/lock
 pid directory = DIR/run
 ncalrpc dir = DIR/ncalrpc
 winbindd socket directory = DIR/winbindd
 ntp signd socket directory = DIR/ntp
 binddns dir = DIR/bind
 log file = DIR/log/log.%m
 tls keyfile = DIR/tls/key.pem
 tls certfile = DIR/tls/cert.pem
 tls cafile = DIR/tls/ca.pem
[sysvol]
 path = DIR/state/sysvol
 read only = no
[netlogon]
 path = DIR/state/sysvol/example.test/scripts
 read only = no
`

const krb5Conf = `[libdefaults]
 default_realm = EXAMPLE.TEST
 dns_lookup_kdc = false
 rdns = false
[realms]
 EXAMPLE.TEST = {
  kdc = ADDRESS
 }
`

// provision makes the domain and keeps the program that changes it.
func (d *AD) provision() error {
	d.tool = exec.Command("/usr/bin/python3", filepath.Join(d.Dir, "ad.py"), d.smbConf(), Realm, d.address)
	log, err := os.Create(filepath.Join(d.Dir, "log/provision"))
	if err != nil {
		return err
	}
	defer log.Close()
	d.tool.Stderr = log
	in, err := d.tool.StdinPipe()
	if err != nil {
		return err
	}
	out, err := d.tool.StdoutPipe()
	if err != nil {
		return err
	}
	d.ask, d.answer = json.NewEncoder(in), bufio.NewScanner(out)
	if err := d.tool.Start(); err != nil {
		return err
	}
	_, err = d.read()
	return err
}

// read reads one answer of the program.
func (d *AD) read() (string, error) {
	if !d.answer.Scan() {
		words, _ := os.ReadFile(filepath.Join(d.Dir, "log/provision"))
		return "", fmt.Errorf("ad.py has ended: %s", words)
	}
	var got struct{ Error, Value string }
	if err := json.Unmarshal(d.answer.Bytes(), &got); err != nil {
		return "", err
	}
	if got.Error != "" {
		return "", errors.New(got.Error)
	}
	return got.Value, nil
}

// Do has the domain changed from within, where no access control counts. The
// commands are those of ad.py.
func (d *AD) Do(command string, with ...string) error {
	_, err := d.Ask(command, with...)
	return err
}

// Ask is Do that returns the answer.
func (d *AD) Ask(command string, with ...string) (string, error) {
	if err := d.ask.Encode(map[string]any{"do": command, "with": with}); err != nil {
		return "", err
	}
	v, err := d.read()
	if err != nil {
		return "", fmt.Errorf("dirtest: %s %v: %w", command, with, err)
	}
	return v, nil
}

// Host makes the account of a computer below an entry and returns the path of
// its keytab.
func (d *AD) Host(name, below string) (string, error) {
	file := name + ".keytab"
	dns := name + "." + Domain
	err := d.Do("computer", name, below, dns)
	if err == nil {
		err = d.Do("keytab", strings.ToUpper(name)+"$", file)
	}
	return filepath.Join(d.Dir, file), err
}

// Hosts makes the accounts of n computers h00000, h00001, … below an entry, in one
// transaction, and returns the path of a keytab that has the keys of all accounts
// of the domain.
func (d *AD) Hosts(n int, below string) (string, error) {
	err := d.Do("computers", strconv.Itoa(n), below)
	if err == nil {
		err = d.Do("keytab", "", "all.keytab")
	}
	return filepath.Join(d.Dir, "all.keytab"), err
}

// Administrator returns the path of the administrator's keytab.
func (d *AD) Administrator() string { return filepath.Join(d.Dir, "administrator.keytab") }

// Start starts the server again, after Stop.
func (d *AD) Start() error {
	cmd := d.Net.Command("/usr/sbin/samba", "-s", d.smbConf(), "-F", "--no-process-group", "-M", cmp.Or(d.Model, "single"))
	log, err := os.OpenFile(filepath.Join(d.Dir, "log/samba"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	d.server = cmd
	if err := d.Net.Await("127.0.0.1:389", "127.0.0.1:88", "127.0.0.1:53"); err != nil {
		return err
	}
	if d.tool == nil {
		return nil
	}
	// The names by which clients know the services.
	if out, err := d.Net.Command("/usr/sbin/samba_spnupdate", "-s", d.smbConf()).CombinedOutput(); err != nil {
		return fmt.Errorf("samba_spnupdate: %w: %s", err, out)
	}
	return nil
}

// Stop kills the server.
func (d *AD) Stop() {
	if d.server != nil {
		d.server.Process.Kill()
		d.server.Wait()
		d.server = nil
	}
}

// Close ends everything. The folder stays.
func (d *AD) Close() {
	d.Stop()
	if d.tool != nil && d.tool.Process != nil {
		d.tool.Process.Kill()
		d.tool.Wait()
	}
	if d.Net != nil {
		d.Net.Close()
	}
}

// writeCertificates makes an authority and a server's certificate.
func writeCertificates(dir, name string) error {
	ca, caKey, err := certificate(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	if err != nil {
		return err
	}
	cert, key, err := certificate(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, caKey)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", ca.Raw),
		writePEM(filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert.Raw),
		writePEM(filepath.Join(dir, "key.pem"), "PRIVATE KEY", pkcs8))
}

func certificate(template, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if ca == nil {
		ca, caKey = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return cert, key, err
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// Resolver asks the name server of the domain.
func (d *AD) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: d.Net.dialAlways("127.0.0.1:53")}
}
