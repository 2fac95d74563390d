// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// wantChargedOnce fails unless each of n calls was charged once.
func wantChargedOnce(t scene, n int) {
	t.Helper()
	if got := len(t.charged()); got != n {
		t.Errorf("charged %d calls, want %d", got, n)
	}
}

// An owner that is connected but silent costs a call its share of the deadline.
// Another node then answers, within the deadline. Calls for other owners are not
// affected.
func TestFrozenOwner(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		r := t.ring(1, "a", "b", "c")
		frozen, other := keyOf(r, "b"), keyOf(r, "c")
		checkKey(t, frozen)
		checkKey(t, other)
		t.nodes["b"].behave(silent)
		for i := range 100 {
			start := time.Now()
			checkKey(t, frozen)
			if took := time.Since(start); took >= client.DefaultTimeout {
				t.Errorf("call %d for the frozen owner took %v, want less than the timeout", i, took)
			}
			start = time.Now()
			checkKey(t, other)
			wantTook(t, start, 0)
		}
		start := time.Now()
		for range 100 { // the breaker is open
			checkKey(t, frozen)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("100 calls for an owner that is known to be frozen took %v, want at most 2s", took)
		}
		wantChargedOnce(t, 302)

		t.nodes["b"].behave(nil)
		time.Sleep(10 * time.Second)
		direct, _ := t.nodes["b"].asked()
		for range 10 {
			checkKey(t, frozen)
		}
		if now, _ := t.nodes["b"].asked(); now < direct+10 {
			t.Errorf("b was asked %d of 10 calls directly after it thawed, want all", now-direct)
		}
	})
}

// However short the deadline, a frozen owner leaves time for another node.
func TestFrozenOwnerAndDeadlines(t *testing.T) {
	for _, limit := range []time.Duration{6 * time.Millisecond, 90 * time.Millisecond, 900 * time.Millisecond, time.Minute} {
		runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
			key := keyOf(t.ring(1, "a", "b"), "b")
			t.nodes["b"].behave(silent)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			start := time.Now()
			if _, err := t.c.Check(ctx, client.Call{Key: key}); err != nil {
				t.Errorf("Check() within %v = %v, want a decision", limit, err)
			}
			if took, most := time.Since(start), 2*min(limit/3, client.DefaultTimeout); took > most {
				t.Errorf("Check() within %v took %v, want at most %v", limit, took, most)
			}
		})
	}
}

func TestOneAttempt(t *testing.T) {
	runRing(t, client.Options{MaxAttempts: 1}, []string{"a", "b"}, func(t scene) {
		key := keyOf(t.ring(1, "a", "b"), "b")
		t.nodes["b"].behave(silent)
		start := time.Now()
		_, err := t.c.Check(t.Context(), client.Call{Key: key})
		wantUnreachable(t, err)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Check() = %v, want DeadlineExceeded", err)
		}
		wantTook(t, start, client.DefaultTimeout)
		wantAsked(t, "b", 1, 0)
		wantAsked(t, "a", 0, 0)
	})
}

func TestOwnerDies(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		t.nodes["b"].kill()
		start := time.Now()
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		wantTook(t, start, 0)
		wantChargedOnce(t, 200)
		t.nodes["b"].start()
		time.Sleep(30 * time.Second)
		before, _ := t.nodes["b"].asked()
		checkKey(t, keyOf(t.ring(1, "a", "b", "c"), "b"))
		if after, _ := t.nodes["b"].asked(); after != before+1 {
			t.Errorf("b was asked %d times after it came back, want 1", after-before)
		}
	})
}

// The nodes have a newer ring than the client: redirects are followed.
func TestRedirects(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		r := t.ring(1, "a", "b", "c")
		key := keyOf(r, "b")
		redirect := func(owner string) func(*pb.Batch, *pb.Answers) {
			return func(_ *pb.Batch, out *pb.Answers) {
				for i := range out.GetResults() {
					out.Results[i] = &pb.Result{Result: &pb.Result_Redirect{Redirect: &pb.Redirect{Owner: owner}}}
				}
			}
		}
		t.decideBy(t.ring(2, "c"))
		start := time.Now()
		checkKey(t, key)
		wantAsked(t, "b", 0, 0)
		wantAsked(t, "c", 1, 0)

		t.nodes["c"].batches(redirect("a")) // a second one: any node decides
		t.decideBy(t.ring(3, "c"))
		checkKey(t, key)
		alone := 0
		for _, n := range t.nodes {
			_, times := n.asked()
			alone += times
		}
		if alone != 1 {
			t.Errorf("%d calls were asked alone, want 1", alone)
		}
		for _, owner := range []string{"", "b", "nobody"} { // nobody else, or nobody at all
			t.nodes["b"].batches(redirect(owner))
			checkKey(t, key)
		}
		// The member may get the consent of its heir, or another one take over: that is waited
		// for, and leaves time to ask another node.
		if took := time.Since(start); took > 4*client.DefaultTimeout*4/5 {
			t.Errorf("four calls that nobody decides took %s, want less than %s each", took, client.DefaultTimeout)
		}
		if got := t.nodes["a"].watches() + t.nodes["b"].watches() + t.nodes["c"].watches(); got > 3 {
			t.Errorf("nodes were asked %d times for the ring, want at most 3", got)
		}
	})
}

