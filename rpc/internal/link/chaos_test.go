// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestEveryCallEndsOnce makes a member slow down, break, end streams with OK, freeze
// and reject streams, at random, for callers with various deadlines. Every call ends
// once and in time, with its own result, and nothing is decided twice.
func TestEveryCallEndsOnce(t *testing.T) {
	seeds := 60
	if testing.Short() || raceEnabled {
		seeds = 15
	}
	outcomes := map[string]int{}
	for seed := range uint64(seeds) {
		for outcome, n := range chaos(t, seed) {
			outcomes[outcome] += n
		}
	}
	t.Logf("outcomes: %v", outcomes)
	for _, want := range []string{"answered", "broken", "timeout", "breaker", "cancelled", "full"} {
		if outcomes[want] == 0 {
			t.Errorf("no call was %s", want)
		}
	}
}

func chaos(t *testing.T, seed uint64) map[string]int {
	rng := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	random := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	decided := map[string]int{}
	outcomes := map[string]int{}
	reported := 0 // calls, by Events.Failed
	f := &fake{
		reject: func(int) error {
			if random(6) == 0 {
				return errRejected
			}
			return nil
		},
		handle: func(_ int, p *pipe) error {
			stop := make(chan struct{})
			ctx, cancel := context.WithCancel(p.ctx)
			defer cancel()
			after := time.Duration(random(3000)) * time.Millisecond
			go func() {
				select {
				case <-time.After(after):
					close(stop)
				case <-ctx.Done():
				}
			}()
			return Serve(p, stop, func(b *pb.Batch) *pb.Answers {
				switch n := random(400); {
				case n == 0:
					panic("broke")
				case n == 1:
					time.Sleep(3 * time.Second)
				case n < 100:
					time.Sleep(time.Duration(random(30)) * time.Millisecond)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, item := range b.GetItems() {
					decided[item.GetCheck().GetKey()]++
				}
				return echo(b)
			})
		},
	}
	o := Options{
		MaxItems: 1 + random(20), MaxQueue: 5 + random(30), Rotate: time.Duration(200+random(2000)) * time.Millisecond,
		Events: Events{Failed: func(_ error, calls int) {
			mu.Lock()
			defer mu.Unlock()
			reported += calls
		}},
	}
	bubble(t, f, o, func(t *testing.T, l *Link) {
		var wg sync.WaitGroup
		for caller := range 1 + random(30) {
			wg.Go(func() {
				for i := range 60 {
					key := fmt.Sprintf("%d-%d", caller, i)
					outcome := oneCall(t, l, key, random)
					mu.Lock()
					outcomes[outcome]++
					if n := decided[key]; n > 1 || n == 0 && outcome == "answered" {
						t.Errorf("seed %d: %s was %s, and decided %d times", seed, key, outcome, n)
					}
					mu.Unlock()
					if random(2) == 0 {
						time.Sleep(time.Duration(random(50)) * time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(5 * time.Second) // late decisions
		synctest.Wait()
		mu.Lock()
		for key, n := range decided {
			if n > 1 {
				t.Errorf("seed %d: %s was decided %d times", seed, key, n)
			}
		}
		all := 0
		for outcome, n := range outcomes {
			if outcome != "answered" {
				all += n
			}
		}
		if reported != all-outcomes["cancelled before"] {
			t.Errorf("seed %d: Events.Failed reported %d calls, want %d", seed, reported, all)
		}
		mu.Unlock()
		if s := l.Status(); s.Queued != 0 || len(l.mu.deadlines) != 0 {
			t.Errorf("seed %d: %+v and %d deadlines are left", seed, s, len(l.mu.deadlines))
		}
		if _, _, most := f.count(); most > 2+1 { // a broken one may still be on its way out
			t.Errorf("seed %d: %d streams at once", seed, most)
		}
	})
	return outcomes
}

func oneCall(t *testing.T, l *Link, key string, random func(int) int) string {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	limit := time.Second
	switch random(6) {
	case 0:
		limit = time.Duration(1+random(50)) * time.Millisecond
		ctx = WithDeadline(ctx, time.Now().Add(limit))
	case 1:
		limit = time.Duration(1+random(50)) * time.Millisecond
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	case 2:
		limit = time.Duration(1+random(100)) * time.Millisecond
		defer time.AfterFunc(limit, cancel).Stop()
	}
	start := time.Now()
	item := check(key)
	p := l.Start(ctx, item)
	item.Call = nil // it is ours again
	r, err := p.Wait(ctx)
	if took := time.Since(start); took > limit {
		t.Errorf("%s took %v, which is more than %v", key, took, limit)
	}
	if err == nil {
		wantResult(t, key, r, err)
		return "answered"
	}
	for want, name := range map[error]string{
		ErrBroken: "broken", ErrBreakerOpen: "breaker", ErrTimeout: "timeout", ErrQueueFull: "full", context.Canceled: "cancelled",
	} {
		if errors.Is(err, want) {
			return name
		}
	}
	t.Errorf("%s: %v", key, err)
	return "unknown"
}
