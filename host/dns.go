package host

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A stub resolver (RFC 1034 §5.3.1) that tells the TTL, which the one of the
// standard library does not: it asks for A and AAAA, follows aliases within an
// answer, and asks by TCP when the answer does not fit a datagram.

const (
	answerWithin = 3 * time.Second // for one question to one server
	rounds       = 2               // each server is asked so often
	maxStrangers = 16              // datagrams that answer something else
	maxRecords   = 256             // of one answer
	maxAliases   = 8               // from the name to its addresses
)

var (
	errNoName    = errors.New("the name does not exist in the DNS")
	errTruncated = errors.New("the answer does not fit a datagram")
)

// question is what is asked of one server.
type question struct {
	name string
	typ  dnsmessage.Type
	id   uint16
}

// lookup asks for the addresses of a name, of both families at once.
func (c NamesConfig) lookup(ctx context.Context, name string) [2]family {
	v6 := make(chan family, 1)
	go func() { v6 <- c.askAll(ctx, name, dnsmessage.TypeAAAA) }()
	v4 := c.askAll(ctx, name, dnsmessage.TypeA)
	return [2]family{v4, <-v6}
}

// askAll asks the servers in turn until one knows.
func (c NamesConfig) askAll(ctx context.Context, name string, t dnsmessage.Type) family {
	failed := errors.New("no name server is configured")
	for range rounds {
		for _, server := range c.Servers() {
			f := c.ask(ctx, server, name, t)
			if f.err == nil || errors.Is(f.err, errNoName) || ctx.Err() != nil {
				return f
			}
			failed = fmt.Errorf("name server %s: %w", server, f.err)
		}
	}
	return family{err: failed}
}

// ask asks one server, by TCP where a datagram does not do.
func (c NamesConfig) ask(ctx context.Context, server netip.AddrPort, name string, t dnsmessage.Type) family {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for _, network := range []string{"udp", "tcp"} {
		f := c.askOver(ctx, network, server, name, t)
		if !errors.Is(f.err, errTruncated) {
			return f
		}
	}
	return family{err: errTruncated}
}

func (c NamesConfig) askOver(ctx context.Context, network string, server netip.AddrPort, name string, t dnsmessage.Type) family {
	var id [2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return family{err: err}
	}
	q := question{name, t, binary.BigEndian.Uint16(id[:])}
	text, err := q.pack()
	if err != nil {
		return family{err: err}
	}
	conn, err := c.Dial(ctx, network, server.String())
	if err != nil {
		return family{err: err}
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return family{err: err}
		}
	}
	if network == "tcp" {
		return q.overStream(conn, text)
	}
	return q.overDatagrams(conn, text)
}

// pack returns the question as a message (RFC 1035 §4.1).
func (q question) pack() ([]byte, error) {
	name, err := dnsmessage.NewName(q.name + ".")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: q.typ, Class: dnsmessage.ClassINET}}}
	return m.Pack()
}

// overDatagrams asks and reads until the answer comes: what answers another
// question may be forged.
func (q question) overDatagrams(conn net.Conn, text []byte) family {
	if _, err := conn.Write(text); err != nil {
		return family{err: err}
	}
	answer := make([]byte, 4096)
	for range maxStrangers {
		n, err := conn.Read(answer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return family{err: errors.New("it does not answer")}
		}
		if err != nil {
			return family{err: err}
		}
		if f, ours := q.read(answer[:n]); ours {
			return f
		}
	}
	return family{err: errors.New("its answers are to other questions")}
}

// overStream asks by TCP, where a length stands before each message (RFC 1035
// §4.2.2).
func (q question) overStream(conn net.Conn, text []byte) family {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)); err != nil {
		return family{err: err}
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return family{err: err}
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return family{err: err}
	}
	f, ours := q.read(answer)
	if !ours {
		return family{err: errors.New("its answer is to another question")}
	}
	return f
}

// read reads an answer; ours is false if it is none to q.
func (q question) read(text []byte) (f family, ours bool) {
	var p dnsmessage.Parser
	h, err := p.Start(text)
	if err != nil || !h.Response || h.ID != q.id {
		return family{}, false
	}
	asked, err := p.AllQuestions()
	if err != nil || len(asked) != 1 || asked[0].Type != q.typ || asked[0].Class != dnsmessage.ClassINET || plainName(asked[0].Name.String()) != plainName(q.name) {
		return family{}, false
	}
	switch {
	case h.Truncated:
		return family{err: errTruncated}, true
	case h.RCode == dnsmessage.RCodeNameError:
		return family{err: errNoName}, true
	case h.RCode != dnsmessage.RCodeSuccess:
		return family{err: fmt.Errorf("it answers %v", h.RCode)}, true
	}
	r := records{typ: q.typ}
	if err := r.read(&p); err != nil {
		return family{err: fmt.Errorf("its answer is malformed: %w", err)}, true
	}
	return r.of(plainName(q.name)), true
}

// records is what an answer holds, by owner.
type records struct {
	typ     dnsmessage.Type // of addresses that count
	addrs   map[string][]netip.Addr
	aliases map[string]string
	ttl     map[string]time.Duration // the least of an owner's records
}

func (r *records) read(p *dnsmessage.Parser) error {
	r.addrs, r.aliases, r.ttl = map[string][]netip.Addr{}, map[string]string{}, map[string]time.Duration{}
	for range maxRecords {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err == nil {
			err = r.readBody(p, h)
		}
		if err != nil {
			return err
		}
	}
	return nil // more than that say nothing new
}

func (r *records) readBody(p *dnsmessage.Parser, h dnsmessage.ResourceHeader) error {
	owner := plainName(h.Name.String())
	if h.Class != dnsmessage.ClassINET || h.Type != r.typ && h.Type != dnsmessage.TypeCNAME {
		return p.SkipAnswer()
	}
	switch h.Type {
	case dnsmessage.TypeA:
		a, err := p.AResource()
		if err != nil {
			return err
		}
		r.addrs[owner] = append(r.addrs[owner], netip.AddrFrom4(a.A))
	case dnsmessage.TypeAAAA:
		a, err := p.AAAAResource()
		if err != nil {
			return err
		}
		r.addrs[owner] = append(r.addrs[owner], netip.AddrFrom16(a.AAAA))
	case dnsmessage.TypeCNAME:
		c, err := p.CNAMEResource()
		if err != nil {
			return err
		}
		r.aliases[owner] = plainName(c.CNAME.String())
	default:
		return p.SkipAnswer()
	}
	ttl := time.Duration(h.TTL) * time.Second
	if former, ok := r.ttl[owner]; !ok || ttl < former {
		r.ttl[owner] = ttl
	}
	return nil
}

// of returns the addresses of a name through its aliases. Records of other names
// say nothing.
func (r *records) of(name string) family {
	ttl := mostTTL
	for range maxAliases {
		if t, ok := r.ttl[name]; ok {
			ttl = min(ttl, t)
		}
		if all := r.addrs[name]; len(all) > 0 {
			return family{addrs: set(all), ttl: ttl}
		}
		next, ok := r.aliases[name]
		if !ok {
			break
		}
		name = next
	}
	return family{ttl: ttl}
}
