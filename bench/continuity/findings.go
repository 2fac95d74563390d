// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// Amounts are amounts by dimension.
type Amounts struct {
	Requests     int64 `json:"requests"`
	Tokens       int64 `json:"tokens"`
	Microdollars int64 `json:"microdollars"`
	Slots        int64 `json:"slots,omitempty"` // of concurrency limits
}

func (a *Amounts) add(dimension string, n int64) {
	switch dimension {
	case audit.Requests:
		a.Requests += n
	case audit.Tokens:
		a.Tokens += n
	case audit.Spend:
		a.Microdollars += n
	case audit.Concurrent:
		a.Slots += n
	}
}

func (a *Amounts) plus(b Amounts) {
	a.Requests += b.Requests
	a.Tokens += b.Tokens
	a.Microdollars += b.Microdollars
	a.Slots += b.Slots
}

// zero reports whether all amounts are 0.
func (a Amounts) zero() bool { return a == Amounts{} }

// Findings are what the audit of one or more iterations found.
type Findings struct {
	// Over is what owners admitted beyond limits, without Allowed.
	Over Amounts `json:"over"`
	// OverLimits is the number of limits that were exceeded.
	OverLimits int64 `json:"over_limits"`
	// BeyondFallback is what was admitted without an owner beyond the declared modes.
	BeyondFallback Amounts `json:"beyond_fallback"`
	// Twice is what the final usage has beyond the log: it was charged twice or not given back.
	Twice Amounts `json:"charged_twice"`
	// Lost is what the final usage lacks, without Allowed.
	Lost Amounts `json:"lost"`
	// Allowed is the part of what was admitted beyond limits, lost, or charged twice that
	// the published bound allows.
	Allowed Amounts `json:"allowed"`
	// Again is the number of ids that were admitted twice as if they were new.
	Again int64 `json:"admitted_again"`
	// Unknown is the number of settles and reports whose reservation was unknown, and
	// UnknownAllowed how many of these the published bound allows at most.
	Unknown        int64 `json:"unknown_reservations"`
	UnknownAllowed int64 `json:"unknown_reservations_allowed"`
	// WrongDenials is the number of denials of calls that certainly had room.
	WrongDenials int64 `json:"wrong_denials"`
	// Broken are the first limits with an amount in Over, Twice or Lost.
	Broken []Broken `json:"broken,omitempty"`
}

// Broken is a limit of which a promise is broken.
type Broken struct {
	audit.LimitRef
	Over  int64 `json:"over,omitempty"`
	Twice int64 `json:"charged_twice,omitempty"`
	Lost  int64 `json:"lost,omitempty"`
}

// maxBroken bounds the list of limits in a document.
const maxBroken = 100

// broken adds what is broken of a limit.
func (f *Findings) broken(b Broken) {
	if b.Over > 0 || b.Twice > 0 || b.Lost > 0 {
		f.Broken = append(f.Broken, b)
	}
	f.Broken = f.Broken[:min(len(f.Broken), maxBroken)]
}

func (f *Findings) plus(g *Findings) {
	f.Over.plus(g.Over)
	f.OverLimits += g.OverLimits
	f.BeyondFallback.plus(g.BeyondFallback)
	f.Twice.plus(g.Twice)
	f.Lost.plus(g.Lost)
	f.Allowed.plus(g.Allowed)
	f.Again += g.Again
	f.Unknown += g.Unknown
	f.UnknownAllowed += g.UnknownAllowed
	f.WrongDenials += g.WrongDenials
	for _, b := range g.Broken {
		f.broken(b)
	}
}

// maxFindings is above the number of limits of an iteration.
const maxFindings = 1_000

// tolerance knows what charges the published bound allows to lose.
type tolerance struct {
	promise promise
	log     *runLog
	fault   time.Duration // when it began
	applied time.Duration // when it had begun for all
	cost    func(l *audit.Limit, u audit.Units) int64
}

