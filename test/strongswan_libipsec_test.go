package test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestStrongSwanCarriesESPItself: charon's own ESP in userspace (libipsec, a
// tunnel in UDP, both ends as if behind a translator) against our data path,
// with the two hosts' own stacks on top: echo requests both ways, and TCP.
func TestStrongSwanCarriesESPItself(t *testing.T) {
	ids := newIdentities(t)
	rows := []combination{tunnelRows()[0], tunnelRows()[1], tunnelRows()[3], tunnelRows()[4]}
	for i, c := range rows {
		c.libipsec = true
		for _, first := range []string{"we begin", "strongSwan begins"} {
			t.Run(c.name+"/"+first, func(t *testing.T) {
				t.Parallel()
				us, d := meet(t, "", fmt.Sprintf("lib%d%c", i, first[0]), c, ids)
				d.h.must("ip", "addr", "add", c.inner(d.h), "dev", "lo")
				d.h.must("ip", "route", "add", c.network(us), "dev", "wire", "src", c.inner(d.h))
				wire := us.capture("wire")
				if first == "we begin" {
					us.ping(c.inner(d.h), 1)
				} else {
					d.mustSwanctl("--initiate", "--child", "net", "--timeout", "30")
				}
				eventually(t, 60*time.Second, "an association is established", us.established)
				eventually(t, 20*time.Second, "the tunnel carries", func() bool { return us.ping(c.inner(d.h), 1) == 1 })
				bothWays(t, us, d.h, c)
				all := wire.end()
				// charon answers in clear until it has made its route, after the associations.
				peers := netip.MustParseAddr(c.inner(d.h))
				if found := leaks(all, func(p packet) bool {
					return p.proto == 17 && p.sport == 4500 && p.dport == 4500 || p.src == peers
				}); len(found) > 0 {
					t.Errorf("in clear: %v", found)
				}
			})
		}
	}
}

// bothWays sends echo requests and fetches a file over TCP in both directions.
func bothWays(t *testing.T, us, peer *host, c combination) {
	t.Helper()
	us.serve(100_000)
	peer.serve(100_000)
	passesBothWays(t, us, peer, c)
}

// passesBothWays is the same, once the files are served.
func passesBothWays(t *testing.T, us, peer *host, c combination) {
	t.Helper()
	if got := us.ping(c.inner(peer), 5); got != 5 {
		t.Errorf("%s answered %d of 5 echo requests of %s", peer.ns, got, us.ns)
	}
	if got := peer.ping(c.inner(us), 5); got != 5 {
		t.Errorf("%s answered %d of 5 echo requests of %s", us.ns, got, peer.ns)
	}
	if !us.fetch(c.url(peer), 20*time.Second) {
		t.Errorf("%s cannot fetch from %s", us.ns, peer.ns)
	}
	if !peer.fetch(c.url(us), 20*time.Second) {
		t.Errorf("%s cannot fetch from %s", peer.ns, us.ns)
	}
}

// url is h's address as it stands in a URL.
func (c combination) url(h *host) string {
	if c.v6 {
		return "[" + c.inner(h) + "]"
	}
	return c.inner(h)
}
