package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy/gpipsec"
)

// Bounds of one policy.
const (
	maxPolicyObjects = 10_000
	chunk            = 50 // names in one filter
)

// objectAttributes are read of each policy object.
func objectAttributes() []string {
	return []string{attrName, "description", "ipsecDataType", "ipsecData", attrOwners, "ipsecISAKMPReference", "ipsecNFAReference",
		"ipsecNegotiationPolicyReference", "ipsecFilterReference", "iPSECNegotiationPolicyType", "iPSECNegotiationPolicyAction", attrUSN, "entryCSN"}
}

// permit says how a policy becomes readable.
const permit = "give the computers of the domain the right to read it; in Active Directory that is an inheritable entry of CN=IP Security, which 'ipsecctl directory fsck' prints"

// chunks parts names for filters.
func chunks(names []string) [][]string { return slices.Collect(slices.Chunk(names, chunk)) }

// policyEntries reads a policy and all that it refers to, forward as Windows
// does: policy, key exchange settings and rules, filter actions and lists. It
// follows each reference once, so that cycles end. Anything that is missing, not
// readable or too large is ErrUnreadable; what was read then is returned too.
func (s *Session) policyEntries(ctx context.Context, dn string) ([]Entry, error) {
	all, err := s.allReferred(ctx, dn)
	if cutOff(err) || errors.Is(err, errAttribute) {
		err = fmt.Errorf("%w: the policy %q: %w", ErrUnreadable, dn, err) // another server would say the same
	}
	return all, err
}

// cutOff reports an answer that was not taken to its end, whose connection is of
// no use any more.
func cutOff(err error) bool { return errors.Is(err, ErrTooLarge) || errors.Is(err, ErrReferral) }

