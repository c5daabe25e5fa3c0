package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Where group policy keeps what ([MS-GPIPSEC] 1.9, [MS-GPOL] 2.2.4).
const (
	extension      = "{E437BC1C-AA7D-11D2-A382-00C04F991E27}" // the IPsec part of a GPO is read by it
	assignmentPath = "CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,"
	policiesPath   = "CN=Policies,CN=System,"
)

// Names of attributes. The ones of policy objects are as in the schema.
const (
	attrOwners = "ipsecOwnersReference"
	attrName   = "ipsecName"
	attrUSN    = "uSNChanged"
	attrClass  = "objectClass"
)

// Resolve returns the resultant set of policy of a computer, named as in
// Config.Computer; "": this host. The site is the one that the computer is in;
// "": that of this connection, for this host, and none for another. With
// ErrUnreadable there is a result too, as far as it goes.
func (s *Session) Resolve(ctx context.Context, computer, site string) (*Result, error) {
	r := &Result{Winner: -1, Server: s.server, Site: site, At: s.config.Clock()}
	if site == "" && computer == "" {
		r.Site = s.root.site
	}
	var err error
	if s.config.Kind == LDAP {
		err = s.resolvePointers(ctx, r, computer)
	} else {
		err = s.resolveGroupPolicy(ctx, r, computer)
	}
	return r, err
}

// resolveGroupPolicy follows [MS-GPOL] 3.2.5.1 for the one extension that
// matters here.
func (s *Session) resolveGroupPolicy(ctx context.Context, r *Result, computer string) error {
	var err error
	if r.Computer, err = s.findComputer(ctx, computer); err != nil {
		if computer == "" {
			err = unreadable(err, "this host's own account")
		}
		return err
	}
	scopes, err := s.scopes(ctx, r)
	if err != nil {
		return err
	}
	r.Considered = ordered(scopes)
	gpos, err := s.readGPOs(ctx, r.Considered)
	if err != nil {
		return err
	}
	for i := range r.Considered {
		c := &r.Considered[i]
		if err := s.judge(ctx, c, gpos[foldDN(c.GPO)], r.Computer.Groups); err != nil {
			if r.Winner < 0 {
				return err
			}
			c.Applies, c.Why = false, err.Error()
		}
		r.place(i)
	}
	return nil
}

// place says of a candidate whether it wins.
func (r *Result) place(i int) {
	c := &r.Considered[i]
	switch {
	case !c.Applies:
	case r.Winner < 0:
		r.Winner, c.Why = i, "it decides: the first that applies"
	default:
		w := r.Won()
		c.Why = fmt.Sprintf("%q decides before it", w.title())
	}
}

// title names a candidate for people.
func (c *Candidate) title() string {
	switch {
	case c.Name != "":
		return c.Name
	case c.GPO != "":
		return c.GPO
	}
	return c.At
}

// scopes returns the scopes of management of the computer, from it upwards: its
// organizational units, the domain, the site.
func (s *Session) scopes(ctx context.Context, r *Result) ([]som, error) {
	above, err := parents(r.Computer.DN, s.root.base)
	if err != nil {
		return nil, err
	}
	var all []som
	for _, dn := range above {
		scope := map[string]string{"OU": "OU", "DC": "domain"}[kindOfRDN(dn)]
		if scope == "" {
			continue // containers have no group policy
		}
		if all, err = s.addScope(ctx, r, all, scope, dn); err != nil {
			return nil, err
		}
	}
	if r.Site == "" {
		return all, nil
	}
	return s.addScope(ctx, r, all, "site", s.siteDN(r.Site))
}

// siteDN is the DN of a site.
func (s *Session) siteDN(site string) string {
	return "CN=" + escapeRDN(site) + ",CN=Sites," + s.root.configuration
}

// addScope reads the links of one scope.
func (s *Session) addScope(ctx context.Context, r *Result, to []som, scope, dn string) ([]som, error) {
	e, err := s.Read(ctx, dn, attrClass, "gPLink", "gPOptions")
	if err == nil && len(e.Values(attrClass)) == 0 { // no attribute can be read: that is not the same as no link
		err = fmt.Errorf("%q: %w", dn, ErrNotFound)
	}
	if err != nil {
		return nil, unreadable(err, "which group policy is linked to the %s is not known", scope)
	}
	links, err := parseLinks(e.get("gPLink"))
	if err != nil {
		return nil, unreadable(err, "the links of %q to group policy cannot be read", dn)
	}
	r.scopes = append(r.scopes, e.DN)
	return append(to, som{scope: scope, dn: e.DN, blocks: e.get("gPOptions") == "1", links: links}), nil
}

// unreadable makes ErrUnreadable of an answer of the server; that there was no
// answer stays what it is.
func unreadable(err error, format string, args ...any) error {
	if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrReferral) && !errors.Is(err, errAttribute) && !errors.Is(err, errDescriptor) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreadable, fmt.Sprintf(format, args...), err)
}

