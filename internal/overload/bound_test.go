// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"math/rand/v2"
	"testing"
	"time"
)

// waited is a sample of 20 ms in which goroutines waited so long.
func waited(wait time.Duration) Sample {
	return Sample{Elapsed: 20 * time.Millisecond, Waits: 100 * wait, Runs: 100, CPU: 20 * time.Millisecond, Processors: 2}
}

const least = 2 * CallsPerProcessor

func TestBound(t *testing.T) {
	var b Bound
	update := func(d time.Duration, wait time.Duration, calls int64) (bound int64) {
		for range d / (20 * time.Millisecond) {
			bound = b.Update(waited(wait), calls)
		}
		return bound
	}
	if got := update(time.Second, 0, 0); got != MaxCalls {
		t.Errorf("idle: %d, want %d", got, MaxCalls)
	}
	if got := update(time.Second, 100*time.Microsecond, 4000); got != MaxCalls {
		t.Errorf("4000 calls that wait for a member: %d, want %d", got, MaxCalls)
	}
	if got := update(80*time.Millisecond, 12*time.Millisecond, 1000); got < 1000 {
		t.Errorf("a burst of 1000 calls: %d", got)
	}
	if got := update(time.Second, 0, 0); got != MaxCalls {
		t.Errorf("after a burst: %d, want %d", got, MaxCalls)
	}
	if got := update(500*time.Millisecond, 3*time.Millisecond, 2000); got >= 1200 {
		t.Errorf("half a second of overload: %d, want less than 1200", got)
	}
	if got := update(time.Hour, 3*time.Millisecond, 5000); got != least {
		t.Errorf("overload: %d, want %d", got, least)
	}
	if got := update(time.Hour, LongWait*3/4, 5000); got != least {
		t.Errorf("an hour in which the wait is neither long nor short: %d, want %d", got, least)
	}
	if got := update(time.Hour, 150*time.Millisecond, 3); got != least {
		t.Errorf("starved: %d, want %d", got, least)
	}
	if got := update(time.Second, 100*time.Microsecond, 100); got != MaxCalls {
		t.Errorf("a second after the load has ended: %d, want %d", got, MaxCalls)
	}
}

// TestBoundRange: whatever is measured, the bound is in its range.
func TestBoundRange(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var b Bound
		processors := random.IntN(100)
		low := CallsPerProcessor * int64(max(processors, 1))
		for range 200 {
			m := Sample{
				Elapsed: time.Duration(random.Int64N(1e9)), Waits: time.Duration(random.Int64N(1e15)), Runs: random.Int64N(1e7),
				CPU: time.Duration(random.Int64N(1e11)), Processors: processors,
			}
			if got := b.Update(m, random.Int64N(1e5)); got < low || got > max(low, MaxCalls) {
				t.Fatalf("after %+v: %d, want %d to %d", m, got, low, max(low, MaxCalls))
			}
		}
	}
}
