package test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sampled is n, or a part of it in the normal run.
func sampled(n, sample int) int {
	if full() {
		return n
	}
	return sample
}

// hostile is the combination the floods meet: a group that costs little, so
// that it is the tables that are tried.
func hostile() combination {
	return combination{auth: "psk", main: "aes256-sha256-ecp256", method: "esp-aes256gcm"}
}

// everybody secures everything; some peers are named.
const everybody = `apiVersion: ipsecagent/v1
kind: Policy
name: everybody
keyExchange:
  methods: [aes256-sha256-ecp256]
filterLists:
  everybody:
    - {from: me, to: any}
  named:
    - {from: me, to: 10.66.0.0/16}
filterActions:
  require:
    negotiate:
      methods: [esp-aes256gcm]
rules:
  - {name: everybody, filterList: everybody, filterAction: require, authentication: [psk]}
  - {name: named, filterList: named, filterAction: require, authentication: [psk]}
`

// besiege makes a host with an agent and a tap on its wire, and a crowd behind
// it that knows the key.
func besiege(t *testing.T, tag string) (*host, *crowd) {
	t.Helper()
	us, far := newPair(t, tag)
	wire := openTap(t, us, far)
	key := aKey(tag)
	us.startAgent(map[string]string{"everybody.yaml": everybody})
	us.assign("everybody", key)
	return us, newCrowd(t, wire, hostile(), key)
}

// outsider returns the n-th address of 10.block.0.0/16 or, beyond 65536, of the
// next block.
func outsider(block byte, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, block + byte(n>>16), byte(n >> 8), byte(n)})
}

// ikeMessage puts an ISAKMP header before a body, by hand.
func ikeMessage(icookie, rcookie uint64, next, exchange, flags byte, id uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, icookie), rcookie)
	b = append(b, next, 0x10, exchange, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(28+len(body)))
	return append(b, body...)
}

// chain joins payloads, given as type and body; it returns the first type.
func chain(payloads ...any) (next byte, body []byte) {
	for i := 0; i < len(payloads); i += 2 {
		following := byte(0)
		if i+2 < len(payloads) {
			following = payloads[i+2].(byte)
		}
		data := payloads[i+1].([]byte)
		body = append(body, following, 0)
		body = append(binary.BigEndian.AppendUint16(body, uint16(4+len(data))), data...)
	}
	return payloads[0].(byte), body
}

// The payload types that are built by hand.
const (
	pSA, pKE, pID, pHash, pNonce, pNotify, pDelete, pVendor byte = 1, 4, 5, 8, 10, 11, 12, 13
)

// offerBody is an SA payload with the one transform that is accepted.
func offerBody() []byte {
	attributes := []byte{0x80, 1, 0, 7, 0x80, 14, 1, 0, 0x80, 2, 0, 4, 0x80, 4, 0, 19, 0x80, 3, 0, 1, 0x80, 11, 0, 1, 0x80, 12, 0x70, 0x80}
	transform := append([]byte{0, 0, 0, byte(8 + len(attributes)), 1, 1, 0, 0}, attributes...)
	proposal := append([]byte{0, 0, 0, byte(8 + len(transform)), 1, 1, 0, 1}, transform...)
	return append([]byte{0, 0, 0, 1, 0, 0, 0, 1}, proposal...)
}

// firstMessage is a main mode's first.
func firstMessage(icookie uint64) []byte {
	next, body := chain(pSA, offerBody())
	return ikeMessage(icookie, 0, next, 2, 0, 0, body)
}

// process memory and time, as the kernel counts them.
func (h *host) resident() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.agentPID()))
	if err != nil {
		h.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		h.t.Fatal(err)
	}
	return kib << 10
}

// agentPID is the agent's process.
func (h *host) agentPID() int { return h.agent.cmd.Process.Pid }

