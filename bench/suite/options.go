// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"errors"
	"fmt"
	"time"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/bench/workload"
)

// Arrival is the arrival process of an open loop.
type Arrival string

// The arrivals.
const (
	Constant Arrival = "constant" // evenly spaced
	Poisson  Arrival = "poisson"  // independent callers
)

// DefaultRounds is the number of rounds with several targets: the fewest for which the
// mean of a ratio has a confidence interval.
const DefaultRounds = 5

// DefaultReadyTimeout is the default of Options.ReadyTimeout.
const DefaultReadyTimeout = 10 * time.Second

// Options configure a run. One of LocalNodes and Target is required, and one of Rate,
// Callers and a workload that is a replay.
type Options struct {
	// LocalNodes, if above 0, starts a cluster of that many nodes on this machine. Each
	// node is a process of Binary, or of this executable if Binary is empty.
	LocalNodes int
	// Persist says that these nodes write their state to disk.
	Persist bool
	Binary  string
	// Target is the spec of the target, for package target. With LocalNodes, the specs
	// "", "client:", "grpc:" and "http:" mean the local cluster. Versus are the specs of
	// targets that are measured in turns with it.
	Target string
	Versus []string
	// Targets are options of all targets. Limits are only used by those on Redis.
	Targets target.Options

	Workload workload.Spec
	// Rate makes an open loop of that many calls per second. Callers is the number of
	// callers of a closed loop, or the maximum number of requests in flight of an open
	// loop.
	Rate     float64
	Callers  int
	Arrivals Arrival // empty: poisson

	// Duration is how long each target is measured, in all rounds together. Warmup
	// comes before each round.
	Duration, Warmup time.Duration
	// Rounds is the number of turns of each target. 0 means 1, or DefaultRounds if there
	// are several targets.
	Rounds       int
	Timeout      time.Duration // of a request; 0 means bench.DefaultTimeout
	ReadyTimeout time.Duration // until all targets answer; 0 means DefaultReadyTimeout

	// Overload finds the capacity of each target and then offers it multiples of that; see
	// [report.Overload]. Duration is divided by the multiples. Rate is where the search
	// begins; 0 means 1,000. There is one round, without faults.
	Overload bool

	// Policy is the policy file or directory of the local cluster, and the policy by
	// which targets are audited. Empty means DefaultPolicy for a local cluster, and no
	// audit of other servers.
	Policy string
	// Faults are injected into the local cluster. They need one target and one round.
	Faults []local.Fault

	// Harness, Command and Flags become part of the document.
	Harness *report.Harness
	Command string
	Flags   []report.Flag

	// OnTurnStart and OnTurnEnd are called around each turn of a target, OnInterval for
	// each second of it, and Log for events such as faults. They must not block, and
	// may be nil.
	OnTurnStart func(target string)
	OnTurnEnd   func()
	OnInterval  func(report.Interval)
	Log         func(text string)
}

// TurnLength returns the length of one turn of a target, including its warm-up.
func (o *Options) TurnLength() time.Duration {
	n := o.withDefaults()
	return n.Warmup + n.measuredTurn()
}

// measuredTurn returns the length of the measured part of one turn.
func (o *Options) measuredTurn() time.Duration {
	if o.Overload {
		return o.Duration / time.Duration(len(overloadTimes))
	}
	return o.Duration / time.Duration(max(o.Rounds, 1))
}

func (o *Options) withDefaults() *Options {
	n := *o
	if n.Rounds == 0 {
		n.Rounds = 1
		if len(n.Versus) > 0 && !n.Overload {
			n.Rounds = DefaultRounds
		}
	}
	if n.ReadyTimeout == 0 {
		n.ReadyTimeout = DefaultReadyTimeout
	}
	if n.Arrivals == "" {
		n.Arrivals = Poisson
	}
	if n.OnTurnStart == nil {
		n.OnTurnStart = func(string) {}
	}
	if n.OnTurnEnd == nil {
		n.OnTurnEnd = func() {}
	}
	if n.OnInterval == nil {
		n.OnInterval = func(report.Interval) {}
	}
	if n.Log == nil {
		n.Log = func(string) {}
	}
	return &n
}

