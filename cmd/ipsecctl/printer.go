package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// printer collects text for people. Every text that goes through it is made
// fit for a terminal.
type printer struct {
	text bytes.Buffer
	now  time.Time
	zone *time.Location
}

// line prints one line.
func (p *printer) line(format string, args ...any) {
	p.text.WriteString(strings.TrimRight(clean(fmt.Sprintf(format, args...)), " "))
	p.text.WriteByte('\n')
}

// gap prints an empty line.
func (p *printer) gap() { p.text.WriteByte('\n') }

// block prints lines with an indent before each.
func (p *printer) block(indent, text string) {
	for l := range strings.SplitSeq(cleanText(text), "\n") {
		p.text.WriteString(strings.TrimRight(indent+l, " ") + "\n")
	}
}

// heading begins a section: how many things of what.
func (p *printer) heading(what string, n int) {
	p.gap()
	if n == 0 {
		p.line("%s: none", what)
		return
	}
	p.line("%s: %d", what, n)
}

// facts prints names and values below each other.
func (p *printer) facts(indent string, rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(clean(r[0])))
	}
	for _, r := range rows {
		p.line("%s%s  %s", indent, pad(clean(r[0]), width), r[1])
	}
}

// table prints rows in columns; the first row is the heading.
func (p *printer) table(indent string, rows [][]string) {
	widths := map[int]int{}
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(clean(cell)))
		}
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = pad(clean(cell), widths[i])
		}
		p.line("%s%s", indent, strings.Join(cells, "  "))
	}
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// ago says how long a time is past: "2 minutes ago".
func (p *printer) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if d := p.now.Sub(t); d >= time.Second {
		return span(d) + " ago"
	}
	return "now"
}

// in says how far a time is ahead: "in 55 minutes".
func (p *printer) in(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if d := t.Sub(p.now); d >= time.Second {
		return "in " + span(d)
	}
	return "now"
}

// atMilli says a time of day to the millisecond: what follows fast is to be
// told apart.
func (p *printer) atMilli(t time.Time) string {
	return t.In(p.zone).Format("15:04:05.000")
}

// at says a time in the zone of the reader.
func (p *printer) at(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(p.zone).Format("2006-01-02 15:04:05")
}
