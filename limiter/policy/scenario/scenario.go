// SPDX-License-Identifier: Apache-2.0

// Package scenario tests a policy offline: it replays written scenarios against
// a real engine in virtual time and compares what it decides with what the
// author expects. It is the engine behind "bucketring policy test".
//
// A file is a list of scenarios. Each starts with an engine that has seen
// nothing:
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
// A scenario has a name, steps, and optionally key (default: test), tier and
// model, which its steps may override, and start, the wall clock at 0s in RFC
// 3339 (default: 2026-01-01T00:00:00Z, a Thursday).
//
// A step happens at the given time since the start (default: when the step
// before it did; never earlier) and does one thing:
//
//	check: N      charge N input tokens for good
//	reserve: N    hold input_tokens and a max output of N tokens
//	settle: ID    report what the reservation has used; final unless final: false
//	cancel: ID    give all of the reservation back
//	peek: LIMIT   look at a limit, by its name or dimension
//
// N may be left out (check: ~) where the other keys say it all: requests (1 by
// default), input_tokens, output_tokens, costs; for a reserve also
// min_output_tokens, n, ttl, and its id, which settle and cancel name (a check
// may have one too). A reserve without any output asks for the policy's
// default. A settle has input_tokens, cached_input_tokens, output_tokens and
// costs; what it leaves out keeps its estimate. tokens: T stands for
// input_tokens: 0 and output_tokens: T.
//
// What a step expects, all of it optional:
//
//	want          allowed, degraded, denied (of a check or a reserve), or an
//	              error: unknown (reservation), conflict (of ids), invalid
//	by            the limit, by name or dimension, that denied or, when
//	              allowed, is the one with the smallest share left
//	scope         the key path of that limit; see below
//	reason        as in answers: limit_exceeded, exceeds_capacity, no_price
//	granted       output tokens per choice
//	retry_after   a duration, rounded up to the millisecond
//	remaining     of the limit that a peek names, or that by names, or that
//	              binds; or a mapping from limits to amounts. $ for spend
//	debt          likewise
//
// Two limits of different levels can have the same name: scope then says which
// one remaining and debt are about, the full key's being the default.
package scenario

import (
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

// A Scenario is a list of steps against an engine of its own.
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

// step is one step; absent numbers are negative.
type step struct {
	pos  yamldoc.Node
	at   time.Duration
	verb verb
	// name is the id of a reservation, or the limit that a peek looks at.
	name             string
	key, tier, model string

	requests, input, cached, output, minOutput, choices int64

	ttl   time.Duration
	costs []limiter.Cost
	final bool

	want  expectation
	where map[string]yamldoc.Node // of each key
}

// expectation is what a step should come to; zero values expect nothing.
type expectation struct {
	outcome, by, scope, reason string
	granted                    int64 // negative: nothing expected
	retryAfter                 time.Duration
	hasRetryAfter              bool
	remaining, debt            []amount
}

// amount is an expected number of a limit; an empty name is the limit that
// the step is about.
type amount struct {
	limit string
	text  string // parsed when the dimension is known
	at    yamldoc.Node
}

// A Report is what came of a suite.
type Report struct {
	Results []Result `json:"results"`
	Passed  int      `json:"passed"`
	Failed  int      `json:"failed"`
}

// A Result is what came of a scenario, which has passed if nothing failed. A
// scenario goes on after a failure.
type Result struct {
	Name     string    `json:"name"`
	File     string    `json:"file"`
	Line     int       `json:"line"`
	Steps    int       `json:"steps"`
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

// Run replays the suite against p. The policy's catalog serves its engines.
func (s *Suite) Run(p *policy.Policy) Report {
	var report Report
	for i := range s.Scenarios {
		sc := &s.Scenarios[i]
		result := Result{Name: sc.Name, File: s.File, Line: sc.Line, Steps: len(sc.steps), Failures: sc.run(p)}
		if len(result.Failures) == 0 {
			report.Passed++
		} else {
			report.Failed++
		}
		report.Results = append(report.Results, result)
	}
	return report
}
