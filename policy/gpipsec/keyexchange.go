package gpipsec

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Algorithms of main and quick mode.
const (
	algDES       = 1
	alg3DES      = 3
	alg3DESToo   = 2 // main mode only; in quick mode 40-bit DES
	algMD5       = 1
	algSHA1      = 2
	group2048    = 0x10000001
	keyLength    = 0x40 // constants of old values whose meaning nothing depends on
	rounds       = 8
	longMainMode = 8 * time.Hour // what 0 means
)

// Options of key exchange settings.
const (
	optionMapping   = 1 // certificates must map to accounts
	optionNoRequest = 2 // no certificate request names an authority
)

// keyExchange reads key exchange settings into the model.
func (r *report) keyExchange(o *Object) policy.KeyExchange {
	d, ok := parse(r, ParseISAKMP, o.Data)
	if !ok {
		return policy.KeyExchange{}
	}
	k := policy.KeyExchange{
		GUID: o.GUID.String(), Lifetime: within(r, "lifetime", d.lifetime(), minLifetime, maxLifetime), Sessions: int(min(d.sessions(), math.MaxInt32)), MasterKeyPFS: d.Header.MasterPFS != 0,
	}
	if !d.Header.Identity.IsZero() {
		k.Identity = d.Header.Identity.String()
	}
	k.Methods = r.mainMethods(d)
	x := extKeyExchange{}
	if r.extend(o.Data, d.Tail, &x) {
		x.apply(&k)
	} else if len(k.Methods) == 0 {
		r.fail("none of its main-mode methods is known here")
	}
	return k
}

func (d *ISAKMPData) lifetime() time.Duration {
	shortest := d.Header.Seconds
	if shortest == 0 {
		for _, m := range d.Methods {
			if m.Seconds != 0 && (shortest == 0 || m.Seconds < shortest) {
				shortest = m.Seconds
			}
		}
	}
	if shortest == 0 {
		return longMainMode
	}
	return time.Duration(shortest) * time.Second
}

func (d *ISAKMPData) sessions() uint32 {
	fewest := d.Header.QuickModes
	if fewest == 0 {
		for _, m := range d.Methods {
			if m.QuickModes != 0 && (fewest == 0 || m.QuickModes < fewest) {
				fewest = m.QuickModes
			}
		}
	}
	return fewest
}

func (x extKeyExchange) apply(k *policy.KeyExchange) {
	k.Methods = nil
	for _, m := range x.Methods {
		k.Methods = append(k.Methods, sadb.ISAKMPSuite(m))
	}
	k.Lifetime, k.Sessions, k.MasterKeyPFS = time.Duration(x.Lifetime), x.Sessions, x.MasterPFS
}

func extOfKeyExchange(k policy.KeyExchange) extKeyExchange {
	x := extKeyExchange{Lifetime: span(k.Lifetime), Sessions: k.Sessions, MasterPFS: k.MasterKeyPFS}
	for _, m := range k.Methods {
		x.Methods = append(x.Methods, mainMethod(m))
	}
	return x
}

// mainMethods reads the methods, those that precede the list first.
func (r *report) mainMethods(d *ISAKMPData) []sadb.ISAKMPSuite {
	var all []sadb.ISAKMPSuite
	for _, n := range d.Header.NewDH {
		if s, ok := group14(n); ok {
			all = append(all, s)
		}
	}
	for i, m := range d.Methods {
		s, ok := m.suite()
		if !ok {
			r.warn("main-mode method %d (encryption %d, hash %d, group %#x) is not known here and is left out", i+1, m.Encryption, m.Hash, m.Group)
			continue
		}
		all = append(all, s)
	}
	return unique(all)
}

// group14 returns the methods that 2003 added by a number of their own.
func group14(n uint8) (sadb.ISAKMPSuite, bool) {
	known := []sadb.ISAKMPSuite{
		{Encryption: sadb.DES, Hash: sadb.MD5, Group: sadb.MODP2048},
		{Encryption: sadb.DES, Hash: sadb.SHA1, Group: sadb.MODP2048},
		{Encryption: sadb.TripleDES, Hash: sadb.MD5, Group: sadb.MODP2048},
		{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP2048},
	}
	if n < 1 || int(n) > len(known) {
		return sadb.ISAKMPSuite{}, false
	}
	return known[n-1], true
}

