// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"errors"
	"fmt"
	"maps"
	stdslices "slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// tariff is that of a slice of two limits, on requests and on tokens. A reserve without a bound
// of its output is granted 7 tokens.
var tariff = sync.OnceValue(func() []byte {
	e := limiter.New(limiter.Options{})
	limits, err := e.Catalog().LimitSet([]limiter.Limit{
		{Name: "rpm", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 1000, Window: time.Hour},
		{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 10_000, Window: time.Hour},
	})
	if err != nil {
		panic(err)
	}
	p := limiter.Plan{Tier: "free", Count: 1, Rates: limiter.Rates{Weights: limiter.DefaultWeights}, DefaultOutput: 7}
	p.Levels[0] = limiter.Level{End: 1, Tier: "free", Limits: limits}
	r := &limiter.Request{Key: "k", Plan: &p, Requests: 1, InputTokens: 10, ID: "first"}
	now, d := limiter.Time{Mono: 1, Wall: 1}, limiter.Decision{}
	loan := limiter.Loan{ID: "slice", Share: 1000, Holders: 1, Reserve: true}
	if err := e.Reserve(now, r, &d); err != nil {
		panic(err)
	}
	if ok, err := e.Lend(now, r, &loan, &d); !ok || err != nil {
		panic(fmt.Sprint("nothing is lent: ", err))
	}
	return loan.Tariff.Append(nil)
})

func reserve(key string, input, output int64) *pb.ReserveRequest {
	return &pb.ReserveRequest{Key: key, InputTokens: input, MaxOutputTokens: new(output)}
}

func settle(key string, output int64) *pb.SettleRequest {
	return &pb.SettleRequest{Key: key, OutputTokens: new(output)}
}

// grantReserves asks for a slice for reserves, which the owner lends for a second. It returns
// the id of the slice.
func (s *scene) grantReserves(q *pb.ReserveRequest, calls int64) string {
	s.Helper()
	if !s.Asks(q) {
		s.Fatalf("Asks(%v) = false, want true", q)
	}
	s.granted++
	id := fmt.Sprint("s", s.granted)
	s.Granted(q, s.Now(), reserveSlice(id, calls), decision())
	return id
}

func reserveSlice(id string, calls int64) *pb.Slice {
	lent := sliceOf(id, calls)
	lent.Tariff = tariff()
	return lent
}

// reserved makes a reservation, which must be answered from memory.
func (s *scene) reserved(q *pb.ReserveRequest, id string) slices.Answer {
	s.Helper()
	var a slices.Answer
	if !s.Reserve(q, id, &a, false) {
		s.Fatalf("Reserve(%v) = false, want true", q)
	}
	return a
}

