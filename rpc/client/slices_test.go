// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// lender lends slices of one limit of 1000 requests, which all nodes of a fake share. Each
// check costs one.
type lender struct {
	sync.Mutex
	size    int64         // calls in a slice; 0: nothing is lent
	lease   time.Duration // of a slice
	checks  int64         // that were charged by nodes
	asked   int           // checks that would take a slice
	lent    map[string]int64
	granted int
}

// runLending runs a scene in which the owner lends slices.
func runLending(t *testing.T, o client.Options, addrs []string, test func(scene, *lender)) {
	t.Helper()
	runRing(t, o, addrs, func(t scene) {
		l := &lender{size: 10, lease: time.Second, lent: map[string]int64{}}
		t.check = l.check
		t.lend = l.lend
		test(t, l)
	})
}

func (l *lender) check(r *pb.CheckRequest) *pb.Decision {
	l.Lock()
	defer l.Unlock()
	l.checks++
	return &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetRequestId(), Tier: "free", PolicyVersion: "v1", Owner: "a",
		Route: pb.Route_ROUTE_LOCAL, Binding: new(int32(0)),
		Limits: []*pb.LimitState{{Name: "rpm", Dimension: "requests", Scope: r.GetKey(), Limit: 1000, Capacity: 1000, Remaining: 1000 - l.checks, Cost: 1}},
	}
}

func (l *lender) lend(*fakeNode, *pb.CheckRequest, *pb.Decision) *pb.Slice {
	l.Lock()
	defer l.Unlock()
	l.asked++
	if l.size == 0 {
		return nil
	}
	l.granted++
	id := fmt.Sprint("slice-", l.granted)
	l.lent[id] = l.size
	return &pb.Slice{Id: id, Amounts: []int64{l.size}, LeaseNanos: int64(l.lease)}
}

// set changes what is lent from now on.
func (l *lender) set(size int64) {
	l.Lock()
	defer l.Unlock()
	l.size = size
}

// requested returns how many checks were charged, and how many would take a slice.
func (l *lender) requested() (checks int64, asked int) {
	l.Lock()
	defer l.Unlock()
	return l.checks, l.asked
}

// returnsAt returns the returns that nodes have had, without repetitions.
func returnsAt(t scene) map[string]*pb.SliceReturn {
	returns := map[string]*pb.SliceReturn{}
	for _, n := range t.nodes {
		for _, m := range n.sent() {
			if r, ok := m.(*pb.SliceReturn); ok {
				returns[r.GetSlice()] = r
			}
		}
	}
	return returns
}

// routes makes n checks and counts them by route.
func routes(t scene, n int, call client.Call) map[client.Route]int {
	t.Helper()
	got := map[client.Route]int{}
	for range n {
		d, err := t.c.Check(t.Context(), call)
		if err != nil || d.Denied() {
			t.Fatalf("Check() = %+v, %v, want an allowed call", d, err)
		}
		got[d.Route]++
	}
	return got
}

var alice = client.Call{Key: "acme/alice"}

