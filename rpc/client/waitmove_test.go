// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// When the owner changes, a call that waits is asked again at the next one, and goes on waiting
// there with what is left of its time.
func TestOwnerOfWaitingCallChanges(t *testing.T) {
	for _, how := range []string{"drained", "killed", "redirect", "unavailable"} {
		t.Run(how, func(t *testing.T) {
			runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
				lines := fill(t)
				key := keyOf(t.ring(1, "a", "b"), "a")
				switch how {
				case "redirect":
					lines["a"].answers(func(*pb.Item) (*pb.Result, time.Duration) {
						return &pb.Result{Result: &pb.Result_Redirect{Redirect: &pb.Redirect{Owner: "b"}}}, 2 * time.Second
					})
				case "unavailable":
					lines["a"].answers(func(*pb.Item) (*pb.Result, time.Duration) { return itemError(codes.Unavailable), 2 * time.Second })
				}
				lines["b"].admits(time.Second)
				time.AfterFunc(2*time.Second, func() {
					switch how {
					case "drained":
						t.nodes["a"].drain()
					case "killed":
						t.nodes["a"].kill()
					}
					time.Sleep(50 * time.Millisecond) // meanwhile nobody else is the owner
					t.serveRing(t.ring(2, "b"))
				})
				start := time.Now()
				d, err := t.c.Check(t.Context(), client.Call{Key: key, RequestID: "r", MaxWait: new(4 * time.Second)})
				took := time.Since(start)
				if err != nil || !d.Allowed() || took < 3*time.Second || took > 3200*time.Millisecond || d.Waited > took || d.Waited < took-50*time.Millisecond {
					t.Errorf("Check() = %+v, %v after %v, want an admission after 3s to 3.2s", d, err, took)
				}
				if lines["a"].count() == 0 {
					t.Error("the call did not wait at a")
				}
				item := lines["b"].came(t.T, 1)[0]
				if got := time.Duration(item.GetWaitedNanos()); got < 2*time.Second || got > 2200*time.Millisecond || item.GetCheck().GetRequestId() != "r" {
					t.Errorf("the call came to b as %v, having waited %v, want 2s", item, got)
				}
				// With what it has waited.
				if got := item.GetCheck().GetMaxWait().AsDuration(); got != 4*time.Second {
					t.Errorf("the call may wait for %v in all, want 4s", got)
				}
				wantWithdrawn(t, "b", "r", 0)
			})
		})
	}
}

// A call that is admitted when it is asked again has waited all the same.
func TestAdmittedWhenAskedAgain(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		start := time.Now()
		t.reserve = func(r *pb.ReserveRequest) *pb.Decision {
			if time.Since(start) < 2*time.Second {
				return full(r.GetRequestId(), r.GetMaxWait())
			}
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetRequestId(), GrantedOutputTokens: new(r.GetMaxOutputTokens())}
		}
		time.AfterFunc(2*time.Second, t.nodes["a"].drain)
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "k", RequestID: "r", MaxOutputTokens: new(int64(100))})
		if err != nil || !r.Allowed() || r.Waited != 2*time.Second || r.Granted() != 100 {
			t.Errorf("Reserve() = %+v, %v, want an admission after 2s", r, err)
		}
		line.came(t.T, 1)
	})
}

// While no stream lasts, a call that may wait is asked again and again, more slowly each time,
// and gets the last denial when its time is over.
func TestStreamsThatEndAtOnce(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		line.fails(codes.Unavailable)
		start := time.Now()
		d, err := t.c.Check(t.Context(), client.Call{Key: "k", RequestID: "r"})
		if err != nil || !d.Denied() || d.Reason != client.LimitExceeded {
			t.Errorf("Check() = %+v, %v, want the last denial", d, err)
		}
		if took := time.Since(start); took > queueFor || took < queueFor-2*time.Second || d.Waited != took {
			t.Errorf("Check() took %v and says that it waited %v, want nearly %v", took, d.Waited, queueFor)
		}
		n := line.count()
		if n < 5 || n > 15 {
			t.Errorf("the call was sent to wait %d times, want about 10", n)
		}
		if len(t.c.Status().Members) > 0 {
			wantWithdrawn(t, "a", "r", n)
		}
	})
}

// If nobody answers any more, the call is not decided.
func TestAllNodesOfWaitingCallDie(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		fill(t)
		time.AfterFunc(2*time.Second, t.stop)
		start := time.Now()
		_, err := t.c.Check(t.Context(), client.Call{Key: "k"})
		wantUnreachable(t, err)
		if took := time.Since(start); took > queueFor || took < queueFor-2*time.Second {
			t.Errorf("Check() took %v, want nearly %v", took, queueFor)
		}
	})
}

