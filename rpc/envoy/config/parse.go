// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// A File is one file of rules.
type File = yamldoc.File

// Problems are the problems of files, each with its position.
type Problems = yamldoc.Problems

// Parse compiles one file. See [ParseFiles].
func Parse(name string, src []byte) (*Config, error) {
	return ParseFiles([]File{{Name: name, Source: src}})
}

// ParseFiles compiles files with one domain each. The error is a [Problems].
func ParseFiles(files []File) (*Config, error) {
	p := parser{yamldoc.Reader{Misplaced: misplaced}}
	var domains []Domain
	readable := true
	for _, f := range files {
		root, ok := p.Open(f.Name, f.Source)
		if !ok {
			readable = false
			continue
		}
		domains = append(domains, p.domain(f.Name, root))
	}
	c := compile(domains, &problems{files: &p.Reader})
	if err := p.Err(); err != nil || !readable {
		return nil, err
	}
	return c, nil
}

// parser parses definitions. It reports invalid parts and leaves them out.
type parser struct{ yamldoc.Reader }

var (
	domainKeys     = []string{"domain", "descriptors"}
	descriptorKeys = []string{
		"key", "value", "rate_limit", "descriptors", "shadow_mode", "quota_mode",
		"detailed_metric", "value_to_metric", "share_threshold", "metadata",
	}
	limitKeys   = []string{"unit", "requests_per_unit", "unlimited", "unit_multiplier", "name", "replaces"}
	replaceKeys = []string{"name"}
)

// misplaced says where a key belongs that is not among the known ones of a mapping.
func misplaced(name string, known []string) string {
	switch {
	case slices.Contains(limitKeys, name) && slices.Contains(known, "rate_limit"):
		return "in rate_limit"
	case slices.Contains(descriptorKeys, name) && slices.Contains(known, "requests_per_unit"):
		return "beside rate_limit"
	}
	return ""
}

// fields returns the known fields of a mapping, and stores its position in at.
func (p *parser) fields(n yamldoc.Node, what string, known []string, at *position) []yamldoc.Field {
	*at = position{self: n, fields: map[string]yamldoc.Node{}}
	fields := p.Fields(n, what, known)
	for _, f := range fields {
		at.fields[f.Name] = f.Value
	}
	return fields
}

func (p *parser) domain(file string, root yamldoc.Node) Domain {
	d := Domain{Source: file}
	if root.IsNull() {
		d.at.self = root
		return d
	}
	for _, f := range p.fields(root, "a file of rate limits", domainKeys, &d.at) {
		switch f.Name {
		case "domain":
			d.Name, _ = p.Text(f.Value, "domain")
		case "descriptors":
			d.Descriptors = p.descriptors(f.Value)
		}
	}
	return d
}

func (p *parser) descriptors(n yamldoc.Node) []Descriptor {
	if n.IsNull() {
		return nil
	}
	items := p.Items(n, "descriptors")
	list := make([]Descriptor, 0, len(items))
	for _, item := range items {
		if d := p.descriptor(item); item.IsMapping() { // else it is reported
			list = append(list, d)
		}
	}
	return list
}

func (p *parser) descriptor(n yamldoc.Node) (d Descriptor) {
	for _, f := range p.fields(n, "a descriptor", descriptorKeys, &d.at) {
		if f.Value.IsNull() {
			continue
		}
		switch f.Name {
		case "key":
			d.Key, _ = p.Text(f.Value, "key")
		case "value":
			d.Value, _ = p.Text(f.Value, "value")
		case "rate_limit":
			d.Limit = p.limit(f.Value)
		case "descriptors":
			d.Descriptors = p.descriptors(f.Value)
		case "shadow_mode":
			d.Shadow = p.bool(f)
		case "quota_mode":
			d.Quota = p.bool(f)
		case "detailed_metric":
			d.DetailedMetric = p.bool(f)
		case "value_to_metric":
			d.ValueToMetric = p.bool(f)
		case "share_threshold":
			d.ShareThreshold = p.bool(f)
		case "metadata":
			d.Metadata = p.metadata(f.Value)
		}
	}
	return d
}

