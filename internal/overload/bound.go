// SPDX-License-Identifier: Apache-2.0

package overload

import "time"

// Bound is how many calls a node may have in progress. By Little's law it bounds how long
// they take, and what is above it is refused at once.
//
// The bound matters only while processors are scarce. If goroutines wait long for one, it
// falls to [CallsPerProcessor], and if they do not, it grows to [MaxCalls]: calls that
// wait for a slow member, or a burst to an idle node, do not make it refuse others. The
// signal, the mean time that goroutines are runnable before they run, is the one that
// CockroachDB's admission control uses.
//
// It decreases and increases by factors, and faster than AIMD, since its range is small.
// It never falls below its least value, because a process that gets few processors has
// long delays with few calls, and a bound that follows delays would shrink until nearly
// nothing is answered. For the same reason it is not a gradient of latencies, as in TCP
// Vegas or in Netflix's concurrency-limits.
//
// The zero value is for use. A Bound is not safe for concurrent use.
type Bound struct {
	window window
	long   int64 // for how long goroutines have waited too long
	calls  int64 // the bound; 0: [MaxCalls]
}

const (
	// CallsPerProcessor is the least bound for each processor. A call takes 50 to 100 µs
	// of processor time, so with all processors these take about 10 ms.
	CallsPerProcessor = 128
	// MaxCalls is the largest bound, unless the least one is larger.
	MaxCalls = 4096
	// LongWait is the mean wait above which the bound falls.
	LongWait = time.Millisecond

	grace = int64(100 * time.Millisecond) // how long a burst may be
)

// Wait returns how long goroutines wait for a processor, on average.
func (b *Bound) Wait() time.Duration { return time.Duration(b.window.wait()) }

// Update returns the bound from now on. The calls are those in progress.
func (b *Bound) Update(m Sample, calls int64) int64 {
	least := CallsPerProcessor * int64(max(m.Processors, 1))
	most := max(least, MaxCalls)
	if b.calls == 0 {
		b.calls = most
	}
	b.window.add(m)
	switch wait := b.window.wait(); {
	case wait > int64(LongWait):
		if b.long = min(b.long+int64(m.Elapsed), grace); b.long == grace {
			b.calls = min(b.calls, calls+calls/8)
			b.calls -= b.calls / 8
		}
	case wait < int64(LongWait)/2:
		b.long = 0
		b.calls += b.calls / 8
	}
	b.calls = min(max(b.calls, least), most)
	return b.calls
}
