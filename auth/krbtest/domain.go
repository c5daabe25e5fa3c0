package krbtest

import (
	_ "embed"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed domain.py
var domainScript string

// Domain is a running Samba domain controller, of which only the KDC is
// served: its tickets have a PAC, as those of Windows.
type Domain struct {
	Dir  string
	Conf string // krb5.conf
	Addr string // address and port of the KDC
}

// StartDomain makes a domain with member hosts and serves its KDC until the
// test ends. Hosts are "DNS-NAME:ENCTYPES" (msDS-SupportedEncryptionTypes: 24
// is AES, 4 is RC4).
func StartDomain(tb testing.TB, realm string, hosts ...string) *Domain {
	tb.Helper()
	d := &Domain{Dir: tb.TempDir(), Addr: freeAddr(tb)}
	_, port, err := net.SplitHostPort(d.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	_, kpasswd, err := net.SplitHostPort(freeAddr(tb))
	if err != nil {
		tb.Fatal(err)
	}
	smb := filepath.Join(d.Dir, "smb.conf")
	d.Conf = filepath.Join(d.Dir, "krb5.conf")
	script := filepath.Join(d.Dir, "domain.py")
	for _, sub := range strings.Fields("private state cache lock run ncalrpc winbindd ntp bind") {
		if err := os.Mkdir(filepath.Join(d.Dir, sub), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		smb: strings.NewReplacer("DIR", d.Dir, "REALM", realm, "WORKGROUP", strings.Split(realm, ".")[0],
			"KPASSWD", kpasswd, "KDC", port).Replace(smbConf),
		d.Conf: strings.NewReplacer("REALM", realm, "ADDR", d.Addr).Replace(memberConf),
		script: domainScript,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	if out, err := exec.Command("/usr/bin/python3", append([]string{script, smb, realm}, hosts...)...).CombinedOutput(); err != nil {
		tb.Fatalf("domain.py: %v\n%s", err, out)
	}
	d.serve(tb, smb)
	return d
}

const smbConf = `[global]
 netbios name = DC1
 workgroup = WORKGROUP
 realm = REALM
 server role = active directory domain controller
 server services = kdc
 interfaces = lo
 bind interfaces only = yes
 krb5 port = KDC
 kpasswd port = KPASSWD
 private dir = DIR/private
 state directory = DIR/state
 cache directory = DIR/cache
 lock directory = DIR/lock
 pid directory = DIR/run
 ncalrpc dir = DIR/ncalrpc
 winbindd socket directory = DIR/winbindd
 ntp signd socket directory = DIR/ntp
 binddns dir = DIR/bind
 log file = DIR/log
[sysvol]
 path = DIR/state/sysvol
 read only = no
[netlogon]
 path = DIR/state/sysvol/scripts
 read only = no
`

const memberConf = `[libdefaults]
 default_realm = REALM
 dns_lookup_kdc = false
[realms]
 REALM = {
  kdc = ADDR
 }
`

// Keytab returns the path of a host's keytab.
func (d *Domain) Keytab(host string) string { return filepath.Join(d.Dir, host+".keytab") }

func (d *Domain) serve(tb testing.TB, smb string) {
	tb.Helper()
	cmd := exec.Command("/usr/sbin/samba", "-s", smb, "-F", "--no-process-group", "-M", "single")
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", d.Addr); err == nil {
			c.Close()
			return
		}
	}
	tb.Fatal("samba does not listen")
}
