package ike

import (
	"bytes"
	"testing"
	"time"

	"ipsecagent/ike/wire"
)

// TestCookieOfABusyWindows: message 1 goes out once more with the cookie in the
// place of the responder's; the answer carries it too. A second cookie, one of
// the wrong length and one that comes later change nothing.
func TestCookieOfABusyWindows(t *testing.T) {
	w, a, b := two(t, 1)
	cookie := []byte("busy now")
	h := wire.Header{}
	w.net.OnNth(w.at(a), w.at(b), 1, func(data []byte) []byte {
		h, _, _ = wire.ParseHeader(data)
		for _, c := range [][]byte{cookie[:7], cookie, []byte("another!")} {
			n := wire.Notify{DOI: 1, Protocol: wire.ProtoISAKMP, Type: wire.DoSCookie, Data: c}
			a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: wire.AppendClear(nil,
				wire.Header{ICookie: h.ICookie, Version: wire.Version1, Exchange: wire.Informational},
				[]wire.Payload{{Type: wire.NotifyPayload, Body: n.Append(nil)}})})
		}
		return nil
	})
	w.net.OnNth(w.at(a), w.at(b), 2, func(data []byte) []byte {
		if !bytes.Equal(data[8:16], cookie) || !bytes.Equal(data[:8], h.ICookie[:]) {
			t.Errorf("message 1 came again as %x", data[:16])
		}
		clear(data[8:16]) // our responder has no such cookies
		return data
	})
	w.ask(a, b, 1)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	if len(a.sent) < 2 || w.net.Counts(w.at(a), w.at(b)).Sent > 6 {
		t.Errorf("%d datagrams", w.net.Counts(w.at(a), w.at(b)).Sent)
	}
}
