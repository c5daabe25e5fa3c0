package cert

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// foldText reads a distinguished name as an administrator writes it (RFC 4514,
// with the quotes of RFC 2253 and X.500 tools allowed) and returns its parts in
// the order of the text, folded as foldDER does.
func foldText(text string) ([]string, error) {
	if len(text) > maxName {
		return nil, fmt.Errorf("a name of %d characters", len(text))
	}
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("the name is empty")
	}
	var parts []string
	for _, rdn := range splitOutside(text, ",;") {
		var pairs []string
		for _, pair := range splitOutside(rdn, "+") {
			p, err := foldPair(pair)
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, p)
		}
		slices.Sort(pairs)
		parts = append(parts, strings.Join(pairs, "\x00"))
	}
	return parts, nil
}

// splitOutside splits at separators that are neither escaped nor in quotes.
func splitOutside(text, separators string) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(separators, c) >= 0:
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}

var dotted = regexp.MustCompile(`^(?i:oid\.)?([0-9]+(?:\.[0-9]+)+)$`)

// foldPair reads "type=value".
func foldPair(pair string) (string, error) {
	kind, value, found := strings.Cut(pair, "=")
	if !found {
		return "", fmt.Errorf("%q is not of the form TYPE=value", strings.TrimSpace(pair))
	}
	oid, err := typeOf(strings.TrimSpace(kind))
	if err != nil {
		return "", err
	}
	text, err := unescape(trimUnescaped(value))
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.TrimSpace(kind), err)
	}
	return oid + "=" + foldValue(text), nil
}

// trimUnescaped removes white space around a value; a space behind a backslash
// belongs to it.
func trimUnescaped(s string) string {
	s = strings.TrimLeft(s, " \t")
	t := strings.TrimRight(s, " \t")
	if strings.HasSuffix(t, `\`) && len(t) < len(s) {
		return t + " "
	}
	return t
}

func typeOf(kind string) (string, error) {
	for _, s := range shortNames {
		if strings.EqualFold(s.name, kind) {
			return s.oid, nil
		}
	}
	if m := dotted.FindStringSubmatch(kind); m != nil {
		return m[1], nil
	}
	return "", fmt.Errorf("%q is no known type of a name (CN, O, OU, C, L, ST, DC, …, or numbers with dots)", kind)
}

// unescape resolves quotes and backslashes of a value.
func unescape(s string) (string, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = strings.ReplaceAll(s[1:len(s)-1], `""`, `\"`)
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 == len(s) {
			return "", errors.New("it ends with a backslash")
		}
		if raw, err := hex.DecodeString(s[i+1 : min(i+3, len(s))]); err == nil && len(raw) == 1 {
			b.WriteByte(raw[0])
			i += 2
			continue
		}
		b.WriteByte(s[i+1])
		i++
	}
	return b.String(), nil
}
