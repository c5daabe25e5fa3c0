package doctor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Ruleset is the nftables rules of a network namespace, those of iptables
// included where that stands on nftables.
type Ruleset struct {
	Chains []*nftables.Chain
	// Rules are those of a chain, in order, by ChainName.
	Rules map[string][]*nftables.Rule
	// Elements returns a set with its elements.
	Elements func(t *nftables.Table, name string, id uint32) (*nftables.Set, []nftables.SetElement, error)
	// Flowtables are the names of tables with flow tables, which lead forwarded
	// packets around all other rules.
	Flowtables []string
}

// maxJumps bounds how deep chains are followed: the kernel's bound.
const maxJumps = 16

// ChainName names a chain as nft does: "inet filter input".
func ChainName(t *nftables.Table, chain string) string {
	return familyName(t.Family) + " " + t.Name + " " + chain
}

func familyName(f nftables.TableFamily) string {
	names := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
		nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev", nftables.TableFamilyBridge: "bridge"}
	return names[f]
}

// ReadRuleset reads all tables but those of these names, which are ours.
func ReadRuleset(ours ...string) (*Ruleset, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("doctor: read the firewall: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("doctor: read the firewall: %w", err)
	}
	r := &Ruleset{Rules: map[string][]*nftables.Rule{}, Elements: elementsBy(c)}
	r.Chains = slices.DeleteFunc(chains, func(ch *nftables.Chain) bool {
		return ch.Table.Family == nftables.TableFamilyINet && slices.Contains(ours, ch.Table.Name)
	})
	for _, ch := range r.Chains {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil && !errors.Is(err, unix.ENOENT) { // removed meanwhile
			return nil, fmt.Errorf("doctor: read chain %s: %w", ChainName(ch.Table, ch.Name), err)
		}
		r.Rules[ChainName(ch.Table, ch.Name)] = rules
	}
	r.Flowtables = flowtables(c, r.Chains)
	return r, nil
}

func elementsBy(c *nftables.Conn) func(*nftables.Table, string, uint32) (*nftables.Set, []nftables.SetElement, error) {
	return func(t *nftables.Table, name string, _ uint32) (*nftables.Set, []nftables.SetElement, error) {
		set, err := c.GetSetByName(t, name)
		if err != nil {
			return nil, nil, err
		}
		elements, err := c.GetSetElements(set)
		return set, elements, err
	}
}

// flowtables returns the tables that have one. A kernel without them has none.
func flowtables(c *nftables.Conn, chains []*nftables.Chain) []string {
	var names []string
	for _, ch := range chains {
		name := familyName(ch.Table.Family) + " " + ch.Table.Name
		if slices.Contains(names, name) {
			continue
		}
		if tables, err := c.ListFlowtables(ch.Table); err == nil && len(tables) > 0 {
			names = append(names, name)
		}
	}
	return names
}

// finder looks a value up in a set; the verdict is that of a map, nil where there
// is none.
type finder func(t *nftables.Table, e *expr.Lookup, v value) (truth, *expr.Verdict)

// lookup is the ruleset's finder.
func (r *Ruleset) lookup(t *nftables.Table, e *expr.Lookup, v value) (truth, *expr.Verdict) {
	if len(v.is) == 0 {
		return maybe, nil
	}
	set, elements, err := r.Elements(t, e.SetName, e.SetID)
	if err != nil || set.Concatenation || e.IsDestRegSet && e.DestRegister != unix.NFT_REG_VERDICT {
		return maybe, nil
	}
	found, fits := element(set, elements, v.is)
	switch {
	case !fits:
		return maybe, nil
	case found == nil:
		return certain(e.Invert), nil
	}
	if !e.IsDestRegSet {
		return certain(!e.Invert), nil
	}
	verdict, ok := verdictOf(found.Val)
	if !ok {
		return maybe, nil
	}
	return yes, verdict
}

// verdictOf reads the verdict of a map's element from the netlink attributes that
// it is in.
func verdictOf(b []byte) (*expr.Verdict, bool) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, false
	}
	ad.ByteOrder = binary.BigEndian
	var v *expr.Verdict
	var chain string
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			v = &expr.Verdict{Kind: expr.VerdictKind(int32(ad.Uint32()))}
		case unix.NFTA_VERDICT_CHAIN:
			chain = ad.String()
		}
	}
	if ad.Err() != nil || v == nil {
		return nil, false
	}
	v.Chain = chain
	return v, true
}

