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

// Arrival is how calls of an open loop are spread over time.
type Arrival string

// The arrivals.
const (
	Constant Arrival = "constant" // evenly
	Poisson  Arrival = "poisson"  // as independent callers make them
)

// DefaultRounds is how often each of several targets has its turn: the fewest for
// which the mean of a ratio has an interval.
const DefaultRounds = 5

// DefaultWait is how long a target may take until it answers for the first time.
const DefaultWait = 10 * time.Second

// Options say what is run. One of Local and Target is needed, and one of Rate,
// Callers and a workload that is a replay.
type Options struct {
	// Local starts a cluster of as many nodes on this machine, each of them a
	// process of Binary (empty: this executable).
	Local  int
	Binary string
	// Target is asked, as package target names it; with Local, $NODES in it are
	// the gRPC addresses of all nodes, and empty is the client library. Versus are
	// asked in turns with it.
	Target string
	Versus []string
	// Targets configure them. Limits are those of Redis.
	Targets target.Options

	Workload workload.Spec
	// Rate makes an open loop of as many calls per second. Callers make a closed
	// loop, or bound the questions under way in an open one.
	Rate     float64
	Callers  int
	Arrivals Arrival // empty: poisson

	// For is how long each target is measured, in all its rounds together, and
	// Warmup comes before each round.
	For, Warmup time.Duration
	// Rounds is how often each target has its turn. 0: once, and DefaultRounds if
	// there are several targets.
	Rounds  int
	Timeout time.Duration // of a question; 0: that of package bench
	Wait    time.Duration // until a target answers for the first time; 0: DefaultWait

	// Policy is the policy file or directory of the cluster, and what Target is
	// audited by. Empty: DefaultPolicy for a local cluster, and no audit of
	// others.
	Policy string
	// Faults happen to the local cluster. They need one target and one round.
	Faults []local.Fault

	// Harness, Command and Flags go into the document.
	Harness *report.Harness
	Command string
	Flags   []report.Flag

	// Begin is called when a target has its turn, Progress for each second of it,
	// End when it is over, and Log for each thing that happens, such as a fault.
	// They must not block. Nil: nobody wants to know.
	Begin    func(target string)
	End      func()
	Progress func(report.Interval)
	Log      func(text string)
}

// Turn is how long each turn of a target takes, with its warm-up.
func (o *Options) Turn() time.Duration {
	n := o.withDefaults()
	return n.Warmup + n.turn()
}

// turn is how long is measured in one turn.
func (o *Options) turn() time.Duration { return o.For / time.Duration(max(o.Rounds, 1)) }

func (o *Options) withDefaults() *Options {
	n := *o
	if n.Rounds == 0 {
		n.Rounds = 1
		if len(n.Versus) > 0 {
			n.Rounds = DefaultRounds
		}
	}
	if n.Wait == 0 {
		n.Wait = DefaultWait
	}
	if n.Arrivals == "" {
		n.Arrivals = Poisson
	}
	if n.Begin == nil {
		n.Begin = func(string) {}
	}
	if n.End == nil {
		n.End = func() {}
	}
	if n.Progress == nil {
		n.Progress = func(report.Interval) {}
	}
	if n.Log == nil {
		n.Log = func(string) {}
	}
	return &n
}

// shortest is the shortest turn that says anything.
const shortest = 100 * time.Millisecond

// Validate returns every problem that can be seen before the run.
func (o *Options) Validate() error {
	n := o.withDefaults()
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if n.Local == 0 && n.Target == "" {
		fail("target: is missing, without a local cluster")
	}
	if n.Local < 0 {
		fail("local: must not be negative, got %d", n.Local)
	}
	switch replay := n.replay(); {
	case n.Rate < 0:
		fail("rate: must not be negative, got %v", n.Rate)
	case n.Callers < 0:
		fail("callers: must not be negative, got %d", n.Callers)
	case replay && n.Rate > 0:
		fail("rate: a replay has a rate of its own")
	case replay:
		if err := n.fits(); err != nil {
			problems = append(problems, err)
		}
	case !replay && n.Rate == 0 && n.Callers == 0:
		fail("rate: is missing, without callers")
	}
	if n.Arrivals != Constant && n.Arrivals != Poisson {
		fail("arrivals: must be %s or %s, got %q", Poisson, Constant, n.Arrivals)
	}
	if n.Rounds < 0 {
		fail("rounds: must not be negative, got %d", n.Rounds)
	} else if n.turn() < shortest {
		fail("for: must be %s or more per round, got %s in %d rounds", shortest, n.For, n.Rounds)
	}
	if n.Wait < 0 {
		fail("wait: must not be negative, got %s", n.Wait)
	}
	if n.Warmup < 0 {
		fail("warmup: must not be negative, got %s", n.Warmup)
	}
	if len(n.Faults) > 0 {
		switch {
		case n.Local == 0:
			fail("faults: only nodes of a local cluster can be broken")
		case n.Rounds > 1 || len(n.Versus) > 0:
			fail("faults: need one target and one round, got %d targets and %d rounds", 1+len(n.Versus), n.Rounds)
		default:
			if _, err := local.NewPlan(n.Local, n.For, n.Faults...); err != nil {
				fail("faults: %w", err)
			}
		}
	}
	if err := n.Workload.Validate(); err != nil {
		fail("workload: %w", err)
	}
	return errors.Join(problems...)
}

// fits reports whether the trace has calls for all rounds. One round may be longer:
// it ends with the trace.
func (o *Options) fits() error {
	length, err := o.Workload.Replay.Duration()
	if err != nil {
		return fmt.Errorf("workload: %w", err)
	}
	needs := o.Warmup + shortest
	if o.Rounds > 1 {
		needs = o.Warmup + o.For
	}
	if needs > length {
		return fmt.Errorf("for: the trace ends after %s at this speed, and %s are needed, with the warm-up", length.Round(time.Second/10), needs)
	}
	return nil
}

// replay reports whether the workload brings its own times.
func (o *Options) replay() bool { return o.Workload.Replay.String() != "" }

// members is how many nodes of the local cluster share a limit in fallback, at the
// least: one that was killed counts on, one that has left does not.
func (o *Options) members() int {
	n := o.Local
	for _, f := range o.Faults {
		if f.Kind == local.Leave || f.Kind == local.Restart {
			n-- // a restart is of one at a time
		}
	}
	return max(n, 1)
}
