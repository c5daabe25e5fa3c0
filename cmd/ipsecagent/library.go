package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ipsecagent/agent"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// library is the policies folder as the agent's policies.
func library(dir string, changed <-chan struct{}) agent.Library {
	return agent.Library{
		Load:     func(name string) (*policy.Policy, string, error) { return loadPolicy(dir, name) },
		List:     func() ([]agent.Entry, error) { return listPolicies(dir) },
		Marshal:  file.Marshal,
		Parse:    file.Parse,
		Read:     func(name string, text []byte) (*policy.Policy, error) { return file.ReadIn(dir, name, text) },
		Document: func(name string) ([]byte, string, error) { return readDocument(dir, name) },
		Save:     func(name string, text []byte) (string, error) { return saveDocument(dir, name, text) },
		Changed:  changed,
	}
}

// loadPolicy returns the policy of that name. A document that does not load has
// no name but its file's: asking for that gives its errors.
func loadPolicy(dir, name string) (*policy.Policy, string, error) {
	entries, err := policyFiles(dir)
	if err != nil {
		return nil, "", err
	}
	for _, e := range entries {
		if e.Policy != nil && e.Policy.Name == name {
			return e.Policy, e.Path, nil
		}
	}
	for _, e := range entries {
		if fileName(e.Path) == name {
			return nil, "", named(e, name)
		}
	}
	return nil, "", fmt.Errorf("there is no policy %q: none is predefined, none of the %d documents in %s has the name: %w",
		name, len(entries), dir, fs.ErrNotExist)
}

// named is why the document of a file of that name is not the policy of that
// name.
func named(e file.Entry, name string) error {
	if e.Err != nil {
		return e.Err
	}
	if e.Shared != nil {
		return fmt.Errorf("%s holds lists and actions for policies and no policy: %w", e.Path, fs.ErrNotExist)
	}
	return fmt.Errorf("%s holds the policy %q: assign it by that name: %w", e.Path, e.Policy.Name, fs.ErrNotExist)
}

func fileName(path string) string {
	return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
}

// policyFiles reads the folder; one that is not there is empty.
func policyFiles(dir string) ([]file.Entry, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return file.Dir(dir)
}

func listPolicies(dir string) ([]agent.Entry, error) {
	files, err := policyFiles(dir)
	var list []agent.Entry
	for _, f := range files {
		if f.Shared != nil {
			continue
		}
		e := agent.Entry{Name: fileName(f.Path), Origin: f.Path, Err: f.Err}
		if f.Policy != nil {
			e.Name, e.Description = f.Policy.Name, f.Policy.Description
		}
		list = append(list, e)
	}
	return list, err
}

// rewatch is how long a folder that cannot be watched is left alone.
const rewatch = 30 * time.Second

// watchFolder hints at changes of a folder until ctx ends. Where the watching
// ends (the folder is gone) it begins anew, so the channel is never closed.
func watchFolder(ctx context.Context, dir string, log *slog.Logger) <-chan struct{} {
	hints := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			if err := forwardHints(ctx, dir, hints); err != nil {
				log.Debug("policies folder is not watched; 'ipsecctl reload' reads it", "error", err.Error())
			}
			sleep(ctx, rewatch)
		}
	}()
	return hints
}

func forwardHints(ctx context.Context, dir string, to chan<- struct{}) error {
	changes, err := file.Watch(ctx, dir)
	if err != nil {
		return err
	}
	for range changes {
		select {
		case to <- struct{}{}:
		default: // one is waiting already
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
