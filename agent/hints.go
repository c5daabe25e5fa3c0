package agent

import "ipsecagent/ike"

// hintOf returns what to do about a failure: what the key exchange knows, else
// what is usual for its reason code.
func hintOf(o ike.Failed) string {
	if o.Hint != "" {
		return o.Hint
	}
	return hints()[o.Code]
}

// hints says for each reason code what to do. The codes are a closed list:
// docs/troubleshooting.md has the same.
func hints() map[ike.FailCode]string {
	return map[ike.FailCode]string{
		ike.FailNoAnswer:            "see whether an agent runs there with a policy assigned, and whether UDP 500 (and 4500 behind NAT) passes both ways",
		ike.FailNAT:                 "let the policy use ESP, or take the address translator out of the way",
		ike.FailNoProposal:          "give both policies a method in common: add the one that differs to one of them",
		ike.FailAuth:                "compare the authentication methods of both rules; the log of the peer says what it did not accept",
		ike.FailPSK:                 "give both hosts the same key: ipsecctl assign POLICY --auth psk-file:FILE on each",
		ike.FailAltered:             "find the device between the hosts that changes IKE messages",
		ike.FailFilters:             "compare ipsecctl policy show --effective of both hosts: the filters have to cover the same traffic",
		ike.FailCrowded:             "let the policy secure this peer's traffic by fewer and wider filters",
		ike.FailRefused:             "the log of the peer says why it refused",
		ike.FailPolicy:              "compare ipsecctl policy show --effective of both hosts: the filters have to cover the same traffic",
		ike.FailProtocol:            "the peer breaks the protocol, or a message was damaged: ipsecctl trace PEER shows what it sends",
		ike.FailLocal:               "something on this host stands in the way: ipsecctl status and the log of the agent name it",
		"certificate-expired":       "renew the certificate that the reason names; compare the clocks of both hosts",
		"certificate-not-yet-valid": "compare the clocks of both hosts",
		"certificate-revoked":       "give the peer a new certificate",
		"certificate-untrusted":     "the reason names two authorities: give the peer a certificate of the rule's one, or name the other in the rule",
		"certificate-usage":         "issue a certificate for IPsec: key usage digitalSignature, extended key usage ipsecIKE",
		"certificate-identity":      "let the peer identify itself by the subject or an alternative name of its certificate",
		"certificate-weak":          "issue a certificate with a longer key, signed with SHA-256 or better",
		"certificate-malformed":     "the peer sends certificates that cannot be read: give it others",
		"certificate-missing":       "let the peer send its certificate",
		"no-certificate":            "give this host a certificate of the authority in the reason, with its private key",
		"no-account":                "map the certificate to an account, or take the mapping out of the rule",
		"crl-unavailable":           "put a revocation list of that authority on this host, or let it reach the distribution point",
		"crl-expired":               "publish a new revocation list",
		"signature":                 "see whether the private key belongs to the certificate",
		"no-keytab":                 "join this host to the domain or realm, so that it has a keytab with a key of host/NAME or NAME$",
		"kdc-unreachable":           "see whether the KDC runs and port 88 (TCP and UDP) passes; name it in krb5.conf, or in DNS as _kerberos._tcp.REALM",
		"kdc-refused":               "the log of the KDC says why",
		"clock-skew":                "set the clocks: Kerberos allows five minutes between any two of this host, the peer and the KDC",
		"key-version":               "fetch the keytab anew on the host that the ticket is for",
		"wrong-key":                 "the keytab does not hold the key that the KDC has for this name: fetch it anew",
		"ticket-expired":            "compare the clocks; a new ticket is asked for at the next attempt",
		"wrong-realm":               "add the realm to the trusted realms of this host, or make a trust between the realms",
		"unknown-service":           "register the name with the KDC, or correct the peer's keytab",
		"unknown-principal":         "the keytab names a principal that the KDC does not know: join the domain again, or set the principal to use",
		"replay":                    "if it comes again and again, somebody replays what the peer sent; otherwise the next attempt will do",
		"target-refused":            "add the principal to acceptPrincipals of the rule if it is the right one",
		"principal-refused":         "compare the authentication of the rule on both hosts, method, authority and acceptPrincipals, with who has proven itself; add the principal if it is the right one",
		"identity-mismatch":         "let the peer identify itself by its own name or address; behind address translation, by its name",
		"etype":                     "give both hosts AES keys; for Windows 2000 to 2003, allow RC4 in the settings",
		ike.FailCancelled:           "nothing: policy no longer wanted it, or it gave way to others",
	}
}
