// SPDX-License-Identifier: Apache-2.0

// Package scenario tests a policy offline: it replays scenarios against a real
// engine in virtual time and compares its decisions with the expected ones. The
// command "bucketring policy test" uses it.
//
// A file is a list of scenarios. Each starts with an empty engine:
//
//	# tests of the free tier
//	- name: free tier stops the third concurrent stream
//	  tier: free
//	  steps:
//	    - { at: 0s, reserve: 500, id: a, want: allowed }
//	    - { at: 0s, reserve: 500, id: b, want: allowed }
//	    - { at: 0s, reserve: 500, id: c, want: denied, by: concurrent }
//	    - { at: 2s, settle: a, tokens: 1800 }
//	    - { at: 2s, reserve: 500, id: d, want: allowed }
//
// A scenario has a name and steps. Optional are key (default: test), tier and model,
// which its steps may override, and start, the wall clock at 0s in RFC 3339
// (default: 2026-01-01T00:00:00Z, a Thursday).
//
// A step has a time since the start (default: that of the previous step) and one
// verb:
//
//	check: N      charge N input tokens at once
//	reserve: N    hold input_tokens and a maximum output of N tokens
//	settle: ID    report the usage of a reservation; final unless final: false
//	cancel: ID    release all of a reservation
//	peek: LIMIT   look at a limit, by its name or dimension
//
// A check or reserve may also have requests (default: 1), input_tokens,
// output_tokens, costs, service_tier, priority and id, and a reserve min_output_tokens, n and
// ttl. N may then be left out (check: ~). settle and cancel name the id of a reserve.
// A reserve without output tokens asks for the default of the policy. A settle may
// have input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens,
// output_tokens, images, searches, costs, service_tier and rejected; input, output
// and costs that are left out keep their estimate. tokens: T is short for
// input_tokens: 0 and output_tokens: T.
//
// A step may have these expectations:
//
//	want          allowed, degraded, denied (of a check or a reserve), or an
//	              error: unknown (reservation), conflict (of ids), invalid
//	by            the limit, by name or dimension, that denied the call or, if it
//	              was allowed, has the smallest share remaining
//	scope         the scope of that limit; see below
//	reason        as in answers: limit_exceeded, exceeds_capacity, no_price
//	granted       output tokens per choice
//	retry_after   a duration such as 1m30s or 2d, rounded up to the millisecond
//	remaining     what remains of the limit that the peek names or that binds, or
//	              a mapping from limits to amounts; $ for spend
//	debt          likewise
//
// Two levels can have limits with the same name: remaining and debt are about the
// limit in scope, by default the one at the full key.
package scenario

import (
	"regexp"
	"time"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// A Suite is the scenarios of a file.
type Suite struct {
	File      string
	Scenarios []Scenario
}

// A Scenario is a list of steps, replayed on an engine of its own.
type Scenario struct {
	Name  string
	Line  int
	start time.Time
	steps []step
}

type verb string

const (
	check   verb = "check"
	reserve verb = "reserve"
	settle  verb = "settle"
	cancel  verb = "cancel"
	peek    verb = "peek"
)

// step is one step of a scenario. Absent numbers are negative.
type step struct {
	pos  yamldoc.Node
	at   time.Duration
	verb verb
	// name is the id of a reservation, or the limit that a peek looks at.
	name             string
	key, tier, model string

	requests, input, cached, output, minOutput, choices int64
	write, write1h, images, searches                    int64 // 0 if absent

	ttl         time.Duration
	costs       []limiter.Cost
	serviceTier string
	priority    limiter.Priority
	rejected    bool
	final       bool

	want expectation
	keys map[string]yamldoc.Node
}

// expectation is what a step expects. Zero values expect nothing.
type expectation struct {
	outcome, by, scope, reason string
	granted                    int64 // negative: nothing expected
	retryAfter                 time.Duration
	hasRetryAfter              bool
	remaining, debt            []amount
}

// amount is an expected number of a limit. An empty name is the limit that the peek
// names or that binds.
type amount struct {
	limit string
	text  string // parsed once the dimension is known
	at    yamldoc.Node
}

// A Report has the results of a suite.
type Report struct {
	Results []Result `json:"results"`
	Passed  int      `json:"passed"`
	Failed  int      `json:"failed"`
}

// A Result is the result of a scenario, which passed if it has no failures. A
// scenario continues after a failure.
type Result struct {
	Name     string    `json:"name"`
	File     string    `json:"file"`
	Line     int       `json:"line"`
	Steps    int       `json:"steps"`
	Log      []string  `json:"log,omitempty"` // what became of each step
	Failures []Failure `json:"failures,omitempty"`
}

// A Failure is an expectation that did not hold.
type Failure struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Step    int    `json:"step"` // from 1
	Message string `json:"message"`
}

// Run replays the scenarios whose names match only, or all if it is nil, against p. The
// engines use the catalog of p.
func (s *Suite) Run(p *policy.Policy, only *regexp.Regexp) Report {
	var report Report
	for i := range s.Scenarios {
		sc := &s.Scenarios[i]
		if only != nil && !only.MatchString(sc.Name) {
			continue
		}
		result := Result{Name: sc.Name, File: s.File, Line: sc.Line, Steps: len(sc.steps)}
		result.Log, result.Failures = sc.run(p)
		if len(result.Failures) == 0 {
			report.Passed++
		} else {
			report.Failed++
		}
		report.Results = append(report.Results, result)
	}
	return report
}
