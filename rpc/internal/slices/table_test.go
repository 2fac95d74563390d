// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A table that holds nothing for a key asks for each check of it, and remembers nothing.
func TestNothingHeld(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		for range 3 {
			if s.take(check("k"), 1) != 0 || !s.Asks(check("k")) {
				s.Error("an unknown key is answered, or is not asked for")
			}
		}
		s.Answered(check("k"))
		s.Recall("k")
		if st := s.Status(); st != (slices.Status{}) {
			s.Errorf("Status() = %+v, want nothing", st)
		}
	})
}

// When half of a slice is spent, one check goes to the owner while others are answered. The
// new slice replaces the old one.
func TestRenewal(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		q := check("k")
		s.grant(q, 10)
		if s.Asks(q) {
			s.Error("Asks() with a fresh slice = true, want false")
		}
		if got := s.take(q, 8); got != 7 {
			s.Errorf("%d of 8 checks were answered, want all but the one that renews the slice", got)
		}
		if !s.Asks(q) || s.Asks(q) {
			s.Error("the check that renews the slice does not ask, or another one does, too")
		}
		if got := s.take(q, 1); got != 1 {
			s.Errorf("%d checks were answered while a slice is asked for, want 1", got)
		}
		s.grantUnasked(q, 10)
		s.wantReturned(map[string]int64{"s1": 8})
		if got := s.take(q, 5); got != 5 {
			s.Errorf("%d checks were answered from the new slice, want 5", got)
		}
		// The owner lends no more: the rest of the slice is spent, with few attempts to renew it.
		for range 4 {
			if s.take(q, 1) != 0 {
				s.Error("no check renews the slice, want one every 20 ms")
			}
			s.Asks(q)
			s.Answered(q)
			if got := s.take(q, 1); got != 1 {
				s.Errorf("%d checks were answered just after the owner has refused, want 1", got)
			}
			time.Sleep(20 * time.Millisecond)
		}
		s.take(q, 2)
		s.wantReturned(map[string]int64{"s1": 8, "s2": 10}) // a slice that is spent is over
		if st := s.Status(); st.Held != 0 || st.Taken != 18 || st.Granted != 2 || st.Returned != 2 || st.PendingReturns != 0 {
			s.Errorf("Status() = %+v", st)
		}
	})
}

// A check that was to renew a slice, and that the owner did not admit, is answered from what
// is left, however long the owner took.
func TestTakeWithoutRenewal(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		q := check("k")
		s.grant(q, 2)
		if got := s.take(q, 2); got != 1 || !s.Asks(q) {
			s.Fatalf("%d of 2 checks were answered, want 1, and the other to renew the slice", got)
		}
		time.Sleep(30 * time.Millisecond)
		s.Answered(q)
		var a slices.Answer
		if !s.Take(q, &a, false) {
			s.Error("Take() with a call left = false")
		}
		if s.Take(q, &a, false) {
			s.Error("Take() of a slice that is spent = true")
		}
		s.wantReturned(map[string]int64{"s1": 2})
	})
}

