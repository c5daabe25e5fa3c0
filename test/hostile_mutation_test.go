package test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// bases are messages that are right, as far as one can be without a key.
func bases(random *rand.Rand) [][]byte {
	i, r := random.Uint64()|1, random.Uint64()|1
	with := func(exchange, flags byte, r uint64, id uint32, payloads ...any) []byte {
		next, body := chain(payloads...)
		return ikeMessage(i, r, next, exchange, flags, id, body)
	}
	address := []byte{1, 17, 1, 0xf4, 10, 80, 0, 1}
	return [][]byte{
		firstMessage(i),
		with(2, 0, 0, 0, pSA, offerBody(), pVendor, noise(random, 16), pVendor, noise(random, 20)),
		keyMessage(i, r, somePoint(random), noise(random, 32)),
		with(4, 0, 0, 0, pSA, offerBody(), pKE, somePoint(random), pNonce, noise(random, 32), pID, address),
		with(5, 0, r, 7, pNotify, notifyBody(24578, i, r)),
		with(5, 0, r, 7, pDelete, notifyBody(0, i, r)),
		with(32, 1, r, 9, pHash, noise(random, 32), pSA, offerBody(), pNonce, noise(random, 32), pID, address, pID, address),
		with(2, 0, r, 0, byte(132), append([]byte{0, 1, 1, 0}, noise(random, 64)...)),
	}
}

// The values that lengths and counts are tried with.
var awkward = []uint16{0, 1, 2, 3, 4, 5, 7, 8, 12, 27, 28, 127, 128, 255, 256, 1000, 0x7fff, 0x8000, 0xfffe, 0xffff}

// crafted are datagrams that are wrong in one place each.
func crafted(random *rand.Rand) [][]byte {
	var all [][]byte
	change := func(base []byte, f func(b []byte)) {
		b := slices.Clone(base)
		f(b)
		all = append(all, b)
	}
	for _, base := range bases(random) {
		for n := range min(len(base), 64) {
			all = append(all, base[:n])
		}
		for _, v := range awkward {
			change(base, func(b []byte) { binary.BigEndian.PutUint16(b[26:], v) })
			change(base, func(b []byte) { binary.BigEndian.PutUint32(b[24:], uint32(v)<<16|uint32(v)) })
			change(base, func(b []byte) { binary.BigEndian.PutUint16(b[30:], v) })
		}
		for v := range 256 {
			change(base, func(b []byte) { b[16] = byte(v) })
		}
		for _, at := range []int{0, 8} {
			change(base, func(b []byte) { clear(b[at : at+8]) })
		}
		all = append(all, append(slices.Clone(base), noise(random, 40)...))
	}
	first := firstMessage(random.Uint64() | 1)
	for at := 16; at < len(first); at++ { // every byte of the header and the offer, whatever it says
		for _, v := range []byte{0, 1, 2, 0x7f, 0x80, 0xff, first[at] + 1, first[at] - 1} {
			change(first, func(b []byte) { b[at] = v })
		}
	}
	for v := range 256 { // exchange types and flags
		change(first, func(b []byte) { b[18] = byte(v) })
		change(first, func(b []byte) { b[19] = byte(v) })
	}
	return append(all, many(random)...)
}

// many are messages with too much of everything.
func many(random *rand.Rand) [][]byte {
	var all [][]byte
	add := func(exchange byte, payloads ...any) {
		next, body := chain(payloads...)
		all = append(all, ikeMessage(random.Uint64()|1, 0, next, exchange, 0, 0, body))
	}
	for _, n := range []int{2, 17, 80, 480} {
		payloads := []any{pSA, offerBody()}
		for range n {
			payloads = append(payloads, pVendor, noise(random, 16))
		}
		add(2, payloads...)
		payloads = nil
		for range n {
			payloads = append(payloads, pSA, offerBody())
		}
		add(2, payloads...)
		add(2, pSA, manyTransforms(n))
		add(2, pSA, manyProposals(n))
		add(2, pSA, offerBody(), pVendor, noise(random, n*100))
	}
	return all
}

// manyTransforms is an offer of one proposal with n transforms, the last of
// which is acceptable.
func manyTransforms(n int) []byte {
	one := offerBody()[16:]
	var transforms []byte
	for k := range n {
		t := slices.Clone(one)
		if k < n-1 {
			t[0] = 3
			t[11] = 99 // a cipher nobody has
		}
		t[4] = byte(k)
		transforms = append(transforms, t...)
	}
	proposal := []byte{0, 0, 0, 0, 1, 1, 0, byte(n)}
	binary.BigEndian.PutUint16(proposal[2:], uint16(8+len(transforms)))
	return slices.Concat([]byte{0, 0, 0, 1, 0, 0, 0, 1}, proposal, transforms)
}

// manyProposals is an offer of n proposals.
func manyProposals(n int) []byte {
	b := []byte{0, 0, 0, 1, 0, 0, 0, 1}
	for k := range n {
		p := slices.Clone(offerBody()[8:])
		if k < n-1 {
			p[0] = 2
		}
		p[4] = byte(k)
		b = append(b, p...)
	}
	return b
}