// readGPOs returns the group policy objects of the links by their names, as
// foldDN has them: a link may be written otherwise than the name of its object.
// Those that this account may not read are not there.
func (s *Session) readGPOs(ctx context.Context, of []Candidate) (map[string]*Entry, error) {
	var names []string
	for _, c := range of {
		if !containsDN(names, c.GPO) {
			names = append(names, c.GPO)
		}
	}
	gpos := map[string]*Entry{}
	for _, some := range chunks(names) {
		found, err := s.Search(ctx, Query{Base: policiesPath + s.root.base, Scope: OneLevel, Filter: anyOf("distinguishedName", some), Security: true,
			Attributes: []string{"displayName", "flags", "versionNumber", "gPCFunctionalityVersion", "gPCMachineExtensionNames", "gPCWQLFilter", "nTSecurityDescriptor"}})
		if err != nil {
			return nil, err
		}
		for i := range found {
			gpos[foldDN(found[i].DN)] = &found[i]
		}
	}
	return gpos, nil
}

// anyOf is a filter for any of some values.
func anyOf(attribute string, values []string) string {
	var b strings.Builder
	b.WriteString("(|")
	for _, v := range values {
		b.WriteString("(" + attribute + "=" + Escape(v) + ")")
	}
	b.WriteString(")")
	return b.String()
}

// judge decides whether a group policy object applies to a computer, and reads
// which policy it assigns.
func (s *Session) judge(ctx context.Context, c *Candidate, gpo *Entry, token []string) error {
	if gpo != nil {
		c.Name = gpo.get("displayName")
	}
	if !c.Applies {
		return nil // as its link says
	}
	if domain, ours := domainOf(c.GPO), domainOf(s.root.base); gpo == nil && !sameDN(domain, ours) {
		c.Applies, c.Why = false, fmt.Sprintf("it is of another domain, %q, whose group policy objects this program does not read: it counts as not applying", domain)
		return nil
	}
	why, err := refusal(gpo, token)
	if err != nil {
		return unreadable(err, "who the group policy object %q is for is not known", c.title())
	}
	if why != "" {
		c.Applies, c.Why = false, why
		return nil
	}
	return s.readAssignment(ctx, c, token)
}

// refusal returns why a group policy object does not apply; "": it does.
func refusal(gpo *Entry, token []string) (string, error) {
	if gpo == nil || gpo.get("gPCFunctionalityVersion") == "" {
		return "it is not there, or this computer may not read it", nil
	}
	if !extends(gpo.get("gPCMachineExtensionNames")) {
		return "it assigns no IPsec policy", nil
	}
	version, err := gpo.number("versionNumber")
	if err != nil {
		return "", err
	}
	if why, err := gpo.idle(); why != "" || err != nil {
		return why, err
	}
	const computerVersion = 0xffff
	if version&computerVersion == 0 {
		return "its settings for computers have never been changed (versionNumber)", nil
	}
	d, err := parseDescriptor([]byte(gpo.get("nTSecurityDescriptor")))
	switch {
	case err != nil:
		return "", err
	case !d.allows(token, rightRead, ""):
		return "security filtering: the computer may not read it", nil
	case !d.allows(token, rightControl, applyGroupPolicy):
		return "security filtering: the computer has no right to apply it", nil
	}
	return "", nil
}

// idle returns why a group policy object applies to no computer, whatever its
// version; "": it can.
func (e *Entry) idle() (string, error) {
	const computerDisabled = 2
	flags, err := e.number("flags")
	switch {
	case err != nil:
		return "", err
	case e.get("gPCFunctionalityVersion") != "2":
		return "its form is of a version that does not count (gPCFunctionalityVersion)", nil
	case flags&computerDisabled != 0:
		return "its settings for computers are disabled", nil
	case strings.TrimSpace(e.get("gPCWQLFilter")) != "":
		return "it has a WMI filter, which cannot be evaluated on this system: it counts as not applying", nil
	}
	return "", nil
}

// readAssignment reads which policy a group policy object assigns.
func (s *Session) readAssignment(ctx context.Context, c *Candidate, token []string) error {
	e, err := s.Read(ctx, assignmentPath+c.GPO, attrClass, attrOwners, attrName)
	if err == nil && len(e.Values(attrClass)) == 0 {
		err = fmt.Errorf("%q: %w", e.DN, ErrNotFound)
	}
	if err != nil {
		return unreadable(err, "the group policy object %q says that it assigns an IPsec policy, but not which one", c.title())
	}
	c.Policy, c.PolicyName = e.get(attrOwners), e.get(attrName)
	if c.Policy != "" {
		return nil
	}
	c.Applies, c.Why = false, "it assigns no IPsec policy any more"
	return s.readable(ctx, e.DN, token)
}

// readable reports an entry of which a computer may not read all properties, so
// that one that is not shown need not be absent.
func (s *Session) readable(ctx context.Context, dn string, token []string) error {
	e, err := s.one(ctx, Query{Base: dn, Security: true, Attributes: []string{"nTSecurityDescriptor"}})
	if err != nil {
		return unreadable(err, "who may read %q is not known", dn)
	}
	d, err := parseDescriptor([]byte(e.get("nTSecurityDescriptor")))
	if err == nil && !d.allows(token, rightRead, "") {
		err = fmt.Errorf("%w: this computer may not read all of it", errDescriptor)
	}
	if err != nil {
		return unreadable(err, "which policy %q assigns cannot be read", dn)
	}
	return nil
}
