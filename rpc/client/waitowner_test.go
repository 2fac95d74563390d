// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A call that waits at a member which does not answer any more is asked again when its key has
// another owner.
func TestWaitFollowsTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("a", "b")
		defer f.stop()
		var denied atomic.Bool
		denied.Store(true)
		f.reserve = func(q *pb.ReserveRequest) *pb.Decision {
			if !denied.Load() {
				return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: q.GetRequestId()}
			}
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, Reason: pb.Reason_REASON_LIMIT_EXCEEDED, MayWait: true, RequestId: q.GetRequestId()}
		}
		f.serveRing(f.ring(1, "a", "b"))
		line := f.nodes["a"].waits() // which answers nothing
		c := f.dial(t, client.Options{}, "a")
		defer func() { _ = c.Close() }()
		time.Sleep(time.Second)
		synctest.Wait()
		key := "k"
		for ownerIn(f.ring(1, "a", "b"), key) != "a" {
			key += "k"
		}
		got := make(chan *client.Reservation, 1)
		go func() {
			r, err := c.Reserve(t.Context(), client.Estimate{Key: key})
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
		synctest.Wait()
		line.mu.Lock()
		waiting := len(line.items)
		line.mu.Unlock()
		if waiting != 1 {
			t.Fatalf("%d calls wait at the owner, want 1", waiting)
		}
		began := time.Now()
		denied.Store(false)
		f.serveRing(f.ring(2, "b"))
		if r := <-got; !r.Allowed() {
			t.Errorf("the answer is %v, want that of the next owner", r.Decision)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v to ask the next owner", took)
		}
	})
}
