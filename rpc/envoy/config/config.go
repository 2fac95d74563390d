// SPDX-License-Identifier: Apache-2.0

// Package config is the rules of Envoy's rate limit service, in the form in
// which envoyproxy/ratelimit keeps them: a domain per file, descriptors nested in
// descriptors, a limit at some of them.
//
// A [Config] is immutable. It is compiled from files ([ParseFiles]) or from what
// a control plane sends ([Compile]); both report every problem at once, and a
// configuration with a problem does not come about. The package reads no file
// and no clock: see rpc/envoy/xds and internal/node for where rules come from.
package config

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bucketring/bucketring/limiter"
)

// maxName bounds the domain, each key and value, and the names of limits.
const maxName = 1024

// unitNames in the order in which people say them.
var unitNames = []string{"second", "minute", "hour", "day", "week", "month", "year"}

// ParseUnit returns the unit of that name, in any case.
func ParseUnit(name string) (limiter.Unit, bool) {
	for u := limiter.UnitSecond; u <= limiter.UnitYear; u++ {
		if strings.EqualFold(u.String(), name) {
			return u, true
		}
	}
	return 0, false
}

// A Rule is a descriptor that has a limit.
type Rule struct {
	Domain string
	// Path is the keys from the domain down, joined by dots. It has no values,
	// so rules may share it.
	Path string
	// Name is how other rules may replace this one, Replaces the names of those
	// that this one replaces.
	Name     string
	Replaces []string

	// Amount is up to 2^53. The protocol's own numbers end at 2^32, and larger
	// ones are shown there as the largest.
	Amount    int64
	Window    limiter.Window
	Unlimited bool // then there are neither amount nor window

	Shadow bool // counts, and never denies
	Quota  bool // denies only when all rules of its kind do

	// Metadata is told to Envoy when the descriptor is within its limit; nil: none.
	Metadata *structpb.Struct
}

// Config is rules. The zero value, and a nil one, have none.
type Config struct {
	domains map[string]*node
	rules   []*Rule
	digest  string
	text    string
}

// A node is one descriptor, or a domain.
type node struct {
	exact     map[entry]*node   // by key and value as they are written, with wildcards and without
	wildcards map[string][]wild // by key, in the order of the file
	defaults  map[string]*node  // by key: those without a value
	rule      *Rule             // nil: none
	shared    string            // the wildcard in whose name all values that match are counted
}

type entry struct{ key, value string }

// wild is a descriptor whose value has wildcards.
type wild struct {
	parts []string // what stands between the wildcards
	node  *node
}

// Rules returns all rules in the order of their domains and files.
func (c *Config) Rules() []*Rule {
	if c == nil {
		return nil
	}
	return c.rules
}

// Domains returns the names of the domains, sorted.
func (c *Config) Domains() []string {
	if c == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.domains))
}

// Has reports whether there is such a domain.
func (c *Config) Has(domain string) bool { return c != nil && c.domains[domain] != nil }

// Digest identifies what the rules say: the order of domains, comments and the
// spelling of files do not count. It is 64 hexadecimal digits.
func (c *Config) Digest() string {
	if c == nil {
		return ""
	}
	return c.digest
}
