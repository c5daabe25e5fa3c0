package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The first root file system of the guest: this program as /init, and the
// modules that lead to the real one, in their order.

const moduleDir = "m"

// writeInitramfs writes an archive in the "newc" form of cpio (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst).
func writeInitramfs(path, program string, modules []string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	a := &archive{w: z}
	for _, dir := range []string{"dev", "proc", "sys", moduleDir} {
		a.add(dir, 0o040755, nil)
	}
	a.addFile("init", program, 0o100755)
	for i, m := range modules {
		a.addFile(fmt.Sprintf("%s/%02d-%s", moduleDir, i, filepath.Base(m)), m, 0o100644)
	}
	a.add("TRAILER!!!", 0, nil)
	if a.err != nil {
		return fmt.Errorf("write %s: %w", path, a.err)
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}

// archive writes entries; the first error stays.
type archive struct {
	w     io.Writer
	inode int
	err   error
}

func (a *archive) addFile(name, path string, mode uint32) {
	b, err := os.ReadFile(path)
	if err != nil {
		if a.err == nil {
			a.err = err
		}
		return
	}
	a.add(name, mode, b)
}

func (a *archive) add(name string, mode uint32, data []byte) {
	a.inode++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.write([]byte(head + name + "\x00"))
	a.pad(len(head) + len(name) + 1)
	a.write(data)
	a.pad(len(data))
}

// pad fills up to a multiple of four.
func (a *archive) pad(n int) { a.write(make([]byte, -n&3)) }

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
}
