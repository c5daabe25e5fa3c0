package dirtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Clone copies a controller that is stopped into a folder of its own and serves
// it: the same names and keys, and changes that are counted on from where they
// are now. Of the two only the first can be changed from within (Do).
func (d *AD) Clone(dir string) (*AD, error) {
	c := &AD{Dir: dir, address: d.address, Conf: filepath.Join(dir, "krb5.conf"), CA: filepath.Join(dir, "tls/ca.pem")}
	err := c.copyOf(d)
	if err == nil {
		c.Net, err = NewNamespace()
	}
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("dirtest: clone a controller: %w", err)
	}
	return c, nil
}

func (d *AD) copyOf(from *AD) error {
	if out, err := exec.Command("cp", "-a", from.Dir, d.Dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.WriteFile(d.smbConf(), []byte(strings.ReplaceAll(smbConf, "DIR", d.Dir)), 0o600)
}
