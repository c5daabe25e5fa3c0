package user

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/sadb"
)

// suite returns a suite by name.
func suite(t *testing.T, name string) sadb.Suite {
	t.Helper()
	s, err := sadb.ParseSuite(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// require returns the filter "secure all traffic with peer".
func require(id sadb.FilterID, peer netip.Addr) sadb.Filter {
	return sadb.Filter{ID: id, Name: string(id), Dir: sadb.Both,
		Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(peer)},
		Action:   sadb.Action{Kind: sadb.Negotiate}}
}

// requireAll puts the filters "v4" and "v6" in force on both hosts.
func (l *lab) requireAll() {
	l.t.Helper()
	for _, h := range []*host{l.alice, l.bob} {
		peer := l.peer(h)
		if err := h.c.SetFilters(l.t.Context(), []sadb.Filter{require("v4", peer.v4), require("v6", peer.v6)}); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) peer(h *host) *host {
	if h == l.alice {
		return l.bob
	}
	return l.alice
}

// oneWay returns the two ends of an association from one host to the other.
func oneWay(s sadb.Suite, filter sadb.FilterID, src, dst netip.Addr, spi sadb.SPI) (out, in sadb.SA) {
	key := bytes.Repeat([]byte{byte(spi)}, s.EncKeyLen())
	auth := bytes.Repeat([]byte{byte(spi) + 1}, s.Integrity.KeyLen())
	out = sadb.SA{
		ID: sadb.SAID{Dst: dst, Proto: sadb.ESP, SPI: spi}, Src: src, Dir: sadb.Out, Suite: s,
		EncKey: sadb.NewSecret(key), AuthKey: sadb.NewSecret(auth),
		Selector: sadb.Selector{Local: sadb.Addr(src), Remote: sadb.Addr(dst)},
		Filter:   filter,
	}
	in = out
	in.Dir, in.Replay = sadb.In, 1024
	in.Selector = out.Selector.Mirror()
	return out, in
}

// connect installs associations both ways, inbound ends first.
func (l *lab) connect(s sadb.Suite, base sadb.SPI) {
	l.t.Helper()
	for _, p := range []struct {
		filter   sadb.FilterID
		from, to *host
		src, dst netip.Addr
		spi      sadb.SPI
	}{
		{"v4", l.alice, l.bob, l.alice.v4, l.bob.v4, base},
		{"v4", l.bob, l.alice, l.bob.v4, l.alice.v4, base + 1},
		{"v6", l.alice, l.bob, l.alice.v6, l.bob.v6, base + 2},
		{"v6", l.bob, l.alice, l.bob.v6, l.alice.v6, base + 3},
	} {
		out, in := oneWay(s, p.filter, p.src, p.dst, p.spi)
		l.add(p.to, in)
		l.add(p.from, out)
	}
}

func (l *lab) add(h *host, sa sadb.SA) {
	l.t.Helper()
	if err := h.c.AddSA(l.t.Context(), sa); err != nil {
		l.t.Fatal(err)
	}
}

// secured returns a lab with both data paths, filters and associations.
func secured(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.alice.start()
	l.bob.start()
	l.requireAll()
	l.connect(suite(t, "esp-aes256gcm"), 0x1000)
	return l
}

// ping sends from h; extra arguments go to ping.
func (h *host) ping(to netip.Addr, extra ...string) error {
	args := append([]string{"ping", "-c", "2", "-i", "0.05", "-W", "2", "-q"}, extra...)
	out, err := try(h.ns, "", append(args, to.String())...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// echo runs a TCP echo server on h until the test ends, and returns its address.
func (h *host) echo(addr netip.Addr) string {
	h.t.Helper()
	l := in(h, func() (net.Listener, error) { return net.Listen("tcp", netip.AddrPortFrom(addr, 0).String()) })
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// exchange sends n bytes over TCP from h and checks that they come back.
func (h *host) exchange(addr string, n int) error {
	c := in(h, func() (net.Conn, error) { return net.DialTimeout("tcp", addr, 10*time.Second) })
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	want := bytes.Repeat([]byte("secured!"), n/8)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- err
	}()
	got := make([]byte, len(want))
	for at := 0; at < len(got); {
		k, err := c.Read(got[at:])
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at, len(got), err)
		}
		at += k
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("other bytes came back")
	}
	return <-sent
}

// flows waits until traffic goes both ways and both families again.
func (l *lab) flows() {
	l.t.Helper()
	for _, a := range []netip.Addr{l.bob.v4, l.bob.v6} {
		eventually(l.t, fmt.Sprintf("ping %s", a), func() bool { return l.alice.ping(a, "-W", "1") == nil })
	}
}
