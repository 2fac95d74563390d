// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestTraffic: each interval has what was decided in it, the sums are also of the one that is not
// over, and what is older than five minutes is gone.
func TestTraffic(t *testing.T) {
	m := &metrics{}
	tr := &m.traffic
	allowed := limiter.Decision{Outcome: limiter.Allowed, Tier: "free", Binding: -1}
	denied := limiter.Decision{Outcome: limiter.Denied, Reason: limiter.LimitExceeded, Tier: "free", Limits: []limiter.LimitState{{Name: "rpm", Dimension: limiter.Requests}}}
	full := limiter.Decision{Outcome: limiter.Denied, Reason: limiter.TableFull, Tier: "free", Binding: -1}
	want := func(what string, want *pb.Traffic) {
		t.Helper()
		want.IntervalSeconds = 5
		if diff := cmp.Diff(want, tr.recent(), protocmp.Transform()); diff != "" {
			t.Errorf("traffic %s (-want +got):\n%s", what, diff)
		}
	}
	tr.decided(pb.Route_ROUTE_LOCAL, &allowed)
	want("before the first sample", &pb.Traffic{Allowed: 1})
	tr.sample()
	want("after it", &pb.Traffic{})
	tr.decided(pb.Route_ROUTE_FALLBACK, &denied)
	tr.decided(pb.Route_ROUTE_LOCAL, &denied)
	tr.decided(pb.Route_ROUTE_LOCAL, &full)
	tr.inSlices.Add(7)
	tr.sample()
	tr.decided(pb.Route_ROUTE_LOCAL, &allowed)
	denials := []*pb.Denials{
		{Tier: "free", Limit: "rpm", Dimension: "requests", Reason: pb.Reason_REASON_LIMIT_EXCEEDED, Calls: 2},
		{Tier: "free", Reason: pb.Reason_REASON_TABLE_FULL, Calls: 1},
	}
	want("of an interval and a half", &pb.Traffic{
		Intervals: []*pb.TrafficInterval{{Denied: 3, FromSlices: 7}},
		Allowed:   1, Denied: 3, Fallback: 1, FromSlices: 7, Denials: denials,
	})
	for range trafficIntervals - 1 {
		tr.sample()
	}
	if got := tr.recent(); len(got.GetIntervals()) != trafficIntervals || got.GetDenied() != 3 {
		t.Errorf("after five minutes %d intervals and %d denials, want %d and 3", len(got.GetIntervals()), got.GetDenied(), trafficIntervals)
	}
	tr.sample()
	tr.sample()
	if got := tr.recent(); len(got.GetIntervals()) != trafficIntervals || got.GetDenied() != 0 || len(got.GetDenials()) != 0 || got.GetFromSlices() != 0 {
		t.Errorf("later: %v, want nothing", got)
	}
	for i := range 2 * maxDenials {
		denied.Tier = string(rune('a' + i))
		tr.decided(pb.Route_ROUTE_LOCAL, &denied)
	}
	if n := len(tr.denials.All()); n > maxDenials+1 {
		t.Errorf("%d kinds of denials are counted, want at most %d", n, maxDenials+1)
	}
}
