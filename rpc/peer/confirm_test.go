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
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
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

// TestBatchWaitsForHeirs: the heir of an owner takes long to acknowledge the changes of a large
// batch. The calls wait for it together, so that none is decided in fallback, and each is
// charged once.
func TestBatchWaitsForHeirs(t *testing.T) {
	for _, through := range []string{"another member", "the owner"} {
		t.Run(through, func(t *testing.T) {
			t.Parallel()
			nodes := newCluster(t, 2, func(o *Options) { o.Timeout = 2 * time.Second })
			asked, owner := nodes[0], nodes[1]
			if through == "the owner" {
				asked = owner
			}
			owner.owners.waits.Store(true)
			owner.owners.slow.Store(int64(4 * confirmTimeout))
			calls := make([]call.Call, 256)
			for i := range calls {
				calls[i] = call.Of(&pb.CheckRequest{Key: owner.ownedBy(i), Tier: "guarded", InputTokens: 200})
			}
			results := asked.Do(waittest.Context(t, testWait), calls)
			defer results.Release()
			for i := range calls {
				switch d := results.Get(i).GetDecision(); {
				case d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || d.GetRoute() == pb.Route_ROUTE_FALLBACK:
					t.Fatalf("call %d: %v, want one that its owner allows", i, results.Get(i))
				case owner.used(calls[i].Key, "guarded", "tokens") != 200:
					t.Errorf("call %d: %d tokens used, want 200", i, owner.used(calls[i].Key, "guarded", "tokens"))
				}
			}
		})
	}
}

// TestBatchBesideAFrozenOwner: a call that has to wait for its owner does not wait for the
// owner of a later call of its batch, which does not answer.
func TestBatchBesideAFrozenOwner(t *testing.T) {
	nodes := newCluster(t, 3, func(o *Options) { o.Timeout = time.Second })
	slow, frozen := nodes[1], nodes[2]
	slow.owners.waits.Store(true)
	slow.owners.slow.Store(int64(4 * confirmTimeout))
	frozen.listener.setFrozen(true)
	calls := []call.Call{
		call.Of(&pb.CheckRequest{Key: slow.ownedBy(0), Tier: "guarded", InputTokens: 200}),
		call.Of(&pb.CheckRequest{Key: frozen.ownedBy(0), Tier: "open", Requests: new(int64(1))}),
	}
	results := nodes[0].Do(waittest.Context(t, testWait), calls)
	defer results.Release()
	if d := results.Get(0).GetDecision(); d.GetRoute() != pb.Route_ROUTE_FORWARD || d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED {
		t.Errorf("call of the slow owner: %v, want one that its owner allows", results.Get(0))
	}
	if d := results.Get(1).GetDecision(); d.GetRoute() != pb.Route_ROUTE_FALLBACK {
		t.Errorf("call of the frozen owner: %v, want a decision in fallback", results.Get(1))
	}
}

// TestHeirNeverAnswers: the calls of a caller without a deadline do not wait for an heir for
// ever: they are decided in fallback when their time is over.
func TestHeirNeverAnswers(t *testing.T) {
	owner := newCluster(t, 2, func(o *Options) { o.Timeout = 150 * time.Millisecond })[1]
	owner.owners.waits.Store(true)
	calls := make([]call.Call, 3)
	for i := range calls {
		calls[i] = call.Of(&pb.CheckRequest{Key: owner.ownedBy(i), Tier: "open", Requests: new(int64(10))})
	}
	done := make(chan *server.Results, 1) // cap 1: the test may have failed
	go func() { done <- owner.Do(context.Background(), calls) }()
	var results *server.Results
	select {
	case results = <-done:
	case <-time.After(testWait):
		t.Fatal("no answer")
	}
	defer results.Release()
	for i := range calls {
		if d := results.Get(i).GetDecision(); d.GetRoute() != pb.Route_ROUTE_FALLBACK {
			t.Errorf("call %d: %v, want a decision in fallback", i, results.Get(i))
		}
	}
}
