// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A denied call waits until it is admitted, for longer than a call may take otherwise.
func TestWait(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		line.admits(3 * time.Second)
		start := time.Now()
		d, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice", RequestID: "r", Priority: client.Batch})
		if err != nil || !d.Allowed() || d.Waited != 3*time.Second || d.Place != 3 || d.Priority != client.Batch || d.RequestID != "r" {
			t.Errorf("Check() = %+v, %v, want an admission after 3s", d, err)
		}
		wantTook(t, start, 3*time.Second)
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", MaxWait: new(4 * time.Second)})
		if err != nil || !r.Allowed() || r.Waited != 3*time.Second || r.Granted() != 800 {
			t.Errorf("Reserve() = %+v, %v, want an admission after 3s", r, err)
		}
		wantTook(t, start, 6*time.Second)
		items := line.came(t.T, 2)
		check, reserve := items[0].GetCheck(), items[1].GetReserve()
		if check.GetRequestId() != "r" || check.GetMaxWait() != nil || check.GetPriority() != pb.Priority_PRIORITY_BATCH {
			t.Errorf("the check waited as %v", check)
		}
		if reserve.GetRequestId() != r.RequestID || reserve.GetMaxWait().AsDuration() != 4*time.Second {
			t.Errorf("the reserve waited as %v", reserve)
		}
		for _, item := range items {
			ring := len(t.c.Status().Members) > 0
			if item.GetTimeoutNanos() != 0 || item.GetWaitedNanos() != 0 || item.GetTakesSlice() || item.GetAttempt() != 0 != ring {
				t.Errorf("a call waited as %v", item)
			}
		}
		line.wantLeft(t.T, 0)
	})
}

// Many calls wait by one stream, and none holds another up.
func TestManyWait(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		line.answers(func(item *pb.Item) (*pb.Result, time.Duration) {
			after := time.Duration(len(item.GetCheck().GetTier())) * time.Second
			return admitted(item, after), after
		})
		var calls sync.WaitGroup
		start := time.Now()
		for i := range 50 {
			calls.Go(func() {
				after := time.Duration(i%4+1) * time.Second
				d, err := t.c.Check(t.Context(), client.Call{Key: fmt.Sprint("k", i), Tier: "xxxx"[:i%4+1]})
				if err != nil || d.Waited != after || time.Since(start) != after {
					t.Errorf("Check() = %+v, %v after %v, want an admission after %v", d, err, time.Since(start), after)
				}
			})
		}
		calls.Wait()
	})
}

// A call does not wait if its caller or its limits say so, or if it could not fit.
func TestNoWait(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		start := time.Now()
		if d, err := t.c.Check(t.Context(), client.Call{Key: "k", MaxWait: new(time.Duration(0))}); err != nil || !d.Denied() || d.Waited != 0 || d.RetryAfter != 2*time.Second {
			t.Errorf("Check() with no time to wait = %+v, %v, want a denial", d, err)
		}
		if r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "k", MaxWait: new(time.Duration(0))}); err != nil || !r.Denied() {
			t.Errorf("Reserve() with no time to wait = %+v, %v, want a denial", r, err)
		}
		for name, change := range map[string]func(*pb.Decision){
			"the limit lets no call wait": func(d *pb.Decision) { d.Limits[0].MaxWait = nil },
			"another limit lets none wait": func(d *pb.Decision) {
				d.Limits = append(d.Limits, &pb.LimitState{Name: "requests", Exceeded: true})
			},
			"it can never fit":  func(d *pb.Decision) { d.RetryAfter = nil },
			"another reason":    func(d *pb.Decision) { d.Reason = pb.Reason_REASON_EXCEEDS_CAPACITY },
			"too late":          func(d *pb.Decision) { d.WaitRefused = "too_late" },
			"no owner, denied":  func(d *pb.Decision) { d.Route = pb.Route_ROUTE_FALLBACK },
			"allowed with room": func(d *pb.Decision) { d.Outcome, d.Reason = pb.Outcome_OUTCOME_ALLOWED, 0 },
		} {
			t.check = func(r *pb.CheckRequest) *pb.Decision {
				d := full(r.GetRequestId(), nil)
				d.MayWait = false
				change(d)
				return d
			}
			d, err := t.c.Check(t.Context(), client.Call{Key: "k"})
			if err != nil || d.Waited != 0 {
				t.Errorf("%s: Check() = %+v, %v, want an answer at once", name, d, err)
			}
		}
		wantTook(t, start, 0)
		line.came(t.T, 0)
	})
}

