package cert

import (
	"slices"
	"testing"

	"ipsecagent/auth"
)

// TestPlacesListWhereListsComeFrom: what a trusted peer's certificate names,
// once it was asked, and what our own copies of authorities name; not what a
// root or a stranger names, and no place that is never asked.
func TestPlacesListWhereListsComeFrom(t *testing.T) {
	v, _ := fetching(t, RevocationKnown, func(v *verifying, _ string) []byte { return v.good(t)[0] })
	root := newAuthority(t, "Root of places", nil, pointsTo([]string{"http://root.example/a.crl"}))
	below := newAuthority(t, "Below", root, pointsTo([]string{"http://crl.example/b.crl", "ldap://crl.example/b"}))
	s := storeOf(t, []*entity{root, below})
	k := newKeeper(t, s, Settings{Revocation: RevocationKnown})
	if got, ok := k.Places(); !ok || !slices.Equal(got, []string{"http://crl.example/b.crl"}) {
		t.Errorf("of this host's files: %q, %v", got, ok)
	}
	point := v.peer.CRLDistributionPoints[0]
	if got, _ := v.keeper.Places(); slices.Contains(got, point) {
		t.Errorf("before any peer: %q", got)
	}
	stranger := newAuthority(t, "Stranger", nil)
	liar := newHost(t, "liar.example", stranger, auth.ECDSA256, pointsTo([]string{"http://liar.example/"}))
	_, err := v.meet(t, auth.ECDSA256, claims(liar, stranger), liar)
	wantCode(t, err, codeUntrusted)
	if err := v.result(t); err != nil {
		t.Fatal(err)
	}
	if got, _ := v.keeper.Places(); !slices.Contains(got, point) || slices.Contains(got, "http://liar.example/") {
		t.Errorf("after a peer: %q", got)
	}
	if got, ok := newKeeper(t, s, Settings{Revocation: RevocationOff}).Places(); ok || len(got) != 0 {
		t.Errorf("switched off: %q", got)
	}
	if got, ok := newKeeper(t, nil, Settings{Revocation: RevocationStrict}).Places(); ok || len(got) != 0 {
		t.Errorf("without authorities: %q", got)
	}
}