// element returns the element that holds a value, nil if none does. fits is
// false where the elements are of another length.
func element(set *nftables.Set, elements []nftables.SetElement, v []byte) (found *nftables.SetElement, fits bool) {
	for i := range elements {
		e := &elements[i]
		if len(e.Key) != len(v) {
			return nil, false
		}
		switch c := bytes.Compare(e.Key, v); {
		case c == 0 && !e.IntervalEnd:
			return e, true
		case set.Interval && c <= 0 && (found == nil || bytes.Compare(found.Key, e.Key) < 0 || bytes.Equal(found.Key, e.Key) && !e.IntervalEnd):
			found = e
		}
	}
	if found != nil && found.IntervalEnd {
		found = nil
	}
	return found, true
}

// fate is what becomes of a packet in a base chain.
type fate struct {
	drops   bool
	unless  bool     // a rule before may let it pass
	where   string   // what drops it
	perhaps []string // rules that drop some of it, though not all
}

// walk is a packet on its way through a base chain.
type walk struct {
	*Ruleset
	packet
	fate
	meets func(rule *nftables.Rule, certainly bool) // of each rule that it meets, or may; nil: nobody asks
}

// fateIn follows the packet through a base chain.
func (r *Ruleset) fateIn(ch *nftables.Chain, p packet) fate {
	w := &walk{Ruleset: r, packet: p}
	if !w.through(ch.Table, ch.Name, false, 0) && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
		w.drops, w.where = true, fmt.Sprintf("chain %s (policy drop)", ChainName(ch.Table, ch.Name))
	}
	return w.fate
}

// through follows the packet through a chain; unsure: it may not come there.
// decided reports that nothing after it decides.
func (w *walk) through(t *nftables.Table, chain string, unsure bool, depth int) (decided bool) {
	if depth > maxJumps {
		return false
	}
	for _, rule := range w.Rules[ChainName(t, chain)] {
		o := w.judge(rule, w.lookup)
		certainly := o.matches == yes && !unsure
		if w.meets != nil && o.matches != no {
			w.meets(rule, certainly)
		}
		switch {
		case o.matches == no:
		case o.verdict == expr.VerdictAccept || o.verdict == expr.VerdictQueue || o.verdict == expr.VerdictStolen:
			if certainly {
				return true
			}
			w.unless = true
		case o.verdict == expr.VerdictDrop:
			where := fmt.Sprintf("a rule of chain %s (handle %d)", ChainName(t, chain), rule.Handle)
			if certainly {
				w.drops, w.where = true, where
				return true
			}
			if o.named {
				w.perhaps = append(w.perhaps, where)
			}
		case o.verdict == expr.VerdictJump, o.verdict == expr.VerdictGoto:
			if w.through(t, o.chain, !certainly, depth+1) && certainly {
				return true
			}
			if certainly && o.verdict == expr.VerdictGoto {
				return false
			}
		case o.verdict == expr.VerdictReturn:
			if certainly {
				return false
			}
			unsure = true
		}
	}
	return false
}

// passes reports whether packets of a direction and family go through a chain.
func passes(ch *nftables.Chain, p packet) bool {
	if ch.Hooknum == nil || ch.Type != nftables.ChainTypeFilter {
		return false
	}
	switch ch.Table.Family {
	case nftables.TableFamilyINet:
	case nftables.TableFamilyIPv4:
		if p.v6 {
			return false
		}
	case nftables.TableFamilyIPv6:
		if !p.v6 {
			return false
		}
	default:
		return false
	}
	hook := *ch.Hooknum
	if p.out {
		return hook == *nftables.ChainHookOutput || hook == *nftables.ChainHookPostrouting
	}
	return hook == *nftables.ChainHookPrerouting || hook == *nftables.ChainHookInput
}

// listing is the command that shows a chain which a text names.
func listing(where string) string {
	_, name, _ := strings.Cut(where, "chain ")
	f := strings.FieldsFunc(name, func(r rune) bool { return r == ' ' || r == ',' })
	if len(f) < 3 {
		return "nft -a list ruleset"
	}
	return "nft -a list chain " + strings.Join(f[:3], " ")
}
