package psk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Load reads the keys of a file, or of every *.yaml and *.psk of a directory
// in the order of their names, hidden ones left out. What others than its
// owner can read is refused.
// An empty directory is an empty keyring.
func Load(path string) (*Keyring, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("auth/psk: read preshared keys: %w", err)
	}
	if !info.IsDir() {
		return loadFile(path)
	}
	return loadDir(path)
}

func loadDir(path string) (*Keyring, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("auth/psk: read preshared keys: %w", err)
	}
	all := &Keyring{}
	for _, e := range entries {
		if !isKeyFile(e.Name()) {
			continue
		}
		r, err := loadFile(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		if all, err = all.merge(r); err != nil {
			return nil, err
		}
	}
	if len(all.files) == 0 {
		all.files = []string{path}
	}
	return all, nil
}

func isKeyFile(name string) bool {
	ext := filepath.Ext(name)
	return !strings.HasPrefix(name, ".") && (ext == ".yaml" || ext == ".psk")
}

func loadFile(path string) (*Keyring, error) {
	// Without waiting: the file might be a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("auth/psk: read preshared keys: %w", err)
	}
	defer f.Close()
	if err := private(f); err != nil {
		return nil, fmt.Errorf("auth/psk: refuse %s: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1)) // one more: Parse sees that it is too much
	if err != nil {
		return nil, fmt.Errorf("auth/psk: read preshared keys: %w", err)
	}
	defer clear(data)
	return Parse(path, data)
}

// private checks the open file, not its name, which could be another file a
// moment later.
func private(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("its mode %04o lets others than its owner at the keys; run: chmod 600 %s", mode, f.Name())
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && int(owner) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, who can change the keys; run: chown root %s", owner, f.Name())
	}
	return nil
}
