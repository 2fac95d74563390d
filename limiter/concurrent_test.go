// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// TestThousandMeansThousand checks that exactly 1,000 calls are admitted when 100
// goroutines make many more under several keys of one root, and that a call denied by
// one limit is not charged to the others.
func TestThousandMeansThousand(t *testing.T) {
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.SlidingWindow, limiter.FixedWindow} {
		t.Run(a.String(), func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			org := mustSet(t, n.catalog, limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: a, Amount: 1000, Window: time.Hour})
			user := mustSet(t, n.catalog, limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: a, Amount: 1e9, Window: time.Hour})
			var admitted atomic.Int64
			var wg sync.WaitGroup
			for g := range 100 {
				wg.Go(func() {
					key := "acme/user-" + strconv.Itoa(g%10)
					p := plan(key, org, user)
					var d limiter.Decision
					for i := range 20 {
						r := &limiter.Request{Key: key, Plan: p, Requests: 1, InputTokens: 7, ID: strconv.Itoa(g) + "-" + strconv.Itoa(i)}
						call := n.Check
						if i%2 == 1 {
							call = n.Reserve
						}
						if err := call(noon, r, &d); err != nil {
							t.Errorf("call = %v, want a decision", err)
						}
						if d.Outcome == limiter.Allowed {
							admitted.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if got := admitted.Load(); got != 1000 {
				t.Errorf("admitted = %d, want 1000", got)
			}
			tokens := int64(0)
			for u := range 10 {
				key := "acme/user-" + strconv.Itoa(u)
				d := n.peek(noon, &limiter.Request{Key: key, Plan: plan(key, org, user)})
				wantUsed(t, "the organisation", d, 0, 1000)
				tokens += used(d.Limits[1])
			}
			if tokens != 7000 {
				t.Errorf("tokens of all users = %d, want 7 for each admitted call", tokens)
			}
		})
	}
}

// TestSlotsUnderConcurrency checks that there are never more live leases than slots, and
// that no slot is lost.
func TestSlotsUnderConcurrency(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 5})
	var live, peak, served atomic.Int64
	var wg sync.WaitGroup
	for g := range 20 {
		wg.Go(func() {
			var d limiter.Decision
			for i := range 200 {
				r := &limiter.Request{Key: "k", Plan: p, ID: strconv.Itoa(g) + "-" + strconv.Itoa(i)}
				if err := n.Reserve(noon, r, &d); err != nil {
					t.Errorf("Reserve = %v, want a decision", err)
				}
				if d.Outcome == limiter.Denied {
					continue
				}
				if now := live.Add(1); now > peak.Load() {
					peak.Store(now)
				}
				served.Add(1)
				live.Add(-1)
				if err := n.Settle(noon, &limiter.Usage{Key: "k", ID: r.ID, InputTokens: -1, Final: true}, &d); err != nil {
					t.Errorf("Settle = %v, want no error", err)
				}
			}
		})
	}
	wg.Wait()
	if peak.Load() > 5 || served.Load() == 0 {
		t.Errorf("%d leases at once, %d served, want at most 5 and some", peak.Load(), served.Load())
	}
	wantUsed(t, "in the end", n.peek(noon, &limiter.Request{Key: "k", Plan: p}), 0, 0)
}

// TestSweepDuringCalls runs all methods that may run concurrently, for the race detector.
func TestSweepDuringCalls(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeys: 500})
	limits := mustSet(t, n.catalog, tokenLimits()...)
	stop := make(chan struct{})
	var background, wg sync.WaitGroup
	background.Go(func() {
		for now := noon; ; now = now.Add(time.Second) {
			select {
			case <-stop:
				return
			default:
			}
			n.Sweep(now, 5000)
			n.Stats()
			n.Snapshot(now, limiter.PartitionOf("root-1"), nil)
		}
	})
	for g := range 4 {
		wg.Go(func() {
			var d limiter.Decision
			for i := range 500 {
				key := "root-" + strconv.Itoa(i%7) + "/" + strconv.Itoa(i%90)
				p := plan(key, limits, limits)
				r := &limiter.Request{Key: key, Plan: p, Requests: 1, InputTokens: 5, ID: strconv.Itoa(g) + "-" + strconv.Itoa(i)}
				now := noon.Add(time.Duration(i) * time.Millisecond)
				_ = n.Reserve(now, r, &d)
				n.Peek(now, r, &d)
				_ = n.Settle(now, &limiter.Usage{Key: key, ID: r.ID, InputTokens: 3, Final: true}, &d)
				r.ID = ""
				_ = n.Check(now, r, &d)
			}
		})
	}
	wg.Wait()
	close(stop)
	background.Wait()
}
