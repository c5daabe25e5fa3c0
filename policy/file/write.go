package file

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// The permissions of what is new: a policy is no secret.
const (
	newFile   = 0o644
	newFolder = 0o755
)

// Write makes changes of Changes. Each file is replaced as a whole, with the
// permissions and owner it had; none is touched before all are on the disk. A
// file that has changed since the folder was read is an error, and nothing is
// written.
func (f *Folder) Write(changes []Change) (err error) {
	if err := os.MkdirAll(f.path, newFolder); err != nil {
		return fmt.Errorf("file: save policies: %w", err)
	}
	var staged []string
	defer func() {
		for _, tmp := range staged {
			os.Remove(tmp) // gone already where all went well
		}
	}()
	targets := make([]string, len(changes))
	for i, c := range changes {
		if targets[i], err = unchanged(c); err != nil {
			return err
		}
		tmp, err := stage(targets[i], c)
		if err != nil {
			return fmt.Errorf("file: save policies: %w", err)
		}
		staged = append(staged, tmp)
	}
	for i, c := range changes {
		if err := replace(staged[i], targets[i], c.New); err != nil {
			return fmt.Errorf("file: save policies: %w", err)
		}
	}
	return syncFolder(f.path)
}

// unchanged returns the file itself behind a change's path, which may be a
// link, if it still is as it was read.
func unchanged(c Change) (string, error) {
	target, err := filepath.EvalSymlinks(c.Path)
	if errors.Is(err, fs.ErrNotExist) && c.Old == nil {
		return c.Path, nil
	}
	if err != nil {
		return "", fmt.Errorf("file: save policies: %w", err)
	}
	data, err := read(target)
	if err != nil {
		return "", fmt.Errorf("file: save policies: %w", err)
	}
	if c.Old == nil || !bytes.Equal(data, c.Old) {
		return "", fmt.Errorf("file: %s has been changed by somebody else meanwhile; nothing is saved: try again", c.Path)
	}
	return target, nil
}

// stage writes the new text beside the file. For a file that goes it returns
// "".
func stage(target string, c Change) (string, error) {
	if c.New == nil {
		return "", nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*")
	if err != nil {
		return "", err
	}
	err = errors.Join(like(tmp, target), write(tmp, c.New), tmp.Close())
	if err != nil {
		os.Remove(tmp.Name())
		return "", err
	}
	return tmp.Name(), nil
}

func write(f *os.File, data []byte) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// like gives a new file the permissions and owner of the one it replaces.
func like(f *os.File, target string) error {
	info, err := os.Stat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return f.Chmod(newFile)
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(info.Mode().Perm())
}

func replace(tmp, target string, data []byte) error {
	if data == nil {
		return os.Remove(target)
	}
	return os.Rename(tmp, target)
}

// syncFolder makes the new names last.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("file: save policies: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("file: save policies: %w", err)
	}
	return nil
}
