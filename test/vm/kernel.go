package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// metaPackage names the kernel of this Debian release.
const metaPackage = "linux-image-amd64"

// kernel is a Debian kernel ready to be started.
type kernel struct {
	version string
	image   string // uncompressed: decompressing under emulation takes seconds
	modules string // directory with modules.dep
	boot    []string
}

// bootModules are what the guest needs to reach its root file system.
func bootModules() []string {
	return []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"}
}

// prepareKernel returns the kernel in the cache, downloading it first where it
// is not there. One process at a time does.
func prepareKernel(cache string) (kernel, error) {
	for _, tool := range []string{"qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "xz", "depmod", "modprobe"} {
		if _, err := exec.LookPath(tool); err != nil {
			return kernel{}, fmt.Errorf("%s is not installed: apt-get install qemu-system-x86 kmod xz-utils", tool)
		}
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return kernel{}, err
	}
	lock, err := os.Create(filepath.Join(cache, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return kernel{}, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	ready := filepath.Join(cache, "kernel")
	if _, err := os.Stat(ready); errors.Is(err, os.ErrNotExist) {
		if err := fetchKernel(cache, ready); err != nil {
			return kernel{}, fmt.Errorf("get a kernel: %w", err)
		}
	}
	return openKernel(ready)
}

// fetchKernel downloads Debian's kernel package and unpacks what is needed into
// ready, which appears whole or not at all.
func fetchKernel(cache, ready string) error {
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	name, err := kernelPackage()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "vm: downloading %s\n", name)
	if err := command(tmp, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", name, len(debs))
	}
	root := filepath.Join(tmp, "root")
	if err := command(tmp, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	versions, _ := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if len(versions) != 1 {
		return fmt.Errorf("%s holds modules of %d kernels", name, len(versions))
	}
	version := filepath.Base(versions[0])
	if err := command(tmp, "depmod", "-b", root, version); err != nil {
		return err
	}
	if err := unpackImage(filepath.Join(root, "boot", "vmlinuz-"+version), filepath.Join(root, "vmlinux")); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(root, "boot")); err != nil {
		return err
	}
	return os.Rename(root, ready)
}

// kernelPackage asks apt which package the release's kernel is.
func kernelPackage() (string, error) {
	out, err := exec.Command("apt-cache", "depends", metaPackage).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w", metaPackage, err)
	}
	for line := range strings.Lines(string(out)) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name, nil
		}
	}
	return "", fmt.Errorf("apt knows no %s: apt-get update", metaPackage)
}

func openKernel(dir string) (kernel, error) {
	versions, _ := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if len(versions) != 1 {
		return kernel{}, fmt.Errorf("%s is damaged: remove it", dir)
	}
	k := kernel{version: filepath.Base(versions[0]), image: filepath.Join(dir, "vmlinux"), modules: versions[0]}
	for _, m := range bootModules() {
		out, err := exec.Command("modprobe", "-d", dir, "-S", k.version, "--show-depends", m).Output()
		if err != nil {
			return kernel{}, fmt.Errorf("modprobe --show-depends %s: %w", m, err)
		}
		for line := range strings.Lines(string(out)) {
			path, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod ")
			if path = strings.TrimSpace(path); ok && !slices.Contains(k.boot, path) {
				k.boot = append(k.boot, path)
			}
		}
	}
	return k, nil
}

// Offsets in a bzImage (Linux, Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1
	payloadOffset = 0x248
	payloadLength = 0x24c
	sector        = 512
)

// unpackImage writes the kernel inside a bzImage, which Debian compresses by xz.
func unpackImage(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if len(b) < payloadLength+4 {
		return fmt.Errorf("%s is no kernel", from)
	}
	start := (int(b[setupSectors])+1)*sector + int(binary.LittleEndian.Uint32(b[payloadOffset:]))
	end := start + int(binary.LittleEndian.Uint32(b[payloadLength:]))
	if start > end || end > len(b) {
		return fmt.Errorf("%s is no kernel: its payload is outside", from)
	}
	// Behind the stream stands its unpacked size, which xz takes for garbage.
	unpack := exec.Command("xz", "-dc", "--single-stream")
	unpack.Stdin = bytes.NewReader(b[start:end])
	out, _ := unpack.Output()
	if !bytes.HasPrefix(out, []byte(elf.ELFMAG)) {
		return fmt.Errorf("%s holds no kernel compressed by xz", from)
	}
	return os.WriteFile(to, out, 0o644)
}

func command(dir, name string, args ...string) error {
	c := exec.Command(name, args...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
