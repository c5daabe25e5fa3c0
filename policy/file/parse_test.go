package file

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const header = "apiVersion: ipsecagent/v1\nkind: Policy\nname: test\n"

// allFields has every field and every form that this version enforces.

const allFields = header + `
guid: "{72385230-70FA-11D1-864C-14A300000000}"
description: all fields
pollingInterval: 1d12h
keyExchange:
  methods: [aes256-sha256-ecp256, 3des-sha1-modp1024]
  lifetime: 90m
  sessions: 0
  masterKeyPFS: false
filterLists:
  short:
    - {from: me, to: any}
  long:
    guid: list
    description: a list
    filters:
      - {guid: filter, description: a filter, from: 10.0.0.1, to: 10.0.0.0/8, protocol: udp, sourcePort: 1, destinationPort: 2-3, mirrored: false}
      - {from: 10.0.0.1-10.0.0.9, to: me, protocol: 47, mirrored: true}
      - {from: "2001:db8::1", to: "2001:db8::/32", protocol: icmpv6, icmpType: 1, icmpCode: 0-4}
      - {from: any, to: any, protocol: tcp, sourcePort: any, destinationPort: any}
      - {from: any, to: any, protocol: icmp, icmpType: any}
filterActions:
  open: permit
  closed: {guid: action, description: an action, action: block}
  secured:
    negotiate:
      methods:
        - esp-aes256gcm
        - {esp: aes128-sha256, lifetime: 1h, bytes: 1GiB}
        - {esp: esp-3des-sha1}
      acceptUnsecured: true
      allowClear: true
      clearDelay: 500ms
      sessionKeyPFS: ecp384
  fresh:
    negotiate: {methods: [esp-aes256gcm], sessionKeyPFS: true}
  reused:
    negotiate: {methods: [esp-aes256gcm], sessionKeyPFS: false}
rules:
  - name: first
    guid: rule
    description: a rule
    disabled: true
    filterList: short
    filterAction: secured
    authentication:
      - psk
      - psk: {key: lab, acceptPrincipals: ["psk:10.0.0.1"]}
    connections: all
defaultResponse:
  active: true
  methods: [esp-aes128gcm]
  authentication: [{psk: {key: lab}}]
tests:
  - {flow: "tcp me -> 10.0.0.1", expect: none}
`

func TestEveryFieldIsRead(t *testing.T) {
	p, err := Parse("all.yaml", []byte(allFields))
	if err != nil {
		t.Fatal(err)
	}
	addrs := func(e sadb.Addrs) policy.Endpoint { return policy.Endpoint{Kind: policy.Addresses, Addrs: e} }
	ip := netip.MustParseAddr
	me := policy.Endpoint{Kind: policy.Me}
	gcm := func(bits int) sadb.Suite { return sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: bits} }
	method := func(s sadb.Suite) policy.SecurityMethod { return policy.SecurityMethod{Suites: []sadb.Suite{s}} }
	want := &policy.Policy{
		GUID: "{72385230-70FA-11D1-864C-14A300000000}", Name: "test", Description: "all fields",
		PollingInterval: 36 * time.Hour,
		KeyExchange: policy.KeyExchange{
			Methods: []sadb.ISAKMPSuite{
				{Encryption: sadb.AESCBC, KeyBits: 256, Hash: sadb.SHA256, Group: sadb.ECP256},
				{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP1024},
			},
			Lifetime: 90 * time.Minute,
		},
		FilterLists: []policy.FilterList{
			{Name: "short", Filters: []policy.Filter{{From: me, Mirrored: true}}},
			{Name: "long", GUID: "list", Description: "a list", Filters: []policy.Filter{
				{GUID: "filter", Description: "a filter", From: addrs(sadb.Addr(ip("10.0.0.1"))), To: addrs(sadb.Prefix(netip.MustParsePrefix("10.0.0.0/8"))),
					Protocol: sadb.UDP, FromPorts: sadb.Port(1), ToPorts: sadb.Ports{From: 2, To: 3}},
				{From: addrs(sadb.Range(ip("10.0.0.1"), ip("10.0.0.9"))), To: me, Protocol: 47, Mirrored: true},
				{From: addrs(sadb.Addr(ip("2001:db8::1"))), To: addrs(sadb.Prefix(netip.MustParsePrefix("2001:db8::/32"))),
					Protocol: sadb.ICMPv6, ICMPType: sadb.Octets{From: 1, To: 1, Set: true}, ICMPCode: sadb.Octets{From: 0, To: 4, Set: true}, Mirrored: true},
				{Protocol: sadb.TCP, Mirrored: true},
				{Protocol: sadb.ICMP, Mirrored: true},
			}},
		},
		FilterActions: []policy.FilterAction{
			{Name: "open", Kind: sadb.Permit},
			{Name: "closed", GUID: "action", Description: "an action", Kind: sadb.Block},
			{Name: "secured", Kind: sadb.Negotiate, AcceptUnsecured: true, AllowClear: true, ClearDelay: 500 * time.Millisecond,
				SessionKeyPFS: true, PFSGroup: sadb.ECP384,
				Methods: []policy.SecurityMethod{
					method(gcm(256)),
					{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESCBC, KeyBits: 128, Integrity: sadb.HMACSHA256}}, Lifetime: time.Hour, Bytes: 1 << 30},
					method(sadb.Suite{Proto: sadb.ESP, Encryption: sadb.TripleDES, Integrity: sadb.HMACSHA1}),
				}},
			{Name: "fresh", Kind: sadb.Negotiate, Methods: []policy.SecurityMethod{method(gcm(256))}, SessionKeyPFS: true},
			{Name: "reused", Kind: sadb.Negotiate, Methods: []policy.SecurityMethod{method(gcm(256))}},
		},
		Rules: []policy.Rule{{Name: "first", GUID: "rule", Description: "a rule", Disabled: true, FilterList: "short", FilterAction: "secured",
			Authentication: []policy.AuthMethod{
				{Kind: policy.PresharedKey},
				{Kind: policy.PresharedKey, Key: "lab", AcceptPrincipals: []string{"psk:10.0.0.1"}},
			}}},
		DefaultResponse: policy.DefaultResponse{Active: true, Methods: []policy.SecurityMethod{method(gcm(128))},
			Authentication: []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "lab"}}},
		Tests: []policy.Test{{Flow: "tcp me -> 10.0.0.1", Expect: "none"}},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got\n%+v\nwant\n%+v", p, want)
	}
	roundTrip(t, p)
}

