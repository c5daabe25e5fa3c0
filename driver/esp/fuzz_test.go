package esp

import (
	"bytes"
	"testing"

	"ipsecagent/sadb"
)

// FuzzOpen: no input makes Open panic, and nothing but a packet we sealed
// opens. With the key known to the fuzzer's harness, what is inside the
// protection is fuzzed as well: an authentic peer may be hostile too.
func FuzzOpen(f *testing.F) {
	a := sa(f, "esp-aes128-sha1", sadb.Out, sadb.Transport, false)
	f.Add(seal(f, outbound(f, a), udp(f, alice4, bob4, 30)), uint8(0), uint8(0))
	a = sa(f, "esp-aes256gcm", sadb.Out, sadb.Tunnel, true)
	f.Add(seal(f, outbound(f, a), udp(f, carol6, dave6, 30)), uint8(1), uint8(3))
	f.Add([]byte{1, 2, 2, 17}, uint8(2), uint8(4))
	f.Add(append(udp(f, carol4, dave4, 1), 1, 2, 2, 4), uint8(2), uint8(5))
	f.Fuzz(func(t *testing.T, b []byte, name, shape uint8) {
		a := sa(t, suiteNames()[int(name)%len(suiteNames())], sadb.In, sadb.Mode(shape&1), shape&2 != 0)
		a.ESN = shape&4 != 0
		stranger := a
		stranger.EncKey = sadb.NewSecret(key(5, a.EncKey.Len())) // the seeds are authentic under a's
		stranger.AuthKey = sadb.NewSecret(key(5, a.AuthKey.Len()))
		in := inbound(t, stranger)
		if got, _, err := in.Open(bytes.Clone(b)); err == nil {
			t.Fatalf("opened %x as %x", b, got)
		}
		if in.Seq() != 0 {
			t.Fatal("the window moved")
		}
		n := len(b) / in.t.align * in.t.align
		if n < trailerLen || n > 60000 {
			return
		}
		openAuthentic(t, a, bytes.Clone(b[:n]))
	})
}

// openAuthentic opens a packet whose protected part is plain: what comes out
// must parse as far as the network would look.
func openAuthentic(t *testing.T, a sadb.SA, plain []byte) {
	in := inbound(t, a)
	got, info, err := in.Open(plainPacket(t, a, 1, plain))
	if in.Seq() != 1 {
		t.Fatalf("an authentic packet was not taken for one: %v", err)
	}
	if err != nil {
		return
	}
	if info.Seq != 1 || info.Len > len(plain) || len(got) > len(plain)+ipv6Len {
		t.Fatalf("%+v for %d bytes", info, len(plain))
	}
	if h, err := Parse(got); err == nil && h.Length != len(got) {
		t.Fatalf("a packet of %d bytes says %d", len(got), h.Length)
	}
}

// FuzzParse: offsets stay inside the packet, and what parses can be sealed,
// fragmented and answered without a panic.
func FuzzParse(f *testing.F) {
	f.Add(udp(f, alice4, bob4, 30), uint16(100))
	f.Add(withOptions(udp(f, alice4, bob4, 300), []byte{0x94, 4, 0, 0, 7, 4, 0, 0}), uint16(68))
	f.Add(withExtensions(udp(f, alice6, bob6, 300), protoHopByHop, protoDestOpts, protoRouting, protoFragment, protoDestOpts), uint16(150))
	f.Fuzz(func(t *testing.T, p []byte, mtu uint16) {
		h, err := Parse(p)
		if err != nil {
			return
		}
		if h.Length > len(p) || h.Upper > h.Length || h.split > h.Upper || h.splitNext >= h.split || h.upperNext >= h.Upper {
			t.Fatalf("%+v of %d bytes", h, len(p))
		}
		whole := bytes.Clone(p)
		if fr, err := NewFragments(p, int(mtu), 7); err == nil {
			drain(t, &fr, int(mtu))
		}
		if m := PutTooBig(make([]byte, TooBigRoom), p, int(mtu), h.Dst); len(m) > tooBigLen6 {
			t.Fatalf("message of %d bytes", len(m))
		}
		if !bytes.Equal(p, whole) {
			t.Fatal("the packet was changed")
		}
		sealAny(t, p, &h)
	})
}

func drain(t *testing.T, fr *Fragments, mtu int) {
	total := 0
	for frag := fr.Next(make([]byte, mtu)); frag != nil; frag = fr.Next(make([]byte, mtu)) {
		if h, err := Parse(frag); len(frag) > mtu || err == nil && h.Length != len(frag) {
			t.Fatalf("fragment %x for MTU %d", frag, mtu)
		}
		total += len(frag)
	}
	if total < len(fr.packet) {
		t.Fatalf("%d bytes of fragments from %d", total, len(fr.packet))
	}
}

// sealAny seals p in both modes between its own addresses and opens it again.
func sealAny(t *testing.T, p []byte, h *Headers) {
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		a := sa(t, "esp-aes128gcm", sadb.Out, mode, h.V6)
		a.Src, a.ID.Dst = h.Src, h.Dst
		wire, err := trySeal(outbound(t, a), p)
		if err != nil {
			continue
		}
		got, _, err := inbound(t, a).Open(wire)
		if err == nil && mode == sadb.Tunnel && !bytes.Equal(got, p[:h.Length]) {
			t.Fatalf("%s: got %x, sealed %x", mode, got, p)
		}
	}
}
