package cert

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"ipsecagent/auth"
)

// Store is the certificates, private keys, authorities and revocation lists of
// this host as they were at one time. It never changes.
type Store struct {
	dir         string
	files       map[string]*content // by path, for the next reading
	authorities []*x509.Certificate // of ca
	between     []*x509.Certificate // other certificates of own
	own         []*identity
	lists       []*list

	rules sync.Map // rule by the authority's name in the policy
}

// identity is a certificate of ours with its private key.
type identity struct {
	leaf          *x509.Certificate
	method        auth.Method
	sign          signer
	file, keyFile string
}

// key is a private key without its secret: it can sign.
type key struct {
	public crypto.PublicKey
	method auth.Method
	sign   signer
}

// content is what a file holds.
type content struct {
	certs []*x509.Certificate
	keys  []key
	lists []*list
	uri   string // of the token the keys are on
}

// The subdirectories.
const (
	dirCA    = "ca"
	dirOwn   = "own"
	dirLists = "crls"
)

// Size returns how many certificates of authorities, certificates of this host
// with a private key and revocation lists it holds.
func (s *Store) Size() (authorities, own, lists int) {
	return len(s.authorities), len(s.own), len(s.lists)
}

func (s *Store) path(sub string) string { return filepath.Join(s.dir, sub) }

// in returns the paths of the files read in a subdirectory, in order.
func (s *Store) in(sub string) []string {
	var paths []string
	for path := range s.files {
		if filepath.Dir(path) == s.path(sub) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

func (s *Store) authorityNames() string {
	var names []string
	for _, c := range s.authorities {
		names = append(names, nameText(c.RawSubject))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "; ")
}

// arrange makes authorities, identities and lists of the files. What does not
// fit together is returned as problems; previous keeps identities alive of
// which one half was renewed and the other not yet.
func (s *Store) arrange(previous *Store) []error {
	for _, path := range s.in(dirCA) {
		s.authorities = append(s.authorities, s.files[path].certs...)
	}
	for _, path := range s.in(dirLists) {
		s.lists = append(s.lists, s.files[path].lists...)
	}
	paired := map[string]bool{} // files
	var lonely []string
	for _, path := range s.in(dirOwn) {
		for _, k := range s.files[path].keys {
			id := s.pair(k, path)
			if id == nil {
				lonely = append(lonely, path)
				continue
			}
			s.own = append(s.own, id)
			paired[id.file], paired[id.keyFile] = true, true
		}
	}
	for _, path := range s.in(dirOwn) {
		for _, c := range s.files[path].certs {
			if s.isOwn(c) {
				continue
			}
			s.between = append(s.between, c)
			if !c.IsCA && !paired[path] {
				lonely = append(lonely, path)
			}
		}
	}
	var problems []error
	for _, path := range slices.Compact(lonely) {
		problems = append(problems, s.lonely(path, previous, paired))
	}
	return problems
}

// pair finds the certificate of a key: the one that is valid longest.
func (s *Store) pair(k key, keyPath string) *identity {
	var id *identity
	for _, path := range s.in(dirOwn) {
		for _, c := range s.files[path].certs {
			if pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(k.public) {
				continue
			}
			if id == nil || c.NotAfter.After(id.leaf.NotAfter) {
				id = &identity{leaf: c, method: k.method, sign: k.sign, file: path, keyFile: keyPath}
			}
		}
	}
	return id
}

func (s *Store) isOwn(c *x509.Certificate) bool {
	return slices.ContainsFunc(s.own, func(id *identity) bool { return id.leaf.Equal(c) })
}

// lonely reports a key without certificate or a certificate without key. If
// the file was one half of an identity before, that identity stays: somebody
// is renewing it.
func (s *Store) lonely(path string, previous *Store, paired map[string]bool) error {
	if previous != nil {
		for _, id := range previous.own {
			if id.file != path && id.keyFile != path || paired[id.file] || paired[id.keyFile] || s.isOwn(id.leaf) {
				continue
			}
			s.own = append(s.own, id)
			paired[id.file], paired[id.keyFile] = true, true
			return fmt.Errorf("auth/cert: %s: certificate and private key do not belong together; the certificate %s read before stays in use", path, nameText(id.leaf.RawSubject))
		}
	}
	return fmt.Errorf("auth/cert: %s: no certificate in %s fits its private key, or no private key its certificate", path, s.path(dirOwn))
}
