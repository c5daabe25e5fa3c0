package cert

import (
	"crypto/x509"
	"fmt"
	"time"
)

// Notice is a certificate or list of this host that runs out soon, or has.
type Notice struct {
	// What it is: "certificate", "authority" or "revocation list".
	What string
	// Name is the subject, or the issuer of a list, in the form of RFC 2253.
	Name string
	// File it was read from.
	File string
	// Ends is when it runs out.
	Ends time.Time
	// Days is the notice that is due: 30, 14, 7 or 1 days ahead, or 0: it has
	// run out. One notice for a file and number is enough.
	Days int
}

// String says what runs out when.
func (n Notice) String() string {
	verb := "expires"
	if n.Days == 0 {
		verb = "expired"
	}
	return fmt.Sprintf("the %s %s (%s) %s at %s", n.What, n.Name, n.File, verb, day(n.Ends))
}

// Expiring returns what runs out within 30 days or has run out: certificates
// of ours and their chains, authorities, and lists that an administrator put
// there (these when they have run out).
func (k *Keeper) Expiring(now time.Time) []Notice {
	s := k.Store()
	var all []Notice
	add := func(n Notice, due bool) {
		if due {
			all = append(all, n)
		}
	}
	for _, id := range s.own {
		n, due := ofCert("certificate", id.file, id.leaf, now)
		add(n, due)
	}
	for _, path := range s.in(dirOwn) {
		for _, c := range s.files[path].certs {
			n, due := ofCert("authority", path, c, now)
			add(n, due && c.IsCA && !s.isOwn(c))
		}
	}
	for _, path := range s.in(dirCA) {
		for _, c := range s.files[path].certs {
			n, due := ofCert("authority", path, c, now)
			add(n, due)
		}
	}
	for _, l := range s.lists {
		n := Notice{What: "revocation list", Name: nameText(l.crl.RawIssuer), File: l.source, Ends: l.crl.NextUpdate}
		add(n, now.After(n.Ends))
	}
	return all
}

func ofCert(what, file string, c *x509.Certificate, now time.Time) (Notice, bool) {
	days, due := noticeDue(c.NotAfter.Sub(now))
	return Notice{What: what, Name: nameText(c.RawSubject), File: file, Ends: c.NotAfter, Days: days}, due
}

// noticeDue returns the last notice that is due with so much time left.
func noticeDue(left time.Duration) (days int, due bool) {
	if left < 0 {
		return 0, true
	}
	for _, days := range []int{1, 7, 14, 30} {
		if left <= time.Duration(days)*24*time.Hour {
			return days, true
		}
	}
	return 0, false
}
