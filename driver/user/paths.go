package user

import (
	"net/netip"
	"time"
)

const (
	// What a path is taken to carry where no route can be asked.
	fallbackMTU = 1280
	// No message makes a path narrower than this: what routers say is not
	// authenticated (RFC 8201 §4; RFC 4301 §8.2).
	floor4, floor6 = 576, 1280
	// learnedTime is how long a path stays narrow; then wider is tried again
	// (RFC 1191 §6.3).
	learnedTime = 10 * time.Minute
)

// pathTo returns the path to a peer, shared by its associations.
func (e *engine) pathTo(remote netip.Addr) *path {
	if p := e.paths[remote]; p != nil {
		return p
	}
	p := &path{remote: remote}
	e.paths[remote] = p
	e.measure(p)
	return p
}

// use notes one more association; inbound ones have no path.
func (p *path) use() {
	if p != nil {
		p.users++
	}
}

// release forgets a path with its last association.
func (e *engine) release(p *path) {
	if p == nil {
		return
	}
	if p.users--; p.users == 0 {
		delete(e.paths, p.remote)
	}
}

// measure asks the route for its MTU.
func (e *engine) measure(p *path) {
	mtu, err := e.sys.mtu(p.remote.AsSlice())
	switch {
	case err == nil:
		p.device = uint32(mtu)
	case p.device == 0:
		p.device = fallbackMTU
	}
	p.set()
}

// set publishes the narrower of what route and routers say.
func (p *path) set() {
	mtu := p.device
	if p.learned != 0 {
		mtu = min(mtu, p.learned)
	}
	p.mtu.Store(mtu)
}

// narrower believes a router that quotes a live outbound association, down to
// the floor.
func (e *engine) narrower(t tooBig, now time.Time) {
	a := e.sas[t.id]
	if a == nil || a.path == nil {
		return
	}
	floor := uint32(floor4)
	if t.id.Dst.Is6() {
		floor = floor6
	}
	if t.mtu = max(t.mtu, floor); t.mtu >= a.path.mtu.Load() {
		return
	}
	a.path.learned, a.path.until = t.mtu, now.Add(learnedTime)
	a.path.set()
	e.due(a.path.until)
}

// agePaths lets wider packets be tried again where the time has come.
func (e *engine) agePaths(now time.Time) {
	for _, p := range e.paths {
		if p.learned == 0 {
			continue
		}
		if now.Before(p.until) {
			e.due(p.until)
			continue
		}
		p.learned = 0
		p.set()
	}
}
