package netsh

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// output is a line in the making.
type output struct {
	w      *writer
	object string   // for losses
	words  []string // of the line
	own    []string // words that Windows does not know
}

func (w *writer) statement(command string) *output {
	return &output{w: w, words: []string{command}}
}

// of says what the line is about.
func (s *output) of(object string, name string) *output {
	s.object = fmt.Sprintf("%s %q", object, name)
	return s
}

// text adds free text, quoted.
func (s *output) text(tag, value string) *output {
	if plainText(value) != value {
		s.w.lose(s.object, tag+"= holds characters that netsh cannot say; they are written as blanks")
	}
	return s.word(tag, quote(value))
}

// word adds a value as it is.
func (s *output) word(tag, value string) *output {
	s.words = append(s.words, tag+"="+value)
	return s
}

// ours adds a word that Windows does not know.
func (s *output) ours(tag, value string) *output {
	s.own = append(s.own, tag+"="+value)
	return s.word(tag, value)
}

// description adds a description if there is one.
func (s *output) description(text string) *output {
	if text == "" {
		return s
	}
	return s.text("description", text)
}

// flag adds yes or no where it is not what netsh takes by itself.
func (s *output) flag(tag string, value, normal bool) *output {
	if value == normal {
		return s
	}
	return s.word(tag, yesNo(value))
}

// pfs adds session key PFS; a group of its own is a word of ours.
func (s *output) pfs(on bool, group sadb.Group) *output {
	if group != 0 {
		return s.ours("qmpfs", group.String())
	}
	return s.flag("qmpfs", on, false)
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

func (s *output) end() {
	if s.own != nil {
		s.w.lose(s.object, "Windows does not know these words and refuses the line: "+strings.Join(s.own, " "))
	}
	s.w.print(strings.Join(s.words, " "))
}

func (s *output) ports(tag string, p sadb.Ports) *output {
	if p == (sadb.Ports{}) {
		return s
	}
	if p.From == p.To {
		return s.word(tag, fmt.Sprint(p.From))
	}
	return s.word(tag, fmt.Sprintf("%d-%d", p.From, p.To))
}

func (s *output) endpoint(tag, maskTag string, e policy.Endpoint) *output {
	switch e.Kind {
	case policy.Addresses:
		return s.addresses(tag, maskTag, e.Addrs)
	case policy.Name:
		return s.dnsName(tag, nameWord(e.Name))
	}
	for _, k := range keywords() {
		if k.kind == e.Kind {
			return s.word(tag, k.word)
		}
	}
	return s
}

// dnsName adds a DNS name.
func (s *output) dnsName(tag, name string) *output {
	if !dnsName(name) {
		s.w.lose(s.object, fmt.Sprintf("%q can be no DNS name; the line will be refused", name))
	}
	return s.text(tag, name)
}

// nameWord writes a DNS name that is one of netsh's words with a dot behind
// it, which means the same name.
func nameWord(name string) string {
	for _, k := range keywords() {
		if strings.EqualFold(name, k.word) {
			return name + "."
		}
	}
	return name
}

func (s *output) addresses(tag, maskTag string, a sadb.Addrs) *output {
	if one, ok := a.Single(); ok {
		return s.word(tag, one.String())
	}
	p, ok := a.Prefix()
	if !ok {
		return s.word(tag, a.String())
	}
	return s.word(tag, p.Addr().String()).word(maskTag, maskWord(p))
}

func maskWord(p netip.Prefix) string {
	if !p.Addr().Is4() {
		return fmt.Sprint(p.Bits())
	}
	mask := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}).String()
}

func (s *output) quickModes(methods []policy.SecurityMethod) *output {
	return methodWords(s, "qmsecmethods", methods, formatQuickMode)
}

// methodWords adds methods; the words of ours among them are noted.
func methodWords[T any](s *output, tag string, methods []T, format func(T) (string, bool)) *output {
	if len(methods) == 0 {
		return s.ours(tag, modern)
	}
	var words []string
	for _, m := range methods {
		word, windows := format(m)
		words = append(words, word)
		if !windows {
			s.own = append(s.own, word)
		}
	}
	return s.word(tag, `"`+strings.Join(words, " ")+`"`)
}

func (s *output) minutes(tag string, d time.Duration) *output {
	switch {
	case d == 0:
		return s
	case d%time.Minute == 0:
		return s.word(tag, fmt.Sprint(int64(d/time.Minute)))
	}
	return s.ours(tag, fmt.Sprintf("%ds", d/time.Second))
}

// authentication adds methods in order; none at all is said too.
func (s *output) authentication(methods []policy.AuthMethod) *output {
	if len(methods) == 0 {
		return s.word("kerberos", "no")
	}
	for _, m := range methods {
		switch m.Kind {
		case policy.Kerberos:
			s.word("kerberos", "yes")
		case policy.Certificate:
			s.text("rootca", fmt.Sprintf("%s certmap:%s excludecaname:%s", m.CA, yesNo(m.MapToAccount), yesNo(m.ExcludeCAName)))
		case policy.PresharedKey:
			s.w.lose(s.object, "the key itself is no part of a store; for Windows put psk= with the key in the place of pskname=")
			s.text("pskname", m.Key)
		}
		for _, p := range m.AcceptPrincipals {
			s.ours("acceptprincipal", quote(p))
		}
	}
	return s
}
