// SPDX-License-Identifier: Apache-2.0

// Package yamldoc reads YAML strictly: every node knows its file, line and
// column, unknown and repeated keys are problems, and all problems are
// collected instead of stopping at the first.
//
// Input is bounded before it is walked: [MaxBytes] per file and [MaxNodes] and
// [MaxDepth] per document with its aliases written out, so that neither a
// cycle nor an alias that doubles at every level costs more than a large file.
package yamldoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/bucketring/bucketring/internal/nearest"
)

// Bounds of a document.
const (
	MaxBytes = 1 << 20
	MaxNodes = 500_000
	MaxDepth = 32
)

// A Reader opens files and collects their problems. The zero value is ready;
// it is not safe for concurrent use.
type Reader struct {
	files    []string
	problems Problems

	// Conceal is a root key under which people may paste secrets by mistake. No
	// problem shows a line from the first that has this word to the next line
	// that begins with another root key. It goes by the text, so that it holds in
	// a file that is not YAML, too.
	Conceal string
}

// A Node is a YAML node that knows its file. The zero Node is absent.
type Node struct {
	node   *yaml.Node
	file   *file
	secret bool // no problem repeats what stands here or below
}

type file struct {
	name   string
	lines  []string
	hidden []bool // by line; nil: none
}

// Secret returns n, of whose content no message of this package repeats
// anything. For whole lines see [Reader].Conceal.
func (n Node) Secret() Node {
	n.secret = true
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

// Open parses one document. An empty one gives an absent node that still
// has a position; a file that is not YAML adds a problem and gives false.
func (r *Reader) Open(name string, src []byte) (Node, bool) {
	r.files = append(r.files, name)
	f := &file{name: name}
	if len(src) > MaxBytes {
		r.add(f, 1, 1, "", "a file has at most %d bytes, got %d", MaxBytes, len(src))
		return Node{}, false
	}
	if !utf8.Valid(src) {
		line, column := firstInvalid(src)
		r.add(f, line, column, "", "is not valid UTF-8")
		return Node{}, false
	}
	f.lines = strings.Split(string(src), "\n")
	r.conceal(f)
	decoder := yaml.NewDecoder(bytes.NewReader(src))
	document, err := decode(decoder)
	if errors.Is(err, io.EOF) {
		return Node{file: f}, true
	}
	if err != nil {
		r.syntax(f, err)
		return Node{}, false
	}
	root := Node{node: document, file: f}
	if len(document.Content) == 1 {
		root.node = document.Content[0]
	}
	if next, err := decode(decoder); err == nil {
		r.add(f, next.Line, next.Column, "", "a file has one document, this begins another")
		return Node{}, false
	} else if !errors.Is(err, io.EOF) {
		r.syntax(f, err)
		return Node{}, false
	}
	if budget := MaxNodes; !fits(root.node, &budget, MaxDepth) {
		r.Problem(root, "a file has at most %d values, %d levels deep, with its aliases written out", MaxNodes, MaxDepth)
		return Node{}, false
	}
	return root, true
}

var rootKey = regexp.MustCompile(`^[a-z_]+:(\s|$)`)

// conceal finds the lines that no problem shows.
func (r *Reader) conceal(f *file) {
	if r.Conceal == "" {
		return
	}
	inside := false
	for i, line := range f.lines {
		inside = inside && !rootKey.MatchString(line) || strings.Contains(line, r.Conceal)
		if inside {
			if f.hidden == nil {
				f.hidden = make([]bool, len(f.lines))
			}
			f.hidden[i] = true
		}
	}
}

// decode returns the next document. The YAML library panics on input that it
// believes impossible; a file must never take the process with it.
func decode(d *yaml.Decoder) (document *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	document = &yaml.Node{}
	return document, d.Decode(document)
}

// fits spends one unit of budget for each node below n, aliases followed.
func fits(n *yaml.Node, budget *int, depth int) bool {
	if *budget--; *budget < 0 || depth == 0 {
		return false
	}
	if n.Kind == yaml.AliasNode {
		return fits(n.Alias, budget, depth-1)
	}
	for _, c := range n.Content {
		if !fits(c, budget, depth-1) {
			return false
		}
	}
	return true
}

var (
	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
	// The library counts lines from 0 in what its parser finds, and from 1 in
	// what its scanner finds. These are the parser's.
	lineFromZero = regexp.MustCompile(`^did not find expected (<|key|node content|'-' indicator|',')`)
)

// syntax reports an error of the YAML library, whose position is a line in the
// message, if any.
func (r *Reader) syntax(f *file, err error) {
	message, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
		if lineFromZero.MatchString(message) {
			line++
		}
	}
	line = min(line, len(f.lines))
	text := f.lines[line-1]
	column := 1 + len(text) - len(strings.TrimLeft(text, " \t"))
	if m := unknownAnchor.FindStringSubmatch(message); m != nil {
		for i, text := range f.lines {
			if before, _, found := strings.Cut(text, "*"+m[1]); found {
				line, column = i+1, utf8.RuneCountInString(before)+1
				break
			}
		}
	}
	r.add(f, line, column, "", "is not YAML: %s", message)
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

func (r *Reader) add(f *file, line, column int, suggestion, format string, args ...any) {
	p := Problem{File: f.name, Line: line, Column: column, Message: fmt.Sprintf(format, args...), Suggestion: suggestion}
	if line >= 1 && line <= len(f.lines) && len(f.lines[line-1]) <= maxLine && (f.hidden == nil || !f.hidden[line-1]) {
		p.Excerpt, p.Caret = excerpt(f.lines[line-1], column)
	}
	r.problems = append(r.problems, p)
}

// Problem reports what is wrong at n.
func (r *Reader) Problem(n Node, format string, args ...any) {
	r.Suggest(n, "", format, args...)
}

// Suggest is [Reader.Problem] with a word that was probably meant.
func (r *Reader) Suggest(n Node, suggestion, format string, args ...any) {
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

// At is the position as file:line:column.
func (n Node) At() string {
	file, line, column := n.Position()
	return fmt.Sprintf("%s:%d:%d", file, line, column)
}

// Exists reports whether n is more than the absence of a value.
func (n Node) Exists() bool { return n.node != nil }

// resolved follows an alias. Open has checked that this ends.
func (n Node) resolved() Node {
	for n.node != nil && n.node.Kind == yaml.AliasNode {
		n.node = n.node.Alias
	}
	return n
}

// IsNull reports whether n has no value, or the value null.
func (n Node) IsNull() bool {
	n = n.resolved()
	return n.node == nil || n.node.Kind == yaml.ScalarNode && n.node.Tag == "!!null"
}

// IsMapping reports whether n is a mapping.
func (n Node) IsMapping() bool {
	n = n.resolved()
	return n.node != nil && n.node.Kind == yaml.MappingNode
}

func (n Node) kind() string {
	switch n = n.resolved(); {
	case n.IsNull():
		return "nothing"
	case n.node.Kind == yaml.MappingNode:
		return "a mapping"
	case n.node.Kind == yaml.SequenceNode:
		return "a list"
	case n.secret:
		return "a single value"
	}
	return strconv.Quote(shorten(n.node.Value))
}

func shorten(s string) string {
	if utf8.RuneCountInString(s) <= 40 {
		return s
	}
	return string([]rune(s)[:40]) + "..."
}

// Text returns the value of a scalar as it is written, without quotes. What
// names the value in the problem that anything else is.
func (r *Reader) Text(n Node, what string) (string, bool) {
	n = n.resolved()
	if n.IsNull() || n.node.Kind != yaml.ScalarNode {
		r.Problem(n, "%s must be a single value, got %s", what, n.kind())
		return "", false
	}
	return n.node.Value, true
}

// Word is a Text that must be one of words; it returns the index of the word.
func (r *Reader) Word(n Node, what string, words ...string) (int, bool) {
	text, ok := r.Text(n, what)
	if !ok {
		return 0, false
	}
	i := slices.Index(words, text)
	if i < 0 {
		r.Suggest(n, nearest.Word(text, words), "%s must be one of %s, got %q", what, strings.Join(words, ", "), shorten(text))
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
		items[i] = Node{c, n.file, n.secret}
	}
	return items
}

// Fields returns the pairs of a mapping in order, merge keys (<<) applied. A
// repeated key is a problem; so is one that is not known, unless known is nil.
func (r *Reader) Fields(n Node, what string, known []string) []Field {
	n = n.resolved()
	if n.node == nil || n.node.Kind != yaml.MappingNode {
		r.Problem(n, "%s must be a mapping, got %s", what, n.kind())
		return nil
	}
	var fields []Field
	seen := map[string]Node{}
	var merged []Node
	for i := 0; i+1 < len(n.node.Content); i += 2 {
		key, value := Node{n.node.Content[i], n.file, n.secret}, Node{n.node.Content[i+1], n.file, n.secret}
		if key.node.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		name, ok := r.Text(key, "a key of "+what)
		if !ok {
			continue
		}
		if first, dup := seen[name]; dup {
			r.Problem(key, "%s has key %s twice, first at line %d", what, key.quoted(name), first.node.Line)
			continue
		}
		seen[name] = key
		if known != nil && !slices.Contains(known, name) {
			r.unknownKey(key, what, name, known)
			continue
		}
		fields = append(fields, Field{name, key, value})
	}
	for _, m := range merged {
		for _, f := range r.mergedFields(m, what, known) {
			if _, dup := seen[f.Name]; !dup {
				seen[f.Name] = f.Key
				fields = append(fields, f)
			}
		}
	}
	return fields
}

func (r *Reader) unknownKey(key Node, what, name string, known []string) {
	if near := nearest.Word(name, known); near != "" {
		r.Suggest(key, near, "unknown key %s in %s", key.quoted(name), what)
		return
	}
	r.Problem(key, "unknown key %s in %s, known are %s", key.quoted(name), what, strings.Join(known, ", "))
}

// quoted shows the name of a key in a message.
func (n Node) quoted(name string) string {
	if n.secret {
		return "(not shown)"
	}
	return strconv.Quote(shorten(name))
}

// mergedFields returns the fields that a merge key brings: of one mapping, or
// of a list of them in which earlier ones win.
func (r *Reader) mergedFields(n Node, what string, known []string) []Field {
	n = n.resolved()
	if n.node.Kind != yaml.SequenceNode {
		return r.Fields(n, what, known)
	}
	var fields []Field
	for _, item := range r.Items(n, what) {
		fields = append(fields, r.Fields(item, what, known)...)
	}
	return fields
}

// IsList reports whether n is a list.
func (n Node) IsList() bool {
	n = n.resolved()
	return n.node != nil && n.node.Kind == yaml.SequenceNode
}

// Scalar returns the value of a single value as YAML types it: a bool, a
// float64 for every number, or a string. It is nil for anything else.
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
