// SPDX-License-Identifier: Apache-2.0

package overload

import "time"

// Sample is what a process measured since the sample before.
type Sample struct {
	Elapsed time.Duration
	// Waits is how long goroutines waited for a processor, in all, and Runs how often
	// one did. If they are measured for some goroutines only, both are.
	Waits time.Duration
	Runs  int64
	// CPU is the processor time that the process has used.
	CPU time.Duration
	// Calls is the least processor time that the calls took which could be refused.
	Calls      time.Duration
	Processors int
}

// window has sums of samples, of which the older weigh less.
type window struct {
	waits, runs, cpu, calls, capacity int64
}

// windowTime is when a sample has lost all its weight, if there are no others meanwhile.
const windowTime = int64(60 * time.Millisecond)

// runScale scales runs, so that few of them do not decay to none.
const runScale = 1 << 10

func (w *window) add(m Sample) {
	keep := max(windowTime-int64(m.Elapsed), 0)
	for _, sum := range []struct {
		of *int64
		m  int64
	}{
		{&w.waits, int64(m.Waits)},
		{&w.runs, m.Runs * runScale},
		{&w.cpu, int64(m.CPU)},
		{&w.calls, int64(m.Calls)},
		{&w.capacity, int64(m.Elapsed) * int64(max(m.Processors, 1))},
	} {
		*sum.of = *sum.of/windowTime*keep + *sum.of%windowTime*keep/windowTime + sum.m
	}
}

// wait returns how long a goroutine waited for a processor on average, in nanoseconds.
func (w *window) wait() int64 {
	if w.runs < runScale {
		return 0
	}
	return w.waits / (w.runs / runScale)
}

// queued returns the processor time that was queued for each processor, in nanoseconds.
func (w *window) queued() int64 {
	const parts = 1 << 10
	if w.capacity == 0 {
		return 0
	}
	return w.wait() / parts * min(w.cpu*parts/w.capacity, parts)
}

// byCalls reports whether calls that could be refused took a good part of the processor
// time, a quarter by the least that they can have taken.
func (w *window) byCalls() bool { return w.calls >= w.cpu/4 && w.calls > 0 }
