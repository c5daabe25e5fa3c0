package user

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/nft"
	"ipsecagent/sadb"
)

// clearPeersMax bounds the table's sets of peers in clear.
const clearPeersMax = 8192

// Serve runs the data path in this process and this network namespace until
// ctx ends or TakeDown asks, and returns nil then. It returns an error that names the remedy
// where it cannot: no root, no TUN, no nftables, kernel IPsec states, another
// data path. When it ends in any way but by TakeDown, the table stays in force:
// what must be secured is then dropped.
func Serve(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("user: start the data path: %w", err)
	}
	if os.Geteuid() != 0 {
		return errors.New("user: start the data path: it makes a TUN, routes and nftables rules: run it as root")
	}
	// Keys are in this memory: no core dump, no tracing by others.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("user: start the data path: forbid core dumps: %w", err)
	}
	p, err := openPlane(ctx, cfg)
	if err != nil {
		return fmt.Errorf("user: start the data path: %w", err)
	}
	defer p.close()
	if err := p.run(ctx); err != nil {
		return fmt.Errorf("user: data path: %w", err)
	}
	return nil
}

// plane is the data path with all it holds.
type plane struct {
	cfg     Config
	engine  *engine
	sh      *shared
	stop    int // eventfd
	tun     *tun
	sys     *system
	table   *nft.Table
	sealers []*sealer // of the workers; the engine has one more
	openers []*opener
	errors  []errorSocket
	nat     []natSocket
}

// openPlane opens everything, in an order that opens no gap: the table of an
// earlier data path stays in force as it is until an agent sets filters.
func openPlane(ctx context.Context, cfg Config) (p *plane, err error) {
	p = &plane{cfg: cfg, sh: newShared(), stop: -1}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	if err := refuseKernelStates(); err != nil {
		return p, err
	}
	if p.stop, err = newStop(); err != nil {
		return p, err
	}
	workers := cfg.Workers
	if workers == 0 {
		workers = min(runtime.NumCPU(), maxWorkers)
	}
	if p.tun, err = openTUN(cfg.TUN, workers, p.stop); err != nil {
		return p, err
	}
	if p.table, err = nft.Open(cfg.nft()); err != nil {
		return p, err
	}
	if p.sys, err = openSystem(cfg); err != nil {
		return p, err
	}
	if _, err = p.sys.ensure(); err != nil {
		return p, err
	}
	return p, p.openSockets(ctx)
}

func (c Config) nft() nft.Config {
	return nft.Config{
		Table: c.Table, Steer: c.Steer, Exempt: c.Exempt, TUN: c.TUN,
		LogGroup: c.LogGroup, RemoteAccess: c.RemoteAccess, ClearPeersMax: clearPeersMax, Socket: c.TableSocket,
	}
}

// openSockets opens the raw sockets and makes the engine.
func (p *plane) openSockets(ctx context.Context) error {
	for _, q := range p.tun.queues {
		s, err := newSealer(p.cfg, p.sh, q)
		if err != nil {
			return err
		}
		p.sealers = append(p.sealers, s)
	}
	for _, family := range p.sys.families {
		if err := p.openFamily(ctx, family); err != nil {
			return err
		}
	}
	out, err := newSealer(p.cfg, p.sh, p.tun.queues[0])
	if err != nil {
		return err
	}
	p.engine = newEngine(p.cfg, p.sh, time.Now())
	p.engine.table, p.engine.sys, p.engine.out = p.table, p.sys, out
	for _, n := range p.nat {
		p.engine.nat = append(p.engine.nat, n.ike)
	}
	p.engine.learnAddresses(time.Now())
	p.engine.learnLinks()
	return ctx.Err()
}

// openFamily opens what receives from the wire.
func (p *plane) openFamily(ctx context.Context, family int) error {
	for _, proto := range []sadb.Proto{sadb.ESP, sadb.AH} {
		o, err := openOpener(p.cfg, p.sh, p.tun, family, int(proto))
		if err != nil {
			return err
		}
		p.openers = append(p.openers, o)
		c, err := openErrors(p.cfg, family, proto)
		if err != nil {
			return err
		}
		p.errors = append(p.errors, c)
	}
	n, err := p.cfg.openNAT(ctx, family)
	if err != nil {
		return err
	}
	p.nat = append(p.nat, n)
	p.openers = append(p.openers, newOpener(p.sh, p.tun, n.esp, uint8(sadb.ESP), false))
	return nil
}

// run starts the workers, lets agents in and runs the engine.
func (p *plane) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	changed, err := watch(ctx)
	if err != nil {
		cancel(nil)
		return err
	}
	l, err := listen(ctx, p.cfg.Socket)
	if err != nil {
		cancel(nil)
		return err
	}
	if p.cfg.Ready != nil {
		p.cfg.Ready()
	}
	var workers sync.WaitGroup
	for _, s := range p.sealers {
		workers.Go(func() {
			if err := s.run(); err != nil {
				cancel(err)
			}
		})
	}
	for _, o := range p.openers {
		workers.Go(o.run)
	}
	for _, c := range p.errors {
		workers.Go(func() { readErrors(c, p.engine.tooBigs) })
	}
	workers.Go(func() { p.engine.accept(ctx, l) })
	p.engine.run(ctx, changed)
	p.engine.farewell()
	cancel(nil)
	l.Close()
	p.closeSockets()
	workers.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// closeSockets ends the workers.
func (p *plane) closeSockets() {
	if p.stop >= 0 {
		raise(p.stop)
	}
	for _, o := range p.openers {
		o.conn.Close()
	}
	for _, c := range p.errors {
		c.Close()
	}
}

// close gives back what is open; the table, the rule and the blackhole stay.
func (p *plane) close() {
	p.closeSockets()
	for _, n := range p.nat {
		n.close()
	}
	for _, s := range p.sealers {
		s.socks.close()
	}
	if p.engine != nil {
		p.engine.out.socks.close()
	}
	if p.sys != nil {
		p.sys.close()
	}
	if p.table != nil {
		p.table.Close()
	}
	if p.tun != nil {
		p.tun.close()
	}
	if p.stop >= 0 {
		unix.Close(p.stop)
	}
}
