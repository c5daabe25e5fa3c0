package cert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the directory must be quiet before it is read again:
// whoever renews a certificate writes several files.
const settle = 500 * time.Millisecond

// refreshEvery is how often lists in use are looked at, whether a new one is
// to be fetched before they run out.
const refreshEvery = time.Minute

// Watch reads the directory of the store again whenever it has changed, and
// keeps the lists that were fetched fresh, until ctx ends. report is called
// after each reading, with its problems or nil. Authentications under way keep
// what they started with; a file that cannot be read keeps what it held.
func (k *Keeper) Watch(ctx context.Context, report func(error)) error {
	dir := k.Store().dir
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("auth/cert: watch %s: %w", dir, err)
	}
	defer w.Close()
	if err := watchAll(w, k.Store()); err != nil {
		return fmt.Errorf("auth/cert: watch %s: %w", dir, err)
	}
	// What changed between the last reading and the watch.
	k.reload(report)
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events: // a changed mode counts, too: it may mend what was refused
			if !ok {
				return nil
			}
			quiet = time.After(settle)
		case _, ok := <-w.Errors: // events were lost
			if !ok {
				return nil
			}
			quiet = time.After(settle)
		case <-tick.C:
			k.lists.refresh()
		case <-quiet:
			quiet = nil
			// A subdirectory may be new.
			err := watchAll(w, k.Store())
			k.reload(func(problems error) { report(errors.Join(problems, err)) })
		}
	}
}

// Reload reads the directory of the store again. A store that was not read
// from a directory stays.
func (k *Keeper) Reload() error {
	old := k.Store()
	if old.dir == "" {
		return nil
	}
	s, err := Load(old.dir, old)
	k.Replace(s)
	return err
}

func (k *Keeper) reload(report func(error)) { report(k.Reload()) }

// watchAll watches the directory and the subdirectories there are.
func watchAll(w *fsnotify.Watcher, s *Store) error {
	if err := w.Add(s.dir); err != nil {
		return err
	}
	for _, sub := range []string{dirCA, dirOwn, dirLists} {
		if _, err := os.Stat(s.path(sub)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := w.Add(s.path(sub)); err != nil {
			return err
		}
	}
	return nil
}