func (m ISAKMPMethod) suite() (s sadb.ISAKMPSuite, ok bool) {
	if s, ok := group14(m.Group14); ok {
		return s, true
	}
	s.Encryption = map[uint32]sadb.Encryption{algDES: sadb.DES, alg3DES: sadb.TripleDES, alg3DESToo: sadb.TripleDES}[m.Encryption]
	s.Hash = map[uint32]sadb.Hash{algMD5: sadb.MD5, algSHA1: sadb.SHA1}[m.Hash]
	s.Group = map[uint32]sadb.Group{1: sadb.MODP768, 2: sadb.MODP1024, group2048: sadb.MODP2048}[m.Group]
	return s, s.Encryption != 0 && s.Hash != 0 && s.Group != 0
}

// encodeKeyExchange writes the settings: for Windows with the nearest methods it
// knows, for us exactly.
func (r *report) encodeKeyExchange(k policy.KeyExchange, options uint32) []byte {
	d := &ISAKMPData{Tail: trailer()}
	d.Header = ISAKMPHeader{Identity: r.guid(k.Identity), Options: options, QuickModes: uint32(k.Sessions)}
	if k.MasterKeyPFS {
		d.Header.MasterPFS = 1
	}
	lifetime := longMainMode
	if k.Lifetime != 0 && k.Lifetime != longMainMode {
		lifetime = k.Lifetime
		d.Header.Seconds = seconds(lifetime)
	}
	for _, s := range nearestMain(k.Methods) {
		d.Methods = append(d.Methods, methodOf(s, seconds(lifetime), uint32(k.Sessions)))
	}
	value := d.Canonical()
	if read := (&report{}).keyExchange(&Object{Data: value}); !same(extOfKeyExchange(read), extOfKeyExchange(k)) {
		if !slices.Equal(read.Methods, k.Methods) {
			r.warn("Windows sees the main-mode methods %s instead", strings.Trim(fmt.Sprint(read.Methods), "[]"))
		}
		value = extended(value, extOfKeyExchange(k))
	}
	return value
}

func methodOf(s sadb.ISAKMPSuite, lifetime, sessions uint32) ISAKMPMethod {
	m := ISAKMPMethod{
		Encryption: alg3DES, EncLength: keyLength, EncRounds: rounds,
		Hash: algSHA1, HashLength: keyLength, Group: uint32(s.Group), QuickModes: sessions, Seconds: lifetime,
	}
	if s.Encryption == sadb.DES {
		m.Encryption = algDES
	}
	if s.Hash == sadb.MD5 {
		m.Hash = algMD5
	}
	if s.Group == sadb.MODP2048 { // for readers before 2003 the best they know
		m.Group = uint32(sadb.MODP1024)
		for n := uint8(1); n <= 4; n++ {
			if known, _ := group14(n); known == s {
				m.Group14 = n
			}
		}
	}
	return m
}

// nearestMain maps what Windows cannot compute to what it can: any better
// cipher to 3DES, any better hash to SHA-1, any better group to 2048 bits.
func nearestMain(methods []sadb.ISAKMPSuite) []sadb.ISAKMPSuite {
	var all []sadb.ISAKMPSuite
	for _, s := range methods {
		near := sadb.ISAKMPSuite{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP2048}
		if s.Encryption == sadb.DES {
			near.Encryption = s.Encryption
		}
		if s.Hash == sadb.MD5 {
			near.Hash = s.Hash
		}
		if s.Group == sadb.MODP768 || s.Group == sadb.MODP1024 {
			near.Group = s.Group
		}
		all = append(all, near)
	}
	if all = unique(all); len(all) == 0 {
		return []sadb.ISAKMPSuite{{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP2048}}
	}
	return all
}

// unique keeps the first of equal values.
func unique[T comparable](all []T) []T {
	var kept []T
	seen := map[T]bool{}
	for _, v := range all {
		if !seen[v] {
			kept = append(kept, v)
		}
		seen[v] = true
	}
	return kept
}

// seconds of a duration, as far as 32 bits can say it.
func seconds(d time.Duration) uint32 {
	return uint32(min(max(d/time.Second, 0), math.MaxUint32))
}

// guid reads a GUID of the model; "" is none.
func (r *report) guid(s string) GUID {
	if s == "" {
		return GUID{}
	}
	g, err := ParseGUID(s)
	if err != nil {
		r.fail("%v", err)
	}
	return g
}
