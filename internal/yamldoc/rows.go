// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"runtime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxFileBytes bounds a file with row sections. All that is not a row counts for MaxBytes.
const MaxFileBytes = 256 << 20

// A RowSection is a root key with a list that may have very many items. A YAML library
// takes a kilobyte and microseconds for each. So items that all stand on one line, as in
//
//	assign:
//	  - { key: acme/alice, tier: free } # a comment
//
// are not given to the library, but read one after the other by [Reader.Rows]. Any other
// list is read as usual, and means the same.
type RowSection struct {
	Key    string
	Fields []string
}

// Row is an item of a row section.
type Row struct {
	Line, Column int        // of its mapping
	Fields       []RowField // valid until the next row
}

// RowField is a field of a row.
type RowField struct {
	Name, Value string
	Column      int // of the value
}

// rowSpan is a row section without its key: whole lines.
type rowSpan struct {
	section *RowSection
	line    int    // of the key
	text    string // the lines after the key
	lines   int    // of text
	rows    bool   // there is at least one
}

// findRows returns the row sections of a file whose items are all rows. Of others it
// returns the first line that is none, 0 if there is none.
func findRows(src string, sections []RowSection, pause func()) (spans []rowSpan, other int) {
	if len(sections) == 0 {
		return nil, 0
	}
	var row Row
	y := yielder{pause: pause}
	for line, rest := 1, src; rest != ""; line++ {
		y.line()
		var text string
		text, rest = cutLine(rest)
		if text == "" || text[0] < 'a' || text[0] > 'z' {
			continue
		}
		name, after, _ := strings.Cut(text, ":")
		i := slices.IndexFunc(sections, func(s RowSection) bool { return s.Key == name })
		if i < 0 || !blank(after) || strings.HasPrefix(after, "#") {
			continue
		}
		span := rowSpan{section: &sections[i], line: line}
		body, indent, ends := rest, -1, false
		for body != "" && !ends {
			y.line()
			var next string
			text, next = cutLine(body)
			switch {
			case blank(text):
			case text[0] != ' ' && text[0] != '-':
				ends = true
				continue
			case row.parse(text, span.section.Fields) && (indent < 0 || indent == row.Column):
				indent, span.rows = row.Column, true
			default:
				if other == 0 {
					other = line + span.lines + 1
				}
				ends, span.section = true, nil
				continue
			}
			body = next
			span.lines++
		}
		if span.section != nil && span.rows {
			span.text = rest[:len(rest)-len(body)]
			spans = append(spans, span)
		}
		line += span.lines
		rest = body
	}
	return spans, other
}

// yielder lets other goroutines run now and then, so that reading a large file delays
// those that serve calls by some 100 microseconds, and not by the 10 milliseconds after
// which the runtime interrupts a goroutine.
type yielder struct {
	lines int
	pause func() // see [Reader.Pause]
}

func (y *yielder) line() {
	if y.lines++; y.lines%256 != 0 {
		return
	}
	if y.pause != nil {
		y.pause()
		return
	}
	runtime.Gosched()
}

// copyText returns text as a string. It is copied in parts, because the runtime cannot
// interrupt a copy.
func copyText(text []byte) string {
	const part = 256 << 10
	var b strings.Builder
	b.Grow(len(text))
	for len(text) > 0 {
		n := min(len(text), part)
		b.Write(text[:n])
		text = text[n:]
		runtime.Gosched()
	}
	return b.String()
}

// cutLine returns the first line of s, without its end, and the rest.
func cutLine(s string) (line, rest string) {
	line, rest, ended := strings.Cut(s, "\n")
	if ended {
		line = strings.TrimSuffix(line, "\r")
	}
	return line, rest
}

// blank reports whether a line, or the rest of one, has nothing but a comment.
func blank(s string) bool {
	trimmed := strings.TrimLeft(s, " ")
	return trimmed == "" || trimmed[0] == '#' && printableText(trimmed)
}

// parse reads a line with a row of known fields. It returns false if the line is anything
// else, even if it is YAML.
func (r *Row) parse(line string, known []string) bool {
	s := strings.TrimLeft(line, " ")
	at := func() int { return len(line) - len(s) } // offset of s
	next := func(text string) bool {
		if !strings.HasPrefix(s, text) {
			return false
		}
		s = s[len(text):]
		return true
	}
	spaces := func() { s = strings.TrimLeft(s, " ") }
	if !next("- ") {
		return false
	}
	spaces()
	r.Column, r.Fields = at()+1, r.Fields[:0]
	if !next("{") {
		return false
	}
	for {
		spaces()
		n := 0
		for n < len(s) && (s[n] >= 'a' && s[n] <= 'z' || s[n] == '_') {
			n++
		}
		f := RowField{Name: s[:n]}
		if s = s[n:]; !next(": ") || !slices.Contains(known, f.Name) || slices.ContainsFunc(r.Fields, func(g RowField) bool { return g.Name == f.Name }) {
			return false
		}
		spaces()
		f.Column = at() + 1
		var ok bool
		if f.Value, s, ok = scalar(s); !ok {
			return false
		}
		r.Fields = append(r.Fields, f)
		spaces()
		if next("}") {
			break
		}
		if !next(", ") {
			return false
		}
	}
	if !ascii(line) {
		for i := range r.Fields {
			f := &r.Fields[i]
			f.Column = utf8.RuneCountInString(line[:f.Column-1]) + 1
		}
	}
	trimmed := strings.TrimLeft(s, " ")
	return trimmed == "" || trimmed[0] == '#' && len(trimmed) < len(s) && printableText(trimmed)
}

