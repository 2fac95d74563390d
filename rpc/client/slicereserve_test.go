// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// tariff is that of a slice of one limit on tokens.
var tariff = sync.OnceValue(func() []byte {
	e := limiter.New(limiter.Options{})
	limits, err := e.Catalog().LimitSet([]limiter.Limit{{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 10_000, Window: time.Hour}})
	if err != nil {
		panic(err)
	}
	p := limiter.Plan{Tier: "free", Count: 1, Rates: limiter.Rates{Weights: limiter.DefaultWeights}, DefaultOutput: 7}
	p.Levels[0] = limiter.Level{End: 1, Tier: "free", Limits: limits}
	r := &limiter.Request{Key: "k", Plan: &p, InputTokens: 10, ID: "first"}
	now, loan, d := limiter.Time{Mono: 1, Wall: 1}, limiter.Loan{ID: "slice", Share: 1000, Holders: 1, Reserve: true}, limiter.Decision{}
	if err := e.Reserve(now, r, &d); err != nil {
		panic(err)
	}
	if ok, err := e.Lend(now, r, &loan, &d); !ok || err != nil {
		panic(fmt.Sprint("nothing is lent: ", err))
	}
	return loan.Tariff.Append(nil)
})

// runLendingReserves runs a scene in which the owner lends slices for reserves: of 1000 tokens
// of a limit of 10000, for a second.
func runLendingReserves(t *testing.T, o client.Options, test func(scene, *lender)) {
	t.Helper()
	runRing(t, o, []string{"a"}, func(t scene) {
		l := &lender{size: 1000, lease: time.Second, lent: map[string]int64{}}
		t.reserve = func(r *pb.ReserveRequest) *pb.Decision {
			cost := r.GetInputTokens() + r.GetMaxOutputTokens()
			l.Lock()
			defer l.Unlock()
			l.checks += cost
			return &pb.Decision{
				Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetRequestId(), Tier: "free", PolicyVersion: "v1", Owner: "a",
				Route: pb.Route_ROUTE_LOCAL, Binding: new(int32(0)), GrantedOutputTokens: r.MaxOutputTokens, BoundOutput: true,
				Limits: []*pb.LimitState{{Name: "tpm", Dimension: "tokens", Scope: r.GetKey(), Limit: 10_000, Capacity: 10_000, Remaining: 10_000 - l.checks, Cost: cost}},
			}
		}
		t.lend = func(n *fakeNode, q *pb.CheckRequest, d *pb.Decision) *pb.Slice {
			s := l.lend(n, q, d)
			if s != nil && q == nil {
				s.Tariff = tariff()
			}
			return s
		}
		test(t, l)
	})
}

// estimate is of 100 tokens.
var estimate = client.Estimate{Key: "acme/alice", InputTokens: 60, MaxOutputTokens: new(int64(40))}

func mustReserve(t scene, e client.Estimate) *client.Reservation {
	t.Helper()
	r, err := t.c.Reserve(t.Context(), e)
	if err != nil || r.Denied() {
		t.Fatalf("Reserve() = %v, %v, want an allowed call", r, err)
	}
	return r
}

// A reserve is answered from a slice once the owner has lent one, whatever it costs, and is
// settled and cancelled there. The owner hears of it in the return only.
func TestReserveFromASlice(t *testing.T) {
	runLendingReserves(t, client.Options{}, func(t scene, l *lender) {
		first := mustReserve(t, estimate)
		if first.Route != client.Local {
			t.Errorf("the first reserve has the route %s, want local", first.Route)
		}
		r := mustReserve(t, client.Estimate{Key: "acme/alice", InputTokens: 70, MaxOutputTokens: new(int64(80)), N: 2})
		want := first.Decision
		want.Route, want.RequestID = client.Slice, r.RequestID
		want.Limits = slices.Clone(want.Limits)
		want.Limits[0].Cost, want.Limits[0].Remaining = 230, 10_000-100-230
		want.Binding = want.Limits[0]
		if fmt.Sprint(r.Decision) != fmt.Sprint(want) || r.Granted() != 80 || r.RequestID == "" || r.RequestID == first.RequestID {
			t.Errorf("Reserve() = %+v granted %d, want %+v granted 80", r.Decision, r.Granted(), want)
		}
		cancelled := mustReserve(t, estimate)
		s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(25))})
		if err != nil || s.Route != client.Slice || s.Status != client.Settled || s.RequestID != r.RequestID || s.Owner != "a" || s.Tier != "free" || s.PolicyVersion != "v1" ||
			len(s.Limits) != 1 || s.Limits[0].Cost != 95 || s.Limits[0].Remaining != 10_000-100-95-100 {
			t.Errorf("Settle() = %+v, %v, want 95 tokens charged", s, err)
		}
		if err := cancelled.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() = %v", err)
		}
		byID := t.c.Reservation("acme/alice", mustReserve(t, estimate).RequestID)
		if s, err := byID.Settle(t.Context(), client.Usage{}); err != nil || len(s.Limits) != 1 || s.Limits[0].Cost != 60 {
			t.Errorf("Settle() by the id = %+v, %v, want 60 tokens charged", s, err)
		}
		open := mustReserve(t, estimate)
		for range 2 {
			if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(25))}); err != nil {
				t.Errorf("Settle() again = %v", err)
			}
		}
		if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(26))}); !errors.Is(err, client.ErrConflict) {
			t.Errorf("Settle() with other numbers = %v, want ErrConflict", err)
		}
		if st := t.c.Status().Slices; st != (client.SliceStatus{Held: 1, Open: 1, Reserves: 4, Settled: 3, Granted: 1}) {
			t.Errorf("Status() = %+v", st)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		back := returnsAt(t)["slice-1"]
		if !slices.Equal(back.GetSpent(), []int64{95 + 60}) || back.GetCalls() != 4 || len(back.GetKept()) != 1 || back.GetKept()[0].GetRequest().GetRequestId() != open.RequestID {
			t.Errorf("returned %v, want 155 spent by 4 calls and %s kept", back, open.RequestID)
		}
		for _, m := range t.nodes["a"].sent() {
			switch m.(type) {
			case *pb.SettleRequest, *pb.CancelRequest:
				t.Errorf("the owner had %v, want the return only", m)
			}
		}
		if st := t.c.Status().Slices; st != (client.SliceStatus{Reserves: 4, Settled: 3, Kept: 1, Granted: 1, Returned: 1}) {
			t.Errorf("Status() at the end = %+v", st)
		}
	})
}

