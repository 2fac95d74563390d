// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// An Entry is a key and a value of a descriptor, as Envoy sends it.
type Entry interface {
	GetKey() string
	GetValue() string
}

// A Match is the result of [Find].
type Match struct {
	// Rule is the limit of the descriptor; nil if it has none.
	Rule *Rule
	// Shared has, for each entry, the wildcard whose matches share a counter, or "" if
	// the value has a counter of its own. Nil: all values do.
	Shared []string
}

// Find finds the rule for a descriptor with the given entries. Each entry is one level.
// The first match of a level is used, whether or not there is a rule below it: the
// exact value, then wildcards in the order of the file, then the key without a value.
// A rule applies only to descriptors with as many entries as its depth.
func Find[E Entry](c *Config, domain string, entries []E) (m Match) {
	if c == nil || len(entries) == 0 {
		return m
	}
	n := c.domains[domain]
	for i, e := range entries {
		if n == nil {
			return Match{}
		}
		if n = n.next(e.GetKey(), e.GetValue()); n != nil && n.shared != "" {
			if m.Shared == nil {
				m.Shared = make([]string, len(entries))
			}
			m.Shared[i] = n.shared
		}
	}
	if n == nil || n.rule == nil {
		return Match{}
	}
	m.Rule = n.rule
	return m
}

// next returns the child that matches an entry, or nil.
func (n *node) next(key, value string) *node {
	if child := n.exact[entry{key, value}]; child != nil {
		return child
	}
	for i := range n.wildcards[key] {
		if w := &n.wildcards[key][i]; w.matches(value) {
			return w.node
		}
	}
	return n.defaults[key]
}

// matches reports whether value consists of the parts in order, with any text between
// them. Each part matches at the leftmost position, which leaves the most for the next.
func (w *wildcard) matches(value string) bool {
	last := len(w.parts) - 1
	rest, ok := strings.CutPrefix(value, w.parts[0])
	if !ok {
		return false
	}
	for _, part := range w.parts[1:last] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, w.parts[last])
}
