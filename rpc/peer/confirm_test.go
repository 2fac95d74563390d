// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestNotConfirmed: the heir of an owner is silent for a moment. Calls are answered when it
// is back, or denied in fallback; either way each is charged as often as it was admitted.
func TestNotConfirmed(t *testing.T) {
	for _, silent := range []time.Duration{200 * time.Millisecond, time.Second} {
		for _, tier := range []string{"guarded", "thousand"} {
			t.Run(fmt.Sprintf("%s for %s", tier, silent), func(t *testing.T) {
				t.Parallel()
				nodes := newCluster(t, 2)
				owner := nodes[1]
				owner.owners.waits.Store(true)
				back := time.AfterFunc(silent, func() { owner.owners.durable.Store(math.MaxUint64) })
				t.Cleanup(func() { back.Stop() })
				var mu sync.Mutex
				admitted := map[string]int64{} // by key
				var callers sync.WaitGroup
				for i := range 40 {
					callers.Go(func() {
						key := owner.ownedBy(i % 10)
						ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
						defer cancel()
						var d *pb.Decision
						var err error
						if i%3 == 0 {
							d, err = nodes[i%2].Check(ctx, &pb.CheckRequest{Key: key, Tier: tier, InputTokens: 10, OutputTokens: 1})
						} else {
							d, err = nodes[i%2].Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: tier, InputTokens: 10, MaxOutputTokens: new(int64(1))})
						}
						if err != nil {
							t.Logf("%v", err) // refused: nothing may be charged
							return
						}
						if d.Outcome != pb.Outcome_OUTCOME_DENIED {
							mu.Lock()
							admitted[key]++
							mu.Unlock()
						}
					})
				}
				callers.Wait()
				owner.owners.durable.Store(math.MaxUint64)
				for _, n := range nodes {
					if err := n.Flush(waittest.Context(t, testWait)); err != nil {
						t.Fatal(err)
					}
				}
				dimension, each := "tokens", int64(11)
				if tier == "thousand" {
					dimension, each = "requests", 1
				}
				for i := range 10 {
					key := owner.ownedBy(i)
					if got, want := owner.used(key, tier, dimension), admitted[key]*each; got != want {
						t.Errorf("%s: %d %s used, want %d for %d admitted", key, got, dimension, want, admitted[key])
					}
				}
			})
		}
	}
}