// changeOwner has node a, where calls wait, drained after a time. For a second from then on calls are denied
// in fallback, and half a second after a call waits again it is admitted.
func changeOwner(t scene, after time.Duration) *fakeLine {
	line := fill(t)["a"]
	start := time.Now()
	t.check = func(r *pb.CheckRequest) *pb.Decision {
		d := full(r.GetRequestId(), r.GetMaxWait())
		if since := time.Since(start); since >= after && since < after+time.Second {
			d.Route, d.MayWait = pb.Route_ROUTE_FALLBACK, false
		}
		return d
	}
	time.AfterFunc(after, func() {
		line.admits(time.Second / 2)
		t.nodes["a"].drain()
	})
	return line
}

// A denial in fallback while the next owner takes over does not end the wait.
func TestFallbackWhileOwnerChanges(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		line := changeOwner(t, 2*time.Second)
		d, err := t.c.Check(t.Context(), client.Call{Key: "k"})
		if err != nil || !d.Allowed() || d.Waited < 3500*time.Millisecond || d.Waited > 4500*time.Millisecond {
			t.Errorf("Check() = %+v, %v, want an admission about half a second after the next owner took over", d, err)
		}
		line.came(t.T, 2)
	})
}

// No attempt of a call is taken for another one by an owner. A member that denies one in fallback
// withdraws it there, which the client does not know: that must not withdraw a later one.
func TestAttemptsWhileOwnerChanges(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		line := changeOwner(t, time.Second)
		var mu sync.Mutex
		var attempts []uint64
		t.nodes["a"].batches(func(b *pb.Batch, _ *pb.Answers) {
			mu.Lock()
			defer mu.Unlock()
			for _, item := range b.GetItems() {
				if item.GetCheck() != nil {
					attempts = append(attempts, item.GetAttempt())
				}
			}
		})
		if d, err := t.c.Check(t.Context(), client.Call{Key: "k"}); err != nil || !d.Allowed() {
			t.Fatalf("Check() = %+v, %v, want an admission", d, err)
		}
		for _, item := range line.came(t.T, 2) {
			attempts = append(attempts, item.GetAttempt())
		}
		if len(attempts) < 6 {
			t.Fatalf("%d attempts, want at least 6", len(attempts))
		}
		slices.Sort(attempts)
		for i, attempt := range attempts[1:] {
			if attempt-attempts[i] != 7 {
				t.Errorf("attempts %d, want steps of 7", attempts)
			}
		}
	})
}

// If the owner cannot be reached from here, the call waits at another node, which has it wait
// there.
func TestWaitAtAnotherNode(t *testing.T) {
	runScene(t, client.Options{}, []string{"a", "b"}, func(f *fake) {
		f.nodes["a"].hide()
		f.serveRing(f.ring(1, "a", "b"))
		f.nodes["a"].kill()
	}, func(t scene) {
		lines := fill(t)
		lines["b"].admits(2 * time.Second)
		d, err := t.c.Check(t.Context(), client.Call{Key: keyOf(t.ring(1, "a", "b"), "a")})
		if err != nil || !d.Allowed() || d.Waited != 2*time.Second {
			t.Errorf("Check() = %+v, %v, want an admission after 2s", d, err)
		}
		lines["b"].came(t.T, 1)
	})
}

// The lease of a reservation begins when it is admitted, so that it can be brought along by a
// settle after a wait that was longer than the lease.
func TestLeaseAfterWait(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		line := fill(t)["a"]
		line.admits(4 * time.Second)
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", RequestID: "r1", InputTokens: 900, MaxOutputTokens: new(int64(800)), TTL: 2 * time.Second, Priority: client.Interactive})
		if err != nil || !r.Allowed() {
			t.Fatalf("Reserve() = %+v, %v, want an admission", r, err)
		}
		knowsNothing(t.nodes["a"])
		if s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(1))}); err != nil || s.Status != client.Settled {
			t.Errorf("Settle() = %+v, %v, want settled", s, err)
		}
		sent := t.nodes["a"].sent()
		q := sent[len(sent)-1].(*pb.SettleRequest).GetReservation()
		if q.GetRequestId() != "r1" || q.GetPriority() != pb.Priority_PRIORITY_INTERACTIVE || q.GetMaxWait() != nil {
			t.Errorf("with the settle came %v", q)
		}
	})
}

// Close ends the calls that wait.
func TestCloseWithWaitingCalls(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		fill(t)
		ended := make(chan error, 1)
		go func() {
			_, err := t.c.Check(t.Context(), client.Call{Key: "k"})
			ended <- err
		}()
		time.Sleep(time.Second)
		_ = t.c.Close()
		start := time.Now()
		if err := <-ended; err == nil {
			t.Error("Check() = nil after Close, want an error")
		}
		if took := time.Since(start); took > 100*time.Millisecond { // it may be asked again meanwhile
			t.Errorf("Check() took %v after Close", took)
		}
	})
}
