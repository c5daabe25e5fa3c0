package ike

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// tracedLife runs what two hosts do in a life, traced or not, and returns what
// the first put out.
func tracedLife(t *testing.T, in SetTrace) (w *world, a *host, lines []Traced, keys []KeyLog) {
	w, a, b := two(t, 1)
	w.watch = func(h *host, o Output) {
		switch o := o.(type) {
		case Traced:
			if h == a {
				lines = append(lines, o)
			}
		case KeyLog:
			if h == a {
				keys = append(keys, o)
			}
		}
	}
	a.m.Handle(w.now, in)
	q := quickOffer(t, a.addr, b.addr)
	q.PFS = sadb.ECP256
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: q})
	w.run(time.Second)
	b.m.Handle(w.now, Rekey{b.newestPair().ID})
	w.run(30 * time.Second)
	a.m.Handle(w.now, Silent{a.newestPair().ID})
	w.run(time.Second)
	q.Proposals = proposals(t, "esp-3des-md5")
	a.m.Handle(w.now, Initiate{Request: 2, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: q})
	w.run(time.Second)
	a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: bytes.Repeat([]byte{0x77}, 40)})
	a.m.Handle(w.now, Close{Main: true, Reason: "test"})
	w.run(time.Minute)
	return w, a, lines, keys
}

// TestTraceIsReadable: every message of main mode, quick mode and the
// informational exchange is shown in both directions, and what was decided.
func TestTraceIsReadable(t *testing.T) {
	_, a, lines, keys := tracedLife(t, SetTrace{All: true})
	var all strings.Builder
	for _, l := range lines {
		direction := "<"
		if l.Sent {
			direction = ">"
		}
		fmt.Fprintf(&all, "%s %s\n", direction, l.Text)
	}
	text := all.String()
	for _, want := range []string{
		"> main mode, cookies ", "< main mode, cookies ", "> quick mode, cookies ", "< quick mode, cookies ", "> informational, cookies ", "< informational, cookies ",
		"transform 1, KEY_IKE, encryption aes, key of 256 bits, hash sha256, authentication preshared key, group ecp256, life in seconds, 28800",
		"VID: ipsecagent, and 01000000", "VID: RFC 3947", "KE: 64 bytes", "NONCE: 32 bytes, not shown", "HASH: 32 bytes, not shown",
		"ID: 192.0.2.1\n", "N: INITIAL-CONTACT, ISAKMP", "NAT-D: 32 bytes",
		"transform 1, aesgcm, PFS group ecp256, key of 256 bits, transport mode, life in seconds, 3600", "N: round of the pair, ESP, number 1",
		"* ISAKMP SA ", `the peer is "psk:default"`, `* filter "filter-1" decides on 192.0.2.1 <-> 192.0.2.2 any; chosen: esp-aes256gcm transport, round 2`,
		"* pair established: ", "N: R-U-THERE, ISAKMP", "N: R-U-THERE-ACK", "N: NO-PROPOSAL-CHOSEN", "* failed at ", "offered: esp-3des-md5 transport",
		"D: ESP, SPI 0000", "D: ISAKMP, SPI ", "* dropped: ", "ended: test",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nowhere %q", want)
		}
	}
	if len(keys) != 0 {
		t.Errorf("%d lines of keys, not asked for", len(keys))
	}
	if t.Failed() {
		t.Logf("%s %d\n%s", a.addr, len(lines), text)
	}
}

// keysOf returns the keys of all main modes and ISAKMP SAs.
func keysOf(m *Machine) []*crypt.Keys {
	var all []*crypt.Keys
	for _, s := range m.sas {
		all = append(all, s.keys)
	}
	for _, x := range m.mains {
		if x.keys != nil {
			all = append(all, x.keys)
		}
		for _, c := range x.candidates {
			all = append(all, c.keys)
		}
	}
	return all
}

// TestTraceShowsNoSecrets: neither keys nor what proofs and keys are made of.
func TestTraceShowsNoSecrets(t *testing.T) {
	w, a, b := two(t, 1)
	var text strings.Builder
	var secrets [][]byte
	w.watch = func(h *host, o Output) {
		if o, ok := o.(Traced); ok {
			text.WriteString(o.Text)
		}
		for _, k := range keysOf(h.m) {
			secrets = append(secrets, bytes.Clone(k.ID().Bytes()), bytes.Clone(k.A().Bytes()), bytes.Clone(k.D().Bytes()), bytes.Clone(k.E().Bytes()), bytes.Clone(k.Ka().Bytes()))
		}
		for _, q := range h.m.quicks {
			secrets = append(secrets, bytes.Clone(q.ni), bytes.Clone(q.nr), bytes.Clone(q.shared))
		}
		for _, x := range h.m.mains {
			if x.values != nil {
				secrets = append(secrets, bytes.Clone(x.values.Ni))
			}
		}
	}
	for _, h := range w.hosts {
		h.m.Handle(w.now, SetTrace{Peers: []netip.Addr{a.addr, b.addr}})
	}
	w.ask(a, b, 1)
	w.run(time.Second)
	for _, h := range w.hosts {
		for _, sa := range h.sas {
			secrets = append(secrets, sa.EncKey.Bytes())
		}
	}
	found := 0
	for _, s := range secrets {
		if len(s) < 8 {
			continue
		}
		found++
		if strings.Contains(text.String(), hex.EncodeToString(s[:8])) {
			t.Fatalf("%x is shown", s)
		}
	}
	if found < 20 || text.Len() < 2000 {
		t.Errorf("%d secrets in %d bytes", found, text.Len())
	}
}

