package test

import (
	"crypto/x509/pkix"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The bank of examples/bank: secure servers that take certificates of the
// bank's own authority, and clients that answer them.

// bankName is the authority that the bank's policies name.
func bankName() pkix.Name {
	return pkix.Name{CommonName: "Bank Root CA", Organization: []string{"Bank"}, Country: []string{"US"}}
}

// startBank starts the agent of a host of the bank with a policy document under
// the name that it has.
func startBank(h *host, id identity, name, document string) {
	h.t.Helper()
	id.writeAgent(h)
	h.startAgent(map[string]string{"bank.yaml": document}, "--certificates-dir", filepath.Join(h.dir, "certificates"))
	h.mustCtl("assign", name)
}

func bankDocument(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(examples("bank/" + file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestBankServerRefusesAnotherAuthority: an authority that only has the name of
// the bank's gets nobody in, and not a byte out of the server in clear; the
// bank's own certificate does.
func TestBankServerRefusesAnotherAuthority(t *testing.T) {
	server, client := newPair(t, "bankca")
	bank, other := newRoot(t, bankName()), newRoot(t, bankName())
	startBank(server, bank.identity(t, "server"), "bank-secure-servers", bankDocument(t, "secure-servers.yaml"))
	stranger := other.identity(t, "client")
	stranger.ca = append(stranger.ca, bank.identity(t, "").ca...) // it takes the server for what it is
	startBank(client, stranger, "bank-clients", bankDocument(t, "clients.yaml"))
	server.serve(1000)
	wire := server.capture("wire")
	if client.fetch(server.v4, 4*time.Second) || client.ping(server.v4, 2) > 0 || server.ping(client.v6, 2) > 0 {
		t.Error("traffic passes with a certificate of another authority")
	}
	eventually(t, 30*time.Second, "the server says whose certificate it refused", func() bool {
		return server.failedBy(client.v4, "certificate-untrusted")
	})
	questions := func(p packet) bool {
		return p.src == netip.MustParseAddr(client.v4) || p.src == netip.MustParseAddr(client.v6)
	}
	if found := leaks(wire.end(), questions); len(found) > 0 {
		t.Errorf("the server has sent in clear: %v", found[0])
	}
	bank.identity(t, "client").writeAgent(client)
	eventually(t, 60*time.Second, "with a certificate of the bank the server is reached", func() bool { return client.fetch(server.v4, 3*time.Second) })
	if v := server.why(client.v4); v.State != "secured" || v.Secured[0].Principal != "CN=client,O=Bank,C=US" {
		t.Errorf("the server sees %+v", v)
	}
}

// askFor8080 is a server that asks for security on one port.
const askFor8080 = `apiVersion: ipsecagent/v1
kind: Policy
name: one-port
filterLists:
  web: [{from: me, to: any, protocol: tcp, sourcePort: 8080}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm], acceptUnsecured: true}}
rules:
  - {name: web, filterList: web, filterAction: require, authentication: [{certificate: {ca: "CN=Bank Root CA,O=Bank,C=US"}}]}
`

// TestBankClientIsSecuredOnThePortAskedOnly: a client of the bank is secured with
// a server on the port that the server asks for; all else stays in clear.
func TestBankClientIsSecuredOnThePortAskedOnly(t *testing.T) {
	client, server := newPair(t, "bankcl")
	bank := newRoot(t, bankName())
	startBank(client, bank.identity(t, "client"), "bank-clients", bankDocument(t, "clients.yaml"))
	startBank(server, bank.identity(t, "server"), "one-port", askFor8080)
	server.serve(100_000)
	wire := client.capture("wire")
	if !client.fetch(server.v4, 20*time.Second) || !client.fetch("["+server.v6+"]", 20*time.Second) {
		t.Error("the server is not reached on the port it asks for")
	}
	if client.ping(server.v4, 2) != 2 || client.ping(server.v6, 2) != 2 || !client.reaches("8081", server) {
		t.Error("what the server does not ask for does not pass")
	}
	all := wire.end()
	clearOn := func(port uint16) func(packet) bool {
		return func(p packet) bool {
			return p.proto == 6 && (p.sport == port || p.dport == port) && !(p.syn && p.dport == 8080)
		}
	}
	if n := count(all, clearOn(8080)); n > 0 {
		t.Errorf("%d packets of the port in clear, besides the client's question", n)
	}
	if esp, other, pings := count(all, packet.esp), count(all, clearOn(8081)), count(all, packet.icmp); esp == 0 || other < 2 || pings < 8 {
		t.Errorf("%d ESP packets; in clear %d of the other port and %d of ICMP", esp, other, pings)
	}
	for _, p := range client.pairs() {
		if p.Principal != "CN=server,O=Bank,C=US" {
			t.Errorf("the client is secured with %s", p.Principal)
		}
	}
}

// windows2000 is what a system of that time has: no method besides these.
const windows2000 = `apiVersion: ipsecagent/v1
kind: Policy
name: of-its-time
keyExchange: {methods: [3des-md5-modp1024]}
filterLists:
  all: [{from: any, to: me}]
filterActions:
  secured: {negotiate: {methods: [{esp: 3des-md5, lifetime: 15m, bytes: 100MB}]}}
rules:
  - {name: all, filterList: all, filterAction: secured, authentication: [{certificate: {ca: "CN=Bank Root CA,O=Bank,C=US"}}]}
`

// TestBankServerOfWindows2000: the bank's old policy meets a peer that has only
// 3DES and MD5 with those, and one with the same policy by modern methods.
func TestBankServerOfWindows2000(t *testing.T) {
	old := bankDocument(t, "secure-servers-windows2000.yaml")
	const oldName = "bank-secure-servers-windows2000"
	for _, c := range []struct{ tag, name, document, suite string }{
		{"bankold", "of-its-time", windows2000, "esp-3des-md5"},
		{"banknew", oldName, old, "esp-aes256gcm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, peer := newPair(t, c.tag)
			bank := newRoot(t, bankName())
			startBank(server, bank.identity(t, "server"), oldName, old)
			startBank(peer, bank.identity(t, "peer"), c.name, c.document)
			for _, to := range []string{server.v4, server.v6} {
				eventually(t, 30*time.Second, "the server is reached at "+to, func() bool { return peer.ping(to, 1) == 1 })
			}
			for _, from := range []string{peer.v4, peer.v6} {
				if v := server.why(from); len(v.Secured) == 0 || v.Secured[0].Suite != c.suite {
					t.Errorf("the server sees %+v, want %s", v, c.suite)
				}
			}
		})
	}
}
