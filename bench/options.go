// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"time"
)

// The defaults of [Options].
const (
	DefaultCallers  = 10_000
	DefaultTimeout  = time.Second
	DefaultDrain    = 10 * time.Second
	DefaultInterval = time.Second
)

// Options say what a run does. Target and Workload are needed, and Callers
// without Arrivals.
type Options struct {
	Target   Target
	Workload Workload

	// Arrivals make an open loop: calls are sent when they are due, however slow
	// the target is. Nil makes a closed loop: each caller sends its next call
	// when the one before has its answer. That measures capacity; its latencies
	// leave out the calls that a slow target kept from being sent.
	Arrivals Arrivals
	// Callers is, in a closed loop, how many there are. In an open loop it is the
	// most questions that may be under way; a call that is due beyond that is
	// dropped and counted. 0 means DefaultCallers there.
	Callers int

	// Warmup comes first: its calls are sent and logged, and not measured.
	Warmup time.Duration
	// For is how long is measured after it. 0: until the workload or the
	// arrivals end.
	For time.Duration
	// Timeout is how long one question may take since it was sent, up to 2 %
	// more. 0: DefaultTimeout.
	Timeout time.Duration
	// Drain is how long LLM calls may run on when no more calls are sent. What
	// runs then is settled at once, for what it generated so far. 0:
	// DefaultDrain; below 0: at once.
	Drain time.Duration
	// Interval is the length of the parts of Result.Series. 0: DefaultInterval.
	Interval time.Duration

	// Sink gets every question that was sent, in no certain order, those of the
	// warm-up too. It is called by many goroutines at once and must not block.
	Sink func(Event)
	// Progress gets every interval when it is over, from one goroutine. Answers
	// that were recorded a moment too late are missing in it, but not in
	// Result.Series.
	Progress func(Interval)
}

// open says if calls are sent at times fixed before.
func (o *Options) open() bool { return o.Arrivals != nil }

func (o *Options) withDefaults() (Options, error) {
	n := *o
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if n.Target == nil {
		fail("target: missing")
	}
	if n.Workload == nil {
		fail("workload: missing")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"warmup", n.Warmup}, {"for", n.For}, {"timeout", n.Timeout}, {"interval", n.Interval}} {
		if d.value < 0 {
			fail("%s: %v is below 0", d.name, d.value)
		}
	}
	switch {
	case n.Callers < 0:
		fail("callers: %d is below 0", n.Callers)
	case n.Callers == 0 && n.open():
		n.Callers = DefaultCallers
	case n.Callers == 0:
		fail("callers: a closed loop needs at least 1")
	}
	if n.Timeout == 0 {
		n.Timeout = DefaultTimeout
	}
	if n.Drain == 0 {
		n.Drain = DefaultDrain
	}
	if n.Interval == 0 {
		n.Interval = DefaultInterval
	} else if n.Interval > 0 && n.Interval < minInterval {
		fail("interval: %v is below %v", n.Interval, minInterval)
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("bench: %w", err)
	}
	return n, nil
}

// minInterval keeps a series, and the work for it, small.
const minInterval = 10 * time.Millisecond