// allReferred reads what policyEntries returns.
func (s *Session) allReferred(ctx context.Context, dn string) ([]Entry, error) {
	var all []Entry
	room := maxBytes
	for names := []string{dn}; len(names) > 0; {
		if len(all)+len(names) > maxPolicyObjects {
			return nil, fmt.Errorf("%w: it is made of more than %d objects", ErrTooLarge, maxPolicyObjects)
		}
		found, err := s.readAll(ctx, names, objectAttributes(), &room)
		all = append(all, found...)
		if err == nil {
			err = complete(dn, names, found)
		}
		if err == nil {
			names, err = s.references(ctx, found, all, &room)
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// complete reports what is missing among the objects of a policy.
func complete(policy string, names []string, found []Entry) error {
	have := map[string]*Entry{}
	for i := range found {
		have[foldDN(found[i].DN)] = &found[i]
	}
	for _, name := range names {
		e := have[foldDN(name)]
		switch {
		case e == nil && name == policy:
			return fmt.Errorf("%w: %q is assigned, but it is not there, or this account may not see it: assign another policy, or %s", ErrUnreadable, name, permit)
		case e == nil:
			return fmt.Errorf("%w: %q needs %q, which is not there, or this account may not see it: repair the policy (ipsecctl directory fsck), or %s", ErrUnreadable, policy, name, permit)
		case len(e.Values("ipsecData")) == 0:
			return fmt.Errorf("%w: of %q this account may read no more than the name: %s", ErrUnreadable, name, permit)
		}
	}
	return nil
}

// use takes bytes of the room that a policy has.
func use(room *int, bytes int) error {
	if *room -= bytes; *room < 0 {
		return fmt.Errorf("%w: its objects are more than %d bytes in all", ErrTooLarge, maxBytes)
	}
	return nil
}

// references returns what objects refer to and has not been read.
func (s *Session) references(ctx context.Context, of, read []Entry, room *int) ([]string, error) {
	have := map[string]bool{}
	for i := range read {
		have[foldDN(read[i].DN)] = true
	}
	var names []string
	for i := range of {
		before := of[i].size()
		for _, attribute := range []string{"ipsecISAKMPReference", "ipsecNFAReference", "ipsecNegotiationPolicyReference", "ipsecFilterReference"} {
			refs, err := s.values(ctx, &of[i], attribute)
			if err != nil {
				return nil, err
			}
			for _, r := range refs {
				if key := foldDN(r); !have[key] {
					have[key] = true
					names = append(names, r)
				}
			}
		}
		if err := use(room, of[i].size()-before); err != nil { // what the server had held back
			return nil, err
		}
	}
	return names, nil
}

// values returns the values of an attribute as text, those that the server holds
// back at first too ([MS-ADTS] 3.1.1.3.1.3.3), and puts them into the entry.
func (s *Session) values(ctx context.Context, e *Entry, name string) ([]string, error) {
	for {
		i := slices.IndexFunc(e.Attributes, func(a Attribute) bool {
			return len(a.Name) > len(name) && strings.EqualFold(a.Name[:len(name)+1], name+";")
		})
		if i < 0 {
			return e.all(name), nil
		}
		part := e.Attributes[i]
		e.Attributes = slices.Delete(e.Attributes, i, i+1)
		e.append(name, part.Values)
		have := len(e.Values(name))
		if strings.HasSuffix(part.Name, "-*") {
			continue
		}
		if len(part.Values) == 0 || have > maxPolicyObjects {
			return nil, fmt.Errorf("%w: %w: %q has %d values of %s and more", ErrUnreadable, ErrTooLarge, e.DN, have, name)
		}
		more, err := s.Read(ctx, e.DN, fmt.Sprintf("%s;range=%d-*", name, have))
		if err != nil {
			return nil, err
		}
		e.Attributes = append(e.Attributes, more.Attributes...)
	}
}

// append adds values to an attribute.
func (e *Entry) append(name string, values [][]byte) {
	for i := range e.Attributes {
		if strings.EqualFold(e.Attributes[i].Name, name) {
			e.Attributes[i].Values = append(e.Attributes[i].Values, values...)
			return
		}
	}
	e.Attributes = append(e.Attributes, Attribute{name, values})
}

// readAll reads entries by their names, those of one parent together. Those
// that are not there, or not to be seen, are missing from what it returns. What
// it returns is taken from room.
func (s *Session) readAll(ctx context.Context, names, attributes []string, room *int) ([]Entry, error) {
	byParent := map[string][]string{}
	var order []string
	for _, name := range names {
		rdn, parent := cutRDN(name)
		if kindOfRDN(rdn) != "CN" || !below(name, s.root.base) {
			return nil, fmt.Errorf("%w: a reference to %q, which is no policy object below %q", ErrUnreadable, name, s.root.base)
		}
		key := foldDN(parent)
		if byParent[key] == nil {
			order = append(order, parent)
		}
		byParent[key] = append(byParent[key], nameOfRDN(rdn))
	}
	var all []Entry
	for _, parent := range order {
		for _, some := range chunks(byParent[foldDN(parent)]) {
			found, err := s.Search(ctx, Query{Base: parent, Scope: OneLevel, Filter: anyOf("cn", some), Attributes: attributes, Limit: len(some), most: *room + 1})
			if errors.Is(err, ErrNotFound) {
				continue // the parent is not there: none of them is
			}
			if err != nil {
				return nil, err
			}
			for i := range found {
				if err := use(room, found[i].size()); err != nil {
					return nil, err
				}
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

// objects makes policy objects of their entries.
func objects(entries []Entry) ([]gpipsec.Object, error) {
	all := make([]gpipsec.Object, len(entries))
	for i, e := range entries {
		var err error
		if all[i], err = e.Object(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Object returns the policy object that an entry is.
func (e *Entry) Object() (gpipsec.Object, error) {
	values := map[string][][]byte{}
	for _, a := range e.Attributes {
		name, _, _ := strings.Cut(a.Name, ";")
		values[name] = append(values[name], a.Values...)
	}
	return gpipsec.ReadEntry(e.DN, values)
}

// Objects returns the entries of all policy objects right below the container.
// Of those that this account may see but not read, only the names are there.
func (s *Session) Objects(ctx context.Context) ([]Entry, error) {
	found, err := s.Search(ctx, Query{Base: s.Container(), Scope: OneLevel, Attributes: append(objectAttributes(), attrClass, "whenChanged", attrCreated)})
	if err != nil {
		return nil, err
	}
	for i := range found {
		for _, attribute := range []string{"ipsecNFAReference", "ipsecFilterReference", attrOwners} {
			if _, err := s.values(ctx, &found[i], attribute); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}
