// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
	// The library numbers lines from 0 in errors of its parser, and from 1 in those
	// of its scanner. These are errors of the parser.
	lineFromZero = regexp.MustCompile(`^did not find expected (<|key|node content|'-' indicator|',')`)
	// The first line of a text of several lines ends so.
	blockText = regexp.MustCompile(`[|>][0-9+-]*$`)
)

const tabHint = "YAML does not allow tabs for indentation, write spaces"

// syntaxHints say what to do about errors of the YAML library.
var syntaxHints = []struct{ message, hint string }{
	{"found a tab character", tabHint},
	{"did not find expected ',' or", "a comma between two fields or the closing bracket is missing"},
	{"mapping values are not allowed", "write each key on a line of its own, and a text that has a colon and a space in quotes"},
	{"found character that cannot start any token", "put a text that begins with @, % or ` in quotes"},
	{"could not find expected ':'", "write a colon and a space after a key, as in key: value"},
	{"found unexpected end of stream", "the closing quote of a text is missing"},
}

// syntaxError reports an error of the YAML library, which has its line, if any, in
// the message.
func (r *Reader) syntaxError(f *file, err error) {
	message, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
		if lineFromZero.MatchString(message) {
			line++
		}
	}
	f.line(1) // splits the text
	line = min(f.original(line), len(f.lines))
	switch {
	case strings.HasPrefix(message, "found a tab character"):
		line = f.tabbed(line)
	case strings.HasPrefix(message, "did not find expected key"), strings.HasPrefix(message, "did not find expected '-'"):
		at := f.misindented(line)
		if at > 0 || f.misindented(1) == line { // in the outermost mapping, the library names the line itself
			line, message = max(at, line), message+": the indentation is that of no line above"
		}
	}
	text, _ := f.line(line)
	indented := indentation(text)
	column := 1 + len(indented)
	if hint := hintFor(message, indented); hint != "" {
		message += ": " + hint
	}
	if m := unknownAnchor.FindStringSubmatch(message); m != nil { // without a line
		for i, text := range f.lines {
			if before, _, found := strings.Cut(text, "*"+m[1]); found {
				line, column = i+1, utf8.RuneCountInString(before)+1
				break
			}
		}
	}
	r.add(f, line, column, "", "is not valid YAML: %s", message)
}

// hintFor returns what to do about an error in a line with an indentation; "" if nothing is known.
func hintFor(message, indented string) string {
	if strings.Contains(indented, "\t") {
		return tabHint
	}
	for _, h := range syntaxHints {
		if strings.HasPrefix(message, h.message) {
			return h.hint
		}
	}
	return ""
}

func indentation(text string) string { return text[:len(text)-len(strings.TrimLeft(text, " \t"))] }

// tabbed returns the first line from one on whose indentation has a tab. The library names the
// line before. Without such a line it is the line itself.
func (f *file) tabbed(line int) int {
	for i, text := range f.lines[line-1:] {
		if strings.Contains(indentation(text), "\t") {
			return line + i
		}
	}
	return line
}

// misindented returns the first line whose indentation is that of no line above, of a mapping or a list
// that begins in a line; 0 if there is none.
func (f *file) misindented(line int) int {
	var open []int // indentations
	block := -1    // that of the line above whose text goes on in deeper lines
	for i, text := range f.lines[line-1:] {
		text = strings.TrimRight(text, " \r")
		rest := strings.TrimLeft(text, " ")
		at, ended := len(text)-len(rest), false
		if rest == "" || rest[0] == '#' || block >= 0 && at > block {
			continue
		}
		if block = -1; blockText.MatchString(rest) {
			block = at
		}
		for len(open) > 0 && open[len(open)-1] > at {
			open, ended = open[:len(open)-1], true
		}
		switch {
		case len(open) == 0 && i > 0:
			return 0
		case len(open) == 0 || open[len(open)-1] < at:
			if ended {
				return line + i
			}
			open = append(open, at)
		}
		for strings.HasPrefix(rest, "- ") { // an item may begin a mapping
			rest = strings.TrimLeft(rest[2:], " ")
			open = append(open, len(text)-len(rest))
		}
	}
	return 0
}

func firstInvalid(src []byte) (line, column int) {
	line, column = 1, 1
	for len(src) > 0 {
		c, size := utf8.DecodeRune(src)
		if c == utf8.RuneError && size <= 1 {
			break
		}
		column++
		if c == '\n' {
			line, column = line+1, 1
		}
		src = src[size:]
	}
	return line, column
}
