// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

const memoryPolicy = `
tiers:
  org:
    limits:
      - { name: org-tokens, dimension: tokens, limit: 600_000, window: 1m, burst: 1_000, queue: { max_wait: 10m, max_depth: 10_000 } }
  user:
    limits:
      - { name: rpm, dimension: requests, limit: 1_000, window: 1m }
      - { name: tpm, dimension: tokens, limit: 100_000, window: 1m, queue: { max_wait: 10m, max_depth: 10_000 } }
default_tier: user
assign: [{ key: "org-*", tier: org }]
`

// TestMemoryOfWaitingCalls measures what a member needs for 10,000 calls that wait at it, with
// the lines and the index of their ids, but without their requests, which all calls have.
func TestMemoryOfWaitingCalls(t *testing.T) {
	const n = 10_000
	for _, c := range []struct {
		roots int
		most  int64 // bytes
	}{
		{1, 10_000_000},
		{1_000, 20_000_000},
		{n, 60_000_000}, // each in a line of its own
	} {
		synctest.Test(t, func(t *testing.T) { // time stands still, so that they stay
			service, setPolicy := waitingNode(t)
			setPolicy(memoryPolicy)
			for i := range c.roots {
				full := &pb.CheckRequest{Key: fmt.Sprintf("org-%d", i), InputTokens: 1_000}
				if d := service.do(t, full).GetDecision(); d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED {
					t.Fatalf("the call that uses up a limit: %v", d)
				}
			}
			empty := heapInUse()
			requests := make([]*pb.ReserveRequest, n)
			for i := range requests {
				requests[i] = &pb.ReserveRequest{
					Key: fmt.Sprintf("org-%d/user-%06d", i%c.roots, i), RequestId: fmt.Sprintf("request-%026d", i), Model: "llama-3-70b",
					InputTokens: 80, MaxOutputTokens: new(int64(20)), TtlSeconds: new(int64(30)), MaxWait: durationpb.New(9 * time.Minute),
				}
			}
			ended := 0
			done := func(r *Results) {
				ended++
				r.Release()
			}
			before := heapInUse()
			waiters := make([]*Waiter, n)
			for i := range waiters {
				waiters[i] = &Waiter{Done: done, Call: call.Of(requests[i])}
				service.Enqueue(waiters[i])
			}
			took := heapInUse() - before
			if got := service.Waiting(); got.Standard != n || ended != 0 {
				t.Fatalf("%d wait, and %d have ended, want %d and none", got.Standard, ended, n)
			}
			t.Logf("%d roots: %d bytes for each call that waits, and %d for its request", c.roots, took/n, (before-empty)/n)
			if took > c.most {
				t.Errorf("%d calls that wait under %d roots need %d bytes, want at most %d", n, c.roots, took, c.most)
			}
			for _, w := range waiters {
				service.Leave(w)
			}
			runtime.KeepAlive(requests)
		})
	}
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