// decode reads without validating, for what the model can say and this version

// does not enforce.

func decode(t *testing.T, data []byte) *policy.Policy {
	t.Helper()
	src := newSource("test.yaml", data)
	root, err := src.nodes()
	if err != nil {
		t.Fatal(err)
	}
	d := newDecoder(src)
	p := d.policy(root)
	if err := d.err(); err != nil {
		t.Fatalf("%v\nin\n%s", err, data)
	}
	return p
}

// What later versions enforce is part of the language today.

func TestTheWholeModelSurvivesMarshal(t *testing.T) {
	gcm := []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}}
	ah := sadb.Suite{Proto: sadb.AH, Integrity: sadb.HMACSHA1}
	policies := []*policy.Policy{policy.Client(), policy.Server(), policy.SecureServer(), {
		Name:        "everything: \"quoted\" #1",
		Description: " two\nlines ",
		KeyExchange: policy.KeyExchange{GUID: "settings", Identity: "own", Sessions: 1, MasterKeyPFS: true},
		FilterLists: []policy.FilterList{
			{Name: "1", Filters: []policy.Filter{
				{From: policy.Endpoint{Kind: policy.Name, Name: "db.example"}, To: policy.Endpoint{Kind: policy.DNSServers}},
				{From: policy.Endpoint{Kind: policy.WINSServers}, To: policy.Endpoint{Kind: policy.DHCPServers}},
				{From: policy.Endpoint{Kind: policy.DefaultGateway}, Protocol: sadb.TCP, ToPorts: sadb.Ports{From: 1, To: 65535}},
			}},
			{Name: "null"},
		},
		FilterActions: []policy.FilterAction{
			{Name: "true", Kind: sadb.Block},
			{Name: "contradiction", Kind: sadb.Permit, AllowClear: true},
			{Name: "n", Kind: sadb.Negotiate, ClearDelay: 1500 * time.Microsecond, Methods: []policy.SecurityMethod{
				{Suites: []sadb.Suite{ah}},
				{Suites: []sadb.Suite{ah, gcm[0]}, Bytes: 123_456_789, Lifetime: 61 * time.Second},
			}},
		},
		Rules: []policy.Rule{
			{Name: "tunnel", Tunnel: policy.TunnelSetting{Endpoint: netip.MustParseAddr("2001:db8::1")}, Connections: sadb.RemoteAccess,
				Authentication: []policy.AuthMethod{
					{Kind: policy.Certificate, CA: "CN=Root, O=Bank", ExcludeCAName: true, MapToAccount: true},
					{Kind: policy.Kerberos, AcceptPrincipals: []string{"host/a@EXAMPLE", "yes"}},
					{Kind: policy.Kerberos},
				}},
			{Name: "by name", Tunnel: policy.TunnelSetting{Name: "gw.example"}, Connections: sadb.LAN},
		},
		DefaultResponse: policy.DefaultResponse{Methods: []policy.SecurityMethod{{Suites: gcm}}, SessionKeyPFS: true, PFSGroup: sadb.ECP256},
		Tests:           []policy.Test{{Flow: "icmp me -> 10.0.0.1", Expect: "negotiate"}},
	}}
	for _, p := range policies {
		data, err := Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := decode(t, data); !reflect.DeepEqual(got, p) {
			t.Errorf("%s came back as\n%+v\nnot\n%+v\nfrom\n%s", p.Name, got, p, data)
		}
	}
}

func TestMarshalWritesShortForms(t *testing.T) {
	p := decode(t, []byte(header+"filterLists:\n  a: [{from: me, to: 10.0.0.0/8}]\nfilterActions: {open: permit}\n"+
		"rules: [{name: r, filterList: a, filterAction: open, authentication: [psk]}]\n"))
	data, err := Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	want := header + `filterLists:
  a:
  - {from: me, to: 10.0.0.0/8}
filterActions:
  open: permit
rules:
- name: r
  filterList: a
  filterAction: open
  authentication: [psk]
`
	if string(data) != want {
		t.Errorf("got\n%s\nwant\n%s", data, want)
	}
}

// All mistakes of a document come at once, each where it stands.

// What follows from a mistake is not reported beside it.

// No prefix of a document, and no document with one byte changed, does harm.

// check fails unless data is refused with places inside it, or read as a

// policy that compiles and that Marshal writes.

// The agent keeps the last good policy as a document.
func TestPredefinedPoliciesSurviveAsDocuments(t *testing.T) {
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Predefined(name)
		original, _ := policy.Original(name)
		roundTrip(t, original)
		roundTrip(t, policy.WithAuthentication(p, []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "lab"}}))
	}
}
