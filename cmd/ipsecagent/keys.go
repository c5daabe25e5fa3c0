package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ipsecagent/auth/psk"
)

// keys is the preshared keys of this host: the secrets folder and what is in
// force of it.
type keys struct {
	dir      string
	assigned string // the file of 'ipsecctl assign --auth'
	method   *psk.Authenticator
	turn     chan struct{} // one token: the folder is read or written by one
}

func newKeys(s *settings) *keys {
	k := &keys{dir: s.SecretsDir, assigned: s.assignedKeys(), method: psk.New(nil), turn: make(chan struct{}, 1)}
	k.turn <- struct{}{}
	return k
}

// missing says why there is no preshared key of that name; "": there is.
func (k *keys) missing(name string) string {
	if k.method.Has(name) {
		return ""
	}
	what := "preshared key"
	if name != "" {
		what += fmt.Sprintf(" %q", name)
	}
	return fmt.Sprintf("%s holds no %s: write it there and reload", k.dir, what)
}

// load puts the keys of the folder in force and returns what is weak about
// them. After an error the keys so far stay in force.
func (k *keys) load() (warnings []string, err error) {
	<-k.turn
	defer func() { k.turn <- struct{}{} }()
	return k.read()
}

func (k *keys) read() (warnings []string, err error) {
	ring, err := psk.Load(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no folder, no keys
	}
	if err != nil {
		return nil, err
	}
	k.method.Replace(ring)
	return ring.Warnings(), nil
}

// set keeps the text of a preshared-key file in the folder and puts it in
// force. If it is not valid, beside the other files too, nothing changes.
func (k *keys) set(text string) (warnings []string, err error) {
	if _, err := psk.Parse("the key file", []byte(text)); err != nil {
		return nil, err
	}
	<-k.turn
	defer func() { k.turn <- struct{}{} }()
	old, err := os.ReadFile(k.assigned)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the keys assigned before: %w", err)
	}
	if err := k.write([]byte(text)); err != nil {
		return nil, err
	}
	warnings, err = k.read()
	if err != nil {
		return nil, errors.Join(err, k.restore(old))
	}
	return warnings, nil
}

// restore puts the keys assigned before back; nil: there were none.
func (k *keys) restore(old []byte) error {
	if old == nil {
		return os.Remove(k.assigned)
	}
	return k.write(old)
}

// write replaces the file of assigned keys: whole or not at all.
func (k *keys) write(text []byte) error {
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	// Hidden: not read as keys while it is half-written. Mode 0600.
	f, err := os.CreateTemp(k.dir, ".assigned-*")
	if err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	if err := os.Rename(f.Name(), k.assigned); err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	return syncFolder(filepath.Dir(k.assigned))
}

// syncFolder makes a rename last through a power cut.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	return nil
}
