// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"slices"
	"time"
)

// Report is the result of an audit. Its lists are sorted, worst first, and have at most
// [Options.MaxFindings] entries. The numbers by dimension count everything.
type Report struct {
	// OK reports that nothing was admitted beyond a limit, except in fallback within its
	// declared bound, that no call was denied that certainly had room, and that all
	// compared charges match.
	OK bool `json:"ok"`

	Events  int64 `json:"events"`
	Ignored int64 `json:"ignored,omitempty"` // events without a call
	Calls   int64 `json:"calls"`             // different request ids
	Keys    int64 `json:"keys"`
	Answers
	// OtherDenials counts denials that limits did not cause, by reason.
	OtherDenials map[string]int64 `json:"denied_else,omitempty"`
	// Unjudged counts denials of calls without a known limit.
	Unjudged int64 `json:"unjudged,omitempty"`
	// SlowestCall is the longest time from an admitted request to its answer. Charges
	// have an uncertain time of up to that much.
	SlowestCall time.Duration `json:"slowest_ns"`
	ClockSkew   time.Duration `json:"clock_ns,omitempty"`

	Dimensions []DimensionSummary `json:"dimensions"`
	Over       []OverAdmission    `json:"over,omitempty"`
	Under      []WrongDenial      `json:"under,omitempty"`
	Charges    []ChargeMismatch   `json:"charges,omitempty"`
	// UsageSeries are the usage over time of the busiest limits.
	UsageSeries []UsageSeries `json:"courses,omitempty"`

	busiest []busiest
}

// Answers counts requests by outcome.
type Answers struct {
	Admitted int64 `json:"admitted"` // including degraded
	Degraded int64 `json:"degraded,omitempty"`
	Denied   int64 `json:"denied"` // for any reason
	Failed   int64 `json:"failed"`
	Refused  int64 `json:"refused,omitempty"`  // because of overload; they must not be charged
	Fallback int64 `json:"fallback,omitempty"` // admitted in fallback
	// Retried is the number of ids that were sent more than once, and
	// DuplicateAdmissions of those that were admitted more than once without an answer
	// that says it is a replay.
	Retried             int64 `json:"retried,omitempty"`
	DuplicateAdmissions int64 `json:"again,omitempty"`
}

func (a *Answers) count(r *record) {
	switch r.answer {
	case degraded:
		a.Degraded++
		fallthrough
	case admitted:
		a.Admitted++
		if r.decider != 0 {
			a.Fallback++
		}
	case denied, otherDenial:
		a.Denied++
	default:
		a.Failed++
	}
}

func (a *Answers) add(b Answers) {
	a.Admitted += b.Admitted
	a.Degraded += b.Degraded
	a.Denied += b.Denied
	a.Failed += b.Failed
	a.Refused += b.Refused
	a.Fallback += b.Fallback
	a.Retried += b.Retried
	a.DuplicateAdmissions += b.DuplicateAdmissions
}

// DimensionSummary sums up the limits of one dimension. Amounts are in its units.
type DimensionSummary struct {
	Name     string `json:"name"`
	Limits   int64  `json:"limits"`   // one for each key, or key and model
	Admitted int64  `json:"admitted"` // at least, each id once

	OverLimits   int64 `json:"over_limits"` // limits that were exceeded
	Over         int64 `json:"over"`        // by how much, in total
	WithFallback int64 `json:"over_with_fallback"`
	Possible     int64 `json:"over_possible"` // if every uncertainty is resolved against the limiter
	Fallback     int64 `json:"fallback"`      // admitted in fallback
	// BeyondBound is what fallback admitted beyond the declared modes.
	BeyondBound int64 `json:"fallback_beyond_bound"`

	// Under is the number of wrong denials for which this dimension had the least room.
	Under int64 `json:"under"`

	Compared int64 `json:"compared"` // limits with final usage
	Excess   int64 `json:"excess"`   // charged twice, or not given back
	Missing  int64 `json:"missing"`  // lost charges
}

// LimitRef identifies a limit of a key.
type LimitRef struct {
	Scope     string        `json:"scope"`
	Dimension string        `json:"dimension"`
	Name      string        `json:"name"`
	Model     string        `json:"model,omitempty"`
	Algorithm Algorithm     `json:"algorithm"`
	Limit     int64         `json:"limit"`
	Burst     int64         `json:"burst,omitempty"`
	Window    time.Duration `json:"window_ns,omitempty"`
}

// OverAdmission is a limit that was exceeded.
type OverAdmission struct {
	LimitRef
	Calls    int64 `json:"calls"`    // admitted
	Admitted int64 `json:"admitted"` // in the whole run; for Concurrent, the most at once
	// Amount is what was certainly admitted beyond the limit, without fallback. With
	// refill it is that of the worst interval.
	Amount       int64         `json:"amount"`
	WithFallback int64         `json:"with_fallback"`
	Possible     int64         `json:"possible"`
	Fallback     int64         `json:"fallback"` // cost admitted in fallback
	Declared     FallbackMode  `json:"declared,omitempty"`
	BeyondBound  int64         `json:"fallback_beyond_bound"` // admitted in fallback beyond Declared
	At           time.Duration `json:"at_ns"`                 // when Amount was reached
}

