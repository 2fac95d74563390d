// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// overloadedNode refuses every request except settles and cancels.
func overloadedNode(n *fakeNode) {
	n.behave(func(context.Context, int) error {
		sent := n.sent()
		switch sent[len(sent)-1].(type) {
		case *pb.SettleRequest, *pb.CancelRequest:
			return nil
		}
		return status.Convert(server.Overloaded("too much", 70*time.Millisecond)).Err()
	})
}

func wantOverloaded(t testing.TB, err error) {
	t.Helper()
	e, ok := errors.AsType[*client.OverloadedError](err)
	if !ok || !errors.Is(err, client.ErrOverloaded) || errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("error %v, want an OverloadedError", err)
	}
	st := status.Convert(err)
	retry := false
	for _, detail := range st.Details() {
		if d, ok := detail.(*errdetails.RetryInfo); ok {
			retry = d.GetRetryDelay().AsDuration() == e.RetryAfter
		}
	}
	if st.Code() != codes.ResourceExhausted || !retry || e.RetryAfter <= 0 {
		t.Errorf("status %v of %v, want ResourceExhausted with a RetryInfo", st, err)
	}
}

// A refusal of a node ends a call at once. It is not retried, and the node is not taken
// for one that failed.
func TestNodeRefuses(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		key := keyOf(t.ring(1, "a", "b"), "a")
		for _, n := range t.nodes {
			overloadedNode(n)
		}
		start := time.Now()
		_, err := t.c.Check(t.Context(), client.Call{Key: key})
		wantOverloaded(t, err)
		if e, ok := errors.AsType[*client.OverloadedError](err); !ok || e.RetryAfter != 70*time.Millisecond {
			t.Errorf("%v, want to be told to retry after 70ms", err)
		}
		_, err = t.c.Reserve(t.Context(), client.Estimate{Key: key})
		wantOverloaded(t, err)
		_, err = t.c.Peek(t.Context(), client.Query{Key: key})
		wantOverloaded(t, err)
		wantTook(t, start, 0)
		if n := len(t.nodes["a"].seen()) + len(t.nodes["b"].seen()); n != 3 {
			t.Errorf("nodes were asked %d times, want once for each call", n)
		}
		if _, err := t.c.Reservation(key, "r").Settle(t.Context(), client.Usage{}); err != nil {
			t.Errorf("Settle() = %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(t.nodes["a"].seen()) + len(t.nodes["b"].seen()); n != 4 {
			t.Errorf("nodes were asked %d times, want no withdrawal of what was refused", n)
		}
		for _, n := range t.nodes {
			n.behave(nil)
		}
		checkKey(t, key)
	})
}

// Without a throttle a client would send all it has to a node that refuses.
func TestUnaryCallsAreHeldBack(t *testing.T) {
	run(t, client.Options{}, []string{"a"}, func(t scene) {
		var seen atomic.Int64
		t.nodes["a"].behave(func(_ context.Context, nth int) error {
			if seen.Add(1)%2 == 0 { // it answers half of what comes
				return status.Convert(server.Overloaded("too much", 70*time.Millisecond)).Err()
			}
			return nil
		})
		offered, answered := 0, 0
		for start := time.Now(); time.Since(start) < 3*time.Second; time.Sleep(time.Millisecond) {
			offered++
			if _, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice"}); err == nil {
				answered++
			} else {
				wantOverloaded(t, err)
			}
		}
		if got := int(seen.Load()); got > offered*3/4 {
			t.Errorf("%d of %d calls were sent to a node that refuses, want much less", got, offered)
		}
		if answered == 0 {
			t.Error("no call was answered")
		}
	})
}

