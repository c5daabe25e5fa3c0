package gss

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"ipsecagent/auth/krbtest"
)

// mitPeer is a context of MIT's libgssapi in a process of its own.
type mitPeer struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
}

func buildPeer(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "gsspeer")
	out, err := exec.Command("gcc", "-Wall", "-O1", "-o", bin, "testdata/gsspeer.c", "-lgssapi_krb5").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return bin
}

// startPeer runs the peer: an initiator if there is a target.
func startPeer(t *testing.T, bin string, r *krbtest.Realm, keytab string, target ...string) *mitPeer {
	t.Helper()
	cmd := exec.Command(bin, target...)
	cmd.Env = append(r.Env(), "KRB5_KTNAME="+keytab, "KRB5_CLIENT_KTNAME="+keytab,
		"KRB5CCNAME=FILE:"+filepath.Join(t.TempDir(), "cc"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	s := bufio.NewScanner(out)
	s.Buffer(nil, 1<<20)
	return &mitPeer{t, in, s}
}

// try sends a command and returns the words of the answer.
func (p *mitPeer) try(words ...string) []string {
	p.t.Helper()
	fmt.Fprintln(p.in, strings.Join(words, " "))
	if !p.out.Scan() {
		p.t.Fatalf("%s: the peer is gone", words[0])
	}
	return strings.Fields(p.out.Text())
}

// ask is try for commands that must succeed; the last word comes decoded.
func (p *mitPeer) ask(words ...string) ([]byte, string) {
	p.t.Helper()
	answer := p.try(words...)
	if len(answer) != 3 || answer[0] != "ok" {
		p.t.Fatalf("%s: %v", words[0], answer)
	}
	return fromHex(p.t, answer[2]), answer[1]
}

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	if s == "-" {
		return nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hexed(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return hex.EncodeToString(b)
}

// ticketFor asks the KDC for a ticket with the keytab's principal.
func ticketFor(t *testing.T, r *krbtest.Realm, ktPath, user, service string) *Credential {
	t.Helper()
	conf, err := config.Load(r.Conf)
	if err != nil {
		t.Fatal(err)
	}
	conf.LibDefaults.DefaultTGSEnctypeIDs = Etypes(true)
	conf.LibDefaults.DefaultTktEnctypeIDs = Etypes(true)
	kt, err := keytab.Load(ktPath)
	if err != nil {
		t.Fatal(err)
	}
	cl := client.NewWithKeytab(user, r.Name, kt, conf, client.DisablePAFXFAST(true))
	defer cl.Destroy()
	if err := cl.Login(); err != nil {
		t.Fatal(err)
	}
	ticket, key, err := cl.GetServiceTicket(service)
	if err != nil {
		t.Fatal(err)
	}
	self, err := ParsePrincipal(user + "@" + r.Name)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := NewCredential(self, ticket, key, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

// etypesOfMIT are those that MIT's KDC gives tickets for.
func etypesOfMIT() map[string]int32 {
	return map[string]int32{
		"aes128-cts-hmac-sha1-96":    AES128SHA1,
		"aes256-cts-hmac-sha1-96":    AES256SHA1,
		"aes128-cts-hmac-sha256-128": AES128SHA256,
		"aes256-cts-hmac-sha384-192": AES256SHA384,
		"arcfour-hmac":               RC4,
	}
}

func TestContextsWithMIT(t *testing.T) {
	bin := buildPeer(t)
	realm := krbtest.Start(t, "MIT.TEST", "")
	for name, etype := range etypesOfMIT() {
		userKeys := name
		if etype == RC4 {
			userKeys = "aes256-cts-hmac-sha1-96" // for the clients of MIT
		}
		service := fmt.Sprintf("host/b%d.mit.test", etype)
		user := fmt.Sprintf("host/a%d.mit.test", etype)
		realm.Add(service, name)
		realm.Add(user, userKeys)
		kt := realm.Keytab(fmt.Sprintf("%d.keytab", etype), service, user)
		t.Run(name+"/initiator", func(t *testing.T) {
			peer := startPeer(t, bin, realm, kt)
			init, err := NewInitiator(InitiatorConfig{Credential: ticketFor(t, realm, kt, user, service), AllowRC4: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx := initiateTo(t, init, peer)
			if name, _ := peer.ask("peer"); string(name) != user+"@MIT.TEST" {
				t.Errorf("MIT sees %s", name)
			}
			compare(t, ctx, peer, etype)
		})
		t.Run(name+"/acceptor", func(t *testing.T) {
			peer := startPeer(t, bin, realm, kt, service)
			keys, err := ReadKeytab(kt)
			if err != nil {
				t.Fatal(err)
			}
			conf := AcceptorConfig{Keytab: keys, Replay: NewReplayCache(), AllowRC4: true}
			acc := NewAcceptor(conf)
			first, state := peer.ask("tok", "-")
			if state != "more" {
				t.Fatalf("MIT is %s after its first token", state)
			}
			out, done, err := acc.Step(first)
			if err != nil || !done {
				t.Fatal(done, err)
			}
			if _, state := peer.ask("tok", hexed(out)); state != "done" {
				t.Fatalf("MIT is %s after the AP-REP", state)
			}
			if got := acc.Context().Self().String(); got != service+"@MIT.TEST" {
				t.Errorf("we are %s", got)
			}
			compare(t, acc.Context(), peer, etype)
			if _, _, err := NewAcceptor(conf).Step(first); !errors.Is(err, ErrReplay) {
				t.Errorf("its first token again: %v", err)
			}
		})
	}
}

func initiateTo(t *testing.T, init *Initiator, peer *mitPeer) *Context {
	t.Helper()
	out, done, err := init.Step(nil)
	if err != nil || done {
		t.Fatal(done, err)
	}
	answer, state := peer.ask("tok", hexed(out))
	if state != "done" {
		t.Fatalf("MIT is %s", state)
	}
	if _, done, err = init.Step(answer); err != nil || !done {
		t.Fatal(done, err)
	}
	return init.Context()
}

// compare sends everything both ways and compares the keys.
func compare(t *testing.T, ctx *Context, peer *mitPeer, etype int32) {
	t.Helper()
	if key, _ := peer.ask("key"); !bytes.Equal(key, ctx.key.value()) {
		t.Fatal("the keys differ")
	}
	if ctx.Etype() != etype {
		t.Errorf("etype %d", ctx.Etype())
	}
	for n, msg := range [][]byte{[]byte("the quick brown fox jum"), {}, bytes.Repeat([]byte{7}, 1000), []byte("x")} {
		for _, seal := range []bool{true, false} {
			toPeer(t, ctx, peer, msg, seal)
			fromPeer(t, ctx, peer, msg, seal)
		}
		if t.Failed() {
			t.Fatalf("with message %d", n)
		}
	}
}

func toPeer(t *testing.T, ctx *Context, peer *mitPeer, msg []byte, seal bool) {
	t.Helper()
	tok, err := ctx.Wrap(msg, seal)
	if err != nil {
		t.Fatal(err)
	}
	got, conf := peer.ask("unwrap", hexed(tok))
	if !bytes.Equal(got, msg) || (conf == "1") != seal {
		t.Errorf("MIT unwraps %x (conf %s)", got, conf)
	}
	mic, err := ctx.MIC(msg)
	if err != nil {
		t.Fatal(err)
	}
	peer.ask("verify", hexed(msg), hexed(mic))
}

func fromPeer(t *testing.T, ctx *Context, peer *mitPeer, msg []byte, seal bool) {
	t.Helper()
	conf := "0"
	if seal {
		conf = "1"
	}
	tok, _ := peer.ask("wrap", conf, hexed(msg))
	got, sealed, err := ctx.Unwrap(tok)
	if err != nil || !bytes.Equal(got, msg) || sealed != seal {
		t.Errorf("we unwrap %x, sealed %v: %v", got, sealed, err)
	}
	mic, _ := peer.ask("mic", hexed(msg))
	if err := ctx.VerifyMIC(msg, mic); err != nil {
		t.Error(err)
	}
}

func TestErrorTokenOfMIT(t *testing.T) {
	bin := buildPeer(t)
	realm := krbtest.Start(t, "MIT.TEST", "")
	realm.Add("host/a.mit.test", "")
	realm.Add("host/b.mit.test", "")
	old := realm.Keytab("old.keytab", "host/b.mit.test")
	realm.Rekey("host/b.mit.test")
	kt := realm.Keytab("a.keytab", "host/a.mit.test")
	init, err := NewInitiator(InitiatorConfig{Credential: ticketFor(t, realm, kt, "host/a.mit.test", "host/b.mit.test")})
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := init.Step(nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := startPeer(t, bin, realm, old).try("tok", hexed(out))
	if answer[0] != "err" || answer[1] == "-" {
		t.Fatalf("MIT answers %v", answer)
	}
	_, done, err := init.Step(fromHex(t, answer[1]))
	var peerErr *PeerError
	if done || !errors.As(err, &peerErr) {
		t.Fatalf("done %v, %v", done, err)
	}
	t.Logf("%v (code %d) at %s", err, peerErr.Code, peerErr.Time)
}
