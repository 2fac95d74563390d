// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"time"
)

// The defaults of [Options].
const (
	DefaultCallers      = 10_000
	DefaultTimeout      = time.Second
	DefaultDrainTimeout = 10 * time.Second
	DefaultInterval     = time.Second
)

// Options configure a run. Target and Workload are required, and so is Callers if
// Arrivals is nil.
type Options struct {
	Target   Target
	Workload Workload

	// Arrivals make an open loop: calls are sent when they are due, however slow
	// the target is. Nil makes a closed loop, in which each caller sends its next
	// call when the one before has ended. A closed loop measures capacity; its
	// latencies leave out the calls that a slow target kept from being sent.
	Arrivals Arrivals
	// Callers is the number of callers of a closed loop. In an open loop it is the
	// maximum number of requests in flight, and 0 means DefaultCallers; a call that
	// is due beyond the maximum is dropped and counted.
	Callers int

	// Warmup comes first. Its calls are sent and reported to OnEvent, but not
	// measured.
	Warmup time.Duration
	// Duration is the length of the measured part, after the warm-up. 0 means until
	// the workload or the arrivals end.
	Duration time.Duration
	// Timeout is the time for one request, from when it is sent. Its context may
	// end up to 2 % later. 0 means DefaultTimeout.
	Timeout time.Duration
	// MaxLag is how late a call of an open loop may be sent. A call that the harness would
	// send later is dropped and counted as missed, like those that are more than half as
	// late, so that they do not delay the others. 0 means that calls are sent however late they are, until a second after the end
	// of the run.
	MaxLag time.Duration
	// DrainTimeout is how long LLM calls may continue when no more calls are sent.
	// After that they are settled at once, with what they generated so far. 0 means
	// DefaultDrainTimeout; a negative value means no wait.
	DrainTimeout time.Duration
	// Interval is the length of the intervals of Result.Series, at least 10 ms. 0
	// means DefaultInterval.
	Interval time.Duration

	// OnEvent, if not nil, is called for every request when its answer has arrived,
	// also in the warm-up. It is called concurrently, in no particular order, and
	// must not block.
	OnEvent func(Event)
	// OnInterval, if not nil, is called at the end of every interval, from one
	// goroutine. Its counts may lack answers that were being recorded at that
	// moment; those of Result.Series do not.
	OnInterval func(Interval)
}

// open reports whether this is an open loop.
func (o *Options) open() bool { return o.Arrivals != nil }

func (o *Options) withDefaults() (Options, error) {
	n := *o
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if n.Target == nil {
		fail("target: must not be nil")
	}
	if n.Workload == nil {
		fail("workload: must not be nil")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"warmup", n.Warmup}, {"duration", n.Duration}, {"timeout", n.Timeout}, {"interval", n.Interval}, {"max_lag", n.MaxLag}} {
		if d.value < 0 {
			fail("%s: must not be negative, got %v", d.name, d.value)
		}
	}
	switch {
	case n.Callers < 0:
		fail("callers: must not be negative, got %d", n.Callers)
	case n.Callers == 0 && n.open():
		n.Callers = DefaultCallers
	case n.Callers == 0:
		fail("callers: must be at least 1 without arrivals")
	}
	if n.Timeout == 0 {
		n.Timeout = DefaultTimeout
	}
	if n.DrainTimeout == 0 {
		n.DrainTimeout = DefaultDrainTimeout
	}
	if n.Interval == 0 {
		n.Interval = DefaultInterval
	} else if n.Interval > 0 && n.Interval < minInterval {
		fail("interval: must be at least %v, got %v", minInterval, n.Interval)
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("bench: %w", err)
	}
	return n, nil
}

// minInterval bounds the number of intervals.
const minInterval = 10 * time.Millisecond
