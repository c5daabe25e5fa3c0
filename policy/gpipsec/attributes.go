package gpipsec

import (
	"fmt"
	"strings"
)

// Attributes of the objects, spelled as the directory schema spells them. The
// registry has values of the same names.
const (
	attrName        = "ipsecName"
	attrDescription = "description"
	attrID          = "ipsecID"
	attrDataType    = "ipsecDataType"
	attrData        = "ipsecData"
	attrOwners      = "ipsecOwnersReference"
	attrISAKMP      = "ipsecISAKMPReference"
	attrNFA         = "ipsecNFAReference"
	attrNegotiation = "ipsecNegotiationPolicyReference"
	attrFilter      = "ipsecFilterReference"
	attrType        = "iPSECNegotiationPolicyType"
	attrAction      = "iPSECNegotiationPolicyAction"
)

// refAttribute is the attribute that refers to objects of a class.
func refAttribute(c Class) string {
	switch c {
	case ClassISAKMP:
		return attrISAKMP
	case ClassNFA:
		return attrNFA
	case ClassNegotiation:
		return attrNegotiation
	}
	return attrFilter
}

func isRefAttribute(name string) bool {
	for _, c := range storedClasses() {
		if strings.EqualFold(name, refAttribute(c)) {
			return true
		}
	}
	return false
}

// parseRef reads "ipsecNFA{72385232-…}", the value of an RDN or the name of a
// registry key.
func parseRef(text string) (Ref, error) {
	class, guid, ok := strings.Cut(text, "{")
	for _, c := range storedClasses() {
		if !ok || !strings.EqualFold(strings.TrimSpace(class), string(c)) {
			continue
		}
		g, err := ParseGUID("{" + guid)
		return Ref{c, g}, err
	}
	return Ref{}, fmt.Errorf("%q is not the name of an IPSec policy object such as ipsecNFA{72385232-70FA-11D1-864C-14A300000000}", text)
}

// parseDN returns the object that a distinguished name names.
func parseDN(dn string) (Ref, error) {
	return parseRef(firstRDN(dn))
}

// firstRDN returns the value of a name's first part. The names in question
// hold no escapes.
func firstRDN(dn string) string {
	rdn, _, _ := strings.Cut(dn, ",")
	_, value, _ := strings.Cut(rdn, "=")
	return strings.TrimSpace(value)
}

// parseKeyPath returns the object that a registry path names.
func parseKeyPath(path string) (Ref, error) {
	return parseRef(path[strings.LastIndexByte(path, '\\')+1:])
}

// set takes the value of an attribute into an object; how says how references
// are written. Attributes of no interest here are passed over.
func (o *Object) set(name string, value []byte, how func(string) (Ref, error)) (err error) {
	text := string(value)
	switch strings.ToLower(name) {
	case strings.ToLower(attrName):
		o.Name = text
	case attrDescription:
		o.Description = text
	case strings.ToLower(attrData):
		o.Data = value
	case strings.ToLower(attrDataType):
		_, err = fmt.Sscanf(text, "%d", &o.DataType)
	case strings.ToLower(attrType):
		o.Type, err = ParseGUID(text)
	case strings.ToLower(attrAction):
		o.Action, err = ParseGUID(text)
	case strings.ToLower(attrOwners):
		err = appendRef(&o.Owners, text, how)
	default:
		if isRefAttribute(name) {
			err = appendRef(&o.Refs, text, how)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func appendRef(to *[]Ref, text string, how func(string) (Ref, error)) error {
	r, err := how(text)
	if err != nil {
		return err
	}
	*to = append(*to, r)
	return nil
}

// attribute is one value as a store keeps it.
type attribute struct {
	name  string
	text  string
	bytes []byte // instead of text
}

// attributes lists an object's values, without those that the kind of store
// adds, and without its references.
func (o *Object) attributes() []attribute {
	all := []attribute{
		{name: attrName, text: o.Name},
		{name: attrDescription, text: o.Description},
		{name: attrID, text: o.GUID.String()},
		{name: attrDataType, text: fmt.Sprint(o.DataType)},
		{name: attrData, bytes: o.Data},
	}
	if o.Class == ClassNegotiation {
		all = append(all, attribute{name: attrType, text: o.Type.String()}, attribute{name: attrAction, text: o.Action.String()})
	}
	var present []attribute
	for _, a := range all {
		if a.text != "" || a.bytes != nil {
			present = append(present, a)
		}
	}
	return present
}