// After an invalid answer, other nodes are asked, and no call gets the answer of
// another one.
func TestWrongAnswers(t *testing.T) {
	decision := &pb.Result{Result: &pb.Result_Decision{Decision: &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, RequestId: "other"}}}
	settlement := &pb.Result{Result: &pb.Result_Settlement{Settlement: &pb.Settlement{}}}
	for name, wrong := range map[string]func(*pb.Batch, *pb.Answers){
		"another kind":  func(_ *pb.Batch, out *pb.Answers) { out.Results[0] = settlement },
		"nothing":       func(_ *pb.Batch, out *pb.Answers) { out.Results[0] = &pb.Result{} },
		"too few":       func(_ *pb.Batch, out *pb.Answers) { out.Results = nil },
		"too many":      func(_ *pb.Batch, out *pb.Answers) { out.Results = append(out.Results, decision) },
		"wrong batch":   func(_ *pb.Batch, out *pb.Answers) { out.Sequence += 7 },
		"unavailable":   func(_ *pb.Batch, out *pb.Answers) { out.Results[0] = itemError(codes.Unavailable) },
		"out of time":   func(_ *pb.Batch, out *pb.Answers) { out.Results[0] = itemError(codes.DeadlineExceeded) },
		"garbled":       garbled(0x0a, 5),
		"no text":       garbled(0x0a, 3, 0x1a, 1, 0xff),
		"empty results": func(_ *pb.Batch, out *pb.Answers) { out.Results = []*pb.Result{{}} },
	} {
		t.Run(name, func(t *testing.T) {
			runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
				key := keyOf(t.ring(1, "a", "b"), "b")
				t.nodes["b"].batches(wrong)
				for range 5 {
					if d := checkKey(t, key); !d.Allowed() || d.RequestID == "other" {
						t.Errorf("Check() = %+v, want its own answer", d)
					}
				}
				wantChargedOnce(t, 5)
			})
		})
	}
}

// garbled answers the first item with these bytes.
func garbled(result ...byte) func(*pb.Batch, *pb.Answers) {
	return func(_ *pb.Batch, out *pb.Answers) {
		out.Results = nil
		out.ProtoReflect().SetUnknown(append([]byte{0x1a, byte(len(result))}, result...))
	}
}

func itemError(code codes.Code) *pb.Result {
	return &pb.Result{Result: &pb.Result_Error{Error: &pb.Error{Code: int32(code), Message: "injected"}}}
}

// An error without a code is still an error.
func TestItemErrors(t *testing.T) {
	for code, want := range map[codes.Code]codes.Code{0: codes.Unknown, codes.Internal: codes.Internal, 4711: 4711, codes.PermissionDenied: codes.PermissionDenied} {
		runRing(t, client.Options{}, []string{"a"}, func(t scene) {
			t.nodes["a"].batches(func(_ *pb.Batch, out *pb.Answers) { out.Results[0] = itemError(code) })
			_, err := t.c.Check(t.Context(), client.Call{Key: "acme"})
			if status.Code(err) != want || errors.Is(err, client.ErrUnreachable) {
				t.Errorf("Check() = %v, want the status %v", err, want)
			}
		})
	}
}

// Invalid UTF-8 is rejected by the client, with the name of the field, and large
// fields by a node. Calls in the same batch are not affected.
func TestUnusableTexts(t *testing.T) {
	bad := "org\xff"
	large := strings.Repeat("x", 1<<20)
	runBoth(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		settle := func(key, id string, u client.Usage) error {
			_, err := t.c.Reservation(key, id).Settle(t.Context(), u)
			return err
		}
		check := func(c client.Call) error { _, err := t.c.Check(t.Context(), c); return err }
		reserve := func(e client.Estimate) error { _, err := t.c.Reserve(t.Context(), e); return err }
		peek := func(q client.Query) error { _, err := t.c.Peek(t.Context(), q); return err }
		var others sync.WaitGroup
		for _, key := range keys(50) {
			others.Go(func() { checkKey(t, key) })
		}
		for _, test := range []struct {
			field string
			err   error
		}{
			{"key", check(client.Call{Key: bad})},
			{"tier", check(client.Call{Key: "k", Tier: bad})},
			{"model", check(client.Call{Key: "k", Model: bad})},
			{"request_id", check(client.Call{Key: "k", RequestID: bad})},
			{"costs", check(client.Call{Key: "k", Costs: map[string]int64{bad: 1}})},
			{"key", reserve(client.Estimate{Key: bad})},
			{"tier", reserve(client.Estimate{Key: "k", Tier: bad})},
			{"model", reserve(client.Estimate{Key: "k", Model: bad})},
			{"request_id", reserve(client.Estimate{Key: "k", RequestID: bad})},
			{"costs", reserve(client.Estimate{Key: "k", Costs: map[string]int64{bad: 1}})},
			{"key", settle(bad, "r1", client.Usage{})},
			{"request_id", settle("k", bad, client.Usage{})},
			{"costs", settle("k", "r1", client.Usage{Costs: map[string]int64{bad: 1}})},
			{"key", t.c.Reservation(bad, "r1").Cancel(t.Context())},
			{"request_id", t.c.Reservation("k", bad).Cancel(t.Context())},
			{"key", peek(client.Query{Key: bad})},
			{"tier", peek(client.Query{Key: "k", Tier: bad})},
			{"model", peek(client.Query{Key: "k", Model: strings.Repeat(bad, 1000)})},
		} {
			invalid, ok := errors.AsType[*client.InvalidError](test.err)
			if !ok || invalid.Field != test.field || status.Code(test.err) != codes.InvalidArgument || len(invalid.Message) > 400 {
				t.Errorf("error = %v, want an InvalidError of %s", test.err, test.field)
			}
		}
		for _, err := range []error{ // the fake takes them; a real node would not
			check(client.Call{Key: large}),
			reserve(client.Estimate{Key: "k", Model: large}),
			settle("k", "r1", client.Usage{Costs: map[string]int64{large: 1}}),
			peek(client.Query{Key: large}),
		} {
			if err != nil {
				t.Errorf("a large call = %v, want that a node decides about it", err)
			}
		}
		others.Wait()
		for name, n := range t.nodes {
			if direct, _ := n.asked(); direct > 50 {
				t.Errorf("%s was asked %d times in batches, want the small calls alone", name, direct)
			}
		}
	})
}

