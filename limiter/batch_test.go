// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// TestBatchIsTheSameAsOneByOne: a batch answers as single checks would, request
// by request of each root, ids and errors included.
func TestBatchIsTheSameAsOneByOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		batched, single := newNode(t, limiter.Options{}), newNode(t, limiter.Options{})
		limits := append(tokenLimits(), limiter.Limit{Name: "x", Dimension: "images", Algorithm: limiter.TokenBucket, Amount: 5, Window: time.Hour})
		sets := [2]*limiter.LimitSet{mustSet(t, batched.catalog, limits...), mustSet(t, single.catalog, limits...)}
		now := noon
		for range rapid.IntRange(1, 4).Draw(rt, "batches") {
			size := rapid.IntRange(0, 40).Draw(rt, "size")
			rs, twins := make([]*limiter.Request, size), make([]*limiter.Request, size)
			ds, errs := make([]*limiter.Decision, size), make([]error, size)
			for i := range rs {
				key := fmt.Sprintf("root-%d/%d", rapid.IntRange(0, 5).Draw(rt, "root"), rapid.IntRange(0, 3).Draw(rt, "user"))
				r := limiter.Request{
					Key: key, Requests: 1, Plan: plan(key, sets[0], sets[0]),
					InputTokens: rapid.SampledFrom([]int64{0, 1, 300, 1001, limiter.MaxAmount}).Draw(rt, "input"),
					Costs:       []limiter.Cost{{Dimension: "images", Amount: rapid.Int64Range(0, 2).Draw(rt, "images")}},
				}
				if rapid.Bool().Draw(rt, "has id") {
					r.ID = fmt.Sprint(rapid.IntRange(0, 5).Draw(rt, "id"))
				}
				r.OutputTokens = r.InputTokens / 1001 // 2^53 + some is too much
				twin := r
				twin.Plan = plan(key, sets[1], sets[1])
				rs[i], twins[i], ds[i] = &r, &twin, &limiter.Decision{}
			}
			batched.CheckBatch(now, rs, ds, errs)
			for i := range twins {
				var want limiter.Decision
				err := single.Check(now, twins[i], &want)
				if (err == nil) != (errs[i] == nil) || errors.Is(err, limiter.ErrConflict) != errors.Is(errs[i], limiter.ErrConflict) {
					rt.Fatalf("item %d of a batch: %v, want %v", i, errs[i], err)
				}
				if err == nil {
					sameDecision(rt, fmt.Sprintf("item %d of a batch, %s", i, rs[i].Key), *ds[i], want)
				}
			}
			now = now.At(time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(rt, "passes")))
		}
	})
}