// WrongDenial is a limit that denied calls although it certainly had room.
type WrongDenial struct {
	LimitRef
	Calls int64         `json:"calls"`
	Cost  int64         `json:"cost"`     // of all these calls
	First time.Duration `json:"first_ns"` // when the first of them was sent
	Room  int64         `json:"room"`     // what was at least left for the first of them
}

// ChargeMismatch is a limit whose final usage does not match the log.
type ChargeMismatch struct {
	LimitRef
	Used int64 `json:"used"`
	Low  int64 `json:"low"` // bounds of the charges in the log
	High int64 `json:"high"`
	// Excess is Used - High: a call was charged twice, or a settle was lost. Missing is
	// Low - Used: charges were lost.
	Excess  int64 `json:"excess"`
	Missing int64 `json:"missing"`
	// Suspects are ids that may explain it: the first few of Suspected.
	Suspected int64     `json:"suspected"`
	Suspects  []Suspect `json:"suspects,omitempty"`
}

// Suspect is an id that was sent more than once, or whose settle failed.
type Suspect struct {
	ID   string `json:"id"`
	Why  string `json:"why"`
	Cost int64  `json:"cost"` // its estimate
}

const maxSuspects = 10

// trim sorts and cuts the lists of findings when they are longer than n + slack.
func (r *Report) trim(n, slack int) {
	r.Over = worst(r.Over, n, slack, func(a, b OverAdmission) int {
		return cmp.Or(cmp.Compare(relative(b.Amount, b.Limit), relative(a.Amount, a.Limit)),
			cmp.Compare(relative(b.BeyondBound, b.Limit), relative(a.BeyondBound, a.Limit)),
			cmp.Compare(relative(b.WithFallback, b.Limit), relative(a.WithFallback, a.Limit)), a.compare(b.LimitRef))
	})
	r.Under = worst(r.Under, n, slack, func(a, b WrongDenial) int { return cmp.Or(cmp.Compare(b.Calls, a.Calls), a.compare(b.LimitRef)) })
	r.Charges = worst(r.Charges, n, slack, func(a, b ChargeMismatch) int {
		return cmp.Or(cmp.Compare(relative(b.Excess+b.Missing, b.Limit), relative(a.Excess+a.Missing, a.Limit)), a.compare(b.LimitRef))
	})
}

func worst[T any](list []T, n, slack int, compare func(a, b T) int) []T {
	if len(list) <= n+slack && slack > 0 {
		return list
	}
	slices.SortFunc(list, compare)
	return slices.Clip(list[:min(n, len(list))])
}

// relative returns an amount in millionths of a limit.
func relative(amount, limit int64) int64 {
	limit = max(1, limit)
	if amount > 1<<40 {
		return amount / limit * 1e6
	}
	return amount * 1e6 / limit
}

func (w LimitRef) compare(v LimitRef) int {
	return cmp.Or(cmp.Compare(w.Scope, v.Scope), cmp.Compare(w.Dimension, v.Dimension), cmp.Compare(w.Name, v.Name), cmp.Compare(w.Model, v.Model))
}

func (d *DimensionSummary) add(b *DimensionSummary) {
	d.Limits += b.Limits
	d.Admitted += b.Admitted
	d.OverLimits += b.OverLimits
	d.Over += b.Over
	d.WithFallback += b.WithFallback
	d.Possible += b.Possible
	d.Fallback += b.Fallback
	d.BeyondBound += b.BeyondBound
	d.Under += b.Under
	d.Compared += b.Compared
	d.Excess += b.Excess
	d.Missing += b.Missing
}

// merge adds the report of other roots.
func (r *Report) merge(b *Report, n int) {
	r.Calls += b.Calls
	r.Keys += b.Keys
	r.add(b.Answers)
	for reason, count := range b.OtherDenials {
		if r.OtherDenials == nil {
			r.OtherDenials = map[string]int64{}
		}
		r.OtherDenials[reason] += count
	}
	r.Unjudged += b.Unjudged
	r.SlowestCall = max(r.SlowestCall, b.SlowestCall)
	for i := range b.Dimensions {
		r.dimension(b.Dimensions[i].Name).add(&b.Dimensions[i])
	}
	r.Over = append(r.Over, b.Over...)
	r.Under = append(r.Under, b.Under...)
	r.Charges = append(r.Charges, b.Charges...)
	for i := range b.busiest {
		into := r.busiestOf(b.busiest[i].dimension)
		for _, c := range b.busiest[i].list {
			into.add(c)
		}
	}
	r.trim(n, 4*n+64)
}

func (r *Report) dimension(name string) *DimensionSummary {
	for i := range r.Dimensions {
		if r.Dimensions[i].Name == name {
			return &r.Dimensions[i]
		}
	}
	r.Dimensions = append(r.Dimensions, DimensionSummary{Name: name})
	return &r.Dimensions[len(r.Dimensions)-1]
}

// order is the order of dimensions in a report.
var order = []string{Requests, Tokens, InputTokens, OutputTokens, Spend, Concurrent}

func (r *Report) finish(n int) {
	r.trim(n, 0)
	rank := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortFunc(r.Dimensions, func(a, b DimensionSummary) int {
		return cmp.Or(cmp.Compare(rank(a.Name), rank(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	r.selectSeries()
	r.OK = true
	for _, d := range r.Dimensions {
		if d.Over > 0 || d.BeyondBound > 0 || d.Under > 0 || d.Excess > 0 || d.Missing > 0 {
			r.OK = false
		}
	}
}
