package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The ports of the four filters of contactPolicy.
const (
	requirePort = 8081
	requestPort = 8082
	blockPort   = 8083
	permitPort  = 8084
)

// contactPolicy has a filter of each kind, as the host that connects has it.
const contactPolicy = `apiVersion: ipsecagent/v1
kind: Policy
name: contact
filterLists:
  required: [{from: me, to: any, protocol: tcp, destinationPort: 8081}]
  requested: [{from: me, to: any, protocol: tcp, destinationPort: 8082}]
  blocked: [{from: me, to: any, protocol: tcp, destinationPort: 8083}]
  permitted: [{from: me, to: any, protocol: tcp, destinationPort: 8084}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
  request: {negotiate: {methods: [esp-aes256gcm], acceptUnsecured: true, allowClear: true}}
rules:
  - {name: required, filterList: required, filterAction: require, authentication: [psk]}
  - {name: requested, filterList: requested, filterAction: request, authentication: [psk]}
  - {name: blocked, filterList: blocked, filterAction: block}
  - {name: permitted, filterList: permitted, filterAction: permit}
`

// greeter greets whoever connects.
const greeter = `
import socket, sys, threading
def serve(port):
    s = socket.create_server(("", port))
    while True:
        c, _ = s.accept()
        c.sendall(b"hello"); c.close()
for port in map(int, sys.argv[1:]):
    threading.Thread(target=serve, args=(port,)).start()
print("listening", flush=True)
`

// greets reports whether the other host answers at a port within d.
func (h *host) greets(to *host, port int, d time.Duration) bool {
	out, _ := h.run(d, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d && cat <&3", to.v4, port))
	return out == "hello"
}

// TestFirstContact: what becomes of the first connection to a host without
// policy by each kind of filter, and of the next one when the two can secure it.
func TestFirstContact(t *testing.T) {
	a, b := newPair(t, "fst")
	ports := []string{fmt.Sprint(requirePort), fmt.Sprint(requestPort), fmt.Sprint(blockPort), fmt.Sprint(permitPort)}
	server := b.start("/usr/bin/python3", append([]string{"-c", greeter}, ports...)...)
	eventually(t, 20*time.Second, "the server listens", func() bool { return server.output() != "" })
	for port := range 4 {
		if !a.greets(b, requirePort+port, 10*time.Second) {
			t.Fatalf("without any policy port %d does not answer", requirePort+port)
		}
	}
	key := aKey("fst")
	a.startAgent(map[string]string{"contact.yaml": contactPolicy})
	a.assign("contact", key)

	wire := a.capture("alone")
	contact(t, a, b, map[int]bool{requestPort: true, permitPort: true})
	inClear(t, "alone", wire.end(), map[uint16]bool{requestPort: true, permitPort: true})

	b.startAgent(map[string]string{"contact.yaml": strings.ReplaceAll(contactPolicy, "destinationPort", "sourcePort")})
	b.assign("contact", key)
	eventually(t, 60*time.Second, "what is required is secured", func() bool { return a.greets(b, requirePort, 5*time.Second) })
	eventually(t, 60*time.Second, "what is requested is secured", func() bool {
		a.greets(b, requestPort, 5*time.Second)
		return len(a.pairs()) > 1
	})
	wire = a.capture("together")
	contact(t, a, b, map[int]bool{requirePort: true, requestPort: true, permitPort: true})
	inClear(t, "together", wire.end(), map[uint16]bool{permitPort: true})
}

// contact connects to each port once; those that answer are as given.
func contact(t *testing.T, a, b *host, answers map[int]bool) {
	t.Helper()
	for port := requirePort; port <= permitPort; port++ {
		wait := 10 * time.Second
		if !answers[port] {
			wait = 3 * time.Second
		}
		if got := a.greets(b, port, wait); got != answers[port] {
			t.Errorf("port %d answers: %v, want %v", port, got, answers[port])
		}
	}
}

// inClear holds the ports that are seen in clear against those that may be.
func inClear(t *testing.T, when string, all []packet, may map[uint16]bool) {
	t.Helper()
	seen := map[uint16]bool{}
	for _, p := range all {
		for _, port := range []uint16{p.sport, p.dport} {
			if p.proto == 6 && port >= requirePort && port <= permitPort {
				seen[port] = true
			}
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint(may) {
		t.Errorf("%s: ports seen in clear: %v, want %v", when, seen, may)
	}
}
