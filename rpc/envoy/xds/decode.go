// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/envoy/config"
)

// decode compiles a response. unknown are the paths of fields that it ignores.
func decode(r *discovery.DiscoveryResponse) (rules *config.Config, unknown []string, err error) {
	if r.GetTypeUrl() != TypeURL {
		return nil, nil, fmt.Errorf("type must be %s, got %s", TypeURL, r.GetTypeUrl())
	}
	var d decoder
	domains := make([]config.Domain, 0, len(r.GetResources()))
	for i, any := range r.GetResources() {
		if any.GetTypeUrl() != TypeURL {
			d.problems = append(d.problems, fmt.Errorf("resource %d: type must be %s, got %s", i, TypeURL, any.GetTypeUrl()))
			continue
		}
		var c ratelimit.RateLimitConfig
		if err := proto.Unmarshal(any.GetValue(), &c); err != nil {
			d.problems = append(d.problems, fmt.Errorf("resource %d: %w", i, err))
			continue
		}
		source := fmt.Sprintf("resource %q", c.GetName())
		d.readUnknown(source, c.ProtoReflect().GetUnknown(), nil)
		domains = append(domains, config.Domain{Source: source, Name: c.GetDomain(), Descriptors: d.descriptors(source+": ", c.GetDescriptors())})
	}
	// Resources come in any order. Sorted, they always have the same problems.
	slices.SortStableFunc(domains, func(a, b config.Domain) int { return strings.Compare(a.Source, b.Source) })
	rules, err = config.Compile(domains)
	if err := errors.Join(append(d.problems, err)...); err != nil {
		return nil, nil, err
	}
	return rules, d.unknown, nil
}

type decoder struct {
	problems []error
	unknown  []string
}

// Fields of a descriptor that the generated types lack.
const (
	fieldQuota    protowire.Number = 7
	fieldMetadata protowire.Number = 8
)

func (d *decoder) descriptors(prefix string, list []*ratelimit.RateLimitDescriptor) (out []config.Descriptor) {
	for i, from := range list {
		path := fmt.Sprintf("%sdescriptors[%d]", prefix, i)
		to := config.Descriptor{
			Key: from.GetKey(), Value: from.GetValue(), Limit: d.limit(path, from.GetRateLimit()),
			Shadow: from.GetShadowMode(), DetailedMetric: from.GetDetailedMetric(),
			Descriptors: d.descriptors(path+".", from.GetDescriptors()),
		}
		d.readUnknown(path, from.ProtoReflect().GetUnknown(), func(field protowire.Number, kind protowire.Type, value []byte) (known bool, err error) {
			switch {
			case field == fieldQuota && kind == protowire.VarintType:
				n, _ := protowire.ConsumeVarint(value)
				to.Quota = protowire.DecodeBool(n)
			case field == fieldMetadata && kind == protowire.BytesType:
				text, _ := protowire.ConsumeBytes(value)
				to.Metadata = &structpb.Struct{}
				return true, proto.Unmarshal(text, to.Metadata)
			default:
				return false, nil
			}
			return true, nil
		})
		out = append(out, to)
	}
	return out
}

func (d *decoder) limit(path string, from *ratelimit.RateLimitPolicy) *config.Limit {
	if from == nil {
		return nil
	}
	d.readUnknown(path+".rate_limit", from.ProtoReflect().GetUnknown(), nil)
	to := &config.Limit{Amount: int64(from.GetRequestsPerUnit()), Unlimited: from.GetUnlimited(), Name: from.GetName()}
	if n := from.GetUnit(); n != 0 {
		to.Window.Unit = unitOf(int32(n))
	}
	for _, r := range from.GetReplaces() {
		to.Replaces = append(to.Replaces, r.GetName())
	}
	return to
}

// unitOf converts a number of RateLimitUnit. The generated types lack the week.
func unitOf(n int32) limiter.Unit {
	switch n {
	case 1:
		return limiter.UnitSecond
	case 2:
		return limiter.UnitMinute
	case 3:
		return limiter.UnitHour
	case 4:
		return limiter.UnitDay
	case 5:
		return limiter.UnitMonth
	case 6:
		return limiter.UnitYear
	case 7:
		return limiter.UnitWeek
	}
	return limiter.UnitYear + limiter.Unit(min(uint32(n), 100)) // invalid
}

// readUnknown reads the fields in b, which the generated types lack. handle reports
// whether it knows a field; nil knows none.
func (d *decoder) readUnknown(path string, b []byte, handle func(protowire.Number, protowire.Type, []byte) (bool, error)) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return // proto.Unmarshal has checked it
		}
		size := protowire.ConsumeFieldValue(field, kind, b[n:])
		if size < 0 {
			return
		}
		known := false
		if handle != nil {
			var err error
			if known, err = handle(field, kind, b[n:n+size]); err != nil {
				d.problems = append(d.problems, fmt.Errorf("%s: field %d: %w", path, field, err))
			}
		}
		if !known {
			d.unknown = append(d.unknown, fmt.Sprintf("%s: field %d", path, field))
		}
		b = b[n+size:]
	}
}
