package cert

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// Bounds of fetching.
const (
	maxPoints    = 4    // distribution points of a certificate that are tried
	maxURL       = 1024 // bytes
	maxEntries   = 256  // lists remembered
	maxRemember  = 64 << 20
	maxFetches   = 4 // at a time
	maxRedirects = 2
	fetchTime    = 30 * time.Second
	retryAfter   = 5 * time.Minute    // a failed fetch
	forgetAfter  = 7 * 24 * time.Hour // a list nobody asked for
)

// place is where a list comes from and who has to have signed it. Keyed by
// both, a list cannot stand in the way of another issuer's.
type place struct {
	url    string
	issuer [sha256.Size]byte
}

// entry is the state of one place.
type entry struct {
	issuer *x509.Certificate
	list   *list // the newest, nil before the first
	err    error // of the last fetch
	retry  time.Time
	used   time.Time
	done   chan struct{} // closed when the fetch under way has ended; nil: none is
}

// cache has the lists that were fetched. Sessions in the worker pool and
// fetches share it under a mutex that is held for no longer than a look-up.
type cache struct {
	client *http.Client
	now    func() time.Time
	slots  chan struct{}

	mu      sync.Mutex
	entries map[place]*entry
}

func newCache(set Settings) *cache {
	return &cache{client: newClient(set), now: set.Now, slots: make(chan struct{}, maxFetches), entries: map[place]*entry{}}
}

// get returns the list of a place, fetched if there is none in force. It waits
// until ctx ends; the fetch goes on for those who ask later. Both results may
// be set: an old list and why there is no new one.
func (c *cache) get(ctx context.Context, url string, issuer *x509.Certificate) (*list, error) {
	if err := checkURL(url); err != nil {
		return nil, err
	}
	e, done := c.look(place{url, sha256.Sum256(issuer.Raw)}, issuer)
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s did not answer within %v", url, listWait)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.list, e.err
}

// look finds or makes the entry of a place, and starts a fetch that is due.
func (c *cache) look(p place, issuer *x509.Certificate) (*entry, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	e := c.entries[p]
	if e == nil {
		c.shrink()
		e = &entry{issuer: issuer}
		c.entries[p] = e
	}
	e.used = now
	if e.list != nil && e.list.fresh(now) {
		return e, nil
	}
	c.start(p, e, now)
	return e, e.done
}

// start begins a fetch, unless one is under way or one failed a moment ago. The
// mutex is held.
func (c *cache) start(p place, e *entry, now time.Time) {
	if e.done != nil || now.Before(e.retry) {
		return
	}
	e.done = make(chan struct{})
	go c.run(p, e)
}

// run fetches and keeps the outcome.
func (c *cache) run(p place, e *entry) {
	c.slots <- struct{}{}
	l, err := c.fetch(p.url, e.issuer)
	<-c.slots
	c.mu.Lock()
	defer c.mu.Unlock()
	e.err = err
	if l != nil && (e.list == nil || l.crl.ThisUpdate.After(e.list.crl.ThisUpdate)) {
		e.list = l
	}
	e.retry = c.now().Add(retryAfter)
	close(e.done)
	e.done = nil
}

// shrink makes room for an entry: the one longest unused goes. The mutex is
// held.
func (c *cache) shrink() {
	for len(c.entries) >= maxEntries || c.size() > maxRemember {
		var oldest place
		var last time.Time
		for p, e := range c.entries {
			if last.IsZero() || e.used.Before(last) {
				oldest, last = p, e.used
			}
		}
		delete(c.entries, oldest)
	}
}

func (c *cache) size() int {
	n := 0
	for _, e := range c.entries {
		if e.list != nil {
			n += len(e.list.crl.Raw)
		}
	}
	return n
}

// refresh fetches what is in use and about to run out, and forgets what is not
// in use.
func (c *cache) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for p, e := range c.entries {
		switch {
		case e.done != nil:
		case now.Sub(e.used) > forgetAfter:
			delete(c.entries, p)
		case e.list == nil || now.After(e.list.refreshAt()):
			c.start(p, e, now)
		}
	}
}

// fetch gets one list and checks that it is its issuer's.
func (c *cache) fetch(url string, issuer *x509.Certificate) (*list, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
	defer cancel()
	der, err := c.download(ctx, url)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	l, err := parseList(url, der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if err := l.signed(issuer); err != nil {
		return nil, fmt.Errorf("%s: the signature of its issuer is wrong: %w", url, err)
	}
	return l, nil
}

func (c *cache) download(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %q", url, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxList+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if len(body) > maxList {
		return nil, fmt.Errorf("%s is larger than %d bytes", url, maxList)
	}
	return body, nil
}

// checkURL admits plain HTTP alone: a list is signed, and TLS would need
// another list first.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL || u.Scheme != "http" || u.Host == "" || u.User != nil {
		return fmt.Errorf("the distribution point %.100q is not of the form http://host/path", text)
	}
	return nil
}

// newClient makes a client that connects to no address of this host or link,
// where a certificate has no business to send it.
func newClient(set Settings) *http.Client {
	var given net.Dialer
	if set.Dialer != nil {
		given = *set.Dialer
	}
	d := given
	d.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		if err := checkTarget(address); err != nil && !set.AllowLocalLists {
			return err
		}
		if given.ControlContext != nil {
			return given.ControlContext(ctx, network, address, c)
		}
		if given.Control != nil {
			return given.Control(network, address, c)
		}
		return nil
	}
	return &http.Client{
		Timeout: fetchTime,
		Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("redirected too often")
			}
			return checkURL(req.URL.String())
		},
	}
}

// checkTarget looks at the address a name has led to.
func checkTarget(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	a := ap.Addr().Unmap()
	if a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return fmt.Errorf("revocation lists are not fetched from %s", a)
	}
	return nil
}
