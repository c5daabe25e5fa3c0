package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"ipsecagent/auth/psk"
	"ipsecagent/policy"
)

// secretsDir is where the preshared keys of a host lie.
const secretsDir = "/etc/ipsecagent/secrets.d"

// maxKeyName is how long the name of a key may be, in bytes.
const maxKeyName = 64

// nameKeys gives the keys names that a file of secrets can hold and that mean
// no other key there, and has the rules follow.
func (i *imported) nameKeys(secrets string) error {
	ring, err := keyring(secrets)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for k := range i.keys {
		key := &i.keys[k]
		other := func(word string) bool {
			return slices.Contains(slices.Collect(maps.Values(names)), word) || ring.Has(word) && !ring.Holds(word, key.text)
		}
		word := keyWord(key.name, other)
		names[key.name], key.name = word, word
	}
	for p := range i.store.Policies {
		eachAuth(&i.store.Policies[p], func(a *policy.AuthMethod) {
			if name, ok := names[a.Key]; ok && a.Key != "" {
				a.Key = name
			}
		})
	}
	return nil
}

// keyring reads the secrets folder; none, and one that is not there, is empty.
func keyring(dir string) (*psk.Keyring, error) {
	if dir == "" {
		return &psk.Keyring{}, nil
	}
	ring, err := psk.Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &psk.Keyring{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("nothing is changed; the secrets folder has to be right first: %w", err)
	}
	return ring, nil
}

// keyWord makes a name of letters, digits and dashes that is not taken.
func keyWord(name string, taken func(string) bool) string {
	var b strings.Builder
	for _, c := range name {
		switch {
		case b.Len() > maxKeyName-8: // room for a number
		case unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("_.", c):
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	base := strings.Trim(b.String(), "-")
	if base == "" {
		base = "key"
	}
	word := base
	for n := 2; taken(word); n++ {
		word = fmt.Sprintf("%s-%d", base, n)
	}
	return word
}

// storeKeys writes keys to a new file of secrets, or says what is to be done
// where there is no folder for them. A key that is there already stays as it
// is.
func (e *env) storeKeys(o importOptions, keys []importedKey) error {
	if len(keys) == 0 {
		return nil
	}
	if o.secrets == "" || o.dryRun {
		return e.print(func(p *printer) {
			p.line("Preshared keys, to be stored in a secrets folder (--secrets FOLDER does it): %s", strings.Join(keyNames(keys), ", "))
		})
	}
	ring, err := keyring(o.secrets)
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(k importedKey) bool { return ring.Holds(k.name, k.text) })
	if len(keys) == 0 {
		return nil
	}
	data, err := keyDocument(keys)
	if err != nil {
		return err
	}
	defer clear(data)
	path, err := writeKeys(o.secrets, data)
	if err != nil {
		return err
	}
	return e.print(func(p *printer) { p.line("Made %s: preshared keys %s.", path, strings.Join(keyNames(keys), ", ")) })
}

func keyNames(keys []importedKey) []string {
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	return names
}

// keyDocument writes the keys as auth/psk reads them, which has to accept
// them.
func keyDocument(keys []importedKey) ([]byte, error) {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, k := range keys {
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
			scalar("name"), quoted(k.name),
			scalar("keys"), {Kind: yaml.SequenceNode, Content: []*yaml.Node{quoted(string(k.text))}},
		}})
	}
	data, err := yaml.Dump(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
		scalar("apiVersion"), scalar("ipsecagent/v1"), scalar("kind"), scalar("PresharedKeys"), scalar("keys"), list,
	}}, yaml.WithLineWidth(-1))
	if err != nil {
		return nil, errors.New("a preshared key of the file cannot be written as YAML; store it by hand")
	}
	data = slices.Concat([]byte("# Imported. Its name puts this file behind others, whose keys come first.\n"), data)
	for _, k := range keys {
		if bytes.ContainsFunc(k.text, unicode.IsControl) {
			return nil, invalid("nothing is imported; preshared key %q has control characters: give both ends another one", k.name)
		}
	}
	if _, err := psk.Parse("imported keys", data); err != nil {
		return nil, invalid("nothing is imported; a preshared key cannot be stored, give both ends another one: %v", err)
	}
	return data, nil
}

func scalar(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

func quoted(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: s}
}

// writeKeys writes a new file that its owner alone can read. Its name sorts
// behind others: of keys for any peer the first counts.
func writeKeys(dir string, data []byte) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("store preshared keys: %w", err)
	}
	for n := 1; ; n++ {
		path := filepath.Join(dir, fmt.Sprintf("zz-imported-%d.yaml", n))
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("store preshared keys: %w", err)
		}
		_, err = f.Write(data)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			os.Remove(path)
			return "", fmt.Errorf("store preshared keys: %w", err)
		}
		return path, nil
	}
}
