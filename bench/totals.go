// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"slices"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// totals are the sums over all shards.
type totals struct {
	latencies []Latency
	series    []Counts // by interval, including the warm-up
	after     Counts
	completed int64
	heldBack  int64
	llm       LLMCounts
	errs      []ErrorCount
}

// total merges the shards.
func (r *recorder) total() (*totals, error) {
	t := new(totals)
	merged := make(map[rowKey]*hdrhistogram.Histogram)
	for i := range r.shards {
		r.shards[i].mergeInto(t, merged)
	}
	slices.SortStableFunc(t.errs, func(a, b ErrorCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Op, b.Op), strings.Compare(a.Message, b.Message))
	})
	for k, h := range merged {
		l, err := newLatency(h)
		if err != nil {
			return nil, err
		}
		l.Op, l.Outcome, l.Route, l.ServiceTime = k.op, k.outcome, k.route, k.service
		t.latencies = append(t.latencies, l)
	}
	slices.SortFunc(t.latencies, func(a, b Latency) int {
		return cmp.Or(
			cmp.Compare(a.Op, b.Op),
			compareBool(a.ServiceTime, b.ServiceTime),
			strings.Compare(a.Route, b.Route),
			cmp.Compare(a.Outcome, b.Outcome),
		)
	})
	return t, nil
}

// rowKey identifies a row of Result.Latencies.
type rowKey struct {
	op      Op
	outcome Outcome
	route   string
	service bool
}

func (s *shard) mergeInto(t *totals, merged map[rowKey]*hdrhistogram.Histogram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	into := func(k rowKey, h *hdrhistogram.Histogram) {
		if merged[k] == nil {
			merged[k] = newHistogram()
		}
		merged[k].Merge(h)
	}
	for _, r := range s.rows {
		into(rowKey{op: r.op}, r.h)
		into(rowKey{op: r.op, outcome: r.outcome}, r.h)
		if r.route != "" {
			into(rowKey{op: r.op, route: r.route}, r.h)
			into(rowKey{op: r.op, route: r.route, outcome: r.outcome}, r.h)
		}
	}
	for op, h := range s.service {
		if h != nil {
			into(rowKey{op: Op(op), service: true}, h)
		}
	}
	for op, h := range s.refused {
		if h.due != nil {
			into(rowKey{op: Op(op), outcome: Refused}, h.due)
			into(rowKey{op: Op(op), outcome: Refused, service: true}, h.sent)
		}
	}
	for len(t.series) < len(s.series) {
		t.series = append(t.series, Counts{})
	}
	for i, c := range s.series {
		t.series[i].add(c)
	}
	t.after.add(s.after)
	t.completed += s.completed
	t.heldBack += s.heldBack
	t.llm.add(s.llm)
	for _, e := range s.errs {
		t.errs = mergeError(t.errs, e)
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