// A reservation made in fallback is settled by its own id, at any node.
func TestReservationMadeInFallback(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		key := keyOf(t.ring(1, "a", "b"), "b")
		t.nodes["b"].behave(always(codes.Unavailable))
		t.reserve = func(r *pb.ReserveRequest) *pb.Decision {
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: "fallback:a:" + r.GetRequestId(), Route: pb.Route_ROUTE_FALLBACK, Owner: "a"}
		}
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: key, RequestID: "r1"})
		if err != nil || r.RequestID != "fallback:a:r1" || r.Route != client.Fallback {
			t.Fatalf("Reserve() = %+v, %v, want the id fallback:a:r1", r, err)
		}
		t.nodes["b"].behave(nil)
		if s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(1))}); err != nil || s.RequestID != "fallback:a:r1" {
			t.Errorf("Settle() = %q, %v, want the id fallback:a:r1", s.RequestID, err)
		}
		if direct, _ := t.nodes["b"].asked(); direct != 1 {
			t.Errorf("b was asked %d times in batches, want the reserve alone", direct)
		}
	})
}

// Members join, leave, freeze and redirect under load. Each call is answered, and
// charged once.
func TestRingChangesUnderLoad(t *testing.T) {
	runRing(t, client.Options{Timeout: 2 * time.Second}, []string{"a", "b", "c", "d"}, func(t scene) {
		rings := []*pb.Ring{t.ring(1, "a", "b", "c", "d"), t.ring(2, "a", "b"), t.ring(3, "b", "c", "d"), t.ring(4, "d"), t.ring(5, "a", "c", "d")}
		var stop atomic.Bool
		var calls atomic.Int64
		var callers sync.WaitGroup
		for caller := range 20 {
			callers.Go(func() {
				for i := 0; !stop.Load(); i++ {
					id := fmt.Sprintf("%d-%d", caller, i)
					d, err := t.c.Check(t.Context(), client.Call{Key: fmt.Sprintf("org-%d", (caller*7+i)%97), RequestID: id})
					if err != nil || d.RequestID != id {
						t.Errorf("Check(%s) = %q, %v, want its answer", id, d.RequestID, err)
					}
					calls.Add(1)
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		for i := range 60 {
			r := rings[i%len(rings)]
			switch i % 4 {
			case 0: // the nodes first
				t.decideBy(r)
				time.Sleep(10 * time.Millisecond)
			case 1:
				t.nodes["b"].behave(silent)
			case 2:
				t.nodes["b"].behave(nil)
				t.nodes["c"].drain()
			case 3:
				for _, n := range t.nodes { // the client first
					n.sendRing(r)
				}
				time.Sleep(3 * time.Millisecond)
			}
			t.serveRing(r)
			time.Sleep(50 * time.Millisecond)
		}
		t.nodes["b"].behave(nil)
		stop.Store(true)
		callers.Wait()
		wantChargedOnce(t, int(calls.Load()))
		t.serveRing(t.ring(9, "a", "b", "c", "d"))
		time.Sleep(time.Minute)
		wantFollowed(t, 9, 4)
	})
}

// Calls that arrive while a batch is in flight go together.
func TestCallsGoInBatches(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		var mu sync.Mutex
		var sizes []int
		t.nodes["a"].batches(func(b *pb.Batch, _ *pb.Answers) {
			time.Sleep(time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(b.GetItems()))
		})
		var callers sync.WaitGroup
		for _, key := range keys(200) {
			callers.Go(func() { checkKey(t, key) })
		}
		callers.Wait()
		synctest.Wait()
		if len(sizes) > 20 || slices.Max(sizes) < 20 {
			t.Errorf("200 calls at once went in batches of %v, want few large ones", sizes)
		}
	})
}