// scalar reads a value in a row: text in quotes without escapes, or plain text that is
// neither empty nor null.
func scalar(s string) (value, rest string, ok bool) {
	if s == "" {
		return "", "", false
	}
	if q := s[0]; q == '"' || q == '\'' {
		end := strings.IndexByte(s[1:], q)
		if end < 0 {
			return "", "", false
		}
		value, rest = s[1:1+end], s[end+2:]
		if strings.HasPrefix(rest, "'") || strings.IndexByte(value, '\\') >= 0 {
			return "", "", false // an escape
		}
		return value, rest, printableText(value)
	}
	end := strings.IndexAny(s, ",}")
	if end < 0 {
		return "", "", false
	}
	value, rest = strings.TrimRight(s[:end], " "), s[end:]
	if value == "" || !plainStart(value[0]) || strings.EqualFold(value, "null") || value[len(value)-1] == ':' || strings.Contains(value, ": ") {
		return "", "", false
	}
	for i := range len(value) {
		if c := value[i]; c < utf8.RuneSelf && !plainStart(c) && strings.IndexByte("-*:@+ ", c) < 0 {
			return "", "", false
		}
	}
	return value, rest, printableText(value)
}

func plainStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '/' || c == '$' || c >= utf8.RuneSelf
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// printableText reports whether s has nothing that YAML forbids or takes for a line break.
func printableText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
		}
	}
	return true
}

// without returns src without the lines of spans.
func without(src string, spans []rowSpan) string {
	if len(spans) == 0 {
		return src
	}
	var b strings.Builder
	line := 1
	for _, s := range spans {
		for ; line <= s.line; line++ {
			text, rest := cutLine(src)
			b.WriteString(text + "\n")
			src = rest
		}
		src = src[len(s.text):]
		line += s.lines
	}
	b.WriteString(src)
	return b.String()
}

// original returns the line of a file for a line of what is left without its rows.
func (f *file) original(line int) int {
	for _, s := range f.spans {
		if line <= s.line {
			break
		}
		line += s.lines
	}
	return line
}

// place gives n and all nodes below their lines in the file.
func (f *file) place(n *yaml.Node) {
	n.Line = f.original(n.Line)
	for _, c := range n.Content {
		f.place(c)
	}
}

// attach finds the values of the row sections in the root of a document. It returns false
// unless each is a root key without a value, which means that it was not part of some text.
func (f *file) attach(document *yaml.Node) bool {
	if len(f.spans) == 0 {
		return true
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode || document.Content[0].Style&yaml.FlowStyle != 0 {
		return false
	}
	pairs := document.Content[0].Content
	f.rows = map[*yaml.Node]*rowSpan{}
	for i := 0; i+1 < len(pairs); i += 2 {
		key, value := pairs[i], pairs[i+1]
		n := slices.IndexFunc(f.spans, func(s rowSpan) bool { return s.line == key.Line })
		if n >= 0 && key.Value == f.spans[n].section.Key && key.Column == 1 && value.Kind == yaml.ScalarNode && value.Tag == "!!null" && value.Value == "" && value.Anchor == "" {
			f.rows[value] = &f.spans[n]
		}
	}
	return len(f.rows) == len(f.spans)
}

// Rows calls do for each item of a row section, in order. It returns false if n is no row
// section, or if its items are not rows; they are then read like any other list.
func (r *Reader) Rows(n Node, do func(Row)) bool {
	if n.file == nil || n.file.rows[n.node] == nil {
		return false
	}
	span := n.file.rows[n.node]
	var row Row
	y := yielder{pause: r.Pause}
	for line, rest := span.line+1, span.text; rest != ""; line++ {
		var text string
		text, rest = cutLine(rest)
		y.line()
		if row.parse(text, span.section.Fields) {
			row.Line = line
			do(row)
		}
	}
	return true
}

// Release frees the text of all files. No more problems are reported with an excerpt.
func (r *Reader) Release() {
	for _, f := range r.opened {
		f.src, f.lines, f.redacted, f.spans, f.rows = "", nil, nil, nil, nil
	}
}
