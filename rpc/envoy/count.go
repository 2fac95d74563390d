// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/server"
)

// counters returns the descriptors that have counters.
func (ev *evaluation) counters() (list []*descriptor) {
	for i := range ev.descriptors {
		if d := &ev.descriptors[i]; d.kind == kindRule || d.kind == kindOverride {
			list = append(list, d)
		}
	}
	return list
}

// countHits counts the hits of descriptors in one call.
func (ev *evaluation) countHits(ctx context.Context, list []*descriptor) error {
	if len(list) == 0 {
		return nil
	}
	hits := make([]server.Count, len(list))
	for i, d := range list {
		hits[i] = server.Count{
			Key:   counterKey(ev.request.GetDomain(), d.wire.GetEntries(), d.shared),
			Limit: d.limit.amount, Window: d.limit.window, Hits: d.hits, GiveBack: d.giveBack,
		}
	}
	results, err := ev.service.options.Counter.Count(ctx, hits)
	if err != nil {
		return err
	}
	for i, d := range list {
		if err := d.setCounted(&results[i]); err != nil {
			return err
		}
	}
	return nil
}

// setCounted sets the status from a counter. If the counter rejects the hits, the
// descriptor is over its limit. If it cannot be asked, the whole request fails.
func (d *descriptor) setCounted(c *server.Counted) error {
	if c.Err != nil {
		if grpcstatus.Code(c.Err) != codes.InvalidArgument {
			return c.Err
		}
		d.reject(c.Err.Error())
		return nil
	}
	d.dimension = string(limiter.Requests)
	d.over = c.Over && !d.giveBack // hits that are given back are answered with OK
	d.exceeded = d.over && (d.rule == nil || !d.rule.Shadow)
	d.counters.count(d, c)
	d.status.CurrentLimit = wireLimit(d.limit)
	d.status.LimitRemaining = saturate(c.Remaining)
	d.status.DurationUntilReset = ceilSeconds(c.Reset)
	return nil
}

// wireLimit converts a limit for Envoy.
func wireLimit(l counterLimit) *rls.RateLimitResponse_RateLimit {
	w := &rls.RateLimitResponse_RateLimit{Name: l.name, RequestsPerUnit: saturate(l.amount)}
	for n, u := range units {
		if u == l.window.Unit && u != 0 {
			w.Unit = rls.RateLimitResponse_RateLimit_Unit(n)
		}
	}
	if l.window.Multiple > 1 {
		w.UnitMultiplier = wrapperspb.UInt32(l.window.Multiple)
	}
	return w
}

// maxUint32 is the largest number of the protocol. Larger ones are shown as this.
const maxUint32 = 1<<32 - 1

func saturate(n int64) uint32 { return uint32(min(max(n, 0), maxUint32)) }

// ceilSeconds rounds d up to seconds. Envoy drops fractions, which would make callers
// come back too early.
func ceilSeconds(d time.Duration) *durationpb.Duration {
	return &durationpb.Duration{Seconds: int64((d + time.Second - 1) / time.Second)}
}