// wantLeft checks that a settle or a cancel was left to the owner, after a return.
func (s *scene) wantLeft(done bool, returned <-chan struct{}, err error) <-chan struct{} {
	s.Helper()
	if done || returned == nil || err != nil {
		s.Errorf("it is done: %v, or nothing is to be waited for: %v, or it failed: %v; want it left to the owner after a return", done, returned, err)
	}
	return returned
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// returnOf waits until nothing moves, and returns the return of a slice.
func (s *scene) returnOf(id string) *pb.SliceReturn {
	s.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.returns[id]
	if r == nil {
		s.Fatalf("%s is not returned", id)
	}
	return r
}

// A reservation from a slice is answered with what it costs, settled with what it used and
// cancelled without. The return has what was used.
func TestReserve(t *testing.T) {
	run(t, slices.Options{View: func(d *pb.Decision) any { return d.GetOwner() }}, func(s *scene) {
		q := reserve("k", 2, 3)
		id := s.grantReserves(q, 100)
		var d pb.Decision
		a := s.reserved(q, "r1")
		a.Fill(&d, "given")
		want := decision()
		want.Route, want.RequestId, want.GrantedOutputTokens = pb.Route_ROUTE_SLICE, "given", new(int64(3))
		want.Limits[0].Remaining, want.Limits[1].Remaining = 899, 40
		want.Limits[0].Cost, want.Limits[1].Cost = 1, 5
		if diff := cmp.Diff(want, &d, protocmp.Transform()); diff != "" || a.View != "a" {
			s.Errorf("answer with view %v (-want +got):\n%s", a.View, diff)
		}
		other := &pb.ReserveRequest{Key: "k", InputTokens: 4} // the default output
		if a := s.reserved(other, "r2"); a.Granted != 7 || a.Cost(1) != 11 || a.Remaining(1) != 29 {
			s.Errorf("granted %d for %d, of which %d is left; want 7 for 11 of 40", a.Granted, a.Cost(1), a.Remaining(1))
		}
		s.reserved(q, "r3")
		var b slices.Settlement
		if done, _, err := s.Settle(settle("k", 30), "r1", &b); !done || err != nil {
			s.Fatalf("Settle() = %v, %v, want it done", done, err)
		}
		var p pb.Settlement
		b.Fill(&p, "r1")
		settled := &pb.Settlement{
			RequestId: "r1", Status: pb.ReservationStatus_RESERVATION_STATUS_SETTLED, Tier: "free", Owner: "a", PolicyVersion: "v1",
			Route: pb.Route_ROUTE_SLICE, Limits: decision().GetLimits(),
		}
		settled.Limits[0].Remaining, settled.Limits[1].Remaining = 897, 0 // 45 less 32, 11 and 5
		settled.Limits[0].Cost, settled.Limits[1].Cost = 1, 32
		if diff := cmp.Diff(settled, &p, protocmp.Transform()); diff != "" {
			s.Errorf("settlement (-want +got):\n%s", diff)
		}
		if done, _, err := s.Cancel("k", "r2", &b); !done || err != nil || !b.Cancelled || b.Cost(0) != 0 || b.Cost(1) != 0 {
			s.Errorf("Cancel() = %v, %v with costs %d, %d, want it done and nothing charged", done, err, b.Cost(0), b.Cost(1))
		}
		if st := s.Status(); st.Reserved != 3 || st.Settled != 2 || st.Open != 1 || st.Kept != 0 {
			s.Errorf("Status() = %+v, want 3 reserved, 2 settled and 1 open", st)
		}
		time.Sleep(time.Second)
		r := s.returnOf(id)
		kept := []*pb.KeptReservation{{
			Request: &pb.ReserveRequest{Key: "k", RequestId: "r3", InputTokens: 2, MaxOutputTokens: new(int64(3))},
			Costs:   []int64{1, 5}, GrantedOutputTokens: 3, LeftNanos: int64(29 * time.Second),
		}}
		if diff := cmp.Diff(kept, r.GetKept(), protocmp.Transform()); diff != "" || !stdslices.Equal(r.GetSpent(), []int64{1, 32}) || r.GetCalls() != 3 {
			s.Errorf("returned %v spent by %d calls, want 1, 32 by 3; kept (-want +got):\n%s", r.GetSpent(), r.GetCalls(), diff)
		}
		if st := s.Status(); st.Kept != 1 || st.Open != 0 {
			s.Errorf("Status() = %+v, want 1 reservation kept", st)
		}
	})
}

// The owner gets all of a reserve that it keeps, and what is left of its lease.
func TestKeptRequest(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		q := &pb.ReserveRequest{
			Key: "k", Tier: "t", Model: "m", ServiceTier: "flex", Requests: new(int64(2)), InputTokens: 9, EstimatedInput: true, KnownInputTokens: 4,
			MaxOutputTokens: new(int64(5)), MinOutputTokens: new(int64(1)), N: new(int64(3)), TtlSeconds: new(int64(60)), Costs: map[string]int64{"images": 4},
		}
		id := s.grantReserves(q, 100)
		time.Sleep(500 * time.Millisecond)
		want := proto.CloneOf(q)
		if a := s.reserved(q, "r"); a.Cost(0) != 2 || a.Cost(1) != 9+3*5 {
			s.Errorf("costs %d, %d, want 2, 24", a.Cost(0), a.Cost(1))
		}
		*q.N, q.Costs["images"], q.Key = 1, 5, "l" // it belongs to the caller
		time.Sleep(500 * time.Millisecond)
		want.RequestId = "r"
		k := s.returnOf(id).GetKept()
		if len(k) != 1 || k[0].GetLeftNanos() != int64(59500*time.Millisecond) {
			s.Fatalf("kept %v, want one reservation with 59.5 s left", k)
		}
		if diff := cmp.Diff(want, k[0].GetRequest(), protocmp.Transform()); diff != "" {
			s.Errorf("kept request (-want +got):\n%s", diff)
		}
	})
}

