// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// A Domain is one domain as it was written, before it is checked.
type Domain struct {
	// Source names where it comes from, in problems: a file, or a resource.
	Source      string
	Name        string
	Descriptors []Descriptor

	at place
}

// A Descriptor is a descriptor as it was written.
type Descriptor struct {
	Key         string
	Value       string // may have wildcards (*); empty: any value
	Limit       *Limit // nil: none
	Descriptors []Descriptor

	Shadow, Quota                 bool
	DetailedMetric, ValueToMetric bool // accepted; see docs/envoy.md
	ShareThreshold                bool
	Metadata                      *structpb.Struct

	at place
}

// A Limit is a rate_limit as it was written.
type Limit struct {
	Window    limiter.Window // unit 0: not said
	Amount    int64
	Unlimited bool
	Name      string
	Replaces  []string

	at place
}

// A place is where a definition was written: a mapping of a file with its
// fields, or a path into a resource.
type place struct {
	self   yamldoc.Node
	fields map[string]yamldoc.Node
	path   string
}

// field is where a field is, or should be.
func (p place) field(name string) yamldoc.Node {
	if n, ok := p.fields[name]; ok {
		return n
	}
	return p.self
}

// problems collects what is wrong with definitions: in the reader of the files
// that they come from, or as errors of their own.
type problems struct {
	files *yamldoc.Reader // nil: they come from a control plane
	list  []error
}

// add reports that a field of what stands at p is wrong.
func (ps *problems) add(p place, field, format string, args ...any) {
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

// describe says where p is, to name it in the problem of another place.
func (ps *problems) describe(p place, field string) string {
	if ps.files != nil {
		return p.field(field).At()
	}
	return p.path
}
