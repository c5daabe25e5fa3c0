package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"ipsecagent/agent"
	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/user"
	"ipsecagent/host"
	"ipsecagent/ike"
	"ipsecagent/ike/udp"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
)

// agent runs the agent until ctx ends. What is in force then stays in force.
// again reads the settings as the next start will.
func (p *program) agent(ctx context.Context, s settings, again func() (settings, error)) error {
	if err := needCapabilities(); err != nil {
		return err
	}
	if err := errors.Join(harden(), makeFolders(&s)); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go agent.LimitMemory(ctx)
	w := &wiring{program: p, settings: s, next: settingsNext{s, again}, log: s.logger(p.err), enforced: make(chan agent.Enforcement, 1)}
	defer w.close()
	if err := w.open(ctx); err != nil {
		return err
	}
	err := w.run(ctx)
	w.log.Info("the agent has stopped; filters and associations stay in force, and the data path goes on. To take everything out of force: ipsecagent datapath --stop")
	return err
}

func makeFolders(s *settings) error {
	// A convenience for who writes the first policy: /etc may be read-only.
	_ = os.MkdirAll(s.PoliciesDir, 0o755)
	return errors.Join(
		os.MkdirAll(s.RunDir, 0o755),
		os.MkdirAll(s.StateDir, 0o700),
	)
}

// wiring is the parts of the agent and what they stand on.
type wiring struct {
	*program
	settings settings
	next     settingsNext
	log      *slog.Logger

	keys       *keys
	identities *identities
	directory  *directory.Source // nil: this host takes no policy from a directory
	badKeys    string            // why the keys did not load at start; "": they did
	socket     net.Listener
	transport  *udp.Transport
	driver     driver.Driver
	driverWhy  string // it was chosen
	table      *lease // of the kernel driver's table; nil: not needed
	ike        *ike.Server
	names      *host.Names
	enforced   chan agent.Enforcement // one that bootFollower has not taken yet
	agent      *agent.Agent
}

// open opens everything in the order in which a refusal costs least: nothing
// has changed on this host before the data path is started.
func (w *wiring) open(ctx context.Context) (err error) {
	s := &w.settings
	if w.socket, err = control.Listen(s.Socket, s.Readers); err != nil {
		return err
	}
	if err = w.settle(ctx); err != nil {
		return err
	}
	w.openKeys()
	if err = w.openIdentities(); err != nil {
		return err
	}
	if w.directory, err = openDirectory(s, w.identities); err != nil {
		return err
	}
	var reconnect func(context.Context) (driver.Driver, error)
	if w.driver, reconnect, err = w.openDriver(ctx); err != nil {
		return err
	}
	machine := ike.New(ike.Config{Rand: rand.Reader, Auth: w.identities.authenticators(), ForceEncap: s.ForceEncapsulation})
	w.ike = ike.NewServer(ike.ServerConfig{Machine: machine, Transport: w.transport})
	w.agent, err = agent.New(w.withDirectory(w.agentConfig(ctx, reconnect)))
	return err
}

