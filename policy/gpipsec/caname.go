package gpipsec

import (
	"slices"
	"strings"
)

// windowsName puts the distinguished name of an authority into the order of
// Windows, the country first and the common name last, where it is written in
// that of RFC 4514. Hosts with this program compare both orders. A name with
// escapes, quotes or parts of several values is left as it is; ok is then false.
func windowsName(name string) (text string, ok bool) {
	parts := strings.Split(name, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	if !leading(parts[0]) || len(parts) == 1 {
		return name, true
	}
	if strings.ContainsAny(name, `\"+;`) {
		return name, false
	}
	slices.Reverse(parts)
	return strings.Join(parts, ", "), true
}

// leading reports whether a part is one that RFC 4514 puts first.
func leading(part string) bool {
	kind, _, _ := strings.Cut(part, "=")
	kind = strings.ToUpper(strings.TrimSpace(kind))
	return kind == "CN" || kind == "OU" || kind == "E" || kind == "EMAILADDRESS"
}
