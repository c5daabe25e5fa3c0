package directory

import (
	"context"
	"slices"

	"ipsecagent/policy/gpipsec"
)

// Inventory is what the container of policies holds.
type Inventory struct {
	// Result is what its objects say, all of them.
	gpipsec.Result
	// Unreadable is the number of objects that this account sees and may not
	// read; without them some policies may be missing.
	Unreadable int
	// Assigned are the entries that assign policies.
	Assigned []Assigned
}

// Inventory reads the whole container.
func (s *Session) Inventory(ctx context.Context) (Inventory, error) {
	c, err := s.contents(ctx)
	if err != nil {
		return Inventory{}, err
	}
	i := Inventory{Result: c.decoded, Unreadable: len(c.sealed)}
	i.Assigned, err = s.Assignments(ctx)
	return i, err
}

// By returns the entries that assign a policy, by its GUID.
func (i *Inventory) By(guid string) []Assigned {
	want := refOf(gpipsec.ClassPolicy, guid)
	return slices.DeleteFunc(slices.Clone(i.Assigned), func(a Assigned) bool {
		ref, err := gpipsec.ReadDN(a.Policy)
		return err != nil || ref != want
	})
}
