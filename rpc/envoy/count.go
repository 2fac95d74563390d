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

// counted returns the descriptors that have counters.
func (q *question) counted() (list []*descriptor) {
	for i := range q.descriptors {
		if d := &q.descriptors[i]; d.kind == kindRule || d.kind == kindOverride {
			list = append(list, d)
		}
	}
	return list
}

// count counts the hits of descriptors, all with one call.
func (q *question) count(ctx context.Context, list []*descriptor) error {
	if len(list) == 0 {
		return nil
	}
	hits := make([]server.Count, len(list))
	for i, d := range list {
		hits[i] = server.Count{
			Key:   counterKey(q.request.GetDomain(), d.wire.GetEntries(), d.shared),
			Limit: d.limit.amount, Window: d.limit.window, Hits: d.hits, GiveBack: d.giving,
		}
	}
	results, err := q.service.options.Counter.Count(ctx, hits)
	if err != nil {
		return err
	}
	for i, d := range list {
		if err := d.take(&results[i]); err != nil {
			return err
		}
	}
	return nil
}

// take makes a status of what came of the hits. A counter that cannot count so
// much is over; one that nobody could ask is an error of the whole request.
func (d *descriptor) take(c *server.Counted) error {
	if c.Err != nil {
		if grpcstatus.Code(c.Err) != codes.InvalidArgument {
			return c.Err
		}
		d.refuse(c.Err.Error())
		return nil
	}
	d.dimension = string(limiter.Requests)
	d.over = c.Over
	d.exceeded = c.Over && (d.rule == nil || !d.rule.Shadow)
	d.counts.count(d, c)
	d.status.CurrentLimit = wireLimit(d.limit)
	d.status.LimitRemaining = saturate(c.Remaining)
	d.status.DurationUntilReset = seconds(c.Reset)
	return nil
}

// wireLimit is a limit as Envoy knows it.
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

// maxUint32 stands for more than the protocol can say.
const maxUint32 = 1<<32 - 1

func saturate(n int64) uint32 { return uint32(min(max(n, 0), maxUint32)) }

// seconds rounds up, since Envoy cuts off what is less: nobody is to come back too
// early.
func seconds(d time.Duration) *durationpb.Duration {
	return &durationpb.Duration{Seconds: int64((d + time.Second - 1) / time.Second)}
}
