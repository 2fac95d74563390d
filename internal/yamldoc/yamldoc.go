// SPDX-License-Identifier: Apache-2.0

// Package yamldoc reads YAML strictly: each node has its file, line and column,
// unknown and repeated keys are problems, and all problems are collected instead of
// stopping at the first.
//
// Input is bounded before it is walked: by [MaxBytes] per file, and by [MaxNodes]
// and [MaxDepth] per document with aliases expanded. So neither a cycle nor nested
// aliases cost more than a large file. Items that stand on one line each, see
// [RowSection], are bounded by [MaxFileBytes] instead: they have no aliases and no depth.
package yamldoc

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
)

// Bounds of a document.
const (
	MaxBytes = 1 << 20
	MaxNodes = 500_000
	MaxDepth = 32
)

// A Reader opens files and collects their problems. The zero value is ready to use;
// it is not safe for concurrent use.
type Reader struct {
	files    []string
	opened   []*file
	problems Problems

	// RedactSection is a root key under which people may paste secrets by mistake.
	// No problem has an excerpt from the first line with this text to the next
	// line that begins with another root key. This works on the text, so that it
	// also works in a file that is not valid YAML.
	RedactSection string

	// RowSections are root keys whose lists may have very many items.
	RowSections []RowSection

	// Pause, if not nil, is called after every 256 lines of row sections. It may wait, so
	// that reading a large file leaves processor time to others.
	Pause func()

	// Synonyms are keys that people write for known ones, which problems then suggest.
	Synonyms map[string]string
	// Misplaced says where a key belongs that is not in the known ones of a mapping, such as
	// "beside it"; "": nowhere. Nil: no key belongs elsewhere.
	Misplaced func(name string, known []string) string
}

// A Node is a YAML node and its file. The zero Node is absent.
type Node struct {
	node     *yaml.Node
	file     *file
	redacted bool // no message repeats the text of this node and those below
	guessed  bool // no problem of this node and those below is reported, see Reader.unknownKey
}

type file struct {
	name  string
	src   string
	spans []rowSpan
	rows  map[*yaml.Node]*rowSpan // by the value of the section

	redact   string   // see Reader.RedactSection
	lines    []string // of src, when they are needed
	redacted []bool   // by line; nil: none
}

// line returns a line from 1, and whether it can be shown.
func (f *file) line(n int) (text string, shown bool) {
	if f.lines == nil && f.src != "" {
		f.lines = strings.Split(f.src, "\n")
		f.redactLines()
	}
	if n < 1 || n > len(f.lines) {
		return "", false
	}
	return f.lines[n-1], f.redacted == nil || !f.redacted[n-1]
}

// Guessed reports whether n is the value of a key that Reader.unknownKey guessed, or
// below it.
func (n Node) Guessed() bool { return n.guessed }

// child returns a node below n.
func (n Node) child(c *yaml.Node) Node { return Node{c, n.file, n.redacted, n.guessed} }

// Redacted returns n as a node whose text no message of this package repeats. See
// [Reader].RedactSection for excerpts.
func (n Node) Redacted() Node {
	n.redacted = true
	return n
}

// A File is a file that has been read. Problems show its name.
type File struct {
	Name   string
	Source []byte
}

// A Field is one pair of a mapping.
type Field struct {
	Name       string
	Key, Value Node
}

// Err returns the problems so far as a [Problems], or nil.
func (r *Reader) Err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return r.problems.sorted(r.files)
}

// Open parses a file with one document and returns its root. The root of an empty
// document is absent, but has a position. A file that is not valid YAML is a problem,
// and Open returns false.
func (r *Reader) Open(name string, src []byte) (Node, bool) {
	r.files = append(r.files, name)
	f := &file{name: name, redact: r.RedactSection}
	r.opened = append(r.opened, f)
	most := MaxBytes
	if r.RowSections != nil {
		most = MaxFileBytes
	}
	if len(src) > most {
		r.add(f, 1, 1, "", "a file must have at most %d bytes, got %d", most, len(src))
		return Node{}, false
	}
	if !utf8.Valid(src) {
		line, column := firstInvalid(src)
		r.add(f, line, column, "", "is not valid UTF-8")
		return Node{}, false
	}
	f.src = copyText(src)
	var other int
	f.spans, other = findRows(f.src, r.RowSections, r.Pause)
	document, decoder, ok := r.decodeRest(f, other)
	if !ok {
		return Node{}, false
	}
	if document == nil {
		return Node{file: f}, true
	}
	root := Node{node: document, file: f}
	if len(document.Content) == 1 {
		root.node = document.Content[0]
	}
	if next, err := decode(decoder); err == nil {
		r.add(f, f.original(next.Line), next.Column, "", "a file must have one document, but a second one begins here")
		return Node{}, false
	} else if !errors.Is(err, io.EOF) {
		r.syntaxError(f, err)
		return Node{}, false
	}
	if budget := MaxNodes; !withinBudget(root.node, &budget, MaxDepth) {
		r.Problem(root, "a file must have at most %d values, %d levels deep, with its aliases expanded", MaxNodes, MaxDepth)
		return Node{}, false
	}
	return root, true
}

