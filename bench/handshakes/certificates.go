package main

import (
	"net/netip"
	"path/filepath"

	"ipsecagent/auth"
	"ipsecagent/auth/cert"
)

// severalHosts is several hosts in one: each address proves itself with a
// certificate of its own.
type severalHosts struct {
	method auth.Method
	hosts  []auth.Authenticator
}

// certificates returns an authenticator with the certificates in directories of
// these names.
func certificates(dir string, names []string, method auth.Method) (auth.Authenticator, error) {
	all := severalHosts{method: method}
	for _, name := range names {
		store, err := cert.Load(filepath.Join(dir, name), nil)
		if err != nil {
			return nil, err
		}
		keeper, err := cert.New(store, cert.Settings{})
		if err != nil {
			return nil, err
		}
		for _, a := range keeper.Authenticators() {
			if a.Method() == method {
				all.hosts = append(all.hosts, a)
			}
		}
	}
	return all, nil
}

// Method returns the method.
func (s severalHosts) Method() auth.Method { return s.method }

// Start has the host of the local address start.
func (s severalHosts) Start(r auth.Request) (auth.Session, error) {
	return s.hosts[numberOf(r.Local)%len(s.hosts)].Start(r)
}

// numberOf is the number of the peer with an address (peerAddr); of the server
// it is of no meaning.
func numberOf(a netip.Addr) int {
	b := a.As4()
	return max(0, (int(b[2])-1)*250+int(b[3])-1)
}
