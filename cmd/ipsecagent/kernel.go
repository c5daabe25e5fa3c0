package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

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

func drivers() []string { return []string{driverAuto, driverKernel, driverUser} }

// needed are the suites of which the kernel must have one for auto to take it:
// those that the predefined policies offer first.
func needed() []string { return []string{"esp-aes256gcm", "esp-aes128gcm", "esp-aes128-sha256"} }

// choice is the driver that is used: driverKernel or driverUser, and why in words.
type choice struct{ driver, why string }

// chooseDriver chooses by the setting, by whether a userspace data path runs and
// by what the kernel can do.
func chooseDriver(ctx context.Context, s *settings) (choice, error) {
	pid, err := control.Listener(ctx, s.dataPathSocket())
	switch {
	case err == nil:
		return chooseBeside(s.Driver, pid)
	case !notRunning(err):
		return choice{}, err
	}
	return choose(s.Driver, xfrm.Preflight, s.leftInKernel)
}

// refusal is why a driver cannot be used here, and what to do about it.
type refusal struct {
	error
	do string
}

// Error says both.
func (r refusal) Error() string { return r.error.Error() + ". What to do: " + r.do }

// Unwrap returns why.
func (r refusal) Unwrap() error { return r.error }

// chooseBeside chooses while the userspace data path runs: what it has in force
// is not left to itself.
func chooseBeside(setting string, pid int) (choice, error) {
	switch setting {
	case driverKernel:
		return choice{}, fmt.Errorf("driver: kernel: the userspace data path runs (process %d): take it down first ('ipsecagent datapath --stop')", pid)
	case driverUser:
		return choice{driverUser, settingSays}, nil
	}
	return choice{driverUser, fmt.Sprintf("driver: auto stays with the userspace data path, which ran already when the agent started (process %d then)", pid)}, nil
}

const settingSays = "the setting driver says so"

// choose chooses where no data path runs. left says what a kernel driver has left
// in force; "": nothing. The userspace driver is not started beside it: packets
// would need associations that nobody makes.
func choose(setting string, probe func() ([]sadb.Suite, error), left func() (string, error)) (choice, error) {
	if setting == driverUser {
		return chooseUser(left)
	}
	suites, err := probe()
	if err == nil {
		err = enough(suites)
	}
	switch {
	case err == nil && setting == driverKernel:
		return choice{driverKernel, settingSays + "; " + carriedWords(suites)}, nil
	case err == nil:
		return choice{driverKernel, "driver: auto found that " + carriedWords(suites)}, nil
	case setting == driverKernel:
		return choice{}, refusal{fmt.Errorf("driver: kernel: %w", err), loadWords(modulesDir()) + ", start a kernel that has what is missing, or set driver: user"}
	}
	there, errLeft := left()
	switch {
	case errLeft != nil:
		return choice{}, fmt.Errorf("driver: auto: %w; and whether a kernel driver has left something in force is not known: %w", err, errLeft)
	case there != "":
		return choice{driverKernel, fmt.Sprintf("driver: auto stays with the kernel, where %s are in force, although now %v. To change the driver: ipsecagent datapath --stop", there, err)}, nil
	}
	return choice{driverUser, "driver: auto found that " + err.Error()}, nil
}

func chooseUser(left func() (string, error)) (choice, error) {
	there, err := left()
	switch {
	case err != nil:
		return choice{}, fmt.Errorf("driver: user: whether a kernel driver has left something in force is not known: %w", err)
	case there != "":
		return choice{}, refusal{fmt.Errorf("driver: user: %s are still in force", there), "take it out of force (stop the agent; ipsecagent datapath --stop), or set driver: kernel"}
	}
	return choice{driverUser, settingSays}, nil
}

// driverNotes says that the agent would not start on this host with the driver of
// the settings. Who may not ask the kernel is told nothing.
func driverNotes(ctx context.Context, s *settings) []string {
	missing, err := missingCapabilities(0)
	if err != nil || len(missing) > 0 || s.Driver == driverAuto || !slices.Contains(drivers(), s.Driver) {
		return nil
	}
	if _, err := chooseDriver(ctx, s); err != nil {
		return []string{"on this host, as it is now, the agent would not start: " + lines(err)}
	}
	return nil
}

// enough says what a kernel lacks that carries these suites and no others; nil:
// it can be the data path.
func enough(suites []sadb.Suite) error {
	switch {
	case len(suites) == 0:
		return errors.New("the kernel has neither ESP nor AH (modules esp4, esp6, ah4, ah6) or none of their algorithms")
	case !slices.ContainsFunc(suites, func(s sadb.Suite) bool { return slices.Contains(needed(), s.String()) }):
		return fmt.Errorf("the kernel carries none of %s (modules esp4, esp6 and the ciphers of its crypto layer)", strings.Join(needed(), ", "))
	}
	return nil
}

// carriedWords says what the kernel carries, and names what it does not.
func carriedWords(suites []sadb.Suite) string {
	var without []string
	for _, s := range sadb.Suites() {
		if !slices.Contains(suites, s) {
			without = append(without, s.String())
		}
	}
	if len(without) == 0 {
		return fmt.Sprintf("the kernel carries all %d suites", len(suites))
	}
	return fmt.Sprintf("the kernel carries %d of %d suites, not %s", len(suites), len(sadb.Suites()), strings.Join(without, ", "))
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
	if err := needNFT(); err != nil {
		return nil, err
	}
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

// settle settles which driver is used, and says in one line which and why. From
// then on the settings name it.
func (w *wiring) settle(ctx context.Context) error {
	c, err := chooseDriver(ctx, &w.settings)
	if err != nil {
		return err
	}
	w.settings.Driver, w.driverWhy = c.driver, c.why
	w.log.Info("driver", "driver", c.driver, "why", c.why)
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
