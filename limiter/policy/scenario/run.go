// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	amounts "github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// run is the replay of one scenario.
type run struct {
	policy   *policy.Policy
	engine   *limiter.Engine
	start    limiter.Time
	failures []Failure
	log      []string

	number   int // of the step
	step     *step
	plan     limiter.Plan
	decision limiter.Decision
}

func (sc *Scenario) run(p *policy.Policy) (log []string, failures []Failure) {
	r := &run{
		policy: p,
		engine: limiter.New(limiter.Options{Catalog: p.Catalog()}),
		start:  limiter.Time{Mono: 1, Wall: sc.start.UnixNano()},
	}
	for i := range sc.steps {
		r.number, r.step = i+1, &sc.steps[i]
		r.runStep()
	}
	return r.log, r.failures
}

// fail records that the expectation with a key does not hold.
func (r *run) fail(key, format string, args ...any) {
	file, line, column := r.step.position(key)
	r.failures = append(r.failures, Failure{file, line, column, r.number, r.step.String() + fmt.Sprintf(format, args...)})
}

// runStep runs the current step and compares the result with what it expects.
func (r *run) runStep() {
	s := r.step
	now := r.start.Add(s.at)
	var err error
	switch s.verb {
	case check, reserve, peek:
		err = r.decide(now)
	case settle:
		err = r.engine.Settle(now, &limiter.Usage{
			Key: s.key, ID: s.name, InputTokens: s.input, CachedInputTokens: s.cached,
			CacheWriteTokens: s.write, CacheWrite1hTokens: s.write1h, Images: s.images, Searches: s.searches,
			OutputTokens: s.output, Costs: s.costs, ServiceTier: s.serviceTier, Rejected: s.rejected, Final: s.final,
		}, &r.decision)
	case cancel:
		err = r.engine.Cancel(now, s.key, s.name, &r.decision)
	}
	got := r.decision.Outcome.String()
	if err != nil {
		got = errorOutcome(err)
	}
	r.log = append(r.log, r.step.String()+": "+r.became(got, err))
	switch {
	case s.want.outcome == got && err == nil || s.want.outcome == "" && err == nil:
		r.compare()
	case s.want.outcome == got:
	case err != nil && s.want.outcome == "":
		r.fail("", ": %v", err)
	default:
		r.fail("want", " = %s, want %s", r.describe(got, err), s.want.outcome)
	}
}

func (r *run) decide(now limiter.Time) error {
	s := r.step
	if err := r.policy.Resolve(now, s.key, s.tier, s.model, &r.plan); err != nil {
		return err
	}
	request := limiter.Request{
		Key: s.key, Tier: s.tier, Model: s.model, ID: s.name, Plan: &r.plan,
		Requests: s.requests, InputTokens: s.input, OutputTokens: s.output, Costs: s.costs,
		MinOutputTokens: s.minOutput, Choices: s.choices, TTL: s.ttl, ServiceTier: s.serviceTier,
		Priority: s.priority,
	}
	switch s.verb {
	case check:
		return r.engine.Check(now, &request, &r.decision)
	case reserve:
		if request.ID == "" {
			request.ID = fmt.Sprintf("(step %d)", r.number)
		}
		if request.OutputTokens < 0 {
			request.OutputTokens = r.plan.DefaultOutput
		}
		return r.engine.Reserve(now, &request, &r.decision)
	}
	request.InputTokens, request.OutputTokens = 0, 0
	r.engine.Peek(now, &request, &r.decision)
	return nil
}

// errorOutcome returns the word that want has for an error.
func errorOutcome(err error) string {
	switch {
	case errors.Is(err, limiter.ErrUnknownReservation):
		return "unknown"
	case errors.Is(err, limiter.ErrConflict):
		return "conflict"
	}
	return "invalid"
}

// became describes what became of the step.
func (r *run) became(outcome string, err error) string {
	switch {
	case err != nil:
	case r.step.verb == settle || r.step.verb == cancel:
		return r.decision.Status.String()
	case r.step.verb == peek:
		return limitOrNone(r.find(r.step.name))
	case r.decision.Outcome == limiter.Allowed && r.decision.Binding >= 0:
		return outcome + ", " + limitText(&r.decision.Limits[r.decision.Binding])
	}
	return r.describe(outcome, err)
}

// describe returns an outcome and its cause.
func (r *run) describe(outcome string, err error) string {
	d := &r.decision
	switch {
	case err != nil:
		return fmt.Sprintf("%s (%v)", outcome, err)
	case d.Outcome == limiter.Denied && d.Binding >= 0:
		return fmt.Sprintf("%s by %s, %s", outcome, limitText(&d.Limits[d.Binding]), d.Reason)
	case d.Outcome == limiter.Denied:
		return fmt.Sprintf("%s, %s", outcome, d.Reason)
	case d.Outcome == limiter.Degraded:
		return fmt.Sprintf("%s to %d output tokens", outcome, d.GrantedOutputTokens)
	}
	return outcome
}

