package netsh

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// What the agent takes as a preshared key and as its name, in bytes.
const (
	maxKeyName = 64
	minKey     = 8
	maxKey     = 1024
)

// authentication is what the authentication tags of a line give.
type authentication struct {
	given   bool // any of the tags stands there
	methods []policy.AuthMethod
	keys    []sadb.Secret // of the methods whose Key is still to be named, in order
	keyOf   []int         // the method of each key
}

// authentication reads the methods in the order of the line.
func (a *args) authentication() authentication {
	var got authentication
	for _, g := range a.list {
		if err := got.add(g); err != nil {
			a.fail(err)
		}
	}
	return got
}

// add reads one argument; those of other kinds it leaves alone.
func (got *authentication) add(g arg) error {
	switch g.tag {
	case "kerberos":
		yes := false
		one := &args{list: []arg{g}}
		if one.flag(g.tag, &yes); one.err != nil {
			return one.err
		}
		got.given = true
		if yes {
			got.methods = append(got.methods, policy.AuthMethod{Kind: policy.Kerberos})
		}
	case "psk":
		if len(g.value) < minKey || len(g.value) > maxKey {
			return fmt.Errorf("the preshared key has not %d to %d bytes; choose a longer one on both ends", minKey, maxKey)
		}
		got.given = true
		got.keys, got.keyOf = append(got.keys, sadb.NewSecret([]byte(g.value))), append(got.keyOf, len(got.methods))
		got.methods = append(got.methods, policy.AuthMethod{Kind: policy.PresharedKey})
	case "pskname":
		got.given = true
		got.methods = append(got.methods, policy.AuthMethod{Kind: policy.PresharedKey, Key: g.value})
	case "rootca":
		m, err := parseCA(g.value)
		if err != nil {
			return err
		}
		got.given = true
		got.methods = append(got.methods, m)
	case "acceptprincipal":
		if len(got.methods) == 0 {
			return errors.New("acceptprincipal= belongs behind the authentication method that it is for")
		}
		last := &got.methods[len(got.methods)-1]
		last.AcceptPrincipals = append(last.AcceptPrincipals, g.value)
	}
	return nil
}

// parseCA reads "C=US,O=Bank,CN=Root certmap:yes excludecaname:no". The name
// stays as it is written: in Windows the most specific part comes last.
func parseCA(text string) (policy.AuthMethod, error) {
	m := policy.AuthMethod{Kind: policy.Certificate}
	for {
		text = strings.TrimSpace(text)
		name, option := text, ""
		if i := strings.LastIndexByte(text, ' '); i >= 0 {
			name, option = text[:i], text[i+1:]
		}
		tag, value, _ := strings.Cut(strings.ToLower(option), ":")
		one := &args{list: []arg{{tag, value}}}
		switch tag {
		case "certmap":
			one.flag(tag, &m.MapToAccount)
		case "excludecaname":
			one.flag(tag, &m.ExcludeCAName)
		default:
			m.CA = text
			return m, checkAuthentication([]policy.AuthMethod{m})
		}
		if one.err != nil {
			return m, fmt.Errorf("rootca=: %w", one.err)
		}
		text = name
	}
}

// checkAuthentication refuses methods that no rule may hold.
func checkAuthentication(methods []policy.AuthMethod) error {
	p := scratch()
	p.DefaultResponse.Authentication = methods
	return firstProblem(p)
}

// named gives the preshared keys of a line their names and checks the whole.
// Nothing is handed over yet.
func (m *machine) named(got authentication, policyName, rule string) (authentication, []Secret, error) {
	var secrets []Secret
	for i, key := range got.keys {
		s := Secret{Policy: policyName, Rule: rule, Key: key}
		s.Name = m.keyName(s, secrets)
		got.methods[got.keyOf[i]].Key = s.Name
		secrets = append(secrets, s)
	}
	return got, secrets, checkAuthentication(got.methods)
}

// keyName returns the name of a key: that of an equal one before, else one
// made of its policy and rule.
func (m *machine) keyName(s Secret, beside []Secret) string {
	known := slices.Concat(m.secrets, beside)
	for _, k := range known {
		if k.Key.Equal(s.Key) {
			return k.Name
		}
	}
	rule := s.Rule
	if rule == "" {
		rule = "default response"
	}
	return freeName(s.Policy+", "+rule, maxKeyName, func(name string) bool {
		return slices.ContainsFunc(known, func(k Secret) bool { return k.Name == name })
	})
}

// freeName returns name, cut to a length, with a number behind it where it is
// taken.
func freeName(name string, most int, taken func(string) bool) string {
	for n := 1; ; n++ {
		suffix := ""
		if n > 1 {
			suffix = fmt.Sprintf(" %d", n)
		}
		try := strings.ToValidUTF8(name[:min(len(name), most-len(suffix))], "") + suffix
		if !taken(try) {
			return try
		}
	}
}

// handOver adds keys that a rule has taken.
func (m *machine) handOver(secrets []Secret) {
	for _, s := range secrets {
		if !slices.ContainsFunc(m.secrets, func(k Secret) bool { return k.Name == s.Name }) {
			m.secrets = append(m.secrets, s)
		}
	}
}

func kerberosOnly() []policy.AuthMethod { return []policy.AuthMethod{{Kind: policy.Kerberos}} }
