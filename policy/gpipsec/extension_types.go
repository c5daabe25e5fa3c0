package gpipsec

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// The model in the words of an extension record. The field names are part of
// the format.

type extPolicy struct {
	Polling span
	Uplift  bool
	Tests   []policy.Test `json:",omitempty"`
}

type extKeyExchange struct {
	Methods   []mainMethod
	Lifetime  span
	Sessions  int  `json:",omitempty"`
	MasterPFS bool `json:",omitempty"`
}

type extAction struct {
	Methods    []extMethod
	AllowClear bool  `json:",omitempty"`
	ClearDelay span  `json:",omitempty"`
	PFS        bool  `json:",omitempty"`
	PFSGroup   group `json:",omitempty"`
}

type extMethod struct {
	Suites   []suite
	Lifetime span
	Bytes    uint64
}

type extRule struct {
	Authentication []extAuth
}

type extAuth struct {
	Kind             authKind
	CA               string   `json:",omitempty"`
	Key              string   `json:",omitempty"`
	AcceptPrincipals []string `json:",omitempty"`
	ExcludeCAName    bool     `json:",omitempty"`
	MapToAccount     bool     `json:",omitempty"`
}

type extFilter struct {
	GUID               string
	Description        string `json:",omitempty"`
	From, To           endpoint
	Protocol           uint8       `json:",omitempty"`
	FromPorts, ToPorts sadb.Ports  `json:",omitzero"`
	ICMPType, ICMPCode sadb.Octets `json:",omitzero"`
	Mirrored           bool        `json:",omitempty"`
}

// span is a duration in Go's notation.
type span time.Duration

// MarshalText writes "8h0m0s".
func (s span) MarshalText() ([]byte, error) { return []byte(time.Duration(s).String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *span) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	*s = span(d)
	return err
}

type suite sadb.Suite

// MarshalText writes "esp-aes256gcm".
func (s suite) MarshalText() ([]byte, error) { return []byte(sadb.Suite(s).String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *suite) UnmarshalText(b []byte) error {
	v, err := sadb.ParseSuite(string(b))
	*s = suite(v)
	return err
}

type mainMethod sadb.ISAKMPSuite

// MarshalText writes "aes256-sha256-ecp256".
func (m mainMethod) MarshalText() ([]byte, error) { return []byte(sadb.ISAKMPSuite(m).String()), nil }

// UnmarshalText reads what MarshalText writes.
func (m *mainMethod) UnmarshalText(b []byte) error {
	v, err := sadb.ParseISAKMPSuite(string(b))
	*m = mainMethod(v)
	return err
}

type group sadb.Group

// MarshalText writes "ecp256", "none" for 0.
func (g group) MarshalText() ([]byte, error) { return []byte(sadb.Group(g).String()), nil }

// UnmarshalText reads what MarshalText writes.
func (g *group) UnmarshalText(b []byte) error {
	if string(b) == sadb.Group(0).String() {
		*g = 0
		return nil
	}
	v, err := sadb.ParseGroup(string(b))
	*g = group(v)
	return err
}

type authKind policy.AuthKind

// MarshalText writes kerberos, certificate or psk.
func (k authKind) MarshalText() ([]byte, error) {
	switch policy.AuthKind(k) {
	case policy.Kerberos:
		return []byte("kerberos"), nil
	case policy.Certificate:
		return []byte("certificate"), nil
	case policy.PresharedKey:
		return []byte("psk"), nil
	}
	return []byte("none"), nil
}

// UnmarshalText reads what MarshalText writes.
func (k *authKind) UnmarshalText(b []byte) error {
	for _, known := range []policy.AuthKind{policy.Kerberos, policy.Certificate, policy.PresharedKey} {
		if text, _ := authKind(known).MarshalText(); string(text) == string(b) {
			*k = authKind(known)
			return nil
		}
	}
	return fmt.Errorf("unknown authentication method %q", b)
}

type endpoint policy.Endpoint

const nameMark = "name:"

// MarshalText writes any, me, dns-servers …, "name:db.example", an address, a
// prefix or a range.
func (e endpoint) MarshalText() ([]byte, error) {
	switch e.Kind {
	case policy.Addresses:
		return []byte(e.Addrs.String()), nil
	case policy.Name:
		return []byte(nameMark + e.Name), nil
	}
	return []byte(e.Kind.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (e *endpoint) UnmarshalText(b []byte) error {
	text := string(b)
	if name, ok := strings.CutPrefix(text, nameMark); ok {
		*e = endpoint{Kind: policy.Name, Name: name}
		return nil
	}
	for k := policy.Any; k <= policy.DefaultGateway; k++ {
		if k != policy.Addresses && k != policy.Name && k.String() == text {
			*e = endpoint{Kind: k}
			return nil
		}
	}
	a, err := parseAddrs(text)
	*e = endpoint{Kind: policy.Addresses, Addrs: a}
	return err
}

func parseAddrs(text string) (sadb.Addrs, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return sadb.Prefix(p), nil
	}
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	from, err := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	if err != nil || err2 != nil {
		return sadb.Addrs{}, fmt.Errorf("%q is no endpoint of a filter", text)
	}
	return addrRange(from, to)
}

// addrRange is sadb.Range for addresses that nobody has checked.
func addrRange(from, to netip.Addr) (sadb.Addrs, error) {
	from, to = from.Unmap(), to.Unmap()
	if from.BitLen() != to.BitLen() || to.Less(from) || from.Zone() != "" || to.Zone() != "" {
		return sadb.Addrs{}, fmt.Errorf("%v-%v is not an ascending range of addresses", from, to)
	}
	return sadb.Range(from, to), nil
}
