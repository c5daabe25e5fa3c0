package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/driver/user"
)

const (
	// startTimeout is how long a data path may take to answer.
	startTimeout = 20 * time.Second
	// startPoll is how often it is asked meanwhile.
	startPoll = 20 * time.Millisecond
	// maxLog is when the data path's log begins anew, in bytes.
	maxLog = 1 << 20
)

// attacher attaches to the data path's process and starts it where it does not
// run. The process outlives the agent.
type attacher struct {
	settings settings
	log      *slog.Logger
}

// attach returns a driver on a data path that runs.
func (a *attacher) attach(ctx context.Context) (driver.Driver, error) {
	// Who listens is asked first: the data path serves the last that comes.
	pid, err := control.Listener(ctx, a.settings.dataPathSocket())
	if err == nil {
		a.compare(pid)
		return a.dial(ctx)
	}
	if !notRunning(err) {
		return nil, err
	}
	if a.settings.DataPath.External {
		return nil, fmt.Errorf("%w (dataPath.external is set: systemctl start ipsecagent-datapath)", err)
	}
	if err := needDataPath(); err != nil {
		return nil, err
	}
	return a.start(ctx)
}

// dial attaches to the data path that listens. No driver is nil, not a nil
// client.
func (a *attacher) dial(ctx context.Context) (driver.Driver, error) {
	client, err := user.Dial(ctx, a.settings.dataPathSocket())
	if err != nil {
		return nil, err
	}
	return client, nil
}

// compare warns where the data path was started with other settings than the
// agent has: it outlives agents, and with other marks, for example, what IKE
// sends is dropped. Its settings stand on its command line.
func (a *attacher) compare(pid int) {
	if a.settings.DataPath.External {
		return // it reads the same settings file
	}
	running, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(running) == 0 {
		return // it has just ended
	}
	for _, arg := range a.settings.dataPathArguments() {
		if !strings.Contains(string(running), arg+"\x00") {
			a.log.Error("the data path was started with other settings than the agent has: take it down ('ipsecagent datapath --stop') and start the agent again", "process", pid, "differs", arg)
		}
	}
}

// notRunning reports whether nobody listens, so that a data path may be
// started.
func notRunning(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// start starts a data path and waits until it answers or has ended.
func (a *attacher) start(ctx context.Context) (driver.Driver, error) {
	log, err := a.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		return nil, fmt.Errorf("log of the data path: %w", err)
	}
	cmd, err := a.command(log)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the data path: %w", err)
	}
	a.log.Info("data path started", "process", cmd.Process.Pid, "log", log.Name())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // also: it leaves no zombie while the agent lives
	client, err := a.await(ctx, ended)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, lastLine(log, from))
	}
	return client, nil
}

// command is the data path's process: of a session of its own, so that no
// signal to the agent's group or terminal reaches it.
func (a *attacher) command(log *os.File) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the data path: %w", err)
	}
	cmd := exec.Command(exe, a.settings.arguments()...)
	cmd.Dir = "/"
	cmd.Env = []string{} // neither systemd's sockets nor the agent's secrets
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

func (a *attacher) await(ctx context.Context, ended <-chan error) (driver.Driver, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if client, err := a.dial(ctx); err == nil {
			return client, nil
		}
		select {
		case <-ended:
			return nil, errors.New("the data path did not start")
		case <-ctx.Done():
			return nil, fmt.Errorf("the data path does not answer on %s", a.settings.dataPathSocket())
		case <-time.After(startPoll):
		}
	}
}

// openLog opens the data path's log, from its beginning if it is long.
func (a *attacher) openLog() (*os.File, error) {
	path := filepath.Join(a.settings.RunDir, "datapath.log")
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of the data path: %w", err)
	}
	return f, nil
}

// lastLine returns the last line written to the log since from.
func lastLine(log *os.File, from int64) string {
	buf := make([]byte, 64<<10)
	n, _ := log.ReadAt(buf, from) // an error: nothing was written
	text := bytes.TrimSpace(buf[:n])
	if len(text) == 0 {
		return "it wrote nothing to " + log.Name()
	}
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}
