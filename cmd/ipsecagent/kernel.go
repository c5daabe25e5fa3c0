package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/driver/xfrm"
	"ipsecagent/ike/udp"
	"ipsecagent/sadb"
)

// Values of the setting driver: who carries the associations.
const (
	driverAuto   = "auto" // the kernel where it can, else userspace
	driverKernel = "kernel"
	driverUser   = "user"
)

// needed are the suites of which the kernel must have one for auto to take it:
// those that the predefined policies offer first.
func needed() []string { return []string{"esp-aes256gcm", "esp-aes128gcm", "esp-aes128-sha256"} }

// chooseDriver returns driverKernel or driverUser, and why in words.
func chooseDriver(ctx context.Context, s *settings) (name, why string, err error) {
	pid, err := control.Listener(ctx, s.dataPathSocket())
	running := err == nil
	switch {
	case err != nil && !notRunning(err):
		return "", "", err
	case s.Driver == driverUser:
		return driverUser, "the setting driver says so", nil
	case s.Driver == driverKernel && running:
		return "", "", fmt.Errorf("driver: kernel: the userspace data path runs (process %d): take it down first ('ipsecagent datapath --stop')", pid)
	case running:
		return driverUser, fmt.Sprintf("its data path runs (process %d)", pid), nil
	}
	why, err = preflight()
	switch {
	case err == nil:
		return driverKernel, why, nil
	case s.Driver == driverKernel:
		return "", "", fmt.Errorf("driver: kernel: %w: set driver: user", err)
	}
	return driverUser, err.Error(), nil
}

// preflight says in words what the kernel can carry; the error, what it lacks.
func preflight() (string, error) {
	suites, err := xfrm.Preflight()
	if err != nil {
		return "", err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(suites, func(s sadb.Suite) bool { return s.String() == name })
	}
	if !slices.ContainsFunc(needed(), has) {
		return "", fmt.Errorf("the kernel carries none of %v (modules esp4, esp6 and their algorithms)", needed())
	}
	return fmt.Sprintf("the kernel carries %d of %d suites", len(suites), len(sadb.Suites())), nil
}

// xfrmConfig is the kernel driver's configuration in its own words.
func (s *settings) xfrmConfig(log *slog.Logger) xfrm.Config {
	return xfrm.Config{Dir: filepath.Join(s.RunDir, "kernel"), Exempt: s.DataPath.ExemptMark, Table: s.DataPath.Table,
		LogGroup: s.DataPath.LogGroup, RemoteAccess: s.RemoteAccess, Log: log}
}

// openKernel opens the kernel driver and then the sockets of IKE, whose
// exemption from the policies needs XFRM to be there.
func (w *wiring) openKernel() (driver.Driver, error) {
	d, err := w.dialKernel()
	if err != nil {
		return nil, err
	}
	if w.transport, err = udp.Open(udp.Config{Prepare: w.settings.prepareSocket(), PrepareNAT: xfrm.TakeESP}); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// dialKernel opens the kernel driver. Where the kernel forgets a table with its
// owner, the holder's socket owns it.
func (w *wiring) dialKernel() (driver.Driver, error) {
	cfg := w.settings.xfrmConfig(w.log)
	if w.table == nil {
		w.table = newLease(&w.settings, w.log, w.err)
	}
	cfg.TableSocket = w.table.take
	d, err := xfrm.Open(cfg)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// choose settles which driver is used, and says in one line which and why. From
// then on the settings name it.
func (w *wiring) choose(ctx context.Context) error {
	name, why, err := chooseDriver(ctx, &w.settings)
	if err != nil {
		return err
	}
	w.settings.Driver = name
	w.log.Info("driver", "driver", name, "why", why)
	return nil
}

// prepareSocket returns what exempts the agent's own sockets of a family from
// the filters, with the driver that was chosen.
func (s *settings) prepareSocket() func(fd, family int) error {
	if s.Driver == driverKernel {
		return s.xfrmConfig(nil).PrepareSocket
	}
	cfg := s.userConfig(nil)
	return func(fd, _ int) error { return cfg.PrepareSocket(fd) }
}

// openDriver opens the driver that was chosen and the sockets of IKE, and
// returns how it is opened again.
func (w *wiring) openDriver(ctx context.Context) (driver.Driver, func(context.Context) (driver.Driver, error), error) {
	if w.settings.Driver == driverKernel {
		d, err := w.openKernel()
		return d, func(context.Context) (driver.Driver, error) { return w.dialKernel() }, err
	}
	var err error
	if w.transport, err = udp.Open(udp.Config{Prepare: w.settings.prepareSocket(), Borrowed: true}); err != nil {
		return nil, nil, err
	}
	data := &attacher{settings: w.settings, log: w.log}
	again := func(ctx context.Context) (driver.Driver, error) { return w.attach(ctx, data) }
	d, err := again(ctx)
	return d, again, err
}

// removeKernel takes out of force what a kernel driver has left: nothing where
// none has been in this run folder.
func removeKernel(s *settings) ([]string, error) {
	cfg := s.xfrmConfig(nil)
	if _, err := os.Stat(cfg.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return xfrm.Remove(cfg)
}