// The answer is the decision with which the slice came, less what was spent.
func TestAnswer(t *testing.T) {
	run(t, slices.Options{View: func(d *pb.Decision) any { return d.GetOwner() }}, func(s *scene) {
		q := check("k")
		s.grant(q, 100)
		for i, tokens := range []int64{35, 25, 15, 5, 0, 0} {
			var a slices.Answer
			if !s.Take(q, &a, true) || a.View != "a" {
				s.Fatalf("Take() has the view %v, want that of the decision", a.View)
			}
			want := decision()
			want.Route, want.RequestId = pb.Route_ROUTE_SLICE, "new"
			want.Limits[0].Remaining, want.Limits[1].Remaining = 900-int64(i+1), tokens
			got := &pb.Decision{Replayed: true, Limits: []*pb.LimitState{{}}}
			a.Fill(got, "new")
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				s.Errorf("answer %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

// A slice serves calls with its shape only.
func TestShape(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		of := func(change func(*pb.CheckRequest)) *pb.CheckRequest {
			q := &pb.CheckRequest{
				Key: "k", Tier: "t", Model: "m", ServiceTier: "s", InputTokens: 1, OutputTokens: 2,
				Costs: map[string]int64{"images": 1, "searches": 0},
			}
			change(q)
			return q
		}
		q := of(func(*pb.CheckRequest) {})
		s.grant(q, 100)
		q.Costs["images"] = 7 // it belongs to the caller
		if s.take(of(func(q *pb.CheckRequest) { q.Requests = new(int64(1)) }), 1) != 1 {
			s.Error("the same shape is not served")
		}
		for name, change := range map[string]func(*pb.CheckRequest){
			"key":          func(q *pb.CheckRequest) { q.Key = "l" },
			"tier":         func(q *pb.CheckRequest) { q.Tier = "" },
			"model":        func(q *pb.CheckRequest) { q.Model = "n" },
			"service tier": func(q *pb.CheckRequest) { q.ServiceTier = "" },
			"requests":     func(q *pb.CheckRequest) { q.Requests = new(int64(0)) },
			"input":        func(q *pb.CheckRequest) { q.InputTokens++ },
			"output":       func(q *pb.CheckRequest) { q.OutputTokens++ },
			"cost":         func(q *pb.CheckRequest) { q.Costs["images"]++ },
			"name":         func(q *pb.CheckRequest) { delete(q.Costs, "searches"); q.Costs["other"] = 0 },
			"fewer costs":  func(q *pb.CheckRequest) { delete(q.Costs, "searches") },
			"request id":   func(q *pb.CheckRequest) { q.RequestId = "id" },
		} {
			if s.take(of(change), 1) != 0 {
				s.Errorf("a call with another %s is served, want not", name)
			}
		}
	})
}

// A few shapes of a key have slices, one asked for at a time, and only while all are of use.
func TestShapesOfAKey(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		of := func(n int64) *pb.CheckRequest { return &pb.CheckRequest{Key: "k", InputTokens: n} }
		for n := range int64(4) {
			s.grant(of(n), 100)
			if s.Asks(of(100)) {
				s.Errorf("Asks() for one more shape while slice %d is not used = true, want false", n)
			}
			s.take(of(n), 1)
		}
		if s.Asks(of(4)) {
			s.Error("Asks() for a fifth shape = true, want false")
		}
		s.grantUnasked(of(4), 100)
		s.wantReturned(map[string]int64{"s5": 0})
		for n := range int64(4) {
			if s.take(of(n), 10) != 10 {
				s.Errorf("the slice of shape %d is gone", n)
			}
		}
		s.Recall("k")
		s.wantReturned(map[string]int64{"s1": 11, "s2": 11, "s3": 11, "s4": 11, "s5": 0})
	})
}

// A key whose slices answer nothing asks for fewer of them.
func TestUselessSlices(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		asked := 0
		for i := range 60_000 { // a minute, each call of another shape
			q := &pb.CheckRequest{Key: "k", InputTokens: int64(i)}
			if s.take(q, 1) == 0 && s.Asks(q) {
				asked++
				s.grantUnasked(q, 100)
			}
			time.Sleep(time.Millisecond)
		}
		if asked < 2 || asked > 6 {
			s.Errorf("%d slices were asked for in a minute, want some, with pauses that double", asked)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := s.Status(); st.Held != 0 || int(st.Returned) != asked || !s.Asks(check("k")) {
			s.Errorf("Status() = %+v later, want nothing held and %d returned", st, asked)
		}
	})
}

// A recall ends the slice at once. One that was asked for before is returned when it comes.
func TestRecall(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		q := check("k")
		s.grant(q, 10)
		s.take(q, 6) // one of them renews
		s.Asks(q)
		s.Recall("k")
		s.Recall("other")
		s.wantReturned(map[string]int64{"s1": 5})
		if s.take(q, 1) != 0 {
			s.Error("Take() after a recall = true, want false")
		}
		s.grantUnasked(q, 10)
		s.wantReturned(map[string]int64{"s1": 5, "s2": 0})
		time.Sleep(time.Millisecond)
		s.grant(q, 10)
		if s.take(q, 1) != 1 {
			s.Error("Take() from a slice that was asked for after the recall = false, want true")
		}
	})
}

