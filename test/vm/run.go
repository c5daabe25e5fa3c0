package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Names both ends know.
const (
	jobParameter = "vm.job=" // on the kernel's command line: path of the job
	outputPort   = "output"
	statusPort   = "status"
	rootTag      = "root"
)

// shareTag names a share to the guest.
func shareTag(i int) string { return "share" + strconv.Itoa(i) }

// run starts the machine and returns the status of the command.
func run(o options, k kernel) (status int, err error) {
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return statusStart, err
	}
	defer os.RemoveAll(dir)
	o.job.Version, o.job.Modules = k.version, k.modules
	if err := o.job.write(filepath.Join(dir, "job")); err != nil {
		return statusStart, err
	}
	program, err := os.Executable()
	if err != nil {
		return statusStart, err
	}
	if err := writeInitramfs(filepath.Join(dir, "initramfs"), program, k.boot); err != nil {
		return statusStart, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	started := start(ctx, o.machine(k, dir))
	if o.console != "" {
		err := copyFile(filepath.Join(dir, "console"), o.console)
		if err != nil {
			return statusStart, err
		}
	}
	return outcome(ctx, dir, started)
}

func (j job) write(path string) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// start runs qemu to its end, its output going to standard output.
func start(ctx context.Context, args []string) error {
	// The guest blocks on a channel whose other end is closed: the standard
	// input of qemu stays open and silent.
	in, hold, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	defer hold.Close()
	q := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	q.Stdin, q.Stderr = in, os.Stderr
	q.Stdout = onlyWriter{os.Stdout} // a pipe: qemu makes a terminal non-blocking
	return q.Run()
}

// onlyWriter hides that its writer is a file.
type onlyWriter struct{ io.Writer }

// outcome reads the status that the guest left.
func outcome(ctx context.Context, dir string, started error) (int, error) {
	b, _ := os.ReadFile(filepath.Join(dir, "status"))
	if status, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
		return status, nil
	}
	console := lastLines(filepath.Join(dir, "console"), 20)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return statusTime, fmt.Errorf("the time is over; the end of the console:\n%s", console)
	case ctx.Err() != nil:
		return statusNone, errors.New("interrupted")
	}
	return statusNone, fmt.Errorf("the machine gave no status (qemu: %v); the end of the console:\n%s", started, console)
}

func lastLines(path string, n int) []byte {
	b, _ := os.ReadFile(path)
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// machine returns the arguments of qemu.
func (o options) machine(k kernel, dir string) []string {
	at := func(name string) string { return filepath.Join(dir, name) }
	cmdline := "console=ttyS0 loglevel=4 panic=-1 nokaslr mitigations=off random.trust_cpu=on cryptomgr.notests " +
		"tsc=reliable no_timer_check " + jobParameter + at("job")
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
		"-m", strconv.Itoa(o.memory),
		"-kernel", k.image, "-initrd", at("initramfs"), "-append", cmdline,
		"-serial", "file:" + at("console"),
		"-device", "virtio-serial-pci",
		"-chardev", "stdio,id=output,signal=off", "-device", "virtserialport,chardev=output,name=" + outputPort,
		"-chardev", "file,id=status,path=" + at("status"), "-device", "virtserialport,chardev=status,name=" + statusPort,
	}
	args = append(args, o.processor()...)
	args = append(args, share(rootTag, "/", ",readonly=on")...)
	for i, dir := range o.job.Shares {
		args = append(args, share(shareTag(i), dir, "")...)
	}
	return args
}

func share(tag, path, how string) []string {
	return []string{
		"-fsdev", fmt.Sprintf("local,id=%s,path=%s,security_model=none,multidevs=remap%s", tag, path, how),
		"-device", fmt.Sprintf("virtio-9p-pci,fsdev=%s,mount_tag=%s", tag, tag),
	}
}

// accelCount emulates a processor whose clock advances with its instructions, one
// for each nanosecond, and only while it is idle with time: what is measured
// there is the same however busy the host is.
const accelCount = "count"

// processor chooses hardware where it is there, else emulation. One emulated
// processor is steadier than two on a busy machine.
func (o options) processor() []string {
	accel, cpus := o.accel, o.cpus
	if accel == "auto" {
		accel = "tcg"
		if hardware() {
			accel = "kvm"
		}
	}
	if cpus == 0 {
		cpus = 1
		if accel == "kvm" {
			cpus = 2
		}
	}
	args := []string{"-smp", strconv.Itoa(cpus)}
	if accel == "kvm" {
		return append(args, "-accel", "kvm", "-cpu", "host")
	}
	if accel == accelCount {
		return append(args, "-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0,sleep=on", "-cpu", "max")
	}
	return append(args, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max")
}

// hardware reports whether a machine can run on the processor itself. A
// /dev/kvm without VMX or SVM emulates, slower than qemu.
func hardware() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	b, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && (bytes.Contains(b, []byte(" vmx ")) || bytes.Contains(b, []byte(" svm ")))
}