// order returns what a node was sent of a reservation and of returns, in the order of arrival.
func order(n *fakeNode, id string) (got []string) {
	for _, m := range n.sent() {
		switch m := m.(type) {
		case *pb.SliceReturn:
			if slices.ContainsFunc(m.GetKept(), func(k *pb.KeptReservation) bool { return k.GetRequest().GetRequestId() == id }) {
				got = append(got, "return")
			}
		case *pb.SettleRequest:
			if m.GetRequestId() == id {
				got = append(got, fmt.Sprintf("settle final=%v", m.GetFinal()))
			}
		case *pb.CancelRequest:
			if m.GetRequestId() == id {
				got = append(got, "cancel")
			}
		}
	}
	return got
}

// A reservation whose slice has ended, or which its slice has no room for, is settled by the
// owner, once that has it. So is progress reported.
func TestOwnerEndsReservationsOfASlice(t *testing.T) {
	usage := client.Usage{OutputTokens: new(int64(30))}
	for name, test := range map[string]struct {
		call func(scene, *client.Reservation) error
		want []string
	}{
		"settle after the deadline": {func(t scene, r *client.Reservation) error {
			time.Sleep(time.Second)
			_, err := r.Settle(t.Context(), usage)
			return err
		}, []string{"return", "settle final=true"}},
		"settle of more than is left": {func(t scene, r *client.Reservation) error {
			_, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(1000))})
			return err
		}, []string{"return", "settle final=true"}},
		"cancel after the deadline": {func(t scene, r *client.Reservation) error {
			time.Sleep(time.Second)
			return r.Cancel(t.Context())
		}, []string{"return", "cancel"}},
		"progress": {func(t scene, r *client.Reservation) error {
			if _, err := r.Progress(t.Context(), usage); err != nil {
				return err
			}
			return r.Cancel(t.Context()) // which settles it, as it ran
		}, []string{"return", "settle final=false", "settle final=true"}},
		"settle later": {func(t scene, r *client.Reservation) error {
			time.Sleep(time.Second)
			return errors.Join(r.SettleLater(usage), t.c.Flush(t.Context()))
		}, []string{"return", "settle final=true"}},
		"settle later, while the slice lasts": {func(t scene, r *client.Reservation) error {
			if err := errors.Join(r.SettleLater(usage), t.c.Flush(t.Context())); err != nil || t.c.Status().Slices.Settled != 1 {
				return fmt.Errorf("it is not settled: %w", err)
			}
			return nil
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			runLendingReserves(t, client.Options{}, func(t scene, _ *lender) {
				mustReserve(t, estimate)
				r := mustReserve(t, estimate)
				if r.Route != client.Slice {
					t.Fatalf("Reserve() = %+v, want it answered from the slice", r.Decision)
				}
				if err := test.call(t, r); err != nil {
					t.Errorf("the call failed: %v", err)
				}
				if got := order(t.nodes["a"], r.RequestID); !slices.Equal(got, test.want) {
					t.Errorf("the owner had %v, want %v", got, test.want)
				}
			})
		})
	}
}

