package cert

import (
	"bytes"
	"crypto/x509"
	"maps"
	"slices"
)

// Places returns the URLs, in order and each once, that revocation lists were
// fetched from or may be by what is known now: those that peers' certificates
// under trusted authorities have named, and those of this host's own copies of
// authorities. The next peer's certificate may name others. ok: lists are
// fetched at all, for there are authorities to trust.
func (k *Keeper) Places() (urls []string, ok bool) {
	s := k.Store()
	if k.set.Revocation == RevocationOff || len(s.authorities) == 0 {
		return nil, false
	}
	all := map[string]bool{}
	for _, url := range k.lists.places() {
		all[url] = true
	}
	for _, c := range slices.Concat(s.authorities, s.between) {
		for _, url := range pointsOf(c) {
			all[url] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), true
}

// pointsOf returns where lists for a certificate are fetched from; for a root,
// nowhere.
func pointsOf(c *x509.Certificate) []string {
	if bytes.Equal(c.RawSubject, c.RawIssuer) {
		return nil
	}
	points := c.CRLDistributionPoints[:min(len(c.CRLDistributionPoints), maxPoints)]
	return slices.DeleteFunc(slices.Clone(points), func(url string) bool { return checkURL(url) != nil })
}

// places returns the URLs of the entries.
func (c *cache) places() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var urls []string
	for p := range c.entries {
		urls = append(urls, p.url)
	}
	return urls
}
