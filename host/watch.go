package host

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/vishvananda/netlink"
)

// lookAtFiles is how often the files that name servers are looked at: they are
// many, most are not there, and programs replace them in many ways.
const lookAtFiles = 5 * time.Second

// resubscribe is how long Watch waits before it asks the kernel again after a
// subscription broke.
const resubscribe = time.Second

// Watch hints that the facts may have changed: a receive says "call Read". Many
// changes may be one hint; none is lost, for after a broken subscription a
// hint follows too. It ends, and the channel closes, with ctx. It watches the
// network namespace of the calling thread.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	first, err := subscribe()
	if err != nil {
		return nil, err
	}
	hints := make(chan struct{}, 1)
	go func() {
		defer close(hints)
		for s := first; s != nil; s = renew(ctx) {
			s.forward(ctx, hints)
			hint(hints)
		}
	}()
	return hints, nil
}

func hint(hints chan<- struct{}) {
	select {
	case hints <- struct{}{}:
	default: // one waits already
	}
}

// renew subscribes again, until it succeeds or ctx ends (nil).
func renew(ctx context.Context) *subscription {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(resubscribe):
		}
		if s, err := subscribe(); err == nil {
			return s
		}
	}
}

type subscription struct {
	addrs chan netlink.AddrUpdate
	links chan netlink.LinkUpdate
	route chan netlink.RouteUpdate
	done  chan struct{}
}

func subscribe() (*subscription, error) {
	s := &subscription{make(chan netlink.AddrUpdate, 64), make(chan netlink.LinkUpdate, 64), make(chan netlink.RouteUpdate, 64), make(chan struct{})}
	if err := netlink.AddrSubscribe(s.addrs, s.done); err != nil {
		return nil, fmt.Errorf("host: watch addresses: %w", err)
	}
	// What has no subscription never closes its channel.
	if err := netlink.LinkSubscribe(s.links, s.done); err != nil {
		close(s.links)
		close(s.route)
		s.close()
		return nil, fmt.Errorf("host: watch interfaces: %w", err)
	}
	if err := netlink.RouteSubscribe(s.route, s.done); err != nil {
		close(s.route)
		s.close()
		return nil, fmt.Errorf("host: watch routes: %w", err)
	}
	return s, nil
}

// forward hints at every update until one of the channels breaks (the kernel
// dropped messages, or the socket failed) or ctx ends.
func (s *subscription) forward(ctx context.Context, hints chan<- struct{}) {
	defer s.close()
	look := time.NewTicker(lookAtFiles)
	defer look.Stop()
	files := stamps(root())
	for ok := true; ok; {
		select {
		case <-ctx.Done():
			return
		case _, ok = <-s.addrs:
		case _, ok = <-s.links:
		case u, more := <-s.route:
			if ok = more; ok && !isDefault(u.Route) {
				continue
			}
		case <-look.C:
			former := files
			if files = stamps(root()); maps.Equal(former, files) {
				continue
			}
		}
		hint(hints)
	}
}

// isDefault reports whether a route is one that every destination without a
// route of its own takes: routes to others come and go on a router.
func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// close ends the subscription. The library's goroutines may be about to send,
// so what they still have is read until they close their channels.
func (s *subscription) close() {
	close(s.done)
	go drain(s.addrs)
	go drain(s.links)
	go drain(s.route)
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