// A slice serves reserves of its key, tier, model and service tier, and never checks. What the
// owner might reject is left to it.
func TestReservesForTheOwner(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		of := func(change func(*pb.ReserveRequest)) *pb.ReserveRequest {
			q := reserve("k", 1, 1)
			q.Tier, q.Model, q.ServiceTier = "t", "m", "flex"
			change(q)
			return q
		}
		s.grantReserves(of(func(*pb.ReserveRequest) {}), 100)
		var a slices.Answer
		for name, change := range map[string]func(*pb.ReserveRequest){
			"another key":           func(q *pb.ReserveRequest) { q.Key = "l" },
			"another tier":          func(q *pb.ReserveRequest) { q.Tier = "" },
			"another model":         func(q *pb.ReserveRequest) { q.Model = "n" },
			"another service tier":  func(q *pb.ReserveRequest) { q.ServiceTier = "" },
			"an id of the caller":   func(q *pb.ReserveRequest) { q.RequestId = "id" },
			"more than is left":     func(q *pb.ReserveRequest) { q.InputTokens = 1000 },
			"more requests":         func(q *pb.ReserveRequest) { q.Requests = new(int64(101)) },
			"negative requests":     func(q *pb.ReserveRequest) { q.Requests = new(int64(-1)) },
			"negative input":        func(q *pb.ReserveRequest) { q.InputTokens = -1 },
			"negative output":       func(q *pb.ReserveRequest) { q.MaxOutputTokens = new(int64(-1)) },
			"huge output":           func(q *pb.ReserveRequest) { q.MaxOutputTokens = new(int64(1 << 62)) },
			"no choices":            func(q *pb.ReserveRequest) { q.N = new(int64(0)) },
			"huge choices":          func(q *pb.ReserveRequest) { q.N = new(int64(1 << 53)); q.MaxOutputTokens = new(int64(1 << 53)) },
			"no least output":       func(q *pb.ReserveRequest) { q.MinOutputTokens = new(int64(0)) },
			"a larger least output": func(q *pb.ReserveRequest) { q.MinOutputTokens = new(int64(2)) },
			"no lease":              func(q *pb.ReserveRequest) { q.TtlSeconds = new(int64(0)) },
			"a long lease":          func(q *pb.ReserveRequest) { q.TtlSeconds = new(int64(3601)) },
			"known input only":      func(q *pb.ReserveRequest) { q.KnownInputTokens = 1 },
			"more known input":      func(q *pb.ReserveRequest) { q.KnownInputTokens, q.EstimatedInput = 2, true },
			"negative known input":  func(q *pb.ReserveRequest) { q.KnownInputTokens, q.EstimatedInput = -1, true },
			"a negative cost":       func(q *pb.ReserveRequest) { q.Costs = map[string]int64{"images": -1} },
			"a built-in dimension":  func(q *pb.ReserveRequest) { q.Costs = map[string]int64{"requests": 1} },
			"a name with a newline": func(q *pb.ReserveRequest) { q.Costs = map[string]int64{"a\nb": 1} },
			"a long name":           func(q *pb.ReserveRequest) { q.Costs = map[string]int64{strings.Repeat("a", 65): 1} },
			"many costs": func(q *pb.ReserveRequest) {
				q.Costs = map[string]int64{}
				for i := range 17 {
					q.Costs[fmt.Sprint(i)] = 1
				}
			},
		} {
			if q := of(change); s.Reserve(q, name, &a, false) {
				s.Errorf("%s is served: %v", name, q)
			}
		}
		for _, id := range []string{"", "slice:a:1", "fallback:a:1", "held:a:1", "a\n", strings.Repeat("a", 129)} {
			if s.Reserve(of(func(*pb.ReserveRequest) {}), id, &a, false) {
				s.Errorf("a reserve is served with the id %q, which an owner rejects", id)
			}
		}
		if s.Take(&pb.CheckRequest{Key: "k", Tier: "t", Model: "m", ServiceTier: "flex", Requests: new(int64(0))}, &a, false) {
			s.Error("a check is served from a slice for reserves")
		}
		s.reserved(of(func(q *pb.ReserveRequest) { q.Costs = map[string]int64{"images": 1} }), "r")
		if s.Reserve(of(func(*pb.ReserveRequest) {}), "r", &a, false) {
			s.Error("Reserve() with a known id = true, want false")
		}
		s.grant(check("k"), 10)
		if s.take(check("k"), 1) != 1 {
			s.Error("a check is not answered from its slice, beside one for reserves")
		}
	})
}