// TestTraceChangesNothing: what is sent is the same to the bit. Nobody who is
// not named is traced.
func TestTraceChangesNothing(t *testing.T) {
	_, plain, none, _ := tracedLife(t, SetTrace{})
	_, traced, some, his := tracedLife(t, SetTrace{Peers: []netip.Addr{mustAddr("::ffff:192.0.2.2")}, Keys: []netip.Addr{mustAddr("::ffff:192.0.2.2")}})
	_, _, others, keys := tracedLife(t, SetTrace{Peers: []netip.Addr{mustAddr("192.0.2.9")}, Keys: []netip.Addr{mustAddr("192.0.2.9")}})
	if len(none) != 0 || len(some) == 0 || len(his) == 0 || len(others)+len(keys) != 0 {
		t.Errorf("%d, %d, %d lines, %d and %d keys", len(none), len(some), len(others), len(his), len(keys))
	}
	if !slices.EqualFunc(plain.sent, traced.sent, bytes.Equal) {
		t.Error("a trace changes what is sent")
	}
}

// TestKeyLog: a line for the ISAKMP SA and one for each association, in the
// form of Wireshark's tables; also if it is asked for later.
func TestKeyLog(t *testing.T) {
	w, a, _, keys := tracedLife(t, SetTrace{All: true, Keys: []netip.Addr{mustAddr("192.0.2.2")}})
	counts := map[string]int{}
	for _, k := range keys {
		counts[k.Table]++
	}
	if counts["ikev1_decryption_table"] != 1 || counts["esp_sa"] != 4 {
		t.Errorf("%v", counts)
	}
	for _, k := range keys {
		if k.Remote.Addr() != mustAddr("192.0.2.2") || k.For != 0 {
			t.Errorf("%+v", k)
		}
		fields := strings.Split(k.Line, ",")
		if k.Table == "ikev1_decryption_table" && (len(fields) != 2 || len(fields[0]) != 16 || len(fields[1]) != 64) {
			t.Errorf("%s", k.Line)
		}
		if k.Table == "esp_sa" && (len(fields) != 8 || fields[0] != `"IPv4"` || len(fields[3]) != 12 ||
			fields[4] != `"AES-GCM with 16 octet ICV [RFC4106]"` || len(fields[5]) != 2+2+72 || fields[6] != `"NULL"` || fields[7] != `""`) {
			t.Errorf("%s", k.Line)
		}
	}
	b := w.hosts[1]
	w.ask(a, b, 5)
	w.run(time.Second)
	var late []KeyLog
	w.watch = func(_ *host, o Output) {
		if k, ok := o.(KeyLog); ok {
			late = append(late, k)
		}
	}
	peer := []netip.Addr{a.addr}
	for i := range 2 {
		b.m.Handle(w.now, SetTrace{Peers: peer, Keys: peer, Show: a.addr, For: uint64(i + 1)})
		b.m.Handle(w.now, SetTrace{Peers: peer, Keys: peer}) // asks for nothing that is there
		b.m.Handle(w.now, SetTrace{Peers: peer, Keys: peer, Show: mustAddr("192.0.2.9"), For: 9})
		w.flush()
	}
	if len(late) != 2 || late[0].For != 1 || late[1].For != 2 || late[0].Line != late[1].Line || late[0].Remote.Addr() != a.addr {
		t.Errorf("asked for later: %+v", late)
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add(uint8(1), uint8(2), []byte("\x00\x00\x00\x01\x00\x00\x00\x01"))
	f.Add(uint8(5), uint8(32), []byte("\x01\x11\x06\xa5\x0a\x00\x00\x09"))
	f.Add(uint8(11), uint8(5), []byte("\x00\x00\x00\x01\x01\x00\x60\x00\x80\x01\x00\x01"))
	f.Add(uint8(12), uint8(5), []byte("\x00\x00\x00\x01\x03\x04\x00\x01abcd"))
	f.Add(uint8(13), uint8(2), []byte(vidAgent+"x"))
	f.Fuzz(func(t *testing.T, payload, exchange uint8, body []byte) {
		var b strings.Builder
		describe(&b, wire.Exchange(exchange), wire.Payload{Type: wire.PayloadType(payload), Body: body})
		text := b.String()
		if len(text) > 200+64*len(body) {
			t.Errorf("%d bytes of text for %d", len(text), len(body))
		}
		for _, r := range text {
			if r < ' ' && r != '\n' || r == 0x7f {
				t.Fatalf("%q", text)
			}
		}
	})
}
