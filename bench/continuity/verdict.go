// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/bucketring/bucketring/internal/amount"
)

// Document is the result of [Run].
type Document struct {
	FormatVersion int       `json:"format_version"`
	Started       time.Time `json:"started"`
	Command       string    `json:"command,omitempty"` // set by the caller
	RatePerSecond float64   `json:"rate_per_second"`
	Seed          uint64    `json:"seed"`
	Campaigns     []Result  `json:"campaigns"`
	// OK reports that all campaigns ran and that no promise is broken.
	OK bool `json:"ok"`
}

// Result is the result of a campaign.
type Result struct {
	Name       string      `json:"name"`
	Kind       Kind        `json:"kind"`
	Nodes      int         `json:"nodes"`
	Iterations []Iteration `json:"iterations"`

	// Counts and Findings are the sums of all iterations, and Owned, Heir and Cut the longest.
	Counts
	Findings
	Owned Recovery `json:"owned"`
	Heir  Recovery `json:"heir"`
	Cut   Recovery `json:"cut"`

	Steady Latency `json:"steady"` // before the faults
	During Latency `json:"during"` // from a fault until the nodes had one ring again

	Waiting *Waiting `json:"waiting,omitempty"` // the sum

	Checks []Check `json:"checks"`
	OK     bool    `json:"ok"` // no promise is broken
}