// A slice for reserves whose tariff cannot be read, or is for other limits, is returned.
func TestSliceWithoutTariff(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		want := map[string]int64{}
		for name, change := range map[string]func(*pb.Slice, *pb.Decision){
			"no tariff":    func(s *pb.Slice, _ *pb.Decision) { s.Tariff = nil },
			"wrong tariff": func(s *pb.Slice, _ *pb.Decision) { s.Tariff = stdslices.Clone(s.Tariff); s.Tariff[9] ^= 1 },
			"more limits": func(s *pb.Slice, d *pb.Decision) {
				s.Amounts, d.Limits = append(s.Amounts, 1), append(d.Limits, &pb.LimitState{})
			},
			"negative": func(s *pb.Slice, _ *pb.Decision) { s.Amounts[1] = -1 },
			"degraded": func(_ *pb.Slice, d *pb.Decision) { d.Outcome = pb.Outcome_OUTCOME_DEGRADED },
		} {
			lent, d := reserveSlice(name, 10), decision()
			change(lent, d)
			s.Granted(reserve(name, 1, 1), s.Now(), lent, d)
			var a slices.Answer
			if s.Reserve(reserve(name, 1, 1), "r", &a, false) {
				s.Errorf("%s: a reserve is answered, want none", name)
			}
			want[name] = 0
		}
		synctest.Wait()
		got := map[string]int64{}
		for id, r := range s.returns {
			got[id] = r.GetCalls()
		}
		if !maps.Equal(got, want) {
			s.Errorf("returned %v, want %v", got, want)
		}
	})
}

// What ends the slice of a reservation that is not settled: its deadline, a recall, a new
// slice, progress, and a settle of more than is left. Then the call waits for the return, and
// the owner has the reservation.
func TestCallsWaitForTheReturn(t *testing.T) {
	for name, end := range map[string]func(s *scene, q *pb.ReserveRequest){
		"deadline": func(*scene, *pb.ReserveRequest) { time.Sleep(time.Second) },
		"recall":   func(s *scene, _ *pb.ReserveRequest) { s.Recall("k") },
		"renewal": func(s *scene, q *pb.ReserveRequest) {
			s.reserved(reserve("k", 0, 60), "other")
			s.grantReserves(q, 10)
		},
		"progress": func(s *scene, _ *pb.ReserveRequest) {
			u := settle("k", 1)
			u.Final = new(false)
			var b slices.Settlement
			s.wantLeft(s.Settle(u, "r", &b))
		},
		"more than is left": func(s *scene, _ *pb.ReserveRequest) {
			var b slices.Settlement
			s.wantLeft(s.Settle(settle("k", 101), "r", &b))
		},
		"a cost that overflows": func(s *scene, _ *pb.ReserveRequest) {
			u := settle("k", 1)
			u.CachedInputTokens = new(int64(50)) // of the input of the reserve, which is less
			var b slices.Settlement
			s.wantLeft(s.Settle(u, "r", &b))
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, slices.Options{}, func(s *scene) {
				q := reserve("k", 2, 3)
				s.grantReserves(q, 10)
				s.reserved(q, "r")
				if s.Returning("k", "r") != nil {
					s.Error("a reservation of a slice that is held is returned")
				}
				s.owner(errors.New("unavailable"), false)
				end(s, q)
				var b slices.Settlement
				returned := s.wantLeft(s.Settle(settle("k", 1), "r", &b))
				if c := s.wantLeft(s.Cancel("k", "r", &b)); c != returned || s.Returning("k", "r") != returned {
					s.Error("calls of one reservation wait for different returns")
				}
				if s.Returning("l", "r") != nil {
					s.Error("a reservation of another key is returned")
				}
				time.Sleep(10 * time.Millisecond)
				if isClosed(returned) {
					s.Error("the wait is over before the return is acknowledged")
				}
				s.owner(nil, false)
				time.Sleep(time.Second)
				if !isClosed(returned) {
					s.Error("the wait is not over when the return is acknowledged")
				}
				kept := s.returnOf("s1").GetKept()
				if !stdslices.ContainsFunc(kept, func(k *pb.KeptReservation) bool { return k.GetRequest().GetRequestId() == "r" }) {
					s.Errorf("kept %v, want the reservation", kept)
				}
				if done, returned, err := s.Settle(settle("k", 1), "r", &b); done || returned != nil || err != nil {
					s.Errorf("Settle() after that = %v, %v, %v, want it left to the owner at once", done, returned, err)
				}
			})
		})
	}
}

