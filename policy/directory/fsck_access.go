package directory

import (
	"context"
	"fmt"
	"strings"
)

// domainComputers is the last part of the security identifier of a domain's
// group Domain Computers.
const domainComputers = "-515"

// checkAccess asks whether a computer may read the policy objects, by the
// access control that this account can see.
func (s *Session) checkAccess(ctx context.Context, computer string) ([]Finding, error) {
	token, who, err := s.tokenOf(ctx, computer)
	if err != nil {
		return nil, err
	}
	found, err := s.Search(ctx, Query{Base: s.Container(), Scope: OneLevel, Filter: "(cn=ipsec*)", Attributes: []string{"nTSecurityDescriptor"}, Security: true})
	if err != nil {
		return nil, err
	}
	closed, unknown := judgeAccess(found, token)
	var all []Finding
	if len(closed) > 0 {
		all = append(all, Finding{Object: fmt.Sprintf("%d of %d objects, %q for one", len(closed), len(found), nameOfRDN(closed[0])),
			Message: fmt.Sprintf("%s may not read them, and so cannot take a policy that needs them. This gives computers the right, once for all policies:\n%s", who, accessAdvice(s.Container(), s.config.Domain))})
	}
	if unknown > 0 {
		all = append(all, Finding{Object: fmt.Sprintf("%d of %d objects", unknown, len(found)), Warning: true,
			Message: "this account may not see who may read them, so that was not checked"})
	}
	return all, nil
}

// judgeAccess returns the names of the entries that somebody may not read, and
// of how many that is not known.
func judgeAccess(entries []Entry, token []string) (closed []string, unknown int) {
	for i := range entries {
		e := &entries[i]
		d, err := parseDescriptor([]byte(e.get("nTSecurityDescriptor")))
		switch {
		case err != nil:
			unknown++
		case !d.allows(token, rightRead, ""):
			closed = append(closed, e.DN)
		}
	}
	return closed, unknown
}

// tokenOf returns the security identifiers of a computer, or of any.
func (s *Session) tokenOf(ctx context.Context, computer string) (token []string, who string, err error) {
	if computer != "" {
		c, err := s.findComputer(ctx, computer)
		return c.Groups, fmt.Sprintf("computer %s", c.Account), err
	}
	e, err := s.Read(ctx, s.Base(), "objectSid")
	if err != nil {
		return nil, "", err
	}
	sid, err := parseSID([]byte(e.get("objectSid")))
	return []string{sidEveryone, sidAuthenticated, sidOrganization, sid + domainComputers}, "a computer that is in no group but Domain Computers", err
}

// accessAdvice is the one entry of the access control list that lets computers
// read policies, for the tools of Windows and of Samba: read properties, list
// contents and object, read permissions; inherited by what is below.
func accessAdvice(container, domain string) string {
	return strings.Join([]string{
		fmt.Sprintf(`  Windows:  dsacls "%s" /I:T /G "%s\Domain Computers:GR"`, container, domain),
		fmt.Sprintf(`  Samba:    samba-tool dsacl set --objectdn="%s" --action=allow --sddl="(A;CI;RPLCLORC;;;DC)"`, container),
	}, "\n")
}
