package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// guest is the first process of the machine: it makes the root file system,
// does the job, leaves its status and turns the machine off.
func guest() {
	if err := work(); err != nil {
		fmt.Println("vm guest:", err) // on the console
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func work() error {
	if err := makeRoot(); err != nil {
		return err
	}
	j, err := readJob()
	if err != nil {
		return err
	}
	if err := furnish(j); err != nil {
		return err
	}
	output, err := port(outputPort)
	if err != nil {
		return err
	}
	status, err := port(statusPort)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(status, do(j, output))
	return errors.Join(err, output.Close(), status.Close())
}

// mount is a file system to mount.
type mount struct {
	kind, source, target string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.kind, m.target, err)
	}
	return nil
}

func mountAll(all ...mount) error {
	for _, m := range all {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

const plan9 = "trans=virtio,version=9p2000.L,msize=512000,cache="

// makeRoot mounts the host's root under a file system in memory and moves there.
func makeRoot() error {
	kernel := []mount{
		{kind: "devtmpfs", source: "dev", target: "/dev"},
		{kind: "proc", source: "proc", target: "/proc"},
		{kind: "sysfs", source: "sys", target: "/sys"},
	}
	if err := mountAll(kernel...); err != nil {
		return err
	}
	if err := loadBootModules(); err != nil {
		return err
	}
	if err := mountAll(
		mount{kind: "9p", source: rootTag, target: "/low", flags: unix.MS_RDONLY, data: plan9 + "loose"},
		mount{kind: "tmpfs", source: "rw", target: "/rw", data: "size=75%"},
	); err != nil {
		return err
	}
	for _, dir := range []string{"/rw/upper", "/rw/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	err := mount{kind: "overlay", source: "root", target: "/new", data: "lowerdir=/low,upperdir=/rw/upper,workdir=/rw/work"}.do()
	if err != nil {
		return err
	}
	for _, m := range kernel {
		if err := unix.Mount(m.target, "/new"+m.target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
	}
	return enter("/new")
}

// enter makes dir the root.
func enter(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(dir, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	return os.Chdir("/")
}

func loadBootModules() error {
	files, err := filepath.Glob("/" + moduleDir + "/*")
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

func readJob() (j job, err error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return j, err
	}
	for word := range strings.FieldsSeq(string(b)) {
		if path, ok := strings.CutPrefix(word, jobParameter); ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return j, err
			}
			return j, json.Unmarshal(b, &j)
		}
	}
	return j, errors.New("the command line of the kernel names no job")
}

// furnish gives the guest what programs expect, the shares and the modules.
func furnish(j job) error {
	if err := mountAll(
		mount{kind: "tmpfs", source: "run", target: "/run"},
		mount{kind: "devpts", source: "pts", target: "/dev/pts"},
		mount{kind: "tmpfs", source: "shm", target: "/dev/shm"},
		mount{kind: "tmpfs", source: "netns", target: "/run/netns"},
	); err != nil {
		return err
	}
	for i, dir := range j.Shares {
		if err := (mount{kind: "9p", source: shareTag(i), target: dir, data: plan9 + "mmap"}).do(); err != nil {
			return err
		}
	}
	modules := filepath.Join("/lib/modules", j.Version)
	if err := os.RemoveAll(modules); err != nil {
		return err
	}
	if err := os.MkdirAll("/lib/modules", 0o755); err != nil {
		return err
	}
	if err := os.Symlink(j.Modules, modules); err != nil {
		return err
	}
	return unix.Sethostname([]byte("vm"))
}

// port opens the channel to the host of that name.
func port(name string) (*os.File, error) {
	files, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(b)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("there is no port %q", name)
}

// do runs the command and returns its exit status as a shell would.
func do(j job, output *os.File) int {
	if err := prepare(j, output); err != nil {
		fmt.Fprintln(output, "vm:", err)
		return statusStart
	}
	if err := os.Chdir(j.Dir); err != nil { // a relative name is meant from there
		fmt.Fprintln(output, "vm:", err)
		return statusStart
	}
	path, err := exec.LookPath(j.Command[0])
	if err != nil {
		fmt.Fprintln(output, "vm:", err)
		return 127
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		fmt.Fprintln(output, "vm:", err)
		return statusStart
	}
	defer null.Close()
	pid, err := syscall.ForkExec(path, j.Command, &syscall.ProcAttr{
		Dir: j.Dir, Env: os.Environ(), Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
	})
	if err != nil {
		fmt.Fprintf(output, "vm: start %s: %v\n", path, err)
		return statusStart
	}
	return reap(pid)
}

// prepare sets the environment, brings up the loopback and loads the modules.
func prepare(j job, output *os.File) error {
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "VM=1"}, j.Env...)
	os.Clearenv()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("environment %s: %w", e, err)
		}
	}
	commands := [][]string{{"ip", "link", "set", "lo", "up"}}
	if len(j.Load) != 0 {
		commands = append(commands, append([]string{"modprobe", "-a"}, j.Load...))
	}
	for _, args := range commands {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// reap collects every child, as a first process must, until pid has ended.
func reap(pid int) int {
	for {
		var w syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &w, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return statusNone
		case ended == pid && w.Signaled():
			return 128 + int(w.Signal())
		case ended == pid:
			return w.ExitStatus()
		}
	}
}