// attach attaches to the data path and borrows the sockets of UDP port 4500,
// which a data path before it must have back first.
func (w *wiring) attach(ctx context.Context, data *attacher) (driver.Driver, error) {
	if err := w.transport.Borrow(nil); err != nil {
		return nil, err
	}
	d, err := data.attach(ctx)
	if err != nil {
		return nil, err
	}
	files, err := user.NATSockets(ctx, w.settings.dataPathSocket())
	if err == nil {
		err = w.transport.Borrow(files)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// openIdentities reads what this host proves itself by.
func (w *wiring) openIdentities() (err error) {
	var problem error
	if w.identities, problem, err = openIdentities(&w.settings, w.keys, filepath.Join(w.settings.StateDir, "replay.cache")); problem != nil {
		w.log.Warn("certificates", "problem", problem.Error())
	}
	if err != nil {
		return err
	}
	if words := w.identities.kerberos.Warning(); words != "" {
		w.log.Warn("replay cache", "warning", words)
	}
	return nil
}

// openKeys reads the preshared keys. Without them nothing can be negotiated;
// policy is enforced all the same, so that is no reason not to start.
func (w *wiring) openKeys() {
	w.keys = newKeys(&w.settings)
	warnings, err := w.keys.load()
	if err != nil {
		w.badKeys = "the preshared keys do not load, none is in force: mend them and run 'ipsecctl reload': " + err.Error()
	}
	for _, words := range warnings {
		w.log.Warn("preshared keys", "warning", words)
	}
}

func (w *wiring) agentConfig(ctx context.Context, reconnect func(context.Context) (driver.Driver, error)) agent.Config {
	name, err := os.Hostname()
	if err != nil {
		name = "this host"
	}
	changed, err := host.Watch(ctx)
	if err != nil {
		w.log.Warn("changes of addresses are not watched; 'ipsecctl reload' reads them", "error", err.Error())
	}
	dir := w.settings.PoliciesDir
	w.names = host.NewNames(host.NamesConfig{Dial: w.settings.dialer().DialContext, Servers: host.Nameservers})
	return agent.Config{
		Driver:            w.driver,
		DriverWhy:         w.driverWhy,
		Reconnect:         reconnect,
		IKE:               agent.IKE{Submit: w.ike.Submit, Outputs: w.ike.Outputs(), SAs: w.ike.SAs},
		Library:           library(dir, watchFolder(ctx, dir, w.log)),
		StateFile:         w.settings.stateFile(),
		Source:            host.Source,
		NoUplift:          !w.settings.Uplift,
		RefuseDowngrade:   w.settings.RefuseDowngrade,
		IdleTime:          w.settings.IdleTime,
		SilentTime:        w.settings.SilentTime,
		Unusable:          w.identities.unusable,
		NoKey:             w.keys.missing,
		IdentitiesChanged: w.identities.changed,
		Exempt:            w.identities.exempted,
		Persistent:        w.settings.PersistentPolicy,
		Exemptions:        w.exemptions(),
		Enforced:          newest(w.enforced),
		Remembered:        w.remembered(),
		Names:             agent.Names{Follow: w.names.Follow, Answers: w.names.Answers, Changed: w.names.Changed()},
		Host:              w.readHost,
		HostChanged:       changed,
		SetKeys:           w.keys.set,
		Log:               w.log,
		Version:           control.ThisProgram().Source(),
		Hostname:          name,
	}
}

// readHost reads the facts of this host; the settings say which interfaces are
// remote access besides PPP and SLIP, here as in the data path.
func (w *wiring) readHost() (host.Facts, error) {
	f, err := host.Read()
	for i, link := range f.Interfaces {
		if nft.RemoteAccess(w.settings.RemoteAccess).Is(link.Name, link.Kind == host.RemoteAccess) {
			f.Interfaces[i].Kind = host.RemoteAccess
		}
	}
	return f, err
}

// exemptions returns what passes before the policy is asked; anything at all is
// worth a line in the log.
func (w *wiring) exemptions() policy.Exemptions {
	e, err := policy.ExemptionsOf(w.settings.NoDefaultExempt)
	if err != nil {
		return 0 // the settings are valid: never
	}
	if e != 0 {
		w.log.Warn("traffic is exempt from every policy", "noDefaultExempt", w.settings.NoDefaultExempt, "exempt", e.String(), "warning", e.Warning())
	}
	return e
}

// close closes what was opened. It takes nothing out of force.
func (w *wiring) close() {
	if w.socket != nil {
		w.socket.Close()
	}
	if w.identities != nil {
		if err := w.identities.kerberos.Close(); err != nil {
			w.log.Warn("replay cache", "error", err.Error())
		}
	}
	if w.transport != nil {
		w.transport.Close()
	}
	if w.driver != nil {
		w.driver.Close()
	}
	if w.table != nil {
		w.table.close()
	}
}

// backend is the agent as the control socket sees it.
type backend struct {
	*agent.Agent
	keys       *keys
	identities *identities
	next       settingsNext
	directory  *directory.Source // nil: none
}

// keysProblem is the kind of the problem that the preshared keys do not load.
const keysProblem = "keys"

// keysStay is how that problem begins.
const keysStay = "the preshared keys do not load, those before stay in force: "

// Reload reads the keys, then what the agent reads. Settings are for the next
// start: what it will meet is said.
func (b backend) Reload(ctx context.Context) (control.AssignResult, error) {
	warnings, err := b.keys.load()
	if err != nil {
		words := keysStay + err.Error()
		return control.AssignResult{}, errors.Join(&control.Error{Code: control.Invalid, Message: words}, b.Problem(ctx, keysProblem, words))
	}
	if err := b.Problem(ctx, keysProblem, ""); err != nil {
		return control.AssignResult{}, err
	}
	if err := b.identities.certs.Reload(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		warnings = append(warnings, err.Error())
	}
	b.identities.hint()
	words, broken := b.next.words()
	if words != "" {
		warnings = append(warnings, words)
	}
	if !broken {
		words = ""
	}
	if err := b.Problem(ctx, settingsProblem, words); err != nil {
		return control.AssignResult{}, err
	}
	warnings = append(warnings, refreshDirectory(ctx, b.directory)...)
	result, err := b.Agent.Reload(ctx)
	result.Warnings = fullest(append(result.Warnings, warnings...))
	return result, err
}

// fullest leaves out warnings that another one repeats and says more of.
func fullest(warnings []string) (all []string) {
	for i, w := range warnings {
		longer := func(other string) bool { return other != w && strings.Contains(other, w) }
		if !slices.ContainsFunc(warnings, longer) && !slices.Contains(warnings[:i], w) {
			all = append(all, w)
		}
	}
	return all
}

// Assign reads the certificates first: who puts one there and assigns at once
// need not wait for the watch. What does not load the watch reports.
func (b backend) Assign(ctx context.Context, r control.AssignRequest) (control.AssignResult, error) {
	_ = b.identities.certs.Reload()
	return b.Agent.Assign(ctx, r)
}

// run runs all parts until ctx ends or one of them fails.
func (w *wiring) run(ctx context.Context) error {
	b := backend{w.agent, w.keys, w.identities, w.next, w.directory}
	systemd := newNotifier(w.getenv)
	boot := &bootFollower{settings: &w.settings, backend: b, enforced: w.enforced, looked: make(chan struct{})}
	hangup := make(chan os.Signal, 1) // before anybody can know that the agent runs
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	return together(ctx,
		w.ike.Run,
		w.agent.Run,
		w.names.Run,
		func(ctx context.Context) error {
			return control.Serve(ctx, w.socket, control.ServerConfig{Backend: b, Log: w.log, Group: w.settings.Readers, Version: control.ThisProgram()})
		},
		func(ctx context.Context) error { w.reloadOnHangup(ctx, b, hangup); return nil },
		func(ctx context.Context) error { w.identities.watchCertificates(ctx, w.agent, w.log); return nil },
		func(ctx context.Context) error { w.identities.watchExpiry(ctx, w.agent, w.log); return nil },
		func(ctx context.Context) error { w.identities.watchKerberos(ctx); return nil },
		w.runDirectory,
		boot.follow,
		func(ctx context.Context) error {
			<-boot.looked // what waits for the agent finds no boot filters
			return w.tellSystemd(ctx, systemd)
		},
	)
}

// together runs parts until all have ended; the first that ends, or ctx, ends
// the others.
func together(ctx context.Context, parts ...func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(parts))
	var all sync.WaitGroup
	for i, part := range parts {
		all.Go(func() {
			defer stop()
			errs[i] = part(ctx)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (w *wiring) reloadOnHangup(ctx context.Context, b backend, hangup <-chan os.Signal) {
	if w.badKeys != "" {
		if err := b.Problem(ctx, keysProblem, w.badKeys); err != nil {
			w.log.Error(w.badKeys)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		if _, err := b.Reload(ctx); err != nil {
			w.log.Error("reload failed; what was in force stays in force", "error", err.Error())
		}
	}
}

// tellSystemd says when the agent is ready, that it is alive, and when it
// stops.
func (w *wiring) tellSystemd(ctx context.Context, n notifier) error {
	healthy := func(ctx context.Context) error { _, err := w.agent.Status(ctx); return err }
	if err := healthy(ctx); err != nil {
		<-ctx.Done() // the part that failed says why
		return nil
	}
	if err := n.tell("READY=1"); err != nil {
		return err
	}
	w.log.Info("the agent is ready", "socket", w.settings.Socket)
	n.watchdog(ctx, watchdogInterval(w.getenv), healthy, func(err error) { w.log.Error("watchdog", "error", err.Error()) })
	<-ctx.Done()
	if err := n.tell("STOPPING=1"); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
