package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// schemaDN is the entry of the schema among those of cn=config.
const schemaDN = "cn=ipsec,cn=schema,cn=config"

// schemaAttributes are the attributes of the schema's entry in cn=config.
func schemaAttributes() []Attribute {
	types, classes := Attribute{Name: "olcAttributeTypes"}, Attribute{Name: "olcObjectClasses"}
	for line := range strings.Lines(Schema(false)) {
		if definition, ok := strings.CutPrefix(line, "attributetype "); ok {
			types.Values = append(types.Values, []byte(strings.TrimSpace(definition)))
		}
		if definition, ok := strings.CutPrefix(line, "objectclass "); ok {
			classes.Values = append(classes.Values, []byte(strings.TrimSpace(definition)))
		}
	}
	return []Attribute{{attrClass, texts("olcSchemaConfig")}, {"cn", texts(nameOfRDN(schemaDN))}, types, classes}
}

// ContainerLDIF returns the entries that policies are written below.
func ContainerLDIF(container, base string) (string, error) {
	entries, err := containerEntries(container, base)
	if err != nil {
		return "", err
	}
	var all []string
	for _, e := range entries {
		all = append(all, ldifOf(e.DN, e.Attributes))
	}
	return strings.Join(all, "\n"), nil
}

// ldifOf writes an entry whose values are printable ASCII (RFC 2849).
func ldifOf(dn string, attributes []Attribute) string {
	var b strings.Builder
	fmt.Fprintf(&b, "dn: %s\n", dn)
	for _, a := range attributes {
		for _, v := range a.Values {
			fmt.Fprintf(&b, "%s: %s\n", a.Name, v)
		}
	}
	return b.String()
}

// containerEntries are the container and the entries between it and the base,
// the uppermost first.
func containerEntries(container, base string) ([]Entry, error) {
	above, err := parents(container, base)
	if err != nil {
		return nil, err
	}
	names := append([]string{container}, above[:len(above)-1]...)
	var all []Entry
	for i := len(names) - 1; i >= 0; i-- {
		rdn, _ := cutRDN(names[i])
		class := map[string]string{"CN": "container", "OU": "organizationalUnit"}[kindOfRDN(rdn)]
		if class == "" {
			return nil, fmt.Errorf("%q: a container is named by CN or OU", names[i])
		}
		all = append(all, Entry{names[i], []Attribute{{attrClass, texts("top", class)}, {strings.ToLower(kindOfRDN(rdn)), texts(nameOfRDN(rdn))}}})
	}
	return all, nil
}

// PlanInit says what is missing for policies to be written below the container:
// the schema, which only who may change cn=config can add, and entries.
func (s *Session) PlanInit(ctx context.Context) (Plan, error) {
	if s.config.Kind == ActiveDirectory {
		return s.planInitAD(ctx)
	}
	p := Plan{Commit: -1}
	known, err := s.knowsSchema(ctx)
	if err != nil {
		return p, err
	}
	if !known {
		p.Steps = append(p.Steps, Step{Kind: StepAdd, DN: schemaDN, What: "add the schema to cn=config", Attributes: schemaAttributes()})
	}
	entries, err := containerEntries(s.Container(), s.Base())
	if err != nil {
		return p, err
	}
	for _, e := range entries {
		_, err := s.Read(ctx, e.DN, attrClass)
		switch {
		case errors.Is(err, ErrNotFound):
			p.Steps = append(p.Steps, Step{Kind: StepAdd, DN: e.DN, What: fmt.Sprintf("add the container %q", e.DN), Attributes: e.Attributes})
		case err != nil:
			return p, err
		}
	}
	return p, nil
}

// planInitAD: every Active Directory is born with schema and container.
func (s *Session) planInitAD(ctx context.Context) (Plan, error) {
	if _, err := s.Read(ctx, s.Container(), attrClass); err != nil {
		return Plan{}, fmt.Errorf("every Active Directory has the container of policies, but this one: %w", err)
	}
	return Plan{Commit: -1}, nil
}

// knowsSchema asks the server for the classes that it knows (RFC 4512 §4.4).
func (s *Session) knowsSchema(ctx context.Context) (bool, error) {
	root, err := s.Read(ctx, "", "subschemaSubentry")
	if err != nil {
		return false, err
	}
	e, err := s.one(ctx, Query{Base: root.get("subschemaSubentry"), Filter: "(objectClass=subschema)", Attributes: []string{"objectClasses"}})
	if err != nil {
		return false, fmt.Errorf("read the schema of the server: %w", err)
	}
	for _, c := range e.all("objectClasses") {
		if strings.Contains(c, "'"+pointerClass+"'") {
			return true, nil
		}
	}
	return false, nil
}