// While a return is not acknowledged, no call for its reservations reaches the owner: they are
// to be repeated. Once it is lost, and the owner does not know the reservation, the settle
// brings it along.
func TestEndWithoutReturn(t *testing.T) {
	runLendingReserves(t, client.Options{Timeout: 2 * time.Second}, func(t scene, _ *lender) {
		e := estimate
		e.ServiceTier, e.EstimatedInput, e.KnownInputTokens, e.Costs, e.TTL = "flex", true, 7, map[string]int64{"images": 1}, time.Minute
		mustReserve(t, e)
		r, later, cancelled := mustReserve(t, e), mustReserve(t, e), mustReserve(t, e)
		n := t.nodes["a"]
		n.batches(func(b *pb.Batch, out *pb.Answers) {
			for i, item := range b.GetItems() {
				switch {
				case item.GetSliceReturn() != nil:
					out.Results[i] = errorResult(codes.Unavailable)
				case item.GetSettle() != nil && item.GetSettle().GetReservation() == nil:
					out.Results[i] = errorResult(codes.NotFound)
				}
			}
		})
		time.Sleep(time.Second)
		if err := later.SettleLater(client.Usage{}); err != nil {
			t.Errorf("SettleLater() = %v", err)
		}
		usage := client.Usage{OutputTokens: new(int64(30))}
		for name, call := range map[string]func() error{
			"Settle()":   func() error { _, err := r.Settle(t.Context(), usage); return err },
			"Progress()": func() error { _, err := r.Progress(t.Context(), usage); return err },
			"Cancel()":   func() error { return cancelled.Cancel(t.Context()) },
		} {
			began := time.Now()
			if err := call(); !errors.Is(err, client.ErrUnreachable) || status.Code(err) != codes.Unavailable || time.Since(began) != 2*time.Second {
				t.Errorf("%s before the return = %v after %v, want ErrUnreachable after 2 s", name, err, time.Since(began))
			}
		}
		for _, r := range []*client.Reservation{r, later, cancelled} {
			if got := order(n, r.RequestID); slices.ContainsFunc(got, func(what string) bool { return what != "return" }) {
				t.Errorf("the owner had %v before it has acknowledged the return", got)
			}
		}
		time.Sleep(10 * time.Second)
		if s, err := r.Settle(t.Context(), usage); err != nil || s.Status != client.Settled {
			t.Errorf("Settle() after the return is lost = %+v, %v, want it settled", s, err)
		}
		if err := t.c.Flush(t.Context()); err != nil {
			t.Errorf("Flush() = %v", err)
		}
		for _, id := range []string{r.RequestID, later.RequestID} {
			var last *pb.SettleRequest
			for _, m := range n.sent() {
				if q, ok := m.(*pb.SettleRequest); ok && q.GetRequestId() == id {
					last = q
				}
			}
			want := &pb.ReserveRequest{
				Key: "acme/alice", RequestId: id, InputTokens: 60, EstimatedInput: true, KnownInputTokens: 7, MaxOutputTokens: new(int64(40)),
				ServiceTier: "flex", Costs: map[string]int64{"images": 1}, TtlSeconds: new(int64(60)),
			}
			if !proto.Equal(last.GetReservation(), want) {
				t.Errorf("the settle brings %v, want %v", last.GetReservation(), want)
			}
		}
	})
}

// A reservation that has ended in memory, which no owner knows, is not made anew by a later
// call, though its lease lasts longer than the client remembers it.
func TestEndedInMemoryIsNotBrought(t *testing.T) {
	for name, end := range map[string]func(scene, *client.Reservation) error{
		"settle": func(t scene, r *client.Reservation) error {
			_, err := r.Settle(t.Context(), client.Usage{})
			return err
		},
		"settle later": func(t scene, r *client.Reservation) error { return r.SettleLater(client.Usage{}) },
		"cancel":       func(t scene, r *client.Reservation) error { return r.Cancel(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			runLendingReserves(t, client.Options{}, func(t scene, _ *lender) {
				e := estimate
				e.TTL = time.Hour
				mustReserve(t, e)
				r := mustReserve(t, e)
				if err := end(t, r); err != nil || t.c.Status().Slices.Settled != 1 {
					t.Fatalf("the end of the reservation = %v, %+v, want it in memory", err, t.c.Status().Slices)
				}
				time.Sleep(2 * time.Minute)
				n := t.nodes["a"]
				n.batches(func(b *pb.Batch, out *pb.Answers) {
					for i := range b.GetItems() {
						out.Results[i] = errorResult(codes.NotFound)
					}
				})
				if _, err := r.Progress(t.Context(), client.Usage{}); !errors.Is(err, client.ErrUnknownReservation) {
					t.Errorf("Progress() later = %v, want ErrUnknownReservation", err)
				}
				if _, err := r.Settle(t.Context(), client.Usage{}); !errors.Is(err, client.ErrUnknownReservation) {
					t.Errorf("Settle() later = %v, want ErrUnknownReservation", err)
				}
				if err := errors.Join(r.SettleLater(client.Usage{}), t.c.Flush(t.Context())); err != nil {
					t.Errorf("SettleLater() later = %v", err)
				}
				for _, m := range n.sent() {
					if q, ok := m.(*pb.SettleRequest); ok && q.GetReservation() != nil {
						t.Errorf("the owner had %v, want no reservation", q)
					}
				}
			})
		})
	}
}