// A wait is over, too, when the return is rejected, or when the table is closed and does not
// try any longer.
func TestWaitForALostReturn(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		s.owner(fmt.Errorf("invalid: %w", slices.ErrRejected), false)
		s.grantReserves(reserve("k", 1, 1), 10)
		s.reserved(reserve("k", 1, 1), "r")
		var b slices.Settlement
		s.Recall("k")
		returned := s.wantLeft(s.Cancel("k", "r", &b))
		if synctest.Wait(); !isClosed(returned) {
			s.Error("the wait is not over when the return is rejected")
		}
	})
	run(t, slices.Options{}, func(s *scene) {
		s.owner(nil, true)
		s.grantReserves(reserve("k", 1, 1), 10)
		s.reserved(reserve("k", 1, 1), "r")
		var b slices.Settlement
		s.Recall("k")
		returned := s.wantLeft(s.Cancel("k", "r", &b))
		ctx, cancel := contextFor(s, 100*time.Millisecond)
		defer cancel()
		if err := s.Close(ctx); err == nil || !isClosed(returned) {
			s.Errorf("Close() = %v, want an error and no wait", err)
		}
		if done, returned, err := s.Settle(settle("k", 1), "r", &b); done || returned != nil || err != nil {
			s.Errorf("Settle() after Close = %v, %v, %v, want it left to the owner", done, returned, err)
		}
	})
}

// A settle and a cancel may be repeated for a minute. Another end of a reservation that has
// ended is a conflict.
func TestRepeatedSettle(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		s.grantReserves(reserve("k", 1, 1), 100)
		s.reserved(reserve("k", 1, 1), "settled")
		s.reserved(reserve("k", 1, 1), "cancelled")
		var a, b slices.Settlement
		if done, _, err := s.Settle(settle("k", 5), "settled", &a); !done || err != nil {
			s.Fatalf("Settle() = %v, %v, want it done", done, err)
		}
		if done, _, err := s.Cancel("k", "cancelled", &b); !done || err != nil {
			s.Fatalf("Cancel() = %v, %v, want it done", done, err)
		}
		late := settle("k", 1)
		late.Final = new(false)
		for range 2 {
			var again slices.Settlement
			if done, _, err := s.Settle(settle("k", 5), "settled", &again); !done || err != nil || again.Cost(1) != 6 || again.Remaining(1) != a.Remaining(1) {
				s.Errorf("Settle() again = %v, %v with cost %d, want the same answer", done, err, again.Cost(1))
			}
			if done, _, err := s.Settle(late, "settled", &again); !done || err != nil || again.Cost(1) != 6 {
				s.Errorf("late progress = %v, %v with cost %d, want the settlement", done, err, again.Cost(1))
			}
			if done, _, err := s.Cancel("k", "cancelled", &again); !done || err != nil || !again.Cancelled {
				s.Errorf("Cancel() again = %v, %v, want it done", done, err)
			}
			for name, end := range map[string]func() (bool, <-chan struct{}, error){
				"settle with other numbers": func() (bool, <-chan struct{}, error) { return s.Settle(settle("k", 6), "settled", &again) },
				"cancel after settle":       func() (bool, <-chan struct{}, error) { return s.Cancel("k", "settled", &again) },
				"settle after cancel":       func() (bool, <-chan struct{}, error) { return s.Settle(settle("k", 5), "cancelled", &again) },
			} {
				if done, returned, err := end(); done || returned != nil || !errors.Is(err, limiter.ErrConflict) {
					s.Errorf("%s = %v, %v, %v, want a conflict", name, done, returned, err)
				}
			}
			if done, returned, err := s.Settle(settle("l", 5), "settled", &again); done || returned != nil || err != nil {
				s.Errorf("Settle() with another key = %v, %v, %v, want it left to the owner", done, returned, err)
			}
			time.Sleep(59 * time.Second)
		}
		time.Sleep(2 * time.Second)
		if done, returned, err := s.Settle(settle("k", 5), "settled", &a); done || returned != nil || err != nil {
			s.Errorf("Settle() after a minute = %v, %v, %v, want it left to the owner", done, returned, err)
		}
		s.wantSpent("s1", 1, 6)
	})
}

