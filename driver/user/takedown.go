package user

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"ipsecagent/driver/nft"
)

// farewellTime is how long a data path that ends waits until whoever had it
// end has read the answer.
const farewellTime = 2 * time.Second

// TakeDown has the data path that listens on the socket take everything of its
// own out of force, in the network namespace it runs in, and end. It returns
// what was removed, in words. Traffic there is not protected afterwards. After
// an error either the data path runs on, or the table is still in force and
// drops what policy wants secured.
func TakeDown(ctx context.Context, socket string) (removed []string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("user: reach the data path on %s: %w", socket, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := writeFrame(conn, request{Verb: verbTakeDown}); err != nil {
		return nil, fmt.Errorf("user: ask the data path to end: %w", err)
	}
	var m message
	if err := readFrame(conn, &m); err != nil {
		return nil, fmt.Errorf("user: the data path does not say that it ends: %w", errors.Join(ctx.Err(), err))
	}
	if m.Reply == nil {
		return nil, errors.New("user: the data path answers with an event: it is of another version")
	}
	if m.Reply.Error != "" {
		return m.Reply.Removed, errors.New(m.Reply.Error)
	}
	return m.Reply.Removed, nil
}

// takeDown takes everything out of force and has run end. Where rules or routes
// cannot be removed the data path goes on and puts them back.
func (e *engine) takeDown(c call) reply {
	r := reply{ID: c.req.ID}
	removed, err := e.sys.remove()
	if err != nil {
		e.lookSoon(time.Now())
		r.Error = fmt.Sprintf("user: remove the data path: %v", err)
		return r
	}
	e.leaving = c.from
	if err := e.table.Remove(); err != nil {
		r.Removed, r.Error = removed, fmt.Sprintf("user: remove the data path: %v", err)
		return r
	}
	e.log.Warn("taken out of force at the administrator's wish: traffic is not protected any more")
	r.Removed = append([]string{
		plural(len(e.filters)+len(e.overlays), "filter"), plural(len(e.sas), "association"),
		"nftables table " + e.cfg.Table, "TUN device " + e.cfg.TUN}, removed...)
	return r
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// farewell waits until whoever had everything taken out of force has hung up.
func (e *engine) farewell() {
	if e.leaving == nil {
		return
	}
	select {
	case <-e.leaving.over:
	case <-time.After(farewellTime):
	}
}

// Remove takes out of force what a data path with this configuration has left
// behind in this network namespace: the ip rule, the routes and, last, the
// nftables table. It returns what it removed, in words; nothing is no error.
// Traffic is not protected afterwards. It is for the administrator who wants
// just that, and fails while a data path runs.
func Remove(c Config) (removed []string, err error) {
	c = c.withDefaults()
	// The table goes last and only after the rest: until then it drops.
	if removed, err = RemoveRouting(c); err != nil {
		return removed, err
	}
	was, err := removeTable(c.nft())
	if err != nil {
		return removed, fmt.Errorf("user: remove the data path: %w", err)
	}
	if was {
		removed = append(removed, "nftables table "+c.Table)
	}
	return removed, nil
}

// RemoveRouting removes the ip rules and routes that a data path with this
// configuration has left in this network namespace, and nothing that enforces. It
// is for the driver that has taken over: rules and routes alone lead packets to
// where nobody takes them. It returns what it removed, in words.
func RemoveRouting(c Config) (removed []string, err error) {
	sys, err := openSystem(c.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("user: remove the routing of a data path: %w", err)
	}
	defer sys.close()
	if removed, err = sys.remove(); err != nil {
		return removed, fmt.Errorf("user: remove the routing of a data path: %w", err)
	}
	return removed, nil
}

// removeTable removes the table; was reports that there was one.
func removeTable(c nft.Config) (was bool, err error) {
	if was, err = nft.Exists(c); !was {
		return false, err
	}
	table, err := nft.Open(c)
	if err != nil {
		return true, err
	}
	return true, table.Remove()
}