func errorResult(code codes.Code) *pb.Result {
	return &pb.Result{Result: &pb.Result_Error{Error: &pb.Error{Code: int32(code), Message: "from the test"}}}
}

// The owner decides reserves with an id of the caller, and those that the slice does not cover.
// What the owner does not admit is answered from what is left.
func TestReservesOfTheOwner(t *testing.T) {
	runLendingReserves(t, client.Options{}, func(t scene, l *lender) {
		mustReserve(t, estimate)
		l.set(0)
		for name, change := range map[string]func(*client.Estimate){
			"another key":         func(e *client.Estimate) { e.Key = "acme/bob" },
			"another tier":        func(e *client.Estimate) { e.Tier = "pro" },
			"another model":       func(e *client.Estimate) { e.Model = "m" },
			"more than is left":   func(e *client.Estimate) { e.InputTokens = 1000 },
			"an id of the caller": func(e *client.Estimate) { e.RequestID = "mine" },
		} {
			e := estimate
			change(&e)
			if r := mustReserve(t, e); r.Route != client.Local {
				t.Errorf("%s: %v, want the answer of the owner", name, r.Route)
			}
		}
		once := estimate
		once.RequestID, once.Once = "once", true
		if r := mustReserve(t, once); r.Route != client.Slice || r.RequestID != "once" {
			t.Errorf("Reserve() with an id that is sent once = %+v, want it from the slice, with the id", r.Decision)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := t.c.Reserve(ctx, estimate); !errors.Is(err, context.Canceled) {
			t.Errorf("Reserve() after its context has ended = %v, want its error", err)
		}
		r, late := mustReserve(t, estimate), mustReserve(t, estimate)
		if s, err := late.Settle(ctx, client.Usage{}); err != nil || s.Route != client.Slice {
			t.Errorf("Settle() after its context has ended = %q, %v, want it done in the slice", s.Route, err)
		}
		t.reserve = func(*pb.ReserveRequest) *pb.Decision {
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, Reason: pb.Reason_REASON_LIMIT_EXCEEDED, Route: pb.Route_ROUTE_LOCAL}
		}
		for i := range 7 { // half of them would renew the slice
			once.RequestID = fmt.Sprint("once-", i)
			if r := mustReserve(t, once); r.Route != client.Slice || r.RequestID == once.RequestID && slices.Contains(t.nodes["a"].seen(), once.RequestID) {
				t.Errorf("reserve %d has the route %s and the id %s, want it from what is left of the slice, with another id if the owner was asked", i, r.Route, r.RequestID)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if r, err := t.c.Reserve(t.Context(), estimate); err != nil || !r.Denied() {
			t.Errorf("Reserve() after the slice is spent = %v, %v, want the denial of the owner", r, err)
		}
		t.nodes["a"].behave(always(codes.Unavailable))
		if _, err := t.c.Reserve(t.Context(), estimate); !errors.Is(err, client.ErrUnreachable) {
			t.Errorf("Reserve() without an answer = %v, want ErrUnreachable", err)
		}
		if err := r.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() in memory = %v", err)
		}
		if r := mustReserve(t, estimate); r.Route != client.Slice {
			t.Errorf("Reserve() without an answer, after a cancel = %v, want it from the slice", r.Route)
		}
	})
}

// Close returns all slices, with the reservations that are open.
func TestCloseKeepsReservations(t *testing.T) {
	runLendingReserves(t, client.Options{}, func(t scene, _ *lender) {
		mustReserve(t, estimate)
		r := mustReserve(t, estimate)
		if err := t.c.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		if got := order(t.nodes["a"], r.RequestID); !slices.Equal(got, []string{"return"}) {
			t.Errorf("the owner had %v, want the return", got)
		}
	})
}

// A reservation that a member made from a slice is settled at any node, which finds the
// member.
func TestSettleOfAMembersReservation(t *testing.T) {
	runRing(t, client.Options{}, []string{"a"}, func(t scene) {
		r := t.c.Reservation("acme/alice", "held:b:1")
		if _, err := r.Settle(t.Context(), client.Usage{}); err != nil {
			t.Fatal(err)
		}
		if direct, alone := t.nodes["a"].asked(); direct != 0 || alone != 1 {
			t.Errorf("%d calls by the link and %d alone, want it alone", direct, alone)
		}
	})
}
