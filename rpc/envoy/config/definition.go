// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// A Domain is the definition of a domain, not validated yet.
type Domain struct {
	// Source is the file or resource that problems name.
	Source      string
	Name        string
	Descriptors []Descriptor

	at position
}

// A Descriptor is the definition of a descriptor.
type Descriptor struct {
	Key         string
	Value       string // may have wildcards (*); empty: any value
	Limit       *Limit // nil: none
	Descriptors []Descriptor

	Shadow, Quota                 bool
	DetailedMetric, ValueToMetric bool // accepted and ignored; see docs/envoy.md
	ShareThreshold                bool
	Metadata                      *structpb.Struct

	at position
}

// A Limit is the definition of a rate_limit.
type Limit struct {
	Window    limiter.Window // unit 0: absent
	Amount    int64
	Unlimited bool
	Name      string
	Replaces  []string

	at position
}

// position is where a definition is: a mapping in a file with its fields, or a path in a
// resource.
type position struct {
	self   yamldoc.Node
	fields map[string]yamldoc.Node
	path   string
}

// field is the position of a field or, if it is absent, of the mapping.
func (p position) field(name string) yamldoc.Node {
	if n, ok := p.fields[name]; ok {
		return n
	}
	return p.self
}

// problems collects the problems of definitions: those of files in their reader, others
// in list.
type problems struct {
	files *yamldoc.Reader // nil: they come from a control plane
	list  []error
}

// add adds a problem of a field of the definition at p.
func (ps *problems) add(p position, field, format string, args ...any) {
	if ps.files != nil {
		ps.files.Problem(p.field(field), format, args...)
		return
	}
	at := p.path
	if field != "" {
		at += "." + field
	}
	ps.list = append(ps.list, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
}

// describe names p in a problem of another position.
func (ps *problems) describe(p position, field string) string {
	if ps.files != nil {
		return p.field(field).At()
	}
	return p.path
}
