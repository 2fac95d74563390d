// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// metadata tells Envoy, and through it logs and other filters, what was asked, and
// the metadata of the rules that it is within.
func (q *question) metadata() *structpb.Struct {
	descriptors := &structpb.ListValue{}
	passed := &structpb.Struct{}
	for i := range q.descriptors {
		d := &q.descriptors[i]
		descriptors.Values = append(descriptors.Values, structpb.NewStructValue(d.asked()))
		if d.kind == kindRule && !d.exceeded {
			merge(passed, d.rule.Metadata)
		}
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{
		"domain":      structpb.NewStringValue(q.request.GetDomain()),
		"descriptors": structpb.NewListValue(descriptors),
	}}
	if n := q.request.GetHitsAddend(); n != 0 {
		s.Fields["hitsAddend"] = structpb.NewNumberValue(float64(n))
	}
	if len(passed.GetFields()) > 0 {
		s.Fields["metadata"] = structpb.NewStructValue(passed)
	}
	return s
}

// asked is a descriptor as it was sent.
func (d *descriptor) asked() *structpb.Struct {
	entries := &structpb.ListValue{}
	for _, e := range d.wire.GetEntries() {
		entries.Values = append(entries.Values, structpb.NewStringValue(e.GetKey()+"="+e.GetValue()))
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{"entries": structpb.NewListValue(entries)}}
	if l := d.wire.GetLimit(); l != nil {
		s.Fields["limit"] = structpb.NewStringValue(l.String())
	}
	if n := d.wire.GetHitsAddend(); n != nil {
		s.Fields["hitsAddend"] = structpb.NewNumberValue(float64(n.GetValue()))
	}
	return s
}

// merge adds to what is there, in structures within structures, too; of two other
// values the first stays. It changes nothing of from, which belongs to a rule.
func merge(into, from *structpb.Struct) {
	for k, v := range from.GetFields() {
		have, ok := into.GetFields()[k]
		switch {
		case !ok:
			if into.Fields == nil {
				into.Fields = map[string]*structpb.Value{}
			}
			into.Fields[k] = proto.CloneOf(v)
		case have.GetStructValue() != nil && v.GetStructValue() != nil:
			merge(have.GetStructValue(), v.GetStructValue())
		}
	}
}
