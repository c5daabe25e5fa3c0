package nft

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver"
)

// start opens the sockets that listen and starts the goroutines: the one that
// owns e, and one for each socket, which only hand on what they read.
func (t *Table) start(e *engine) error {
	log, err := openLog(e.cfg.LogGroup)
	if err != nil {
		return err
	}
	changes, err := openChanges()
	if err != nil {
		log.Close()
		return err
	}
	t.feeds = []closer{e.conn.nl, log, changes}
	asked, changed := make(chan Asked), make(chan struct{}, 1)
	go readLog(reader{log, t.done}, func(a Asked) {
		select {
		case asked <- a:
		case <-t.done:
		}
	})
	go readChanges(reader{changes, t.done}, e.cfg.Table, e.conn.nl.PID(), func() {
		select {
		case changed <- struct{}{}:
		default: // one is enough: the table is looked through
		}
	})
	go t.run(e, asked, changed)
	return nil
}

// run is the goroutine that owns e.
func (t *Table) run(e *engine, asked <-chan Asked, changed <-chan struct{}) {
	defer close(t.done)
	defer func() {
		for _, f := range t.feeds {
			f.Close()
		}
	}()
	for !e.closing {
		select {
		case f := <-t.requests:
			f(e)
		case a := <-asked:
			t.ask(e, a)
		case <-changed:
			t.check(e)
		}
	}
}

// ask hands a report on, with what the filter says about addresses of ours.
func (t *Table) ask(e *engine, a Asked) {
	for _, f := range e.filters {
		if f.ID != a.Filter {
			continue
		}
		a.Flow.LocalMe, a.Flow.RemoteMe = f.Selector.Local.IsMe(), f.Selector.Remote.IsMe()
		select {
		case t.asked <- a:
		default: // nobody takes them; packets ask again
		}
		return
	}
}

// check looks the table through after another process changed it, and puts
// back what is missing.
func (t *Table) check(e *engine) {
	if e.layout == nil {
		return
	}
	what, err := e.missing()
	if err == nil && what == "" {
		return
	}
	if err == nil {
		err = e.restore()
	}
	report := driver.Tampered{What: fmt.Sprintf("nftables table %s: %s", e.cfg.Table, what), Restored: err == nil}
	if err != nil {
		report.What += fmt.Sprintf(" (not restored: %v)", err)
	}
	select {
	case t.tampered <- report:
	default: // nobody listens; the table is in force all the same
	}
}

// missing compares the table with what should be in it, by names and numbers
// of rules.
func (e *engine) missing() (string, error) {
	flags, exists, err := e.tableFlags()
	if err != nil {
		return "", err
	}
	if !exists {
		return "removed", nil
	}
	if flags&tableOwner == 0 {
		return "replaced", nil
	}
	rules, err := e.list(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN)
	if err != nil {
		return "", err
	}
	number := map[string]int{}
	for _, chain := range rules {
		number[chain]++
	}
	if e.broken {
		return "", nil // the next change makes everything anew
	}
	for _, all := range []map[string][]rule{e.cfg.fixed(), e.layout.dispatchRules(e.cfg), e.layout.clearRulesAll()} {
		for _, chain := range sorted(all) {
			if number[chain] != len(all[chain]) {
				return fmt.Sprintf("rules of chain %s changed", chain), nil
			}
		}
	}
	return e.missingSet()
}

func (e *engine) missingSet() (string, error) {
	sets, err := e.list(unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME)
	if err != nil {
		return "", err
	}
	there := map[string]bool{}
	for _, name := range sets {
		there[name] = true
	}
	for _, name := range sorted(e.layout.setNames()) {
		if !there[name] {
			return "set " + name + " removed", nil
		}
	}
	return "", nil
}

// restore puts everything in force again, made anew. A foreign table in our
// place goes in the same transaction that makes ours.
func (e *engine) restore() error {
	flags, exists, err := e.tableFlags()
	if err != nil {
		return err
	}
	var b batch
	if exists && flags&tableOwner == 0 {
		e.deleteTable(&b)
	}
	e.addTable(&b)
	if err := e.conn.commit(&b); err != nil {
		return err
	}
	e.layout, e.based = nil, false
	return e.apply(e.filters)
}

// openChanges opens a socket that hears of changes of any table.
func openChanges() (*netlink.Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	if err := errors.Join(nl.SetReadBuffer(socketBuffer), nl.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		nl.Close()
		return nil, fmt.Errorf("listen to changes of nftables: %w", err)
	}
	return nl, nil
}

// reader reads a socket that listens until the table is closed. No error but that
// end makes it deaf.
type reader struct {
	nl   *netlink.Conn
	done <-chan struct{}
}

// readPause is between two attempts to read what cannot be read.
const readPause = time.Second

var errDone = errors.New("the table is closed")

// next returns messages, or why some were lost: errDone at the end.
func (r reader) next() ([]netlink.Message, error) {
	msgs, err := r.nl.Receive()
	if err == nil || errors.Is(err, unix.ENOBUFS) {
		return msgs, err
	}
	select {
	case <-r.done:
		return nil, errDone
	case <-time.After(readPause):
		return nil, err
	}
}

// readChanges calls f when a process other than pid may have changed the
// table, until the reader is to end. What could not be read may have said so.
func readChanges(r reader, table string, pid uint32, f func()) {
	for {
		msgs, err := r.next()
		switch {
		case errors.Is(err, errDone):
			return
		case err != nil:
			f()
		}
		for _, m := range msgs {
			if m.Header.PID != pid && concerns(m, table) {
				f()
			}
		}
	}
}

// concerns reports whether a change is one of the table. Its name is the first
// attribute of every kind of message.
func concerns(m netlink.Message, table string) bool {
	is := false
	err := decode(m.Data, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_TABLE_NAME {
			is = ad.String() == table
		}
	})
	return err == nil && is && m.Data[0] == unix.NFPROTO_INET
}