// A check is answered from a slice once the owner has lent one, with an id of its own and
// less left each time. When half is spent, one check renews the slice. What was spent is
// returned.
func TestCheckFromASlice(t *testing.T) {
	runLending(t, client.Options{}, []string{"a"}, func(t scene, l *lender) {
		first := check(t)
		if first.Route != client.Local {
			t.Errorf("the first check has the route %s, want local", first.Route)
		}
		ids := []string{first.RequestID}
		for i := range 5 {
			d := check(t)
			want := first
			want.Route, want.RequestID = client.Slice, d.RequestID
			want.Limits = slices.Clone(first.Limits)
			want.Limits[0].Remaining -= int64(i + 1)
			want.Binding = want.Limits[0]
			if fmt.Sprint(d) != fmt.Sprint(want) {
				t.Errorf("check %d = %+v, want %+v", i, d, want)
			}
			if d.RequestID == "" || slices.Contains(ids, d.RequestID) {
				t.Errorf("check %d has the id %q, want a new one", i, d.RequestID)
			}
			ids = append(ids, d.RequestID)
		}
		if d := check(t); d.Route != client.Local {
			t.Errorf("the check after half of the slice has the route %s, want local: it renews the slice", d.Route)
		}
		synctest.Wait()
		if r := returnsAt(t); len(r) != 1 || r["slice-1"].GetCalls() != 5 || !slices.Equal(r["slice-1"].GetSpent(), []int64{5}) {
			t.Errorf("returned %v, want slice-1 with 5 calls", r)
		}
		if s := t.c.Status().Slices; s != (client.SliceStatus{Held: 1, Checks: 5, Granted: 2, Returned: 1}) {
			t.Errorf("Status() = %+v", s)
		}
		if checks, asked := l.requested(); checks != 2 || asked != 2 {
			t.Errorf("the owner had %d checks, of which %d would take a slice, want 2", checks, asked)
		}
	})
}

