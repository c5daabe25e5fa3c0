package file

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a folder must be quiet before its change is told: an
// editor writes, renames and deletes several times for one save.
const settle = 200 * time.Millisecond

// Watch hints on the channel that something in a folder has changed; what, a
// reader finds out by reading. Several changes may give one hint. The channel
// is closed when ctx ends or the folder can no longer be watched.
func Watch(ctx context.Context, dir string) (<-chan struct{}, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("file: watch %s: %w", dir, err)
	}
	if err := w.Add(dir); err != nil {
		w.Close()
		return nil, fmt.Errorf("file: watch %s: %w", dir, err)
	}
	hints := make(chan struct{}, 1)
	go func() {
		defer close(hints)
		defer w.Close()
		debounce(ctx, w, filepath.Clean(dir), hints)
	}()
	return hints, nil
}

// debounce hints once the events have ceased. An error of the watcher (lost
// events) counts as a change. It returns when the folder itself is gone.
func debounce(ctx context.Context, w *fsnotify.Watcher, dir string, hints chan<- struct{}) {
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if e.Name == dir && e.Op.Has(fsnotify.Remove|fsnotify.Rename) {
				return
			}
			if e.Op != fsnotify.Chmod {
				quiet = time.After(settle)
			}
		case _, ok := <-w.Errors:
			if !ok {
				return
			}
			quiet = time.After(settle)
		case <-quiet:
			quiet = nil
			select {
			case hints <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
}
