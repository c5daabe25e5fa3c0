package kerberos

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"ipsecagent/auth/gss"
)

// krbError is a KRB-ERROR, which anybody can make.
func krbError(t *testing.T, code int32, words string) []byte {
	t.Helper()
	e := messages.NewKRBError(types.NewPrincipalName(2, "krbtgt/MIT.TEST"), "MIT.TEST", code, words)
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answering is a KDC that answers whatever it is asked by TCP with the same,
// and counts.
func answering(t *testing.T, answer []byte) (addr string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	return tcpServer(t, func(c net.Conn) {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(size[:]))); err != nil {
			return
		}
		asked.Add(1)
		c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...))
	}), asked
}

// TestWhatAnybodyCanAnswerIsNotFinal: one who answers in a KDC's place neither
// ends the search nor is asked first from then on.
func TestWhatAnybodyCanAnswerIsNotFinal(t *testing.T) {
	for name, answer := range map[string][]byte{
		"no such client":     krbError(t, errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN, ""),
		"no such service":    krbError(t, errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN, ""),
		"generic":            krbError(t, errorcode.KRB_ERR_GENERIC, ""),
		"timestamp wanted":   krbError(t, errorcode.KDC_ERR_PREAUTH_REQUIRED, ""),
		"too big":            krbError(t, errorcode.KRB_ERR_RESPONSE_TOO_BIG, ""),
		"no Kerberos at all": []byte("hello"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "aes256-cts-hmac-sha1-96")
			forger, asked := answering(t, answer)
			conf := strings.Replace(string(w.read(w.realm.Conf)), "kdc = "+w.realm.Addr, "kdc = "+forger+"\n  kdc = "+w.realm.Addr, 1)
			if !strings.Contains(conf, forger) {
				t.Fatal(conf)
			}
			w.confA.Krb5Conf = w.file("krb5.conf", []byte(conf))
			a, _ := w.hosts()
			f, err := a.facts()
			if err != nil {
				t.Fatal(err)
			}
			b, err := gss.ParsePrincipal(hostB + "@MIT.TEST")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.tickets.get(t.Context(), b, false); err != nil {
				t.Fatal(err)
			}
			once := asked.Load() // twice, if it asks for the timestamp; at the login alone
			if once < 1 || once > 2 {
				t.Errorf("the forger was asked %d times", once)
			}
			if _, err := f.tickets.client.login(t.Context()); err != nil {
				t.Error(err)
			}
			if n := asked.Load(); n != once {
				t.Errorf("the forger was asked again: %d times", n)
			}
		})
	}
}

// TestTheFirstErrorIsReported: all KDCs are asked, each once, and what the first
// of those that answer has said is the reason.
func TestTheFirstErrorIsReported(t *testing.T) {
	broken := tcpServer(t, func(net.Conn) {})
	first, a := answering(t, krbError(t, errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN, "first"))
	second, b := answering(t, krbError(t, errorcode.KRB_ERR_GENERIC, "second"))
	_, err := askAt(t, broken, first, second, broken)
	var said *gss.PeerError
	if !errors.As(err, &said) || said.Text != "first" || !strings.Contains(err.Error(), first) || codeOf(err) != codeUnknownService {
		t.Errorf("%v", err)
	}
	if a.Load() != 1 || b.Load() != 1 {
		t.Errorf("asked %d and %d times", a.Load(), b.Load())
	}
}
