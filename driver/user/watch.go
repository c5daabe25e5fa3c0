package user

import (
	"context"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch asks on the returned channel for a look at rules, routes and links
// whenever one of them changed. What changed is not read from the messages:
// the look itself tells, so that a lost message costs nothing.
func watch(ctx context.Context) (<-chan struct{}, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("watch rules and routes: %w", err)
	}
	for _, group := range []uint32{
		unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	} {
		if err := conn.JoinGroup(group); err != nil {
			conn.Close()
			return nil, fmt.Errorf("watch rules and routes: %w", err)
		}
	}
	changed := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { conn.Close() })
	go receive(ctx, conn, changed)
	return changed, nil
}

func receive(ctx context.Context, conn *netlink.Conn, changed chan<- struct{}) {
	for ctx.Err() == nil {
		// An error (messages were lost) is a reason to look as well.
		if _, err := conn.Receive(); err != nil {
			pause(ctx, 10*time.Millisecond)
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