// limitText describes a limit and its state.
func limitText(l *limiter.LimitState) string {
	name := l.Name
	if name != string(l.Dimension) {
		name += " (" + string(l.Dimension) + ")"
	}
	text := fmt.Sprintf("%s of %s, %s of %s remaining", name, l.Scope,
		policy.FormatAmount(l.Dimension, l.Remaining), policy.FormatAmount(l.Dimension, l.Capacity))
	if l.Debt > 0 {
		text += ", debt " + policy.FormatAmount(l.Dimension, l.Debt)
	}
	return text
}

// compare checks the expectations of the step other than its outcome.
func (r *run) compare() {
	w, d := &r.step.want, &r.decision
	var binding *limiter.LimitState
	if r.step.verb != peek && d.Binding >= 0 && d.Binding < len(d.Limits) {
		binding = &d.Limits[d.Binding]
	}
	if w.by != "" && (binding == nil || binding.Name != w.by && string(binding.Dimension) != w.by) {
		r.fail("by", " is bound by %s, want %s", limitOrNone(binding), w.by)
	}
	decides := r.step.verb == check || r.step.verb == reserve
	if decides && w.scope != "" && (binding == nil || binding.Scope != w.scope) {
		r.fail("scope", " is bound by %s, want one of %s", limitOrNone(binding), w.scope)
	}
	if got := d.Reason.String(); w.reason != "" && got != w.reason {
		if got == "" {
			got = "none"
		}
		r.fail("reason", ": reason %s, want %s", got, w.reason)
	}
	if w.granted >= 0 && d.GrantedOutputTokens != w.granted {
		r.fail("granted", ": granted %d, want %d", d.GrantedOutputTokens, w.granted)
	}
	if w.hasRetryAfter {
		r.compareRetry()
	}
	for _, a := range w.remaining {
		r.compareAmount("remaining", a, binding, func(l *limiter.LimitState) int64 { return l.Remaining })
	}
	for _, a := range w.debt {
		r.compareAmount("debt", a, binding, func(l *limiter.LimitState) int64 { return l.Debt })
	}
}

func limitOrNone(l *limiter.LimitState) string {
	if l == nil {
		return "no limit"
	}
	return limitText(l)
}

func (r *run) compareRetry() {
	got := r.decision.RetryAfter
	if got < 0 {
		r.fail("retry_after", ": retry_after never, want %s", r.step.want.retryAfter)
		return
	}
	if rest := got % time.Millisecond; rest != 0 {
		got += time.Millisecond - rest
	}
	if got != r.step.want.retryAfter {
		r.fail("retry_after", ": retry_after %s, want %s", got, r.step.want.retryAfter)
	}
}

func (r *run) compareAmount(key string, want amount, binding *limiter.LimitState, value func(*limiter.LimitState) int64) {
	name, l := want.limit, binding
	if name == "" && r.step.verb == peek {
		name = r.step.name
	}
	if name != "" {
		l = r.find(name)
	}
	if l == nil {
		if name == "" {
			r.fail(key, ": no limit binds; the call has %s", r.names())
			return
		}
		r.fail(key, ": there is no limit %s; the call has %s", name, r.names())
		return
	}
	amount, err := policy.ParseAmount(l.Dimension, want.text)
	if err != nil {
		r.fail(key, ": %s of %s %v, got %q", key, l.Name, err, want.text)
		return
	}
	if got := value(l); got != amount {
		r.fail(key, ": %s of %s = %s, want %s", key, l.Name, policy.FormatAmount(l.Dimension, got), policy.FormatAmount(l.Dimension, amount))
	}
}

// find returns the limit with that name or, if there is none, that dimension. It
// looks in the scope that the step names or, if it names none, in the most specific
// scope first.
func (r *run) find(name string) *limiter.LimitState {
	limits := r.decision.Limits
	for _, matches := range []func(*limiter.LimitState) bool{
		func(l *limiter.LimitState) bool { return l.Name == name },
		func(l *limiter.LimitState) bool { return string(l.Dimension) == name },
	} {
		for i := len(limits) - 1; i >= 0; i-- {
			if scope := r.step.want.scope; matches(&limits[i]) && (scope == "" || scope == limits[i].Scope) {
				return &limits[i]
			}
		}
	}
	return nil
}

func (r *run) names() string {
	var names []string
	for _, l := range r.decision.Limits {
		if !slices.Contains(names, l.Name) {
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// String returns the report as text: a line per scenario, followed by a line per
// failure that begins with its position.
func (r Report) String() string { return r.text(false) }

// Verbose is String with a line per step.
func (r Report) Verbose() string { return r.text(true) }

func (r Report) text(verbose bool) string {
	var b strings.Builder
	for _, result := range r.Results {
		if len(result.Failures) == 0 {
			fmt.Fprintf(&b, "ok    %s (%s)\n", result.Name, amounts.Plural(int64(result.Steps), "step"))
		} else {
			fmt.Fprintf(&b, "FAIL  %s\n", result.Name)
		}
		if verbose {
			for _, line := range result.Log {
				fmt.Fprintf(&b, "      %s\n", line)
			}
		}
		for _, f := range result.Failures {
			fmt.Fprintf(&b, "  %s:%d:%d: step %d, %s\n", f.File, f.Line, f.Column, f.Step, f.Message)
		}
	}
	fmt.Fprintf(&b, "%d passed, %d failed\n", r.Passed, r.Failed)
	return b.String()
}