// mutate damages a datagram in a few places.
func mutate(random *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for range 1 + random.IntN(6) {
		if len(b) == 0 {
			return noise(random, random.IntN(64))
		}
		at := random.IntN(len(b))
		switch random.IntN(7) {
		case 0:
			b[at] ^= 1 << random.IntN(8)
		case 1:
			b[at] = byte(random.Uint32())
		case 2:
			b = slices.Insert(b, at, noise(random, 1+random.IntN(16))...)
		case 3:
			b = slices.Delete(b, at, min(len(b), at+1+random.IntN(16)))
		case 4:
			b = b[:at]
		case 5:
			from := random.IntN(len(b))
			copy(b[at:], b[from:])
		case 6:
			if at+2 <= len(b) {
				binary.BigEndian.PutUint16(b[at:], awkward[random.IntN(len(awkward))])
			}
		}
	}
	if random.IntN(2) == 0 && len(b) >= 28 { // so that it gets past the first check
		binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
	}
	return b
}

// barrage sends hostile datagrams, each from an address of its own, and keeps
// count of what each address sent and got.
type barrage struct {
	c         *crowd
	random    *rand.Rand
	out, in   map[netip.Addr]int
	next      int
	datagrams int
	worst     float64 // bytes to an address for each from it
}

func newBarrage(c *crowd, seed uint64) *barrage {
	b := &barrage{c: c, random: rand.New(rand.NewPCG(seed, 7)), out: map[netip.Addr]int{}, in: map[netip.Addr]int{}}
	c.other = b.answered
	return b
}

// fire sends one datagram; every sixteenth goes to the port of address
// translation.
func (b *barrage) fire(data []byte) {
	from, port := outsider(80, b.next), uint16(500)
	if b.next++; b.next%16 == 0 {
		port, data = 4500, append([]byte{0, 0, 0, 0}, data...)
	}
	b.shoot(netip.AddrPortFrom(from, port), data)
}

func (b *barrage) shoot(from netip.AddrPort, data []byte) {
	b.out[from.Addr()] += len(data)
	b.datagrams++
	b.c.wire.send(from, from.Port(), data)
	if b.datagrams%100 == 0 { // no faster than they are taken
		b.c.run(15*time.Millisecond, func() bool { return false })
	}
}

// answered goes on with an exchange that has been let in: with a third message
// that is damaged as well.
func (b *barrage) answered(p datagram) {
	addr := p.to.Addr()
	b.in[addr] += len(p.data)
	b.worst = max(b.worst, float64(b.in[addr])/float64(b.out[addr]))
	if len(p.data) < 28 || p.data[16] != pSA || b.random.IntN(4) != 0 {
		return
	}
	third := mutate(b.random, thirdMessage(b.random, p.data))
	b.out[addr] += len(third)
	b.datagrams++
	b.c.wire.send(p.to, p.from.Port(), third)
}

// TestHostileDatagrams: thousands of datagrams that are wrong, in one place or
// in many. The same agent lives on and serves, no panic was caught in it,
// nobody got more than three bytes for each of its own, and the log stays small
// and printable.
func TestHostileDatagrams(t *testing.T) {
	us, c := besiege(t, "mutants")
	pid, memory := us.agentPID(), us.resident()
	b := newBarrage(c, 1)
	made := crafted(b.random)
	for _, data := range made {
		b.fire(data)
	}
	seeds := sampled(5, 1)
	for seed := range seeds {
		b.random = rand.New(rand.NewPCG(uint64(seed), 11))
		pool := append(bases(b.random), made...)
		for range sampled(50000, 20000) {
			b.fire(mutate(b.random, pool[b.random.IntN(len(pool))]))
		}
	}
	c.run(time.Second, func() bool { return false })
	clear(b.in)
	c.run(time.Duration(sampled(30, 3))*time.Second, func() bool { return false })
	if len(b.in) > 0 {
		t.Errorf("%d addresses get datagrams long after theirs", len(b.in))
	}
	last := c.join(outsider(65, 1))
	if !c.run(5*time.Second, func() bool { return len(last.pairs) > 0 }) {
		t.Errorf("an honest peer is not served afterwards: %+v", last.failed)
	}
	us.unharmed(pid)
	dropped := us.status().DataPath.Counters["ikeDropped"]
	if grown := us.resident() - memory; grown > 32<<20 {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	us.checkLog(t)
	if b.worst > 3 {
		t.Errorf("an address got %.2f bytes for each of its own", b.worst)
	}
	t.Logf("figure: hostile datagrams: %d crafted, %d in all with %d seeds, %d dropped, bytes out for each in %.2f, at most %.2f for one address, +%d KiB",
		len(made), b.datagrams, seeds, dropped, float64(c.wire.received)/float64(c.wire.sent.Load()), b.worst, (us.resident()-memory)>>10)
	if len(made) < 1000 {
		t.Errorf("only %d crafted datagrams", len(made))
	}
}

// checkLog checks that the agent's log is text, in lines of bounded length, and
// no more than ten lines a second of each event.
func (h *host) checkLog(t *testing.T) {
	t.Helper()
	perSecond := map[string]int{}
	event := regexp.MustCompile(`^time=(\S{19})\S* .*?(?:event=(\S+)|$)`)
	for _, line := range strings.Split(strings.TrimSpace(h.agent.output()), "\n") {
		if len(line) > 1024 || strings.ContainsFunc(line, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd }) {
			t.Errorf("log line of %d bytes: %q", len(line), tail(line, 300))
		}
		if m := event.FindStringSubmatch(line); m != nil {
			perSecond[fmt.Sprint(m[1], m[2])]++
		}
	}
	for what, n := range perSecond {
		if n > 20 { // two seconds of the agent's meet in one of the clock's
			t.Errorf("%d lines of one kind in a second: %s", n, what)
		}
	}
}
