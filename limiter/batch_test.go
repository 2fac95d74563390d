// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// batchPlans returns plans for keys of one and of two levels, with ten requests a minute
// each.
func batchPlans(t rapid.TB, e *limiter.Engine) func(key string, root int) *limiter.Plan {
	set, err := e.Catalog().LimitSet([]limiter.Limit{{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 10, Window: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	return func(key string, root int) *limiter.Plan {
		p := &limiter.Plan{Count: 2}
		p.Levels[0], p.Levels[1] = limiter.Level{End: root, Limits: set}, limiter.Level{End: len(key), Limits: set}
		if root == len(key) {
			p.Count = 1
		}
		return p
	}
}

// TestBatchIsChecksInOrder compares the decisions of a batch with those of single checks
// in the same order.
func TestBatchIsChecksInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		single, batch := limiter.New(limiter.Options{}), limiter.New(limiter.Options{})
		plans := [2]func(string, int) *limiter.Plan{batchPlans(t, single), batchPlans(t, batch)}
		now := limiter.Time{Mono: 1, Wall: 1}
		for range rapid.IntRange(1, 4).Draw(t, "batches") {
			n := rapid.IntRange(0, 80).Draw(t, "size")
			var rs [2][]*limiter.Request
			ds, errs := make([]*limiter.Decision, n), make([]error, n)
			for i := range n {
				root := fmt.Sprint("root", rapid.IntRange(0, 30).Draw(t, "root"))
				key := root
				if rapid.Bool().Draw(t, "child") {
					key += fmt.Sprint("/child", rapid.IntRange(0, 3).Draw(t, "child"))
				}
				cost := rapid.Int64Range(0, 4).Draw(t, "cost")
				id := fmt.Sprint(rapid.IntRange(0, 200).Draw(t, "id"))
				for e := range rs {
					rs[e] = append(rs[e], &limiter.Request{Key: key, ID: id, Plan: plans[e](key, len(root)), Requests: cost})
				}
				ds[i] = &limiter.Decision{}
			}
			batch.CheckBatch(now, rs[1], ds, errs)
			for i, r := range rs[0] {
				var want limiter.Decision
				wantErr := single.Check(now, r, &want)
				if (errs[i] == nil) != (wantErr == nil) {
					t.Fatalf("item %d of %d: error %v, want %v", i, n, errs[i], wantErr)
				}
				if diff := cmp.Diff(&want, ds[i], cmpopts.IgnoreUnexported(limiter.Decision{})); wantErr == nil && diff != "" {
					t.Fatalf("item %d of %d differs (-want +got):\n%s", i, n, diff)
				}
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second)
		}
	})
}

// TestConcurrentBatches checks that batches with the same partitions in different orders
// neither deadlock nor admit too much.
func TestConcurrentBatches(t *testing.T) {
	const size, workers, rounds, keys = 600, 8, 5, 40
	e := limiter.New(limiter.Options{})
	plan := batchPlans(t, e)
	var admitted [workers][keys]int
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range rounds {
				rs, ds, errs := make([]*limiter.Request, size), make([]*limiter.Decision, size), make([]error, size)
				for i := range rs {
					key := fmt.Sprint("key", (i*(w+1))%keys)
					rs[i], ds[i] = &limiter.Request{Key: key, Plan: plan(key, len(key)), Requests: 1}, &limiter.Decision{}
				}
				e.CheckBatch(limiter.Time{Mono: 1, Wall: 1}, rs, ds, errs)
				for i := range rs {
					if ds[i].Outcome == limiter.Allowed && errs[i] == nil {
						admitted[w][(i*(w+1))%keys]++
					}
				}
			}
		})
	}
	wg.Wait()
	for k := range keys {
		sum := 0
		for w := range workers {
			sum += admitted[w][k]
		}
		if sum != 10 {
			t.Errorf("key %d: %d admitted, want 10", k, sum)
		}
	}
}
