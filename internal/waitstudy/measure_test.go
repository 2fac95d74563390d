// SPDX-License-Identifier: Apache-2.0

package waitstudy

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// result is what a run found.
type result struct {
	name   string
	served float64         // part of the calls that were answered
	times  []time.Duration // to the answer, of those served, sorted
	jain   float64         // index of fairness of what users got of their fair shares
	ratios []float64       // what users got of their fair shares
	groups []float64       // the same of the groups
	unused float64         // part of the limit that was unused during the burst
	after  float64         // the same until the longest wait after the burst
	lost   time.Duration   // in which the bucket was full although calls were outstanding
	asked  int             // calls that reached the limiter
	vain   int             // calls that were refused after the longest wait
	other  int             // calls that ended neither with 200 nor 429
	tokens int64           // that the answers cost
	end    time.Duration   // when the last call was admitted
	course []float64       // tokens admitted until the end of each step
}

// courseStep is the time between two points of a course.
const courseStep = 250 * time.Millisecond

// percentile returns a percentile of the time to answer of the calls that were served.
func (r *result) percentile(p int) time.Duration {
	if len(r.times) == 0 {
		return 0
	}
	return r.times[(len(r.times)-1)*p/100]
}

// measure computes the result of a run that has ended.
func measure(t *testing.T, name string, w *workload, s *stack, began time.Time, answers []answered) *result {
	t.Helper()
	r := &result{name: name, asked: s.asked.asked}
	got := make([]int64, len(w.users))
	outstanding := make([]interval, len(answers)) // calls that are not admitted yet
	for i, a := range answers {
		outstanding[i] = interval{a.sent, a.at}
		switch a.status {
		case http.StatusOK:
		case http.StatusTooManyRequests:
			if w.maxWait-(a.at-a.sent) < time.Millisecond {
				r.vain++
			}
			continue
		default:
			r.other++
			continue
		}
		admitted := s.asked.admitted[a.id]
		if admitted == nil {
			t.Fatalf("%s: an answer has the id %q of no reservation", name, a.id)
		}
		outstanding[i].to = admitted.at.Sub(began)
		r.times = append(r.times, a.at-a.sent)
		got[w.calls[i].user] += admitted.charged
		r.tokens += admitted.charged
		r.end = max(r.end, admitted.at.Sub(began))
	}
	slices.Sort(r.times)
	r.served = float64(len(r.times)) / float64(len(answers))
	r.measureShares(w, got)
	r.replay(w, s.asked, began, outstanding)
	return r
}

// measureShares compares what users got with their fair shares of it.
func (r *result) measureShares(w *workload, got []int64) {
	shares := w.fairShares(r.tokens)
	r.ratios = make([]float64, len(shares))
	for i := range shares {
		r.ratios[i] = float64(got[i]) / shares[i]
	}
	r.jain = jain(r.ratios)
	first := 0
	for _, g := range w.groups {
		var sum, fair float64
		for i := range g.users {
			sum += float64(got[first+i])
			fair += shares[first+i]
		}
		r.groups = append(r.groups, sum/fair)
		first += g.users
	}
}

// jain returns Jain's index of fairness: 1 if all are equal, 1/n if one has everything.
func jain(ratios []float64) float64 {
	var sum, squares float64
	for _, x := range ratios {
		sum += x
		squares += x * x
	}
	return sum * sum / (float64(len(ratios)) * squares)
}

// interval is a time in which a call is outstanding and not admitted.
type interval struct{ from, to time.Duration }

// replay computes the level of the token bucket from what was admitted and settled.
func (r *result) replay(w *workload, asked *recorder, began time.Time, outstanding []interval) {
	type event struct {
		at    time.Duration
		taken int64 // negative: given back
	}
	var events []event
	var during, until int64 // admitted during the burst, and until the longest wait after it
	for _, a := range asked.admitted {
		at := a.at.Sub(began)
		events = append(events, event{at, a.reserved}, event{a.settled.Sub(began), a.charged - a.reserved})
		if at < w.length {
			during += a.charged
		}
		if at < w.length+w.maxWait {
			until += a.charged
		}
		for step := int(max(at, 0) / courseStep); len(r.course) <= step; {
			r.course = append(r.course, 0)
		}
		r.course[max(at, 0)/courseStep] += float64(a.charged)
	}
	for i := 1; i < len(r.course); i++ {
		r.course[i] += r.course[i-1]
	}
	unused := func(tokens int64, d time.Duration) float64 {
		return max(0, 1-float64(tokens)/(float64(w.burst)+float64(w.rate)*d.Seconds()))
	}
	r.unused, r.after = unused(during, w.length), unused(until, w.length+w.maxWait)

	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	slices.SortFunc(outstanding, func(a, b interval) int { return cmp.Compare(a.from, b.from) })
	const step = time.Millisecond
	level := float64(w.burst)
	last := time.Duration(0) // when the last of the calls so far is admitted or refused
	for now := time.Duration(0); len(outstanding) > 0 || now < last; now += step {
		for len(events) > 0 && events[0].at <= now {
			level -= float64(events[0].taken)
			events = events[1:]
		}
		for len(outstanding) > 0 && outstanding[0].from <= now {
			last = max(last, outstanding[0].to)
			outstanding = outstanding[1:]
		}
		if level += float64(w.rate) * step.Seconds(); level >= float64(w.burst) {
			level = float64(w.burst)
			if now < last {
				r.lost += step
			}
		}
	}
}

// allSettled reports whether all calls that were admitted have been settled.
func (r *recorder) allSettled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.admitted {
		if a.settled.IsZero() {
			return false
		}
	}
	return true
}

// table returns the results as a table in Markdown.
func table(results []*result) string {
	var b strings.Builder
	b.WriteString("| the burst is | served | time to answer: p50 | p95 | p99 | Jain's index | limit unused in the burst | until the longest wait after it | limit idle while calls were outstanding | calls at the limiter |\n")
	b.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %.0f %% | %.1f s | %.1f s | %.1f s | %.3f | %.1f %% | %.1f %% | %.2f s | %d |\n", r.name, 100*r.served,
			r.percentile(50).Seconds(), r.percentile(95).Seconds(), r.percentile(99).Seconds(), r.jain, 100*r.unused, 100*r.after, r.lost.Seconds(), r.asked)
	}
	return b.String()
}