// wantSpent checks what was returned as spent.
func (s *scene) wantSpent(id string, want ...int64) {
	s.Helper()
	if got := s.returnOf(id).GetSpent(); !stdslices.Equal(got, want) {
		s.Errorf("%v of %s was spent, want %v", got, id, want)
	}
}

// An invalid settle ends nothing: the owner says what is wrong.
func TestInvalidSettle(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		s.grantReserves(reserve("k", 1, 1), 100)
		s.reserved(reserve("k", 1, 1), "r")
		var b slices.Settlement
		for name, change := range map[string]func(*pb.SettleRequest){
			"negative output": func(u *pb.SettleRequest) { u.OutputTokens = new(int64(-1)) },
			"huge output":     func(u *pb.SettleRequest) { u.OutputTokens = new(int64(1<<53 + 1)) },
			"huge sum":        func(u *pb.SettleRequest) { u.OutputTokens, u.InputTokens = new(int64(1<<53)), new(int64(1)) },
			"parts":           func(u *pb.SettleRequest) { u.InputTokens, u.CacheWriteTokens = new(int64(1)), new(int64(2)) },
			"service tier":    func(u *pb.SettleRequest) { u.ServiceTier = "\n" },
			"cost":            func(u *pb.SettleRequest) { u.Costs = map[string]int64{"tokens": 1} },
		} {
			u := settle("k", 1)
			change(u)
			if done, returned, err := s.Settle(u, "r", &b); done || returned != nil || err != nil {
				s.Errorf("%s: Settle() = %v, %v, %v, want it left to the owner", name, done, returned, err)
			}
		}
		if done, _, err := s.Settle(settle("k", 1), "r", &b); !done || err != nil {
			s.Errorf("Settle() after that = %v, %v, want it done", done, err)
		}
	})
}

// A slice has no more open reservations than an owner keeps, and than fit a message.
func TestManyOpenReservations(t *testing.T) {
	large := strings.Repeat("x", 64)
	for name, q := range map[string]*pb.ReserveRequest{
		"number": reserve("k", 1, 1),
		"bytes": {Key: "k", Tier: large, Model: large, MaxOutputTokens: new(int64(1)), Costs: map[string]int64{
			"1" + large[1:]: 1, "2" + large[1:]: 1, "3" + large[1:]: 1, "4" + large[1:]: 1, "5" + large[1:]: 1, "6" + large[1:]: 1,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, slices.Options{}, func(s *scene) {
				id := s.grantReserves(q, 10_000)
				var a slices.Answer
				n := 0
				for s.Reserve(q, fmt.Sprint("reservation-", n), &a, false) {
					n++
				}
				r := s.returnOf(id)
				size := proto.Size(&pb.BatchRequest{Items: []*pb.Item{{Call: &pb.Item_SliceReturn{SliceReturn: r}}}})
				if len(r.GetKept()) != n || n > limiter.MaxKept || name == "number" && n != limiter.MaxKept || size > 250<<10 || name == "bytes" && size < 128<<10 {
					s.Errorf("%d of %d reservations are kept, in %d bytes", len(r.GetKept()), n, size)
				}
				s.grantReserves(q, 10)
				s.reserved(q, "next")
			})
		})
	}
}

// Ended reservations are forgotten, also when there are too many of them.
func TestEndedReservationsAreForgotten(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		q := reserve("k", 0, 1)
		var b slices.Settlement
		first := ""
		for i := range 40_000 {
			if i%400 == 0 {
				s.Recall("k")
				synctest.Wait()
				time.Sleep(time.Millisecond)
				s.grantReserves(q, 1000)
			}
			id := fmt.Sprint("r", i)
			if s.reserved(q, id); i == 0 {
				first = id
			}
			if done, _, err := s.Settle(settle("k", 1), id, &b); !done || err != nil {
				s.Fatalf("Settle(%d) = %v, %v", i, done, err)
			}
		}
		if done, returned, err := s.Settle(settle("k", 1), first, &b); done || returned != nil || err != nil {
			s.Errorf("Settle() of the first one = %v, %v, %v, want it forgotten", done, returned, err)
		}
		if done, _, err := s.Settle(settle("k", 1), "r39999", &b); !done || err != nil {
			s.Errorf("Settle() of the last one = %v, %v, want it done", done, err)
		}
	})
}
