package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// The formats of -o.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// show prints v in the format asked for; table prints it for people.
func (e *env) show(v any, table func(*printer)) error {
	switch e.format {
	case formatJSON:
		return e.showJSON(v)
	case formatYAML:
		return e.showYAML(v)
	}
	p := &printer{now: e.now(), zone: e.zone}
	table(p)
	_, err := e.out.Write(p.text.Bytes())
	return err
}

func (e *env) showJSON(v any) error {
	text, err := toJSON(v, "  ")
	if err != nil {
		return err
	}
	_, err = e.out.Write(text)
	return err
}

// toJSON encodes v and ends it with a new line. What a terminal would act on
// is escaped; outside of strings JSON has no such character.
func toJSON(v any, indent string) ([]byte, error) {
	return encodeJSON(v, indent, wideJSON)
}

func encodeJSON(v any, indent string, wide func(rune) string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode as JSON: %w", err)
	}
	return []byte(escapeUnprintable(b.String(), wide)), nil
}

func (e *env) showYAML(v any) error {
	text, err := toYAML(v)
	if err != nil {
		return err
	}
	_, err = e.out.Write(text)
	return err
}

// toYAML encodes v with the names and the order of its JSON: JSON is YAML in
// another style.
func toYAML(v any) ([]byte, error) {
	text, err := encodeJSON(v, "", func(r rune) string { return string(r) })
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, fmt.Errorf("encode as YAML: %w", err)
	}
	restyle(&node)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, fmt.Errorf("encode as YAML: %w", err)
	}
	return []byte(escapeUnprintable(b.String(), wideYAML)), nil
}

// restyle lets the encoder choose the style, but quotes what is to be escaped.
func restyle(n *yaml.Node) {
	n.Style = 0
	if strings.ContainsFunc(n.Value, unprintable) {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		restyle(c)
	}
}

// escapeUnprintable writes what is not printable as escapes, new lines aside:
// \u for the characters of 16 bits, wide for those beyond.
func escapeUnprintable(s string, wide func(rune) string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !unprintable(r):
			b.WriteRune(r)
		case r > 0xffff:
			b.WriteString(wide(r))
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// How JSON and YAML escape a character beyond 16 bits.
func wideJSON(r rune) string {
	high, low := utf16.EncodeRune(r)
	return fmt.Sprintf(`\u%04x\u%04x`, high, low)
}

func wideYAML(r rune) string { return fmt.Sprintf(`\U%08x`, r) }

func unprintable(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }

// clean makes a text from elsewhere fit for one line of a terminal.
func clean(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, notPrint) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if notPrint(r) || r == utf8.RuneError {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func notPrint(r rune) bool { return !unicode.IsPrint(r) }

// cleanText is clean for a text of several lines.
func cleanText(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = clean(strings.ReplaceAll(l, "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

// span says how long d is in its largest unit: "2 minutes".
func span(d time.Duration) string {
	units := []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}}
	for _, u := range units {
		if n := int64(d / u.of); n > 0 {
			return count(uint64(n), u.name)
		}
	}
	return "less than a second"
}

// count says "1 packet", "1 234 packets".
func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return grouped(n) + " " + what + "s"
}

// grouped writes a number with a space between its thousands.
func grouped(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return grouped(n/1000) + fmt.Sprintf(" %03d", n%1000)
}

// size says how many bytes n is, in decimal units.
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), 0
	for f >= 999.5 && unit < len("kMGTPE") {
		f /= 1000
		unit++
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %cB", f, "kMGTPE"[unit-1])
	}
	return fmt.Sprintf("%.0f %cB", f, "kMGTPE"[unit-1])
}

// yesNo says whether something holds.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