// Latency is a distribution of latencies.
type Latency struct {
	Count int64         `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
	P999  time.Duration `json:"p999_ns"`
	Max   time.Duration `json:"max_ns"`
}

func newLatency(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) time.Duration { return time.Duration(h.ValueAtQuantile(q)) }
	return Latency{h.TotalCount(), at(50), at(99), at(99.9), time.Duration(h.Max())}
}

// Check is one line of the verdict.
type Check struct {
	What     string `json:"what"`
	Promised string `json:"promised,omitempty"` // empty: shown only
	Measured string `json:"measured"`
	Broken   bool   `json:"broken,omitempty"`
}

// judge sums up the iterations and compares them with the promises.
func (r *Result) judge() {
	steady, during := hdrhistogram.New(1, int64(time.Hour), 3), hdrhistogram.New(1, int64(time.Hour), 3)
	problems, oneRing := 0, time.Duration(0)
	for i := range r.Iterations {
		it := &r.Iterations[i]
		r.Counts.plus(&it.Counts)
		r.Findings.plus(&it.Findings)
		r.Owned.worst(it.Owned)
		r.Cut.worst(it.Cut)
		r.Heir.worst(it.Heir)
		if it.Waiting != nil {
			if r.Waiting == nil {
				r.Waiting = &Waiting{}
			}
			r.Waiting.plus(it.Waiting)
		}
		oneRing = max(oneRing, it.OneRing)
		if it.steady != nil {
			steady.Merge(it.steady)
			during.Merge(it.during)
		}
		if it.Problem != "" {
			problems++
		}
	}
	r.Steady, r.During = newLatency(steady), newLatency(during)
	p := promises[r.Kind]
	r.Checks = nil
	amounts := func(what string, a Amounts) { r.check(what, "0", a.String(), !a.zero()) }
	amounts("admitted beyond limits", r.Over)
	amounts("fallback beyond the declared mode", r.BeyondFallback)
	amounts("charged twice, or not given back", r.Twice)
	if r.Kind == Split {
		amounts("not repaid, or lost", r.Lost)
	} else {
		amounts("lost charges", r.Lost)
	}
	if p.smallWindow > 0 || p.lossWindow > 0 {
		r.check("allowed loss, within "+max(p.smallWindow, p.lossWindow).String()+" of charges", "", r.Allowed.String(), false)
	}
	r.check("ids admitted twice", "0", amount.Group(r.Again), r.Again > 0)
	r.check("unknown reservations", amount.Group(r.UnknownAllowed), amount.Group(r.Unknown), r.Unknown > r.UnknownAllowed)
	if w := r.Waiting; w != nil {
		r.check("slots held at the end", "0", amount.Group(w.SlotsHeld), w.SlotsHeld > 0)
		r.check("answers later than "+answerMargin.String()+" after the longest wait", "0", fmt.Sprintf("%s, the latest after %s", amount.Group(w.Late), round(w.Longest)), w.Late > 0)
		r.check("calls that waited", "", fmt.Sprintf("%s admitted, %s denied", amount.Group(w.Admitted), amount.Group(w.Denied)), false)
		p.p99Times, p.p999 = none, none // of waits
	}
	r.checkErrors(p)
	r.checkLatency(p)
	if r.Kind == FullKill {
		r.checkRecovery("exact again, after the start", p.ownedExact, r.Owned)
	} else {
		r.checkRecovery("exact again, keys that the victim owned", p.ownedExact, r.Owned)
		r.checkRecovery("exact again, keys that it was heir of", p.heirExact, r.Heir)
		if r.Cut.Calls > 0 {
			r.checkRecovery("exact again, keys whose owner and heir were cut off", none, r.Cut)
		}
	}
	if p.oneRing != none {
		r.check("one ring after the split", "within "+p.oneRing.String(), round(oneRing), oneRing > p.oneRing)
	}
	r.check("faults that were not applied, or did not end", "0", amount.Group(int64(problems)), problems > 0)
	r.check("wrong denials", "", amount.Group(r.WrongDenials), false)
	r.check("answers in fallback", "", fmt.Sprintf("%s of %s", amount.Group(r.Fallback), amount.Group(r.Admitted+r.Denied)), false)
	r.check("calls that the bench could not send", "", amount.Group(r.NotSent), false)
	r.OK = true
	for _, c := range r.Checks {
		r.OK = r.OK && !c.Broken
	}
}

func (r *Result) check(what, promised, measured string, broken bool) {
	r.Checks = append(r.Checks, Check{what, promised, measured, broken})
}

func (r *Result) checkErrors(p promise) {
	measured := fmt.Sprintf("%s of %s (%s)", amount.Group(r.Failed), amount.Group(r.Requests), percent(r.Failed, r.Requests))
	if p.errorShare == none {
		r.check("errors", "", measured, false)
		return
	}
	r.check("errors", "at most "+percent(p.errorShare, 1e6), measured, r.Failed*1e6 > p.errorShare*r.Requests)
}

// percent formats a share with the digits that promises need.
func percent(n, of int64) string {
	if of == 0 {
		return "0 %"
	}
	thousandths := n * 100_000 / of // of a percent
	text := fmt.Sprintf("%d.%03d", thousandths/1000, thousandths%1000)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".") + " %"
}

func (r *Result) checkLatency(p promise) {
	r.check("p50 before, and during the fault", "", round(r.Steady.P50)+", "+round(r.During.P50), false)
	both := round(r.Steady.P99) + ", " + round(r.During.P99)
	if p.p99Times == none {
		r.check("p99 before, and during the fault", "", both, false)
	} else {
		r.check("p99 before, and during the fault", fmt.Sprintf("at most %d times", p.p99Times), both, r.During.P99 > time.Duration(p.p99Times)*r.Steady.P99)
	}
	both = round(r.Steady.P999) + ", " + round(r.During.P999)
	if p.p999 == none {
		r.check("p99.9 before, and during the fault", "", both, false)
	} else {
		r.check("p99.9 before, and during the fault", "under "+p.p999.String(), both, r.During.P999 >= p.p999)
	}
}

func (r *Result) checkRecovery(what string, within time.Duration, got Recovery) {
	measured := fmt.Sprintf("%s (%s of %s calls were not)", round(got.After), amount.Group(got.Inexact), amount.Group(got.Calls))
	if got.Never {
		measured = "not within " + measured
	}
	if within == none {
		r.check(what, "", measured, false)
		return
	}
	r.check(what, "within "+within.String(), measured, got.Never || got.After > within || got.Calls == 0)
}

// round shortens a time for people.
func round(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	default:
		return d.Round(time.Microsecond).String()
	}
}

// String returns the amounts that are not 0, such as "12 requests, $0.004200".
func (a Amounts) String() string {
	var parts []string
	for _, p := range []struct {
		n    int64
		unit string
	}{{a.Requests, " requests"}, {a.Tokens, " tokens"}, {a.Microdollars, " microdollars"}, {a.Slots, " slots"}} {
		if p.n != 0 {
			parts = append(parts, amount.Group(p.n)+p.unit)
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return strings.Join(parts, ", ")
}