// cpu is the processor time the agent has used.
func (h *host) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.agentPID()))
	if err != nil {
		h.t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// unharmed checks that it is the same agent and that no panic was caught in it.
func (h *host) unharmed(pid int) {
	h.t.Helper()
	s := h.status()
	if s.Agent.PID != pid {
		h.t.Errorf("the agent is process %d, it was %d", s.Agent.PID, pid)
	}
	n, counted := s.DataPath.Counters["ikeInternalErrors"]
	if !counted || n != 0 {
		h.t.Errorf("%d panics caught (counted: %v)", n, counted)
	}
}

// flood sends first messages from 32,768 addresses until all are sent; every 0:
// as fast as it goes.
func flood(c *crowd, count int, every time.Duration, seed uint64) (done chan struct{}) {
	done = make(chan struct{})
	random := rand.New(rand.NewPCG(seed, 1))
	go func() {
		defer close(done)
		next := time.Now()
		for range count {
			next = next.Add(every)
			time.Sleep(time.Until(next)) // the pace is what is tested
			from := netip.AddrPortFrom(outsider(80, random.IntN(32768)), 500)
			c.wire.send(from, 500, firstMessage(random.Uint64()|1))
		}
	}()
	return done
}

// ended reports whether a channel is closed.
func ended(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// siege is what is seen while a flood lasts.
type siege struct {
	us              *host
	c               *crowd
	strangers       []*stranger
	named           []*stranger
	before, peak    int // bytes
	looked, arrived time.Time
}

// through runs the crowd until the flood is over; two new honest peers come
// every pace.
func (s *siege) through(done chan struct{}, pace time.Duration) {
	s.c.run(10*time.Minute, func() bool {
		now := time.Now()
		if now.Sub(s.arrived) >= pace {
			s.arrived = now
			s.strangers = append(s.strangers, s.c.join(outsider(65, 1+len(s.strangers))))
			s.named = append(s.named, s.c.join(outsider(66, 1+len(s.named))))
		}
		if now.Sub(s.looked) >= 100*time.Millisecond {
			s.looked = now
			s.peak = max(s.peak, s.us.resident())
		}
		return ended(done)
	})
}

// TestFloodOfFirstMessages: half-open exchanges by the ten thousand, from
// addresses that may be made up, at once and then 1,000 a second. Honest peers
// come through, memory stays bounded, and it is over when it is over.
func TestFloodOfFirstMessages(t *testing.T) {
	us, c := besiege(t, "flood")
	late := 0
	c.other = func(datagram) { late++ }
	pid := us.agentPID()
	s := &siege{us: us, c: c, before: us.resident()}
	s.through(flood(c, 20000, 0, 1), 100*time.Millisecond)
	// As many honest peers in the long run as in the short one: the memory of
	// what they establish is not the flood's.
	s.through(flood(c, sampled(60000, 10000), time.Millisecond, 2), time.Duration(sampled(600, 100))*time.Millisecond)
	answered := late
	c.run(10*time.Second, func() bool {
		return paired(s.strangers) == len(s.strangers) && paired(s.named) == len(s.named)
	})
	begin := time.Now()
	last := c.join(outsider(65, 9999))
	if !c.run(5*time.Second, func() bool { return len(last.pairs) > 0 }) || time.Since(begin) > 2*time.Second {
		t.Errorf("after the flood a negotiation takes %v", time.Since(begin))
	}
	took := time.Since(begin)
	// What has been given up is not answered any more.
	c.run(time.Second, func() bool { return false })
	late = 0
	used := us.cpu()
	c.run(time.Duration(sampled(30, 3))*time.Second, func() bool { return false })
	if late > 0 {
		t.Errorf("%d datagrams to those who have fallen silent", late)
	}
	idle := float64(us.cpu()-used) / float64(time.Duration(sampled(30, 3))*time.Second)
	if idle > 0.05 {
		t.Errorf("%.0f %% of a processor afterwards", idle*100)
	}
	// Half-open exchanges live 125 s; then the collector comes round.
	c.run(time.Duration(sampled(260, 0))*time.Second, func() bool { return false })
	s.judge(t, answered, took)
	us.unharmed(pid)
}

// judge holds what was seen against the figures.
func (s *siege) judge(t *testing.T, answered int, last time.Duration) {
	strangers, named := paired(s.strangers), paired(s.named)
	if strangers*100 < len(s.strangers)*90 {
		t.Errorf("%d of %d honest strangers came through", strangers, len(s.strangers))
	}
	if named*100 < len(s.named)*99 {
		t.Errorf("%d of %d named peers came through", named, len(s.named))
	}
	after := s.us.resident()
	if s.peak-s.before > 32<<20 || after-s.before > sampled(16, 32)<<20 {
		t.Errorf("memory: %d KiB before, %d at its peak, %d after", s.before>>10, s.peak>>10, after>>10)
	}
	ratio := float64(s.c.wire.received) / float64(s.c.wire.sent.Load())
	if ratio > 3 {
		t.Errorf("%.2f bytes are sent for each received", ratio)
	}
	t.Logf("figure: flood of first messages: %d of %d strangers and %d of %d named peers came through, %d answers to the flood, +%d KiB at the peak, +%d KiB after, bytes out for each in %.2f, a negotiation afterwards %v",
		strangers, len(s.strangers), named, len(s.named), answered, (s.peak-s.before)>>10, (after-s.before)>>10, ratio, last.Round(time.Millisecond))
}

// TestFloodOfKeyExchanges: peers that answer from where they say, and have us
// compute Diffie-Hellman for nothing. Quick modes of a peer that is known go on
// beside it, and no association is lost.
func TestFloodOfKeyExchanges(t *testing.T) {
	us, c := besiege(t, "dhflood")
	pid := us.agentPID()
	good := c.join(outsider(66, 1))
	if !c.run(10*time.Second, func() bool { return len(good.pairs) == 1 }) {
		t.Fatalf("no association before the flood: %+v", good.failed)
	}
	random := rand.New(rand.NewPCG(3, 1))
	computed := 0
	c.other = func(p datagram) {
		if len(p.data) < 28 || p.data[16] != pSA {
			computed++
			return
		}
		c.wire.send(p.to, p.from.Port(), thirdMessage(random, p.data))
	}
	all := sampled(2000, 600)
	waits := c.quickModes(t, good, 20, func(round int) {
		for n := range all / 20 {
			c.wire.send(netip.AddrPortFrom(outsider(80, round*1000+n), 500), 500, firstMessage(random.Uint64()|1))
		}
	})
	if len(good.failed) > 0 || len(good.m.SAs()) != 1 {
		t.Errorf("the good peer: %+v", good.failed)
	}
	us.unharmed(pid)
	t.Logf("figure: flood of %d key exchanges (%d computed): quick modes of a known peer took at most %v", all, computed, waits)
	if waits > time.Duration(sampled(500, 2000))*time.Millisecond {
		t.Errorf("a quick mode took %v", waits)
	}
}

// quickModes has a peer ask for pairs one after the other, with something else
// before each, and returns the longest time one took.
func (c *crowd) quickModes(t *testing.T, s *stranger, count int, before func(round int)) (worst time.Duration) {
	t.Helper()
	for round := range count {
		before(round)
		begin, had := time.Now(), len(s.pairs)
		c.ask(s, uint64(100+round))
		if !c.run(20*time.Second, func() bool { return len(s.pairs) > had }) {
			t.Fatalf("quick mode %d: %+v", round, s.failed)
		}
		worst = max(worst, time.Since(begin))
	}
	return worst
}

// thirdMessage answers a second message with a key nobody has.
func thirdMessage(random *rand.Rand, second []byte) []byte {
	return keyMessage(binary.BigEndian.Uint64(second), binary.BigEndian.Uint64(second[8:]), somePoint(random), noise(random, 32))
}

// keyMessage is a main mode's third message.
func keyMessage(icookie, rcookie uint64, ke, nonce []byte) []byte {
	next, body := chain(pKE, ke, pNonce, nonce)
	return ikeMessage(icookie, rcookie, next, 2, 0, 0, body)
}

// TestQuickModesByTheThousand: a peer that has proven itself asks for ever more
// pairs. It gets a bounded number, and others do not feel it.
func TestQuickModesByTheThousand(t *testing.T) {
	us, c := besiege(t, "qmflood")
	pid := us.agentPID()
	greedy := c.join(outsider(66, 1))
	if !c.run(10*time.Second, func() bool { return len(greedy.pairs) == 1 }) {
		t.Fatalf("no association before the flood: %+v", greedy.failed)
	}
	all, asked, most := sampled(10000, 1000), 1, 0
	var others []*stranger
	var worst time.Duration
	c.run(time.Duration(sampled(300, 40))*time.Second, func() bool {
		for asked < all && asked-len(greedy.pairs)-len(greedy.failed) < 32 {
			asked++
			c.ask(greedy, uint64(asked))
		}
		if len(others) < 20 && asked*20 > all*len(others) {
			others = append(others, c.join(outsider(65, 1+len(others))))
			most = max(most, pairsOf(us, greedy.addr))
		}
		return len(greedy.pairs)+len(greedy.failed) >= all && paired(others) == 20
	})
	for _, s := range others {
		if len(s.pairs) > 0 {
			worst = max(worst, s.pairs[0].Sub(s.begun))
		}
	}
	if paired(others) != 20 || worst > 2*time.Second {
		t.Errorf("%d of 20 others came through, the slowest after %v", paired(others), worst)
	}
	if most = max(most, pairsOf(us, greedy.addr)); most > 64 {
		t.Errorf("one peer has %d pairs", most)
	}
	us.unharmed(pid)
	t.Logf("figure: %d quick modes by one peer: %d made, at most %d pairs at once, others within %v", asked, len(greedy.pairs), most, worst.Round(time.Millisecond))
	for _, f := range greedy.failed[:min(3, len(greedy.failed))] {
		t.Logf("the first that were not made: %+v", f)
	}
}

func pairsOf(us *host, peer netip.Addr) int {
	n := 0
	for _, p := range us.associations().Pairs {
		if p.Peer == peer.String() {
			n++
		}
	}
	return n
}

// TestHandshakesThatFail: peers with a wrong key, one after the other. Each
// costs a key exchange and leaves nothing behind.
func TestHandshakesThatFail(t *testing.T) {
	us, c := besiege(t, "failing")
	c = newCrowd(t, c.wire, hostile(), aKey("another"))
	pid, all, begun := us.agentPID(), sampled(100000, 4000), 0
	half := 0
	descriptors := us.descriptors()
	for begun < all {
		for range 50 {
			begun++
			c.join(outsider(80, begun))
		}
		c.run(20*time.Second, func() bool { return c.sentProofs() == len(c.members) })
		clear(c.members)
		if begun == all/2 {
			half = us.resident()
		}
	}
	grown := us.resident() - half
	us.unharmed(pid)
	if n := us.descriptors(); n > descriptors+2 {
		t.Errorf("%d descriptors, %d before", n, descriptors)
	}
	if most := sampled(10*all/2+1<<20, 4<<20); grown > most {
		t.Errorf("the second half of %d handshakes has cost %d KiB", all, grown>>10)
	}
	t.Logf("figure: %d handshakes that fail: %d KiB more after the second half of them", all, grown>>10)
}

// sentProofs counts the peers that have sent their proof: what follows the
// answer to their key.
func (c *crowd) sentProofs() int {
	n := 0
	for _, s := range c.members {
		if s.proved {
			n++
		}
	}
	return n
}

// descriptors counts the open files of the agent.
func (h *host) descriptors() int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.agentPID()))
	if err != nil {
		h.t.Fatal(err)
	}
	return len(entries)
}
