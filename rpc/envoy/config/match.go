// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// An Entry is a key and a value of a descriptor, as Envoy sends it.
type Entry interface {
	GetKey() string
	GetValue() string
}

// A Match is how a descriptor was found.
type Match struct {
	// Rule is the limit of the descriptor; nil if it has none.
	Rule *Rule
	// Shared has, for each entry, the wildcard in whose name its value is counted,
	// and "" where the value counts by itself. Nil: they all do.
	Shared []string
}

// Find looks for the limit of a descriptor. Each entry is one level: a value that
// is written just so comes first, then wildcards in the order of the file, then the
// key without a value; the first that matches is taken, whatever is below it. A
// limit applies to descriptors of its own depth only.
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

// next goes down one level; nil: nothing matches.
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

// matches reports whether value is the parts in order, with anything between
// them. The leftmost place for each part leaves the most room for the next.
func (w *wild) matches(value string) bool {
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