func (p *parser) limit(n yamldoc.Node) *Limit {
	l := &Limit{Amount: amountAbsent}
	for _, f := range p.fields(n, "rate_limit", limitKeys, &l.at) {
		if f.Value.IsNull() {
			continue
		}
		switch f.Name {
		case "unit":
			l.Window.Unit = p.unit(f.Value)
		case "requests_per_unit":
			l.Amount = p.number(f, 0, amount.Max, amount.MaxText)
		case "unit_multiplier":
			if n := p.number(f, 1, math.MaxUint32, "2^32-1"); n != amountInvalid {
				l.Window.Multiple = uint32(n)
			}
		case "unlimited":
			l.Unlimited = p.bool(f)
		case "name":
			l.Name, _ = p.Text(f.Value, "name")
		case "replaces":
			for _, item := range p.Items(f.Value, "replaces") {
				l.Replaces = append(l.Replaces, p.replaced(item))
			}
		}
	}
	return l
}

// amountAbsent stands for a missing requests_per_unit, amountInvalid for one that is
// invalid and reported.
const (
	amountAbsent  = -1
	amountInvalid = -2
)

func (p *parser) replaced(n yamldoc.Node) (name string) {
	var at position
	for _, f := range p.fields(n, "an element of replaces", replaceKeys, &at) {
		name, _ = p.Text(f.Value, "name")
	}
	return name
}

func (p *parser) unit(n yamldoc.Node) limiter.Unit {
	text, ok := p.Text(n, "unit")
	if !ok {
		return unitInvalid
	}
	if u, ok := ParseUnit(text); ok {
		return u
	}
	p.Suggest(n, nearest.Word(text, unitNames), "unit must be one of %s, got %q", strings.Join(unitNames, ", "), text)
	return unitInvalid
}

// unitInvalid stands for a unit that is invalid and reported.
const unitInvalid limiter.Unit = 255

func (p *parser) bool(f yamldoc.Field) bool {
	text, ok := p.Text(f.Value, f.Name)
	if !ok {
		return false
	}
	switch strings.ToLower(text) {
	case "true", "yes", "on":
		return true
	case "false", "no", "off":
		return false
	}
	p.Suggest(f.Value, nearest.Word(text, []string{"true", "false"}), "%s must be true or false, got %q", f.Name, text)
	return false
}

func (p *parser) number(f yamldoc.Field, least, most int64, name string) int64 {
	text, ok := p.Text(f.Value, f.Name)
	if !ok {
		return amountInvalid
	}
	if len(text) > 1 && text[0] == '0' { // which YAML 1.1 reads as octal
		p.Problem(f.Value, "%s must not begin with a zero, got %q", f.Name, text)
		return amountInvalid
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
	if err != nil || n < least || n > most {
		p.Problem(f.Value, "%s must be a whole number from %d to %s, got %q", f.Name, least, name, text)
		return amountInvalid
	}
	return n
}

// metadata parses a mapping with any keys.
func (p *parser) metadata(n yamldoc.Node) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, f := range p.Fields(n, "metadata", nil) {
		s.Fields[f.Name] = p.value(f.Value)
	}
	return s
}

func (p *parser) value(n yamldoc.Node) *structpb.Value {
	switch {
	case n.IsNull():
		return structpb.NewNullValue()
	case n.IsMapping():
		return structpb.NewStructValue(p.metadata(n))
	case n.IsList():
		list := &structpb.ListValue{}
		for _, item := range p.Items(n, "metadata") {
			list.Values = append(list.Values, p.value(item))
		}
		return structpb.NewListValue(list)
	}
	switch v := n.Scalar().(type) {
	case bool:
		return structpb.NewBoolValue(v)
	case float64:
		if !math.IsInf(v, 0) && !math.IsNaN(v) { // JSON has neither
			return structpb.NewNumberValue(v)
		}
	}
	text, _ := p.Text(n, "metadata")
	return structpb.NewStringValue(text)
}
