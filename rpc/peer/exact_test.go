// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestExact: 48 callers at all nodes get what one limit has, and no more.
func TestExact(t *testing.T) {
	const rounds = 20
	for _, size := range []int{3, 5} {
		t.Run(fmt.Sprint(size, " nodes"), func(t *testing.T) {
			nodes := newCluster(t, size)
			for round := range rounds {
				key := fmt.Sprintf("org%d/user", round)
				var admitted, denied atomic.Int64
				var callers sync.WaitGroup
				for i := range 48 {
					callers.Go(func() {
						n := nodes[i%size]
						for range 5 {
							for _, d := range fiveChecks(t, n, i%4 != 0, &pb.CheckRequest{Key: key, Tier: "thousand"}) {
								switch {
								case d == nil:
									return
								case d.Route == pb.Route_ROUTE_FALLBACK:
									t.Errorf("Check() at %s fell back", n.name)
									return
								case d.Outcome == pb.Outcome_OUTCOME_ALLOWED:
									admitted.Add(1)
								default:
									denied.Add(1)
								}
							}
						}
					})
				}
				callers.Wait()
				if got := admitted.Load(); got != 1000 || denied.Load() != 200 {
					t.Fatalf("round %d: %d of 1200 admitted, %d denied, want 1000 and 200", round, got, denied.Load())
				}
			}
		})
	}
}

// fiveChecks asks five times, one by one or at once. It returns nil for a call
// that failed.
func fiveChecks(t *testing.T, n *node, together bool, q *pb.CheckRequest) (d [5]*pb.Decision) {
	var err error
	if together {
		var b *pb.BatchResponse
		if b, err = n.Batch(context.Background(), batchOf(q, q, q, q, q)); err == nil {
			for i, r := range b.Results {
				if d[i] = r.GetDecision(); d[i] == nil {
					t.Errorf("item at %s = %v", n.name, r)
				}
			}
		}
	} else {
		for i := 0; i < len(d) && err == nil; i++ {
			d[i], err = n.Check(context.Background(), q)
		}
	}
	if err != nil {
		t.Errorf("check at %s: %v", n.name, err)
	}
	return d
}