// decodeRest decodes all of a file but its rows; nil if there is nothing. Rows that turn
// out to be part of something else are decoded, too.
func (r *Reader) decodeRest(f *file, other int) (document *yaml.Node, decoder *yaml.Decoder, ok bool) {
	rest := without(f.src, f.spans)
	if len(rest) > MaxBytes {
		if r.RowSections == nil {
			r.add(f, 1, 1, "", "a file must have at most %d bytes, got %d", MaxBytes, len(rest))
			return nil, nil, false
		}
		hint := ""
		if other > 0 {
			hint = fmt.Sprintf("; the item at line %d does not", other)
		}
		names := make([]string, len(r.RowSections))
		for i, s := range r.RowSections {
			names[i] = s.Key
		}
		r.add(f, max(other, 1), 1, "", "a file must have at most %d bytes besides the items of %s that each stand on one line, as in - { %s: X, %s: Y }, got %d%s",
			MaxBytes, strings.Join(names, ", "), r.RowSections[0].Fields[0], r.RowSections[0].Fields[1], len(rest), hint)
		return nil, nil, false
	}
	decoder = yaml.NewDecoder(strings.NewReader(rest))
	document, err := decode(decoder)
	if err == nil && len(f.spans) > 0 {
		f.place(document)
	}
	if len(f.spans) > 0 && (err != nil || !f.attach(document)) {
		if err == nil || !errors.Is(err, io.EOF) && len(f.src) <= MaxBytes {
			f.spans, f.rows = nil, nil
			return r.decodeRest(f, other)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil, decoder, true
	}
	if err != nil {
		r.syntaxError(f, err)
		return nil, nil, false
	}
	return document, decoder, true
}

var rootKey = regexp.MustCompile(`^[a-z_]+:(\s|$)`)

// redactLines finds the lines of which no problem shows an excerpt.
func (f *file) redactLines() {
	if f.redact == "" {
		return
	}
	inside := false
	for i, line := range f.lines {
		inside = inside && !rootKey.MatchString(line) || strings.Contains(line, f.redact)
		if inside {
			if f.redacted == nil {
				f.redacted = make([]bool, len(f.lines))
			}
			f.redacted[i] = true
		}
	}
}

// decode returns the next document. The YAML library panics on some malformed
// input, which must not end the process.
func decode(d *yaml.Decoder) (document *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	document = &yaml.Node{}
	return document, d.Decode(document)
}

// withinBudget takes one unit of the budget for n and each node below it, following
// aliases. It reports whether budget and depth sufficed.
func withinBudget(n *yaml.Node, budget *int, depth int) bool {
	if *budget--; *budget < 0 || depth == 0 {
		return false
	}
	if n.Kind == yaml.AliasNode {
		return withinBudget(n.Alias, budget, depth-1)
	}
	for _, c := range n.Content {
		if !withinBudget(c, budget, depth-1) {
			return false
		}
	}
	return true
}

// maxProblems bounds the problems that are collected.
const maxProblems = 10_000

func (r *Reader) add(f *file, line, column int, suggestion, format string, args ...any) {
	if len(r.problems) >= maxProblems {
		if len(r.problems) == maxProblems {
			r.problems = append(r.problems, Problem{File: f.name, Line: line, Column: column, Message: "more problems than these are not listed"})
		}
		return
	}
	p := Problem{File: f.name, Line: line, Column: column, Message: fmt.Sprintf(format, args...), Suggestion: suggestion}
	if text, shown := f.line(line); shown && len(text) <= maxLine {
		p.Excerpt, p.Caret = excerpt(text, column)
	}
	r.problems = append(r.problems, p)
}

// Problem reports a problem at n.
func (r *Reader) Problem(n Node, format string, args ...any) {
	r.Suggest(n, "", format, args...)
}

// Suggest is [Reader.Problem] with the word that was probably intended; "" if there
// is none.
func (r *Reader) Suggest(n Node, suggestion, format string, args ...any) {
	if n.guessed {
		return
	}
	_, line, column := n.Position()
	r.add(n.file, line, column, suggestion, format, args...)
}

// Position returns the file of n, and its line and column from 1.
func (n Node) Position() (file string, line, column int) {
	if n.node == nil {
		return n.file.name, 1, 1
	}
	return n.file.name, max(n.node.Line, 1), max(n.node.Column, 1)
}

// At returns the position as file:line:column.
func (n Node) At() string {
	file, line, column := n.Position()
	return fmt.Sprintf("%s:%d:%d", file, line, column)
}

// Exists reports whether n is present.
func (n Node) Exists() bool { return n.node != nil }

// resolved follows aliases. Open has checked that there is no cycle.
func (n Node) resolved() Node {
	for n.node != nil && n.node.Kind == yaml.AliasNode {
		n.node = n.node.Alias
	}
	return n
}

// IsNull reports whether n is absent or null.
func (n Node) IsNull() bool {
	n = n.resolved()
	return n.node == nil || n.node.Kind == yaml.ScalarNode && n.node.Tag == "!!null"
}

// IsMapping reports whether n is a mapping.
func (n Node) IsMapping() bool {
	n = n.resolved()
	return n.node != nil && n.node.Kind == yaml.MappingNode
}

// kind describes n in messages.
func (n Node) kind() string {
	switch n = n.resolved(); {
	case n.IsNull():
		return "nothing"
	case n.node.Kind == yaml.MappingNode:
		return "a mapping"
	case n.node.Kind == yaml.SequenceNode:
		return "a list"
	case n.redacted:
		return "a single value"
	}
	return text.Quote(n.node.Value)
}

// Text returns the value of a scalar as it is written, without quotes. Any other
// node is a problem, in which what names the value.
func (r *Reader) Text(n Node, what string) (string, bool) {
	n = n.resolved()
	if n.IsNull() || n.node.Kind != yaml.ScalarNode {
		r.Problem(n, "%s must be a single value, got %s", what, n.kind())
		return "", false
	}
	return n.node.Value, true
}

// Word reads a scalar that must be one of words, and returns its index.
func (r *Reader) Word(n Node, what string, words ...string) (int, bool) {
	word, ok := r.Text(n, what)
	if !ok {
		return 0, false
	}
	i := slices.Index(words, word)
	if i < 0 {
		r.Suggest(n, nearest.Word(word, words), "%s must be one of %s, got %s", what, strings.Join(words, ", "), text.Quote(word))
		return 0, false
	}
	return i, true
}

// Items returns the elements of a list.
func (r *Reader) Items(n Node, what string) []Node {
	n = n.resolved()
	if n.node == nil || n.node.Kind != yaml.SequenceNode {
		r.Problem(n, "%s must be a list, got %s", what, n.kind())
		return nil
	}
	items := make([]Node, len(n.node.Content))
	for i, c := range n.node.Content {
		items[i] = n.child(c)
	}
	return items
}

// IsList reports whether n is a list.
func (n Node) IsList() bool {
	n = n.resolved()
	return n.node != nil && n.node.Kind == yaml.SequenceNode
}

// Scalar returns the value of a scalar by its YAML type: a bool, a float64 for every
// number, or a string. It returns nil for any other node.
func (n Node) Scalar() any {
	n = n.resolved()
	if n.IsNull() || n.node.Kind != yaml.ScalarNode {
		return nil
	}
	switch n.node.Tag {
	case "!!bool":
		var b bool
		if n.node.Decode(&b) == nil {
			return b
		}
	case "!!int", "!!float":
		var f float64
		if n.node.Decode(&f) == nil {
			return f
		}
	}
	return n.node.Value
}

// ProblemAt reports a problem at a place of a source that may be no file that was opened.
// Line 0 means that the problem is the source.
func (r *Reader) ProblemAt(source string, line, column int, suggestion, format string, args ...any) {
	f := &file{name: source}
	if i := slices.IndexFunc(r.opened, func(f *file) bool { return f.name == source }); i >= 0 {
		f = r.opened[i]
	}
	r.add(f, line, column, suggestion, format, args...)
}

// Adopt takes over the problems of another Reader, which is not used any more.
func (r *Reader) Adopt(from *Reader) {
	r.files = append(r.files, from.files...)
	r.problems = append(r.problems, from.problems...)
}
