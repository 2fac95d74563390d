// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// metadata returns the dynamic metadata for Envoy's logs and other filters: the request,
// and the metadata of the rules whose limits have room.
func (ev *evaluation) metadata() *structpb.Struct {
	descriptors := &structpb.ListValue{}
	merged := &structpb.Struct{}
	for i := range ev.descriptors {
		d := &ev.descriptors[i]
		descriptors.Values = append(descriptors.Values, structpb.NewStructValue(d.metadata()))
		if d.kind == kindRule && !d.exceeded {
			merge(merged, d.rule.Metadata)
		}
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{
		"domain":      structpb.NewStringValue(ev.request.GetDomain()),
		"descriptors": structpb.NewListValue(descriptors),
	}}
	if n := ev.request.GetHitsAddend(); n != 0 {
		s.Fields["hitsAddend"] = structpb.NewNumberValue(float64(n))
	}
	if len(merged.GetFields()) > 0 {
		s.Fields["metadata"] = structpb.NewStructValue(merged)
	}
	return s
}

// metadata is the descriptor as it was sent.
func (d *descriptor) metadata() *structpb.Struct {
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

// merge copies the fields of from that into does not have. Nested structures are merged
// too. It does not change from, which belongs to a rule.
func merge(into, from *structpb.Struct) {
	for k, v := range from.GetFields() {
		old, ok := into.GetFields()[k]
		switch {
		case !ok:
			if into.Fields == nil {
				into.Fields = map[string]*structpb.Value{}
			}
			into.Fields[k] = proto.CloneOf(v)
		case old.GetStructValue() != nil && v.GetStructValue() != nil:
			merge(old.GetStructValue(), v.GetStructValue())
		}
	}
}