// of returns what may be lost of a limit: what was charged to it within the window before the
// fault. A window is widened by itself after the fault has been applied, since answers arrive
// later.
func (t *tolerance) of(l *audit.LimitRef) int64 {
	window := t.promise.lossWindow
	if isSmall(l.Scope) {
		window = max(window, t.promise.smallWindow)
	}
	if window == 0 {
		return 0
	}
	var sum int64
	for i := range t.log.samples {
		s := &t.log.samples[i]
		if isBelow(s.call.Key, l.Scope) && s.result == admitted && s.done >= t.fault-window && s.sent <= t.applied+window {
			sum += t.costOf(l, s)
		}
	}
	return sum
}

// costOf returns what a sample costs.
func (t *tolerance) costOf(l *audit.LimitRef, s *sample) int64 {
	output := s.call.OutputTokens
	if s.op != bench.OpCheck {
		output = s.call.MaxOutputTokens
	}
	return t.cost(&audit.Limit{Dimension: l.Dimension}, audit.Units{Model: s.call.Model, Requests: 1, Input: s.call.InputTokens, Output: output})
}

// twice returns what may be charged twice of a limit: checks that were in flight when the
// fault began, and were not answered by an owner.
func (t *tolerance) twice(l *audit.LimitRef) (sum int64) {
	if !t.promise.inFlight {
		return 0
	}
	for i := range t.log.samples {
		s := &t.log.samples[i]
		if isBelow(s.call.Key, l.Scope) && s.op == bench.OpCheck && !s.exact() && s.sent <= t.applied && s.done >= t.fault {
			sum += t.costOf(l, s)
		}
	}
	return sum
}

// unknownAllowed returns how many settles and reports may be lost with their reservations.
func (t *tolerance) unknownAllowed() (n int64) {
	if t.promise.lossWindow == 0 {
		return 0
	}
	for i := range t.log.samples {
		s := &t.log.samples[i]
		if s.op == bench.OpReserve && s.result == admitted && s.done >= t.fault-t.promise.lossWindow && s.sent <= t.fault {
			n += int64(s.call.ProgressReports) + 1
		}
	}
	return n
}

// isBelow reports whether a key is of a scope: its own, or that of its team.
func isBelow(key, scope string) bool {
	return strings.HasPrefix(key, scope) && (len(key) == len(scope) || key[len(scope)] == '/')
}

// findings sums up an audit.
func findings(r *audit.Report, t *tolerance) *Findings {
	f := &Findings{Unknown: t.log.unknown, UnknownAllowed: t.unknownAllowed(), Again: r.DuplicateAdmissions}
	for i := range r.Dimensions {
		f.WrongDenials += r.Dimensions[i].Under
	}
	for i := range r.Over {
		o := &r.Over[i]
		f.BeyondFallback.add(o.Dimension, o.BeyondBound)
		if o.Amount == 0 {
			continue
		}
		allowed := min(o.Amount, t.of(&o.LimitRef))
		f.Allowed.add(o.Dimension, allowed)
		f.Over.add(o.Dimension, o.Amount-allowed)
		f.broken(Broken{LimitRef: o.LimitRef, Over: o.Amount - allowed})
		if o.Amount > allowed {
			f.OverLimits++
		}
	}
	for i := range r.Charges {
		c := &r.Charges[i]
		allowed := min(c.Missing, t.of(&c.LimitRef))
		f.Allowed.add(c.Dimension, allowed)
		f.Lost.add(c.Dimension, c.Missing-allowed)
		excess := c.Excess
		if t.promise.lossWindow > 0 { // a settle that was lost leaves its estimate
			excess -= min(excess, t.of(&c.LimitRef))
		}
		twice := min(excess, t.twice(&c.LimitRef))
		f.Allowed.add(c.Dimension, twice)
		f.Twice.add(c.Dimension, excess-twice)
		f.broken(Broken{LimitRef: c.LimitRef, Twice: excess - twice, Lost: max(c.Missing-allowed, 0)})
	}
	return f
}