// The owner decides calls of another shape or with an id of the caller, and nobody takes
// slices who says so.
func TestOwnerDecidesWhatASliceIsNotFor(t *testing.T) {
	runLending(t, client.Options{}, []string{"a"}, func(t scene, l *lender) {
		check(t)
		l.set(0)
		for name, call := range map[string]client.Call{
			"another key":          {Key: "acme/bob"},
			"another tier":         {Key: "acme/alice", Tier: "pro"},
			"another model":        {Key: "acme/alice", Model: "m"},
			"another service tier": {Key: "acme/alice", ServiceTier: "flex"},
			"more requests":        {Key: "acme/alice", Requests: new(int64(2))},
			"input":                {Key: "acme/alice", InputTokens: 1},
			"output":               {Key: "acme/alice", OutputTokens: 1},
			"costs":                {Key: "acme/alice", Costs: map[string]int64{"images": 1}},
			"an id of the caller":  {Key: "acme/alice", RequestID: "mine"},
		} {
			if got := routes(t, 1, call); got[client.Local] != 1 {
				t.Errorf("%s: %v, want the answer of the owner", name, got)
			}
		}
		if got := routes(t, 1, client.Call{Key: "acme/alice", Requests: new(int64(1))}); got[client.Slice] != 1 {
			t.Errorf("the same costs, written out: %v, want an answer from the slice", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := t.c.Check(ctx, alice); !errors.Is(err, context.Canceled) {
			t.Errorf("Check() after its context has ended = %v, want its error", err)
		}
	})
	for name, o := range map[string]client.Options{"no slices": {DisableSlices: true}, "no ring": {DisableOwnerRouting: true}} {
		t.Run(name, func(t *testing.T) {
			runLending(t, o, []string{"a"}, func(t scene, l *lender) {
				if got := routes(t, 10, alice); got[client.Local] != 10 {
					t.Errorf("routes %v, want all local", got)
				}
				if _, asked := l.requested(); asked != 0 {
					t.Errorf("%d checks would take a slice, want none", asked)
				}
			})
		})
	}
}

// A slice is over at its deadline, which counts from when the check was sent, and is
// returned then though nobody calls.
func TestSliceEndsAtItsDeadline(t *testing.T) {
	runLending(t, client.Options{}, []string{"a"}, func(t scene, l *lender) {
		t.nodes["a"].behave(func(_ context.Context, nth int) error {
			if nth == 1 {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		check(t)
		time.Sleep(899 * time.Millisecond)
		if got := routes(t, 1, alice); got[client.Slice] != 1 {
			t.Errorf("before the deadline %v, want an answer from the slice", got)
		}
		l.set(0)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if r := returnsAt(t)["slice-1"]; r.GetCalls() != 1 {
			t.Errorf("returned at the deadline %v, want one call", r)
		}
		if got := routes(t, 1, alice); got[client.Local] != 1 {
			t.Errorf("after the deadline %v, want the answer of the owner", got)
		}
		l.set(10)
		t.nodes["a"].behave(func(context.Context, int) error { time.Sleep(300 * time.Millisecond); return nil })
		l.lease = 200 * time.Millisecond
		check(t) // its slice is over when it comes
		time.Sleep(time.Second)
		if r := returnsAt(t)["slice-2"]; r == nil || r.GetCalls() != 0 || !slices.Equal(r.GetSpent(), []int64{0}) {
			t.Errorf("of a slice that came too late, %v was returned, want nothing spent", r)
		}
	})
}

// If several checks come with slices, the first one is spent and the others are returned.
func TestSecondSliceIsReturned(t *testing.T) {
	runLending(t, client.Options{}, []string{"a"}, func(t scene, l *lender) {
		t.nodes["a"].behave(func(context.Context, int) error { time.Sleep(time.Millisecond); return nil })
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() { check(t) })
		}
		calls.Wait()
		time.Sleep(100 * time.Millisecond)
		if s := t.c.Status().Slices; s.Granted < 2 || s.Held != 1 || s.Returned != s.Granted-1 {
			t.Errorf("Status() = %+v, want one slice held, and all others returned", s)
		}
		for id, r := range returnsAt(t) {
			if r.GetCalls() != 0 {
				t.Errorf("%s was returned with %d calls, want none", id, r.GetCalls())
			}
		}
	})
}

// A check whose answer is lost leaves no request for a slice behind: the next one makes it.
func TestLostAnswerOfAnAskingCheck(t *testing.T) {
	runLending(t, client.Options{MaxAttempts: 1}, []string{"a"}, func(t scene, l *lender) {
		check(t)
		routes(t, 5, alice) // half of the slice
		t.nodes["a"].behave(silent)
		if _, err := t.c.Check(t.Context(), alice); !errors.Is(err, client.ErrUnreachable) {
			t.Errorf("Check() that renews a slice, without an answer = %v, want ErrUnreachable", err)
		}
		t.nodes["a"].behave(nil)
		time.Sleep(10 * time.Second) // until the member is asked again
		check(t)
		if got := routes(t, 3, alice); got[client.Slice] == 0 {
			t.Errorf("after a lost answer %v, want answers from a new slice", got)
		}
	})
}

// A return is sent again until the owner has it, and goes to the new owner of the key.
func TestReturnFollowsTheRing(t *testing.T) {
	runLending(t, client.Options{}, []string{"a", "b"}, func(t scene, l *lender) {
		key := keyOf(t.ring(1, "a", "b"), "b")
		call := client.Call{Key: key}
		routes(t, 3, call)
		failed := 0
		t.nodes["b"].behave(func(context.Context, int) error { failed++; return status.Error(codes.Unavailable, "no") })
		time.Sleep(1500 * time.Millisecond)
		if s := t.c.Status().Slices; failed < 3 || s.PendingReturns != 1 || s.FailedReturns == 0 {
			t.Errorf("after %d failures Status() = %+v, want one pending return that is sent again", failed, s)
		}
		t.serveRing(t.ring(2, "a"))
		time.Sleep(2 * time.Second)
		if s := t.c.Status().Slices; s.PendingReturns != 0 || s.Returned != 1 {
			t.Errorf("Status() after the ring has changed = %+v, want the slice returned", s)
		}
		if !slices.Contains(t.nodes["a"].seen(), "slice-1") {
			t.Error("the new owner did not get the return")
		}
	})
	// The client learns of the new owner by a redirect.
	runLending(t, client.Options{}, []string{"a", "b"}, func(t scene, l *lender) {
		key := keyOf(t.ring(1, "a", "b"), "b")
		routes(t, 3, client.Call{Key: key})
		t.decideBy(t.ring(2, "a"))
		time.Sleep(2 * time.Second)
		if r := returnsAt(t)["slice-1"]; r.GetCalls() != 2 || !slices.Contains(t.nodes["a"].seen(), "slice-1") {
			t.Errorf("the new owner got %v, want the return of two calls", r)
		}
	})
}

// Close returns all slices. What was charged is then what was admitted.
func TestCloseReturnsSlices(t *testing.T) {
	runLending(t, client.Options{}, []string{"a", "b"}, func(t scene, l *lender) {
		l.size = 40
		admitted := int64(0)
		for _, key := range keys(50) {
			for _, n := range routes(t, 10, client.Call{Key: key}) {
				admitted += int64(n)
			}
		}
		if held := t.c.Status().Slices.Held; held != 50 {
			t.Errorf("%d slices are held, want 50", held)
		}
		if err := t.c.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		charged, _ := l.requested()
		returned := returnsAt(t)
		for _, r := range returned {
			charged += r.GetSpent()[0]
		}
		if len(returned) != l.granted || charged != admitted {
			t.Errorf("%d of %d slices were returned; %d calls were charged, want %d", len(returned), l.granted, charged, admitted)
		}
		if s := t.c.Status().Slices; s.Held != 0 || s.PendingReturns != 0 || s.LostReturns != 0 {
			t.Errorf("Status() after Close = %+v, want nothing held, pending or lost", s)
		}
	})
	runLending(t, client.Options{Timeout: 2 * time.Second}, []string{"a"}, func(t scene, l *lender) {
		check(t)
		t.nodes["a"].kill()
		if err := t.c.Close(); err == nil || !strings.Contains(err.Error(), "return slices: 1 are lost") {
			t.Errorf("Close() = %v, want that a slice could not be returned", err)
		}
		if lost := t.c.Status().Slices.LostReturns; lost != 1 {
			t.Errorf("%d returns are lost, want 1", lost)
		}
	})
}

// A return that the owner rejects is given up.
func TestRejectedReturn(t *testing.T) {
	runLending(t, client.Options{}, []string{"a"}, func(t scene, l *lender) {
		check(t)
		l.set(0)
		t.nodes["a"].behave(always(codes.InvalidArgument))
		time.Sleep(time.Minute)
		if s := t.c.Status().Slices; s.LostReturns != 1 || s.PendingReturns != 0 || s.FailedReturns != 1 {
			t.Errorf("Status() = %+v, want one lost return that was sent once", s)
		}
	})
}

// A check that was only to renew a slice is answered from it if no node answers the check.
func TestFailureWhileASliceLasts(t *testing.T) {
	runLending(t, client.Options{}, []string{"a"}, func(t scene, _ *lender) {
		check(t)
		t.nodes["a"].behave(func(context.Context, int) error { return status.Error(codes.Unavailable, "no") })
		if got := routes(t, 10, alice); got[client.Slice] != 10 {
			t.Errorf("routes %v, want all 10 calls of the slice", got)
		}
		if d, err := t.c.Check(t.Context(), alice); !errors.Is(err, client.ErrUnreachable) {
			t.Errorf("Check() after the slice is spent = %+v, %v, want ErrUnreachable", d, err)
		}
	})
}

// The check that is to renew a slice is answered from the slice if the owner denies it, as
// long as the slice lasts. Then the owner's denial is the answer.
func TestDenialWhileASliceLasts(t *testing.T) {
	runLending(t, client.Options{}, []string{"a"}, func(t scene, l *lender) {
		check(t)
		t.check = func(*pb.CheckRequest) *pb.Decision {
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, Reason: pb.Reason_REASON_LIMIT_EXCEEDED, Route: pb.Route_ROUTE_LOCAL}
		}
		l.set(0)
		if got := routes(t, 10, alice); got[client.Slice] != 10 {
			t.Errorf("routes %v, want all 10 calls of the slice", got)
		}
		if d := check(t); !d.Denied() {
			t.Errorf("after the slice is spent = %+v, want the denial of the owner", d)
		}
		if d, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice", RequestID: "mine"}); err != nil || !d.Denied() {
			t.Errorf("Check() with an id of the caller = %+v, %v, want the denial of the owner", d, err)
		}
	})
}
