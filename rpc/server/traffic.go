// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/growmap"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// TrafficInterval is the time between two samples of traffic, and trafficIntervals how many
	// intervals are kept: five minutes.
	TrafficInterval  = 5 * time.Second
	trafficIntervals = 60
	// maxDenials bounds the kinds of denials that are counted apart, and listedDenials those
	// that are listed.
	maxDenials    = 256
	listedDenials = 10
)

// traffic counts what a member has decided in the last minutes. Counting takes no lock, except
// for the first denial of its kind.
type traffic struct {
	outcomes [limiter.Denied + 1]atomic.Int64
	fallback atomic.Int64
	inSlices atomic.Int64
	denials  growmap.Map[denial, *denials]

	mu struct {
		sync.Mutex
		samples [trafficIntervals + 1]trafficSample
		taken   int // samples since the start
	}
}

// denial is a kind of denials. Its texts are the policy's.
type denial struct {
	tier, limit, dimension string // limit and dimension are "" if none denied
	reason                 limiter.Reason
}

// denials counts those of one kind.
type denials struct {
	total atomic.Int64
	at    [trafficIntervals + 1]int64 // total at each sample; guarded by traffic.mu
}

// trafficSample are sums since the start.
type trafficSample struct {
	outcomes           [limiter.Denied + 1]int64
	fallback, inSlices int64
}

// decided counts a decision.
func (t *traffic) decided(route pb.Route, d *limiter.Decision) {
	t.outcomes[d.Outcome&3].Add(1)
	if route == pb.Route_ROUTE_FALLBACK {
		t.fallback.Add(1)
	}
	if d.Outcome != limiter.Denied {
		return
	}
	kind := denial{tier: d.Tier, reason: d.Reason}
	if d.Binding >= 0 && d.Binding < len(d.Limits) {
		l := &d.Limits[d.Binding]
		kind.limit, kind.dimension = l.Name, string(l.Dimension)
	}
	t.denialsOf(kind).total.Add(1)
}

func (t *traffic) denialsOf(kind denial) *denials {
	if d, ok := t.denials.Get(kind); ok {
		return d
	}
	other := denial{tier: "other", reason: limiter.NoReason}
	if len(t.denials.All()) >= maxDenials && kind != other {
		return t.denialsOf(other)
	}
	return t.denials.Add(kind, func() (denial, *denials) {
		// The texts may be part of the memory of a policy or a request, which should not live as long.
		kind.tier, kind.limit, kind.dimension = strings.Clone(kind.tier), strings.Clone(kind.limit), strings.Clone(kind.dimension)
		return kind, &denials{}
	})
}

// now returns the sums until now.
func (t *traffic) now() trafficSample {
	s := trafficSample{fallback: t.fallback.Load(), inSlices: t.inSlices.Load()}
	for i := range s.outcomes {
		s.outcomes[i] = t.outcomes[i].Load()
	}
	return s
}

// SampleTraffic ends an interval of the traffic that [Service.Traffic] returns. It must be
// called once in [TrafficInterval].
func (s *Service) SampleTraffic() { s.metrics.traffic.sample() }

// CountSlice counts a check or a reserve that this member has decided from a slice.
func (s *Service) CountSlice() { s.metrics.traffic.inSlices.Add(1) }

func (t *traffic) sample() {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.mu.taken % len(t.mu.samples)
	t.mu.samples[i] = t.now()
	for _, d := range t.denials.All() {
		d.at[i] = d.total.Load()
	}
	t.mu.taken++
}

// Traffic returns what this member has decided in the last five minutes, or since its start.
func (s *Service) Traffic() *pb.Traffic { return s.metrics.traffic.recent() }

func (t *traffic) recent() *pb.Traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	size := len(t.mu.samples)
	first := max(0, t.mu.taken-size) // the oldest sample; what was before it is not recent
	var oldest trafficSample
	if t.mu.taken > 0 {
		oldest = t.mu.samples[first%size]
	}
	now := t.now()
	r := &pb.Traffic{
		IntervalSeconds: int32(TrafficInterval / time.Second),
		Allowed:         now.outcomes[limiter.Allowed] - oldest.outcomes[limiter.Allowed],
		Degraded:        now.outcomes[limiter.Degraded] - oldest.outcomes[limiter.Degraded],
		Denied:          now.outcomes[limiter.Denied] - oldest.outcomes[limiter.Denied],
		Fallback:        now.fallback - oldest.fallback,
		FromSlices:      now.inSlices - oldest.inSlices,
	}
	for n := first + 1; n < t.mu.taken; n++ {
		from, to := &t.mu.samples[(n-1)%size], &t.mu.samples[n%size]
		r.Intervals = append(r.Intervals, &pb.TrafficInterval{
			Allowed:    to.outcomes[limiter.Allowed] - from.outcomes[limiter.Allowed],
			Degraded:   to.outcomes[limiter.Degraded] - from.outcomes[limiter.Degraded],
			Denied:     to.outcomes[limiter.Denied] - from.outcomes[limiter.Denied],
			FromSlices: to.inSlices - from.inSlices,
		})
	}
	for kind, d := range t.denials.All() {
		var before int64
		if t.mu.taken > 0 {
			before = d.at[first%size]
		}
		if calls := d.total.Load() - before; calls > 0 {
			r.Denials = append(r.Denials, &pb.Denials{Tier: kind.tier, Limit: kind.limit, Dimension: kind.dimension, Reason: reason(kind.reason), Calls: calls})
		}
	}
	slices.SortFunc(r.Denials, func(a, b *pb.Denials) int {
		return cmp.Or(cmp.Compare(b.GetCalls(), a.GetCalls()), strings.Compare(a.GetTier(), b.GetTier()), strings.Compare(a.GetLimit(), b.GetLimit()), cmp.Compare(a.GetReason(), b.GetReason()))
	})
	r.Denials = r.GetDenials()[:min(listedDenials, len(r.GetDenials()))]
	return r
}