// What no node accepts is an error that names the field, and is not sent.
func TestInvalidWait(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		for _, tt := range []struct {
			wait     *time.Duration
			priority client.Priority
			field    string
			want     string
		}{
			{new(-time.Second), "", "max_wait", "max_wait: must be from 0 to 10m0s, got -1s"},
			{new(client.MaxMaxWait + 1), "", "max_wait", "max_wait: must be from 0 to 10m0s, got 10m0.000000001s"},
			{nil, "urgent", "priority", `priority: must be interactive, standard or batch, got "urgent"`},
		} {
			_, checkErr := t.c.Check(t.Context(), client.Call{Key: "k", MaxWait: tt.wait, Priority: tt.priority})
			_, reserveErr := t.c.Reserve(t.Context(), client.Estimate{Key: "k", MaxWait: tt.wait, Priority: tt.priority})
			for _, err := range []error{checkErr, reserveErr} {
				if invalid, ok := errors.AsType[*client.InvalidError](err); !ok || invalid.Field != tt.field || invalid.Message != tt.want {
					t.Errorf("error = %v, want an InvalidError of %s: %s", err, tt.field, tt.want)
				}
			}
		}
		if seen := t.nodes["a"].seen(); len(seen) != 0 {
			t.Errorf("%d calls were sent, want none", len(seen))
		}
	})
}

// The denial after a wait is the answer, and so is one that says why the call may not wait.
func TestDeniedAfterWait(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		line.answers(func(item *pb.Item) (*pb.Result, time.Duration) {
			d := full(item.GetCheck().GetRequestId(), nil)
			d.MayWait, d.WaitRefused = false, "limit_full"
			return decided(d), 0
		})
		d, err := t.c.Check(t.Context(), client.Call{Key: "k"})
		if err != nil || !d.Denied() || d.WaitRefused != "limit_full" || d.Waited != 0 {
			t.Errorf("Check() = %+v, %v, want a denial because the line is full", d, err)
		}
		line.fails(codes.ResourceExhausted)
		if d, err = t.c.Check(t.Context(), client.Call{Key: "k"}); err != nil || !d.Denied() || d.WaitRefused != "client_full" || d.Waited != 0 {
			t.Errorf("Check() = %+v, %v, want a denial because too many calls wait", d, err)
		}
		line.fails(codes.InvalidArgument)
		if _, err = t.c.Check(t.Context(), client.Call{Key: "k"}); err == nil || errors.Is(err, client.ErrUnreachable) {
			t.Errorf("Check() = %v, want the error of the node", err)
		}
		line.came(t.T, 3)
	})
}

// A node of an earlier version knows no Wait: the denial is the answer.
func TestNodeWithoutWait(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		fill(t)
		t.nodes["a"].mu.begin = nil
		start := time.Now()
		for range 3 {
			if d, err := t.c.Check(t.Context(), client.Call{Key: "k"}); err != nil || !d.Denied() || d.Waited != 0 {
				t.Errorf("Check() = %+v, %v, want a denial", d, err)
			}
		}
		wantTook(t, start, 0)
	})
}

// The deadline of the caller bounds the wait, with time for the answer. When it is over all the
// same, the last denial is the answer, and the attempt is withdrawn.
func TestWaitDeadline(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		d, err := t.c.Check(ctx, client.Call{Key: "k", RequestID: "r", MaxWait: new(time.Minute)})
		if err != nil || !d.Denied() || d.Reason != client.LimitExceeded || d.Waited != 3*time.Second || d.WaitRefused != "" {
			t.Errorf("Check() = %+v, %v, want the denial", d, err)
		}
		wantTook(t, start, 3*time.Second)
		item := line.came(t.T, 1)[0]
		if got := item.GetCheck().GetMaxWait().AsDuration(); got != 2900*time.Millisecond || item.GetTimeoutNanos() != int64(3*time.Second) {
			t.Errorf("the call may wait for %v with a timeout of %v, want 2.9s and 3s", got, time.Duration(item.GetTimeoutNanos()))
		}
		line.wantLeft(t.T, 1)
		wantWithdrawn(t, "a", "r", 1)
	})
}

// wantWithdrawn fails unless a node was sent so many withdrawals of a call.
func wantWithdrawn(t scene, node, id string, n int) {
	t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	got := 0
	for _, q := range t.nodes[node].sent() {
		if c, ok := q.(*pb.CancelRequest); ok && c.GetRequestId() == id {
			got++
		}
	}
	if got != n {
		t.Errorf("%d attempts were withdrawn, want %d", got, n)
	}
}

// A caller that goes leaves the line, and what it may have been charged is taken back.
func TestWaitingCallerGoes(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		start := time.Now()
		if _, err := t.c.Reserve(ctx, client.Estimate{Key: "k", RequestID: "r"}); !errors.Is(err, context.Canceled) {
			t.Errorf("Reserve() = %v, want Canceled", err)
		}
		wantTook(t, start, 2*time.Second)
		line.came(t.T, 1)
		line.wantLeft(t.T, 1)
		wantWithdrawn(t, "a", "r", 1)
	})
}

// A member that forgets a call does not hold it for ever.
func TestForgottenWait(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		start := time.Now()
		if d, err := t.c.Check(t.Context(), client.Call{Key: "k"}); err != nil || !d.Denied() || d.Waited != queueFor+client.DefaultTimeout {
			t.Errorf("Check() = %+v, %v, want the denial", d, err)
		}
		wantTook(t, start, queueFor+client.DefaultTimeout)
		line.wantLeft(t.T, 1)
	})
}
