package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ipsecagent/policy/file"
)

// The folder as ipsecctl apply and rollback change it: one document a policy.

// documentPath returns where the folder holds the policy of that name, or would,
// and whether it does. A file of that name with another policy is in the way.
func documentPath(dir, name string) (path string, there bool, err error) {
	entries, err := policyFiles(dir)
	if err != nil {
		return "", false, err
	}
	for _, e := range entries {
		if e.Policy != nil && e.Policy.Name == name {
			return e.Path, true, nil
		}
	}
	path = filepath.Join(dir, name+".yaml")
	for _, e := range entries {
		switch {
		case e.Path != path:
		case e.Err != nil:
			return path, true, nil
		case e.Shared != nil:
			return "", false, fmt.Errorf("%s is in the way: it holds lists and actions for policies; rename it, or the policy", path)
		default:
			return "", false, fmt.Errorf("%s is in the way: it holds the policy %q; rename it, or the policy", path, e.Policy.Name)
		}
	}
	return path, false, nil
}

// readDocument returns the text of the policy of that name, and its file.
func readDocument(dir, name string) ([]byte, string, error) {
	path, there, err := documentPath(dir, name)
	if err != nil {
		return nil, "", err
	}
	if !there {
		return nil, "", fmt.Errorf("%s holds no policy %q: %w", dir, name, fs.ErrNotExist)
	}
	text, err := os.ReadFile(path)
	return text, path, err
}

// saveDocument makes text that of the policy of that name; the same text again
// leaves the file alone.
func saveDocument(dir, name string, text []byte) (string, error) {
	former, path, err := readDocument(dir, name)
	switch {
	case err == nil && string(former) == string(text):
		return path, nil
	case errors.Is(err, fs.ErrNotExist):
		path, _, err = documentPath(dir, name)
	}
	if err != nil {
		return "", err
	}
	return path, file.Replace(path, text)
}
