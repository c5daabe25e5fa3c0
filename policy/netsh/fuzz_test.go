package netsh_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/netsh"
)

// ownWords matches what Windows does not know in a script, comments aside.
func ownWords() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^[^#\n].*( (icmptype|icmpcode|cleardelay|uplift|pskname|acceptprincipal)=|=modern| qmpfs=[em]|["+ ](esp|ah)-[a-z0-9]|-(sha1|sha256|md5)-)`)
}

// FuzzRun: no script makes it panic, and what a script has made can be written
// and read again.
func FuzzRun(f *testing.F) {
	scripts, _ := filepath.Glob("testdata/*.script")
	for _, path := range scripts {
		if script, err := os.ReadFile(path); err == nil {
			f.Add(script)
		}
	}
	for line := range refused(f) {
		if len(line) < 1000 {
			f.Add([]byte(line))
		}
	}
	f.Add([]byte("\xff\xfea\x00d\x00d\x00"))
	f.Add([]byte("restorepolicyexamples release=win2k\nshow all"))
	f.Fuzz(func(t *testing.T, script []byte) {
		r := netsh.Run(policy.Store{}, script)
		first, _ := netsh.Write(r.Store)
		once := netsh.Run(policy.Store{}, first)
		if len(once.Problems) > 0 {
			t.Fatalf("%v\n%s", once.Problems, first)
		}
		second, _ := netsh.Write(once.Store)
		twice := netsh.Run(policy.Store{}, second)
		if !reflect.DeepEqual(once.Store, twice.Store) {
			t.Fatalf("%s\nis read as\n%s", first, second)
		}
	})
}

// Every line cut short is executed whole or not at all.
func TestEveryPrefix(t *testing.T) {
	for _, line := range []string{
		`netsh ipsec static add filter filterlist="web" srcaddr=me dstaddr=10.0.0.0 dstmask=255.0.0.0 protocol=tcp srcport=80-90 mirrored=no description="it's \'web\'"`,
		`add filteraction name="x y" inpass=yes soft=yes qmpfs=no action=negotiate qmsecmethods="AH[SHA1]+ESP[3DES,MD5]:100000k/3600s esp-aes256gcm"`,
		`add rule name=r policy=first filterlist=web filteraction=secure tunnel=192.0.2.1 conntype=lan psk="long enough" rootca="CN=x,O=y certmap:yes"`,
	} {
		for i := range line {
			s := base(t)
			r, err := netsh.Exec(s, line[:i])
			if err != nil {
				same(t, r.Store, s)
			}
		}
	}
}
