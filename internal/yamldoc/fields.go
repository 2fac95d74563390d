// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
)

// Fields returns the pairs of a mapping in order, with merge keys (<<) applied. A
// repeated key is a problem; so is a key that is not in known, unless known is nil. A key
// that is nearly a known one is read as that one, see Reader.unknownKey.
func (r *Reader) Fields(n Node, what string, known []string) []Field {
	n = n.resolved()
	if n.node == nil || n.node.Kind != yaml.MappingNode {
		r.Problem(n, "%s must be a mapping, got %s", what, n.kind())
		return nil
	}
	var fields, guessed []Field
	seen := map[string]Node{}
	var merged []Node
	for i := 0; i+1 < len(n.node.Content); i += 2 {
		key, value := n.child(n.node.Content[i]), n.child(n.node.Content[i+1])
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
			if f, near := r.unknownKey(Field{name, key, value}, what, known); near {
				guessed = append(guessed, f)
			}
			continue
		}
		if more := n.thousandsAfter(i); more != nil && (known == nil || !slices.Contains(known, more[0])) {
			r.Problem(value, "%s: a comma ends a value in braces: write %s", name, strings.Join(append([]string{value.node.Value}, more...), "_"))
			value.guessed = true
			i += 2 * len(more)
		}
		fields = append(fields, Field{name, key, value})
	}
	for _, f := range guessed {
		if _, dup := seen[f.Name]; !dup {
			seen[f.Name] = f.Key
			fields = append(fields, f)
		}
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

// FirstPair returns the first key of a mapping and its value as they are written, without a
// problem whatever they are. Both are "" if n is not a mapping, or they are not scalars.
func (n Node) FirstPair() (key, value string) {
	n = n.resolved()
	if n.node == nil || n.node.Kind != yaml.MappingNode || len(n.node.Content) < 2 {
		return "", ""
	}
	k, v := n.child(n.node.Content[0]).resolved().node, n.child(n.node.Content[1]).resolved().node
	if k.Kind != yaml.ScalarNode || v.Kind != yaml.ScalarNode {
		return "", ""
	}
	return k.Value, v.Value
}

var (
	firstDigits = regexp.MustCompile(`^\$?[0-9]{1,3}$`)
	threeDigits = regexp.MustCompile(`^[0-9]{3}([^0-9].*)?$`)
)

// thousandsAfter returns the keys after the one at index i of a mapping in braces that are the
// rest of its value, a number with commas: 000/day of $1,000/day. If there are none, it
// returns nil.
func (n Node) thousandsAfter(i int) (keys []string) {
	content := n.node.Content
	if n.node.Style&yaml.FlowStyle == 0 || !isPlain(content[i+1]) || !firstDigits.MatchString(content[i+1].Value) {
		return nil
	}
	for i += 2; i+1 < len(content); i += 2 {
		key, value := content[i], content[i+1]
		if !isPlain(key) || !threeDigits.MatchString(key.Value) || !isPlain(value) || value.Value != "" {
			break
		}
		keys = append(keys, key.Value)
	}
	return keys
}

// Thousands returns how many of the first items of a list in brackets are one number with
// commas, such as 5 and 000/day of 5,000/day, and that number without commas. n is at most 1 if
// the first item stands for itself.
func Thousands(items []Node) (n int, number string) {
	var parts []string
	for i, item := range items {
		node := item.node
		if !isPlain(node) || i == 0 && !firstDigits.MatchString(node.Value) || i > 0 && !threeDigits.MatchString(node.Value) {
			break
		}
		parts = append(parts, node.Value)
		if i > 0 && len(node.Value) > 3 { // it has the window
			break
		}
	}
	return len(parts), strings.Join(parts, "_")
}

func isPlain(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Style == 0 }

// maxListed bounds the known keys that a message lists.
const maxListed = 12

// unknownKey reports the key of a field that is not in known. If it is nearly one of them,
// it returns the field with that name and near: whoever reads it then does not miss the field,
// and problems of its value are not reported, since it was only guessed.
func (r *Reader) unknownKey(f Field, what string, known []string) (guess Field, near bool) {
	if r.Misplaced != nil {
		if where := r.Misplaced(f.Name, known); where != "" {
			r.Problem(f.Key, "unknown key %s in %s: it belongs %s", f.Key.quoted(f.Name), what, where)
			return Field{}, false
		}
	}
	name := r.Synonyms[f.Name]
	if !slices.Contains(known, name) {
		name = nearest.Word(f.Name, known)
	}
	if name != "" {
		r.Suggest(f.Key, name, "unknown key %s in %s", f.Key.quoted(f.Name), what)
		f.Name, f.Key.guessed, f.Value.guessed = name, true, true
		return f, true
	}
	list := ""
	if len(known) <= maxListed {
		list = ", want one of " + strings.Join(known, ", ")
	}
	r.Problem(f.Key, "unknown key %s in %s%s", f.Key.quoted(f.Name), what, list)
	return Field{}, false
}

// quoted returns the name of the key n for a message.
func (n Node) quoted(name string) string {
	if n.redacted {
		return "(not shown)"
	}
	return text.Quote(name)
}

// mergedFields returns the fields of a merge key: those of one mapping, or of a list
// of mappings, of which earlier ones win.
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
