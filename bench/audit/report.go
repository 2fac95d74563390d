// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"slices"
	"time"
)

// Report is what an audit found. Its lists are sorted, worst first, and cut at
// [Options.Worst]; the numbers by dimension are of everything.
type Report struct {
	// OK: nothing was admitted beyond a limit but by a declared fallback within its
	// bound, nothing was denied that surely had room, and all charges compared.
	OK bool `json:"ok"`

	Events  int64 `json:"events"`
	Ignored int64 `json:"ignored,omitempty"` // events without a call
	Calls   int64 `json:"calls"`             // ids
	Keys    int64 `json:"keys"`
	Answers
	// DeniedElse are denials by reason that say nothing about limits.
	DeniedElse map[string]int64 `json:"denied_else,omitempty"`
	// Unjudged are denials of calls for which no limit was described.
	Unjudged int64 `json:"unjudged,omitempty"`
	// Slowest is the longest time from the sending of an admitted call to its answer:
	// the doubt about when it was charged. With refill it is the clock's margin.
	Slowest time.Duration `json:"slowest_ns"`
	Clock   time.Duration `json:"clock_ns,omitempty"`

	Dimensions []Dimension `json:"dimensions"`
	Over       []Over      `json:"over,omitempty"`
	Under      []Under     `json:"under,omitempty"`
	Charges    []Charge    `json:"charges,omitempty"`
	// Courses show how the busiest limits were used, whether that was right or not.
	Courses []Course `json:"courses,omitempty"`

	busiest []busiest
}

// Answers are questions by what became of them.
type Answers struct {
	Admitted int64 `json:"admitted"` // degraded ones included
	Degraded int64 `json:"degraded,omitempty"`
	Denied   int64 `json:"denied"` // whatever the reason
	Failed   int64 `json:"failed"`
	Fallback int64 `json:"fallback,omitempty"` // admitted, route fallback
	// Retried are ids that were sent more than once, and Again those of them that
	// were admitted more than once without being told that it was a replay.
	Retried int64 `json:"retried,omitempty"`
	Again   int64 `json:"again,omitempty"`
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
	case denied, refused:
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
	a.Fallback += b.Fallback
	a.Retried += b.Retried
	a.Again += b.Again
}

// Dimension sums up the limits of one dimension. Amounts are in its units.
type Dimension struct {
	Name     string `json:"name"`
	Limits   int64  `json:"limits"`   // states: a limit of a key, or of a key and model
	Admitted int64  `json:"admitted"` // at least, each id once

	OverLimits   int64 `json:"over_limits"` // of these, admitted beyond
	Over         int64 `json:"over"`        // by how much in all
	WithFallback int64 `json:"over_with_fallback"`
	Possible     int64 `json:"over_possible"` // if every doubt went against the limiter
	Fallback     int64 `json:"fallback"`      // admitted by fallback
	// BeyondBound is what fallback admitted beyond what the limits declare.
	BeyondBound int64 `json:"fallback_beyond_bound"`

	// Denials that this limit came closest to justify, and did not.
	Under int64 `json:"under"`

	Compared int64 `json:"compared"` // limits whose usage was told in the end
	Excess   int64 `json:"excess"`   // charged twice, or not given back
	Missing  int64 `json:"missing"`  // charges that were lost
}

// Which names the state of a limit.
type Which struct {
	Scope     string        `json:"scope"`
	Dimension string        `json:"dimension"`
	Name      string        `json:"name"`
	Model     string        `json:"model,omitempty"`
	Algorithm Algorithm     `json:"algorithm"`
	Limit     int64         `json:"limit"`
	Burst     int64         `json:"burst,omitempty"`
	Window    time.Duration `json:"window_ns,omitempty"`
}

// Over is a limit beyond which something was admitted.
type Over struct {
	Which
	Calls    int64 `json:"calls"`    // admitted
	Admitted int64 `json:"admitted"` // in the whole run; for Concurrent: the most at once
	// Amount is what was surely admitted beyond the limit, fallback aside; with
	// refill in the worst interval.
	Amount       int64         `json:"amount"`
	WithFallback int64         `json:"with_fallback"`
	Possible     int64         `json:"possible"`
	Fallback     int64         `json:"fallback"` // cost admitted by fallback
	Declared     Fallback      `json:"declared,omitempty"`
	BeyondBound  int64         `json:"fallback_beyond_bound"` // by fallback, more than Declared allows
	At           time.Duration `json:"at_ns"`                 // when it was that much
}

