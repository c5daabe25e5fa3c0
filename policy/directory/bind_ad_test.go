package directory_test

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"

	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
)

// TestABindWithoutProtectionIsNone: who is between a host and its controller
// can hand the proof of both on, and end the bind before protection is agreed
// on. What follows would be in clear, and said by anybody.
func TestABindWithoutProtectionIsNone(t *testing.T) {
	s := newScene(t)
	c := s.config
	dial := c.Dial
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		controller, err := dial(ctx, network, address)
		if err != nil || network != "tcp" {
			return controller, err
		}
		host, middle := net.Pipe()
		go func() {
			defer middle.Close()
			defer controller.Close()
			between(middle, controller)
		}()
		return host, nil
	}
	session, err := directory.Connect(deadline(t), c)
	if err == nil {
		t.Fatalf("bound to %s, in clear", session.Server())
	}
	if !strings.Contains(err.Error(), "protection") {
		t.Error(err)
	}
}

// between hands the first step of a bind on, ends the bind, and answers what
// is asked then as a controller would.
func between(host, controller net.Conn) {
	if !handOn(host, controller) || !handOn(controller, host) {
		return
	}
	for bound := false; ; bound = true {
		m, err := ber.ReadPacket(host)
		if err != nil {
			return
		}
		id := m.Children[0].Value.(int64)
		if !bound {
			answer(host, id, result(ldapBindResponse))
			continue
		}
		netlogon := append(binary.LittleEndian.AppendUint16(nil, 23), make([]byte, 30)...) // no site
		entry := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldapEntry, nil, "")
		entry.AppendChild(text(""))
		entry.AppendChild(sequence(attribute("defaultNamingContext", dirtest.Base), attribute("configurationNamingContext", "CN=Configuration,"+dirtest.Base),
			attribute("highestCommittedUSN", "1"), attribute("netlogon", string(netlogon))))
		answer(host, id, entry)
		answer(host, id, result(ldapSearchDone))
	}
}

// Messages of LDAP (RFC 4511 §4).
const (
	ldapBindResponse ber.Tag = 1
	ldapEntry        ber.Tag = 4
	ldapSearchDone   ber.Tag = 5
)

func handOn(from, to net.Conn) bool {
	m, err := ber.ReadPacket(from)
	if err == nil {
		_, err = to.Write(m.Bytes())
	}
	return err == nil
}

func answer(to net.Conn, id int64, p *ber.Packet) {
	_, _ = to.Write(sequence(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""), p).Bytes())
}

// result is a success of an operation.
func result(tag ber.Tag) *ber.Packet {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(0), ""))
	p.AppendChild(text(""))
	p.AppendChild(text(""))
	return p
}

func attribute(name, value string) *ber.Packet {
	values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
	values.AppendChild(text(value))
	return sequence(text(name), values)
}

func sequence(of ...*ber.Packet) *ber.Packet {
	p := ber.NewSequence("")
	for _, c := range of {
		p.AppendChild(c)
	}
	return p
}

func text(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}