// A slice is over at its deadline, though nobody calls.
func TestDeadline(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		q := check("k")
		asked := s.Now()
		time.Sleep(300 * time.Millisecond)
		s.Granted(q, asked, sliceOf("a", 10), decision())
		time.Sleep(699 * time.Millisecond)
		if s.take(q, 1) != 1 {
			s.Error("the slice is over before its deadline")
		}
		s.wantReturned(map[string]int64{})
		time.Sleep(time.Millisecond)
		s.wantReturned(map[string]int64{"a": 1})
		s.Granted(q, asked, sliceOf("b", 10), decision())
		s.wantReturned(map[string]int64{"a": 1, "b": 0})
	})
}

// Slices that do not fit the decision are returned unspent.
func TestSlicesThatCannotBeSpent(t *testing.T) {
	run(t, slices.Options{View: func(d *pb.Decision) any {
		if d.GetTier() == "" {
			return nil
		}
		return d
	}}, func(s *scene) {
		want := map[string]int64{}
		for name, change := range map[string]func(*pb.Slice, *pb.Decision){
			"denied":        func(_ *pb.Slice, d *pb.Decision) { d.Outcome = pb.Outcome_OUTCOME_DENIED },
			"replayed":      func(_ *pb.Slice, d *pb.Decision) { d.Replayed = true },
			"one amount":    func(s *pb.Slice, _ *pb.Decision) { s.Amounts = s.Amounts[:1] },
			"no amount of":  func(s *pb.Slice, _ *pb.Decision) { s.Amounts[1] = 0 },
			"negative":      func(s *pb.Slice, _ *pb.Decision) { s.Amounts[1] = -1 },
			"negative cost": func(_ *pb.Slice, d *pb.Decision) { d.Limits[0].Cost = -1 },
			"no limits":     func(s *pb.Slice, d *pb.Decision) { s.Amounts, d.Limits = nil, nil },
			"no lease":      func(s *pb.Slice, _ *pb.Decision) { s.LeaseNanos = 0 },
			"bad lease":     func(s *pb.Slice, _ *pb.Decision) { s.LeaseNanos = -1 << 63 },
			"no view":       func(_ *pb.Slice, d *pb.Decision) { d.Tier = "" },
		} {
			sl, d := sliceOf(name, 10), decision()
			change(sl, d)
			s.Granted(check(name), s.Now(), sl, d)
			if s.take(check(name), 1) != 0 {
				s.Errorf("%s: a call is answered, want none", name)
			}
			want[name] = 0
		}
		s.wantReturned(want)
		s.Granted(check("k"), s.Now(), nil, nil) // as if it had no fields
		synctest.Wait()
		d := decision()
		d.Limits[1].Shadow = true
		s.Granted(check("shadow"), s.Now(), &pb.Slice{Id: "shadow", Amounts: []int64{5, 0}, LeaseNanos: int64(time.Second)}, d)
		if s.take(check("shadow"), 1) != 1 {
			s.Error("a slice whose other limit is in shadow is not spent")
		}
	})
}

// A full table takes no slices of new keys, and has room again when slices are over.
func TestMaxKeys(t *testing.T) {
	run(t, slices.Options{MaxKeys: 3}, func(s *scene) {
		for i := range 3 {
			s.grant(check(fmt.Sprint(i)), 10)
		}
		if s.Asks(check("3")) {
			s.Error("Asks() with a full table = true, want false")
		}
		s.grantUnasked(check("3"), 10)
		s.wantReturned(map[string]int64{"s4": 0})
		if s.take(check("3"), 1) != 0 || s.take(check("2"), 1) != 1 {
			s.Error("a key without room is answered, or another one lost its slice")
		}
		s.Recall("2")
		s.wantReturned(map[string]int64{"s3": 1, "s4": 0})
		s.grant(check("3"), 10)
	})
}
