package ike

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// setTrace takes which peers are traced, and shows the keys that are there
// already to who asks for them.
func (m *Machine) setTrace(in SetTrace) {
	m.trace = SetTrace{All: in.All, Peers: unmapped(in.Peers), Keys: unmapped(in.Keys)}
	if !in.Show.IsValid() {
		return
	}
	for _, s := range m.established() {
		if s.remote.Addr() == in.Show.Unmap() {
			line := mainKeys(s)
			line.For = in.For
			m.out = append(m.out, line)
		}
	}
}

func unmapped(addrs []netip.Addr) []netip.Addr {
	all := slices.Clone(addrs)
	for i, a := range all {
		all[i] = a.Unmap()
	}
	return all
}

// covers reports whether a peer is traced.
func (t SetTrace) covers(remote netip.Addr) bool {
	return t.All || len(t.Peers) > 0 && slices.Contains(t.Peers, remote)
}

// explain puts out a decision or an event, if the peer is traced.
func (m *Machine) explain(p path, format string, args ...any) {
	if m.trace.covers(p.remote.Addr()) {
		m.out = append(m.out, Traced{Local: p.local, Remote: p.remote, Text: "* " + fmt.Sprintf(format, args...)})
	}
}

// traceDatagram shows a message in clear, or that one is sent again. What is
// encrypted is shown where it is sealed or opened.
func (m *Machine) traceDatagram(p path, sent bool, data []byte, sends int) {
	if !m.trace.covers(p.remote.Addr()) {
		return
	}
	h, body, err := wire.ParseHeader(data)
	switch {
	case err != nil:
		return // a keep-alive, or nothing that can be read: see what is dropped
	case sends > 0:
		m.explain(p, "sent again, the %d. time: %s", sends+1, headline(h))
	case h.Encrypted() || h.Next == wire.FragmentPayload:
	default:
		if chain, err := wire.ParseChain(h.Next, body); err == nil {
			m.tracePayloads(p, sent, h, chain.Payloads)
		}
	}
}

// tracePayloads shows a message that was not encrypted, is not yet or no more.
func (m *Machine) tracePayloads(p path, sent bool, h wire.Header, payloads []wire.Payload) {
	if !m.trace.covers(p.remote.Addr()) {
		return
	}
	var b strings.Builder
	b.WriteString(headline(h))
	for _, payload := range payloads {
		describe(&b, h.Exchange, payload)
	}
	m.out = append(m.out, Traced{Local: p.local, Remote: p.remote, Sent: sent, Text: b.String()})
}

// traceOutput shows what the machine reports.
func (m *Machine) traceOutput(o Output) {
	switch o := o.(type) {
	case Failed:
		m.explain(hostsPath(o.Local, o.Remote), "%s", o.words())
	case Established:
		m.explain(hostsPath(o.Pair.Local, o.Pair.Remote), "pair established: %s", pairWords(o.Pair))
	case MainMode:
		p := path{o.SA.Local, o.SA.Remote}
		if o.Ended != "" {
			m.explain(p, "ISAKMP SA %x:%x ended: %s", o.SA.ICookie, o.SA.RCookie, o.Ended)
			return
		}
		m.explain(p, "ISAKMP SA %x:%x established: %s, %s, the peer is %q, until %s", o.SA.ICookie, o.SA.RCookie,
			o.SA.Suite, o.SA.Method, o.SA.Principal, o.SA.Expires.Format("2006-01-02 15:04:05"))
	}
}

func hostsPath(local, remote netip.Addr) path {
	return path{netip.AddrPortFrom(local, ikePort), netip.AddrPortFrom(remote, ikePort)}
}

// words says all that is known of a failure.
func (f Failed) words() string {
	var b strings.Builder
	fmt.Fprintf(&b, "failed at %s (%s): %s", f.Step, f.Code, f.Reason)
	for _, line := range []struct{ name, text string }{
		{"offered", strings.Join(f.Offered, ", ")}, {"received", strings.Join(f.Received, ", ")},
		{"first difference", f.Differs}, {"what to do", f.Hint},
	} {
		if line.text != "" {
			fmt.Fprintf(&b, "\n  %s: %s", line.name, line.text)
		}
	}
	return b.String()
}

func pairWords(p sadb.Pair) string {
	var names, ids []string
	for _, s := range p.Suites {
		names = append(names, s.String())
	}
	for _, id := range slices.Concat(p.In, p.Out) {
		ids = append(ids, id.String())
	}
	return fmt.Sprintf("%s, %s mode, %s, filter %q, %s", p.Selector, p.Mode, strings.Join(names, "+"), p.Filter, strings.Join(ids, ", "))
}

// logMainKeys puts out what decrypts the messages of an ISAKMP SA.
func (m *Machine) logMainKeys(s *isakmp) {
	if slices.Contains(m.trace.Keys, s.remote.Addr()) {
		m.out = append(m.out, mainKeys(s))
	}
}

func mainKeys(s *isakmp) KeyLog {
	return KeyLog{Remote: s.remote, Table: "ikev1_decryption_table", Line: fmt.Sprintf("%x,%x", s.icookie, s.keys.Ka().Bytes())}
}

// logKeys puts out what decrypts the packets of an association. Of AH there is
// nothing to decrypt.
func (m *Machine) logKeys(p path, sa sadb.SA) {
	if !slices.Contains(m.trace.Keys, p.remote.Addr()) || sa.ID.Proto != sadb.ESP {
		return
	}
	family := "IPv4"
	if sa.ID.Dst.Is6() {
		family = "IPv6"
	}
	line := fmt.Sprintf("%q,%q,%q,\"0x%08x\",%q,%q,%q,%q", family, sa.Src, sa.ID.Dst, uint32(sa.ID.SPI),
		wiresharkCipher(sa.Suite), hexKey(sa.EncKey), wiresharkIntegrity(sa.Suite.Integrity), hexKey(sa.AuthKey))
	m.out = append(m.out, KeyLog{Remote: p.remote, Table: "esp_sa", Line: line})
}

func hexKey(s sadb.Secret) string {
	if s.Len() == 0 {
		return ""
	}
	return fmt.Sprintf("0x%x", s.Bytes())
}

// wiresharkCipher names a cipher as Wireshark does.
func wiresharkCipher(s sadb.Suite) string {
	switch s.Encryption {
	case sadb.DES:
		return "DES-CBC [RFC2405]"
	case sadb.TripleDES:
		return "TripleDES-CBC [RFC2451]"
	case sadb.AESCBC:
		return "AES-CBC [RFC3602]"
	case sadb.AESGCM:
		return "AES-GCM with 16 octet ICV [RFC4106]"
	}
	return "NULL"
}

func wiresharkIntegrity(i sadb.Integrity) string {
	return [...]string{"NULL", "HMAC-MD5-96 [RFC2403]", "HMAC-SHA-1-96 [RFC2404]", "HMAC-SHA-256-128 [RFC4868]",
		"HMAC-SHA-384-192 [RFC4868]", "HMAC-SHA-512-256 [RFC4868]"}[i]
}