// Under is a limit for which calls were denied that surely had room.
type Under struct {
	Which
	Calls int64         `json:"calls"`
	Cost  int64         `json:"cost"` // of these calls
	First time.Duration `json:"first_ns"`
	Room  int64         `json:"room"` // what was left at least for the first of them
}

// Charge is a limit whose usage in the end is not what the log says.
type Charge struct {
	Which
	Used int64 `json:"used"`
	Low  int64 `json:"low"` // what must have been charged
	High int64 `json:"high"`
	// Excess is Used - High: charged twice, or a settle was lost. Missing is
	// Low - Used: charges were lost.
	Excess  int64 `json:"excess"`
	Missing int64 `json:"missing"`
	// Suspects are ids that may explain it, the first of Suspected.
	Suspected int64     `json:"suspected"`
	Suspects  []Suspect `json:"suspects,omitempty"`
}

// Suspect is an id that was sent more than once, or not settled as it should.
type Suspect struct {
	ID   string `json:"id"`
	Why  string `json:"why"`
	Cost int64  `json:"cost"` // at its estimate
}

const mostSuspects = 10

// trim cuts the lists of findings when they are well over n, and in the end.
func (r *Report) trim(n, slack int) {
	r.Over = worst(r.Over, n, slack, func(a, b Over) int {
		return cmp.Or(cmp.Compare(relative(b.Amount, b.Limit), relative(a.Amount, a.Limit)),
			cmp.Compare(relative(b.BeyondBound, b.Limit), relative(a.BeyondBound, a.Limit)),
			cmp.Compare(relative(b.WithFallback, b.Limit), relative(a.WithFallback, a.Limit)), a.compare(b.Which))
	})
	r.Under = worst(r.Under, n, slack, func(a, b Under) int { return cmp.Or(cmp.Compare(b.Calls, a.Calls), a.compare(b.Which)) })
	r.Charges = worst(r.Charges, n, slack, func(a, b Charge) int {
		return cmp.Or(cmp.Compare(relative(b.Excess+b.Missing, b.Limit), relative(a.Excess+a.Missing, a.Limit)), a.compare(b.Which))
	})
}

func worst[T any](list []T, n, slack int, compare func(a, b T) int) []T {
	if len(list) <= n+slack && slack > 0 {
		return list
	}
	slices.SortFunc(list, compare)
	return slices.Clip(list[:min(n, len(list))])
}

// relative is an amount in millionths of a limit.
func relative(amount, limit int64) int64 {
	limit = max(1, limit)
	if amount > 1<<40 {
		return amount / limit * 1e6
	}
	return amount * 1e6 / limit
}

func (w Which) compare(v Which) int {
	return cmp.Or(cmp.Compare(w.Scope, v.Scope), cmp.Compare(w.Dimension, v.Dimension), cmp.Compare(w.Name, v.Name), cmp.Compare(w.Model, v.Model))
}

func (d *Dimension) add(b *Dimension) {
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

// merge adds what another part of the log showed.
func (r *Report) merge(b *Report, n int) {
	r.Calls += b.Calls
	r.Keys += b.Keys
	r.add(b.Answers)
	for reason, count := range b.DeniedElse {
		if r.DeniedElse == nil {
			r.DeniedElse = map[string]int64{}
		}
		r.DeniedElse[reason] += count
	}
	r.Unjudged += b.Unjudged
	r.Slowest = max(r.Slowest, b.Slowest)
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

func (r *Report) dimension(name string) *Dimension {
	for i := range r.Dimensions {
		if r.Dimensions[i].Name == name {
			return &r.Dimensions[i]
		}
	}
	r.Dimensions = append(r.Dimensions, Dimension{Name: name})
	return &r.Dimensions[len(r.Dimensions)-1]
}

// order is how dimensions are shown.
var order = []string{Requests, Tokens, InputTokens, OutputTokens, Spend, Concurrent}

func (r *Report) finish(n int) {
	r.trim(n, 0)
	rank := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortFunc(r.Dimensions, func(a, b Dimension) int {
		return cmp.Or(cmp.Compare(rank(a.Name), rank(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	r.courses()
	r.OK = true
	for _, d := range r.Dimensions {
		if d.Over > 0 || d.BeyondBound > 0 || d.Under > 0 || d.Excess > 0 || d.Missing > 0 {
			r.OK = false
		}
	}
}