// Each owner gets more than it answers. Calls are refused at once by the link, and none is
// sent to another node in place of the owner.
func TestLinkRefuses(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		key := keyOf(t.ring(1, "a", "b"), "a")
		t.nodes["a"].batches(func(b *pb.Batch, _ *pb.Answers) {
			time.Sleep(100 * time.Microsecond * time.Duration(len(b.GetItems())))
		})
		var answered, refused, late atomic.Int64
		var wg sync.WaitGroup
		for start, i := time.Now(), 0; time.Since(start) < 2*time.Second; i++ {
			for range 50 { // per ms, where 10 are answered
				wg.Go(func() {
					began := time.Now()
					_, err := t.c.Check(t.Context(), client.Call{Key: key})
					if err == nil {
						answered.Add(1)
						return
					}
					wantOverloaded(t, err)
					switch took := time.Since(began); {
					case took > 300*time.Millisecond:
						t.Errorf("the refusal took %v", took)
					case took > 0: // of the first burst
						late.Add(1)
					}
					refused.Add(1)
				})
			}
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		if answered.Load() < 18_000 || refused.Load() < 60_000 {
			t.Errorf("%d answered and %d refused of 100,000, want nearly 20,000 and the others", answered.Load(), refused.Load())
		}
		if late.Load() > 4096 {
			t.Errorf("%d calls were not refused at once, want no more than a burst", late.Load())
		}
		if got := len(t.charged()); int64(got) != answered.Load() {
			t.Errorf("%d calls were charged, and %d answered", got, answered.Load())
		}
		if direct, unary := t.nodes["a"].asked(); unary != 0 || int64(direct) != answered.Load() {
			t.Errorf("the owner was asked %d times in batches and %d times by itself", direct, unary)
		}
		wantAsked(t, "b", 0, 0)
		for _, m := range t.c.Status().Members {
			if m.Name == "a" && (m.Refused != uint64(refused.Load()) || m.BreakerOpen) {
				t.Errorf("Status() has %+v, want %d refused", m, refused.Load())
			}
		}
	})
}

// An owner stands still for a part of each second. Calls for other owners keep their
// latency. Calls for the slow one wait for it, and are retried elsewhere only if their
// deadlines are short, within the budget.
func TestSlowOwner(t *testing.T) {
	for _, tt := range []struct {
		name            string
		deadline, still time.Duration
		retried         bool
	}{
		{"long deadlines", time.Second, 300 * time.Millisecond, false},
		{"short deadlines", 200 * time.Millisecond, 230 * time.Millisecond, true}, // the breaker opens after 250
	} {
		t.Run(tt.name, func(t *testing.T) {
			runRing(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
				r := t.ring(1, "a", "b", "c")
				start := time.Now()
				stall := func() {
					if phase := time.Since(start) % time.Second; phase > time.Second-tt.still {
						time.Sleep(time.Second - phase)
					}
				}
				t.nodes["b"].batches(func(*pb.Batch, *pb.Answers) { stall() })
				slow, other := keyOf(r, "b"), keyOf(r, "c")
				var calls, failed atomic.Int64
				var wg sync.WaitGroup
				for time.Since(start) < 10*time.Second {
					for range 5 {
						wg.Go(func() {
							calls.Add(1)
							ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
							defer cancel()
							if _, err := t.c.Check(ctx, client.Call{Key: slow}); err != nil {
								failed.Add(1)
							}
						})
						wg.Go(func() {
							began := time.Now()
							checkKey(t, other)
							if took := time.Since(began); took > 0 {
								t.Errorf("a call for another owner took %v", took)
							}
						})
					}
					time.Sleep(time.Millisecond)
				}
				wg.Wait()
				_, a := t.nodes["a"].asked()
				_, b := t.nodes["b"].asked()
				_, c := t.nodes["c"].asked()
				if retries, most := int64(a+b+c), 100+calls.Load()/10; !tt.retried && retries > 0 || retries > most {
					t.Errorf("%d retries of %d calls, want at most %d", retries, calls.Load(), most)
				}
				if tt.retried && a+b+c < 1000 {
					t.Errorf("%d retries: nothing was tested", a+b+c)
				}
				if !tt.retried && failed.Load() > 0 {
					t.Errorf("%d of %d calls failed", failed.Load(), calls.Load())
				}
			})
		})
	}
}

