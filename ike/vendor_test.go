package ike

import (
	"crypto/md5"
	"strings"
	"testing"
	"time"

	"ipsecagent/ike/wire"
)

func TestVendorIDsAreTheHashesOfTheirWords(t *testing.T) {
	for id, words := range map[string]string{
		vidAgent: "ipsecagent", vidRFC3947: "RFC 3947", vidNATDraft3: "draft-ietf-ipsec-nat-t-ike-03",
		vidNATDraft2n: "draft-ietf-ipsec-nat-t-ike-02\n", vidNATDraft2: "draft-ietf-ipsec-nat-t-ike-02",
		vidFragments: "FRAGMENTATION", vidGSSAPI: "GSSAPI", vidGSSLong: "A GSS-API Authentication Method for IKE",
		vidGSSLongN: "A GSS-API Authentication Method for IKE\n", vidWindows: "MS NT5 ISAKMPOAKLEY",
		vidRacoon: "KAME/racoon", vidStrongSwan: "strongSwan",
	} {
		if sum := md5.Sum([]byte(words)); id != string(sum[:]) {
			t.Errorf("%q is %x", words, id)
		}
	}
}

func TestWhatVendorIDsSay(t *testing.T) {
	cases := []struct {
		name string
		ids  []string
		want vendors
	}{
		{"none", nil, vendors{}},
		{"unknown, and empty", []string{"", "\x01\x02"}, vendors{}},
		{"Windows 2000", []string{vidWindows + "\x00\x00\x00\x02"}, vendors{windows: 2, gssapi: true, name: "Windows 2000"}},
		{"a later Windows", []string{vidWindows + "\x00\x00\x00\x2a"}, vendors{windows: 42, gssapi: true, name: "Windows (version 42)"}},
		{"Windows without a version", []string{vidWindows}, vendors{}},
		{"capabilities behind", []string{vidFragments + "\xc0\x00\x00\x00", vidDPD + "\x01\x00"}, vendors{fragments: true, dpd: true}},
		{"the best form of NAT traversal", []string{vidNATDraft2n, vidRFC3947, vidNATDraft3}, vendors{nat: natRFC3947}},
		{"Windows' form of it", []string{vidNATDraft2, vidNATDraft2n}, vendors{nat: natDraft2n}},
		{"libreswan", []string{vidLibreswan + "4.10"}, vendors{name: "libreswan"}},
		{"a prefix is not enough", []string{vidGSSAPI + "x", vidRFC3947[:15]}, vendors{}},
	}
	for _, c := range cases {
		got := readVendors(wire.Chain{Payloads: vendorPayloads(c.ids...)})
		if got.agent != nil || got.nat != c.want.nat || got.fragments != c.want.fragments || got.dpd != c.want.dpd ||
			got.gssapi != c.want.gssapi || got.windows != c.want.windows || got.name != c.want.name {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestStrippedVendorIDIsFoundOut: who takes our vendor ID out of a message in
// clear, in either direction or in both, is found out, and nothing is made.
func TestStrippedVendorIDIsFoundOut(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to int
		both     bool
	}{{"out of message 1", 0, 1, false}, {"out of message 2", 1, 0, false}, {"out of both", 0, 1, true}} {
		w, a, b := two(t, 1)
		strip(t, w, w.hosts[c.from], w.hosts[c.to], vidAgent)
		if c.both {
			strip(t, w, b, a, vidAgent)
		}
		w.ask(a, b, 1)
		w.run(300 * time.Second)
		if len(a.mains) != 0 || len(a.established)+len(b.established) != 0 {
			t.Errorf("%s: %+v", c.name, a.mains)
		}
		told := strings.Contains(reasons(a.failed)+reasons(b.failed), "vendor ID under encryption")
		if !told || len(a.failed) != 1 {
			t.Errorf("%s: %+v %+v", c.name, a.failed, b.failed)
		}
	}
}

// TestStrippedVendorIDIsFoundOutBehindAForgedOne: who takes our vendor ID out of
// both directions and has the responder look like Windows, which has none, is
// found out too.
func TestStrippedVendorIDIsFoundOutBehindAForgedOne(t *testing.T) {
	for _, version := range []string{"\x00\x00\x00\x02", "\x00\x00\x00\x09"} {
		w, a, b := two(t, 1)
		strip(t, w, a, b, vidAgent)
		w.net.OnNth(w.at(b), w.at(a), 1, func(data []byte) []byte {
			return rewrite(t, data, func(p []wire.Payload) []wire.Payload {
				return append(withoutVendor(p, vidAgent), vendorPayloads(vidWindows+version)...)
			})
		})
		w.ask(a, b, 1)
		w.run(300 * time.Second)
		if len(a.mains)+len(a.established)+len(b.established) != 0 {
			t.Errorf("established: %+v", a.mains)
		}
		if len(b.failed) == 0 || b.failed[0].Code != FailAltered {
			t.Errorf("not found out: %+v", b.failed)
		}
	}
}

func reasons(all []Failed) (text string) {
	for _, f := range all {
		text += f.Reason + "\n"
	}
	return text
}

// TestPeerWithoutVendorIDs: a peer that says nothing of itself is as good as
// any other, and no vendor ID is sent beside our proof as responder.
func TestPeerWithoutVendorIDs(t *testing.T) {
	for _, silent := range []int{0, 1} {
		w, a, b := two(t, 1)
		w.hosts[silent].m.anonymous = true
		w.ask(a, b, 1)
		w.run(2 * time.Second)
		w.checkPaired(a, b)
	}
}

func TestAnswersLeaveOutWhatMakesThemLargerThanTheQuestion(t *testing.T) {
	sa := []wire.Payload{{Type: wire.SAPayload, Body: make([]byte, 52)}}
	ids := vendorPayloads(vidRFC3947, vidAgent+ourCapabilities)
	for room, want := range map[int]int{0: 1, 103: 1, 104: 2, 127: 2, 128: 3} {
		answer := fit(sa, ids, room)
		if size := len(wire.AppendClear(nil, wire.Header{}, answer)); len(answer) != want || want > 1 && size > room {
			t.Errorf("%d payloads, %d bytes in %d", len(answer), size, room)
		}
	}
}
