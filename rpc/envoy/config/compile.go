// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/limiter"
)

// Compile compiles the definitions of a control plane. The error joins all problems,
// each with the source of its domain and the path in it.
func Compile(domains []Domain) (*Config, error) {
	domains = slices.Clone(domains)
	for i := range domains {
		d := &domains[i]
		d.at.path = d.Source
		d.Descriptors = locate(d.Descriptors, d.Source+": ")
	}
	ps := &problems{}
	c := compile(domains, ps)
	if len(ps.list) > 0 {
		return nil, errors.Join(ps.list...)
	}
	return c, nil
}

// locate returns copies of descriptors with their positions set.
func locate(ds []Descriptor, prefix string) []Descriptor {
	ds = slices.Clone(ds)
	for i := range ds {
		d := &ds[i]
		d.at.path = fmt.Sprintf("%sdescriptors[%d]", prefix, i)
		if d.Limit != nil {
			l := *d.Limit
			l.at.path = d.at.path + ".rate_limit"
			d.Limit = &l
		}
		d.Descriptors = locate(d.Descriptors, d.at.path+".")
	}
	return ds
}

// compiler builds a Config. It continues after a problem to find all.
type compiler struct {
	*problems
	config *Config
}

func compile(domains []Domain, ps *problems) *Config {
	c := compiler{ps, &Config{domains: map[string]*node{}}}
	first := map[string]position{}
	for i := range domains {
		d := &domains[i]
		if c.checkText(d.at, "domain", d.Name, true); d.Name == "" {
			continue
		}
		if at, dup := first[d.Name]; dup {
			c.add(d.at, "domain", "domain %q is defined twice, first at %s", d.Name, c.describe(at, "domain"))
		}
		first[d.Name] = d.at
		root := &node{}
		c.children(root, d, "", d.Descriptors)
		c.config.domains[d.Name] = root
	}
	c.config.finish(domains)
	return c.config
}

// children compiles the descriptors below a node. path is the keys above them.
func (c *compiler) children(n *node, d *Domain, path string, list []Descriptor) {
	first := map[entry]position{}
	for i := range list {
		x := &list[i]
		c.checkText(x.at, "key", x.Key, true)
		c.checkText(x.at, "value", x.Value, false)
		id := entry{x.Key, x.Value}
		if at, dup := first[id]; dup && x.Key != "" {
			c.add(x.at, "key", "%s is defined twice here, first at %s", id, c.describe(at, "key"))
		}
		first[id] = x.at
		if x.ShareThreshold && !strings.Contains(x.Value, "*") {
			c.add(x.at, "share_threshold", "share_threshold needs a value with a wildcard (*), got %q", x.Value)
		}
		below := path + x.Key
		child := &node{rule: c.rule(x, d.Name, below)}
		n.add(x, child)
		c.children(child, d, below+".", x.Descriptors)
	}
}

// String formats the descriptor for a problem.
func (e entry) String() string {
	if e.value == "" {
		return fmt.Sprintf("descriptor %q without a value", e.key)
	}
	return fmt.Sprintf("descriptor %q with value %q", e.key, e.value)
}

// add adds a child. A value with wildcards also matches itself literally: gateways use
// the names of routes as values, and a name may contain a star.
func (n *node) add(x *Descriptor, child *node) {
	if x.Value == "" {
		if n.defaults == nil {
			n.defaults = map[string]*node{}
		}
		n.defaults[x.Key] = child
		return
	}
	if n.exact == nil {
		n.exact = map[entry]*node{}
	}
	n.exact[entry{x.Key, x.Value}] = child
	if !strings.Contains(x.Value, "*") {
		return
	}
	if x.ShareThreshold {
		child.shared = x.Value
	}
	if n.wildcards == nil {
		n.wildcards = map[string][]wildcard{}
	}
	n.wildcards[x.Key] = append(n.wildcards[x.Key], wildcard{strings.Split(x.Value, "*"), child})
}

// rule compiles a limit. It is nil if the descriptor has none.
func (c *compiler) rule(x *Descriptor, domain, path string) *Rule {
	l := x.Limit
	if l == nil {
		return nil
	}
	r := &Rule{
		Domain: domain, Path: path, Name: l.Name, Replaces: l.Replaces,
		Amount: l.Amount, Window: l.Window, Unlimited: l.Unlimited,
		Shadow: x.Shadow, Quota: x.Quota, Metadata: x.Metadata,
	}
	c.checkText(l.at, "name", l.Name, false)
	for _, name := range l.Replaces {
		switch name {
		case "":
			c.add(l.at, "replaces", "an element of replaces needs a name")
		case l.Name:
			c.add(l.at, "replaces", "a limit cannot replace itself, %q", name)
		}
	}
	if l.Unlimited {
		if l.Window.Unit != 0 {
			c.add(l.at, "unit", "a limit is unlimited or has a unit, not both")
		}
		r.Amount, r.Window = 0, limiter.Window{}
	} else {
		c.checkAmount(l)
	}
	c.config.rules = append(c.config.rules, r)
	return r
}

// checkAmount checks the amount and window of a limit.
func (c *compiler) checkAmount(l *Limit) {
	switch {
	case l.Amount == amountAbsent:
		c.add(l.at, "requests_per_unit", "rate_limit needs requests_per_unit, or unlimited: true")
	case l.Amount != amountInvalid && (l.Amount < 0 || l.Amount > amount.Max):
		c.add(l.at, "requests_per_unit", "requests_per_unit must be a whole number from 0 to %s, got %d", amount.MaxText, l.Amount)
	}
	switch l.Window.Unit {
	case unitInvalid:
	case 0:
		c.add(l.at, "unit", "rate_limit needs a unit: one of %s", strings.Join(unitNames, ", "))
	default:
		if wrong, ok := errors.AsType[*limiter.FieldError](l.Window.Validate()); ok {
			c.add(l.at, wrong.Field, "%s: %s, got %s", wrong.Field, wrong.Problem, wrong.Value)
		}
	}
}

// checkText checks a name, key or value.
func (c *compiler) checkText(at position, field, s string, required bool) {
	switch {
	case s == "" && required:
		c.add(at, field, "%s must not be empty", field)
	case len(s) > maxName:
		c.add(at, field, "%s must have at most %d bytes, got %d", field, maxName, len(s))
	case !utf8.ValidString(s):
		c.add(at, field, "%s must be valid UTF-8, got %q", field, s)
	}
}