// minTurn is the shortest useful turn.
const minTurn = 100 * time.Millisecond

// Validate returns all problems that can be found before the run, joined.
func (o *Options) Validate() error {
	n := o.withDefaults()
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if n.LocalNodes == 0 && n.Target == "" {
		fail("target: must not be empty without a local cluster")
	}
	if n.LocalNodes < 0 {
		fail("local: must not be negative, got %d", n.LocalNodes)
	}
	switch replay := n.replay(); {
	case n.Rate < 0:
		fail("rate: must not be negative, got %v", n.Rate)
	case n.Callers < 0:
		fail("callers: must not be negative, got %d", n.Callers)
	case replay && n.Rate > 0:
		fail("rate: must not be set for a replay, which has its own")
	case replay:
		if err := n.checkTraceLength(); err != nil {
			problems = append(problems, err)
		}
	case !replay && n.Rate == 0 && n.Callers == 0 && !n.Overload:
		fail("rate: must be set without callers")
	}
	if n.Arrivals != Constant && n.Arrivals != Poisson {
		fail("arrivals: must be %s or %s, got %q", Poisson, Constant, n.Arrivals)
	}
	if n.Rounds < 0 {
		fail("rounds: must not be negative, got %d", n.Rounds)
	} else if n.measuredTurn() < minTurn && !n.Overload {
		fail("for: must be at least %s per round, got %s in %d rounds", minTurn, n.Duration, n.Rounds)
	}
	if n.ReadyTimeout < 0 {
		fail("wait: must not be negative, got %s", n.ReadyTimeout)
	}
	if n.Warmup < 0 {
		fail("warmup: must not be negative, got %s", n.Warmup)
	}
	if n.Overload {
		switch {
		case n.replay():
			fail("overload: must not be set for a replay, which has its own rate")
		case n.Rounds > 1:
			fail("overload: needs one round, got %d", n.Rounds)
		case len(n.Faults) > 0:
			fail("overload: must not be set together with faults")
		case n.measuredTurn() < minOverloadStep:
			fail("for: must be at least %s for each of %d loads, got %s", minOverloadStep, len(overloadTimes), n.Duration)
		}
	}
	if len(n.Faults) > 0 {
		switch {
		case n.LocalNodes == 0:
			fail("faults: must only be set for a local cluster")
		case n.Rounds > 1 || len(n.Versus) > 0:
			fail("faults: need one target and one round, got %d targets and %d rounds", 1+len(n.Versus), n.Rounds)
		default:
			if _, err := local.NewPlan(n.LocalNodes, n.Duration, n.Faults...); err != nil {
				fail("faults: %w", err)
			}
		}
	}
	if n.Targets.NoIDs && n.Workload.Retries != (workload.Retries{}) {
		fail("no-ids: must not be set together with retries, which repeat an id")
	}
	if err := n.Workload.Validate(); err != nil {
		fail("workload: %w", err)
	}
	return errors.Join(problems...)
}

// checkTraceLength checks that the trace has calls for all rounds. A single round may
// be longer than the trace, and ends with it.
func (o *Options) checkTraceLength() error {
	length, err := o.Workload.Replay.Duration()
	if err != nil {
		return fmt.Errorf("workload: %w", err)
	}
	needs := o.Warmup + minTurn
	if o.Rounds > 1 {
		needs = o.Warmup + o.Duration
	}
	if needs > length {
		return fmt.Errorf("for: must fit in the trace, which lasts %s at this speed, got %s with the warm-up", length.Round(time.Second/10), needs)
	}
	return nil
}

// replay reports whether the workload has its own times.
func (o *Options) replay() bool { return o.Workload.Replay.String() != "" }

// members returns the least number of nodes of the local cluster that share a limit in
// fallback. A killed node still counts; a node that has left does not.
func (o *Options) members() int {
	n := o.LocalNodes
	for _, f := range o.Faults {
		if f.Kind == local.Leave || f.Kind == local.Restart {
			n-- // a rolling restart stops one node at a time
		}
	}
	return max(n, 1)
}
