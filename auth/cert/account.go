package cert

import (
	"crypto/x509"

	"ipsecagent/auth"
)

// Accounts returns the account that a certificate stands for, as
// "name$@REALM"; false: it stands for none.
type Accounts func(*x509.Certificate) (account string, found bool)

// principal maps a proven certificate.
func (a Accounts) principal(c *x509.Certificate) (auth.Principal, error) {
	if a != nil {
		if account, ok := a(c); ok && account != "" {
			return auth.Principal(account), nil
		}
	}
	return "", refuse(codeNoAccount, "map the certificate to an account, or take the mapping out of the rule",
		"the rule wants an account, and the certificate %s has none", nameText(c.RawSubject))
}