// A reserve that failed is taken back: each of its attempts is withdrawn.
func TestFailedReserveIsTakenBack(t *testing.T) {
	for _, tt := range []struct {
		name string
		id   string
		ends func(context.Context) (context.Context, context.CancelFunc)
	}{
		{"unreachable", "", func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }},
		{"own id", "mine", func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }},
		{"cancelled", "", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
				key := keyOf(t.ring(1, "a", "b"), "a")
				var mu sync.Mutex
				var attempts, withdrawn []uint64
				t.nodes["a"].batches(func(b *pb.Batch, _ *pb.Answers) {
					mu.Lock()
					defer mu.Unlock()
					for _, item := range b.GetItems() {
						switch {
						case item.GetReserve() != nil:
							attempts = append(attempts, item.GetAttempt())
						case item.GetCancel() != nil && item.GetAttempt() != 0:
							withdrawn = append(withdrawn, item.GetAttempt())
						}
					}
				})
				for _, n := range t.nodes {
					n.behave(func(ctx context.Context, _ int) error {
						sent := n.sent()
						if _, reserve := sent[len(sent)-1].(*pb.ReserveRequest); reserve {
							time.Sleep(3 * time.Second) // decided, and not answered in time
						}
						return nil
					})
				}
				ctx, cancel := tt.ends(t.Context())
				defer cancel()
				if _, err := t.c.Reserve(ctx, client.Estimate{Key: key, RequestID: tt.id}); err == nil {
					t.Fatal("Reserve() succeeded")
				}
				time.Sleep(30 * time.Second)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if len(attempts) != 1 || len(withdrawn) == 0 || withdrawn[0] != attempts[0] {
					t.Errorf("attempts %d at the owner, withdrawn %d, want the one", attempts, withdrawn)
				}
				sent := 0
				for _, n := range t.nodes {
					for _, r := range n.sent() {
						if _, ok := r.(*pb.ReserveRequest); ok {
							sent++
						}
					}
				}
				slices.Sort(withdrawn)
				if n := len(slices.Compact(withdrawn)); n != sent {
					t.Errorf("%d attempts were withdrawn, want all %d that were sent", n, sent)
				}
			})
		})
	}
}

// A burst of which the last calls are sent, and answered too late: the owner has answered
// the others meanwhile, so nobody else is asked.
func TestTooLateAtASlowOwner(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		key := keyOf(t.ring(1, "a", "b"), "a")
		checkKey(t, key)
		t.nodes["a"].batches(func(*pb.Batch, *pb.Answers) { time.Sleep(100 * time.Millisecond) })
		var answered, late, overloaded atomic.Int64
		var wg sync.WaitGroup
		for range 3000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 330*time.Millisecond)
				defer cancel()
				switch _, err := t.c.Check(ctx, client.Call{Key: key}); {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, client.ErrOverloaded):
					overloaded.Add(1)
				case errors.Is(err, client.ErrUnreachable) && errors.Is(err, context.DeadlineExceeded):
					late.Add(1)
				default:
					t.Errorf("Check() = %v", err)
				}
			})
		}
		wg.Wait()
		time.Sleep(2 * time.Minute) // the owner is done, also with the withdrawals
		if answered.Load() == 0 || late.Load() == 0 || overloaded.Load() == 0 {
			t.Errorf("%d answered, %d late, %d overloaded, want some of each", answered.Load(), late.Load(), overloaded.Load())
		}
		wantAsked(t, "b", 0, 0)
		if _, alone := t.nodes["a"].asked(); alone != 0 {
			t.Errorf("the owner was asked %d times by itself", alone)
		}
	})
}

// Many settles at once, without batches, are all answered, and few are in flight.
func TestUrgentUnaryCallsWait(t *testing.T) {
	run(t, client.Options{}, []string{"a"}, func(t scene) {
		var inFlight, most atomic.Int64
		t.nodes["a"].behave(func(context.Context, int) error {
			n := inFlight.Add(1)
			defer inFlight.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(50 * time.Millisecond)
			return nil
		})
		var wg sync.WaitGroup
		for range 2000 {
			wg.Go(func() {
				if _, err := t.c.Reservation("acme/alice", "r").Settle(t.Context(), client.Usage{}); err != nil {
					t.Errorf("Settle() = %v", err)
				}
			})
		}
		wg.Wait()
		if n := most.Load(); n > 256 || n < 100 {
			t.Errorf("%d settles were in flight at once, want at most 256", n)
		}
	})
}
