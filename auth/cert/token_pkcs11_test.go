//go:build pkcs11

package cert

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ipsecagent/auth"
)

// module is SoftHSM's library, as Debian installs it.
const module = "/usr/lib/softhsm/libsofthsm2.so"

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// TestKeysOnAToken imports the keys of two certificates into a token and proves
// itself by each, without any key in a file.
func TestKeysOnAToken(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	write(t, conf, []byte("directories.tokendir = "+dir+"\n"), 0o600)
	t.Setenv("SOFTHSM2_CONF", conf)
	command(t, "softhsm2-util", "--init-token", "--free", "--label", "host keys", "--pin", "1234", "--so-pin", "4321")
	root := newAuthority(t, "Root", nil)
	store := storeOf(t, []*entity{root})
	write(t, filepath.Join(dir, "pin"), []byte("1234\n"), 0o600)
	for i, m := range []auth.Method{auth.RSA, auth.ECDSA256} {
		host := newHost(t, "host.example", root, m)
		file := filepath.Join(dir, "key.pem")
		write(t, file, keyPEM(t, host), 0o600)
		label := fmt.Sprintf("key %d", i)
		command(t, "softhsm2-util", "--import", file, "--token", "host keys", "--label", label, "--id", fmt.Sprintf("0%d", i+1), "--pin", "1234")
		os.Remove(file)
		uri := fmt.Sprintf("pkcs11:token=host%%20keys;object=key%%20%d?module-path=%s&pin-source=file:%s/pin\n", i, module, dir)
		own := filepath.Join(store.dir, dirOwn, fmt.Sprint(i))
		write(t, own+".pem", certPEM(host), 0o644)
		write(t, own+".pkcs11", []byte(uri), 0o600)
	}
	k := newKeeper(t, store, Settings{})
	for range 2 { // the second time, sessions are there already
		if err := k.Reload(); err != nil {
			t.Fatal(err)
		}
		for _, m := range []auth.Method{auth.RSA, auth.ECDSA256} {
			me := side{k, under(m, root)}
			if _, _, err := exchange(me, me); err != nil {
				t.Errorf("%v: %v", m, err)
			}
		}
	}
}
