// SPDX-License-Identifier: Apache-2.0

// Package config compiles the rules of Envoy's rate limit service, in the format of
// envoyproxy/ratelimit: a domain per file, with nested descriptors, some of which have
// a limit.
//
// A [Config] is immutable. It is compiled from files ([ParseFiles]) or from the
// definitions of a control plane ([Compile]). Both report every problem at once, and
// return no configuration if there is one. The package reads no file and no clock:
// rpc/envoy/xds and internal/node provide the rules.
package config

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bucketring/bucketring/limiter"
)

// maxName is the maximum length of a domain, key, value or name of a limit, in bytes.
const maxName = 1024

// unitNames are the units in order of length.
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
	// Path is the keys of the descriptor and those it is nested in, joined by dots.
	// Rules that differ only in values have the same path.
	Path string
	// Name lets other rules replace this one. Replaces are the names of the rules that
	// this one replaces.
	Name     string
	Replaces []string

	// Amount is up to 2^53. In the protocol, amounts above 2^32-1 are shown as 2^32-1.
	Amount    int64
	Window    limiter.Window
	Unlimited bool // without amount and window

	Shadow bool // counts, never denies
	Quota  bool // denies only if all quotas of the request do

	// Metadata is returned to Envoy if the descriptor is within its limit. Nil: none.
	Metadata *structpb.Struct
}

// Config is a set of rules. The zero value and nil have none.
type Config struct {
	domains map[string]*node
	rules   []*Rule
	digest  string
	text    string
}

// A node is one descriptor, or a domain.
type node struct {
	exact     map[entry]*node       // by key and value as written
	wildcards map[string][]wildcard // by key, in the order of the file
	defaults  map[string]*node      // by key: descriptors without a value
	rule      *Rule                 // nil: none
	shared    string                // the wildcard whose matches share a counter; "": none
}

type entry struct{ key, value string }

// wildcard is a descriptor whose value has wildcards.
type wildcard struct {
	parts []string // the texts around the wildcards
	node  *node
}

// Rules returns all rules in the order of domains and files.
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

// Digest identifies the rules, in 64 hexadecimal digits. The order of domains, comments
// and formatting do not change it.
func (c *Config) Digest() string {
	if c == nil {
		return ""
	}
	return c.digest
}
