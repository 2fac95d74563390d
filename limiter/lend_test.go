// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/limiter"
)

// requestsOf returns a limit on requests.
func requestsOf(a limiter.Algorithm, amount int64, window time.Duration) limiter.Limit {
	return limiter.Limit{Name: a.String(), Dimension: limiter.Requests, Algorithm: a, Amount: amount, Window: window}
}

// bucketLimit, slidingLimit and fixedLimit are limits of each algorithm that can be lent.
var (
	bucketLimit  = requestsOf(limiter.TokenBucket, 10_000, time.Minute)
	slidingLimit = requestsOf(limiter.SlidingWindow, 1000, 4*time.Second)
	fixedLimit   = requestsOf(limiter.FixedWindow, 1000, 10*time.Second)
)

// lend lends a slice with an id for r, to a holder with all calls of the key.
func (n *node) lend(now limiter.Time, r *limiter.Request, id string) *limiter.Loan {
	n.t.Helper()
	l := &limiter.Loan{ID: id, Share: 1000, Holders: 1}
	var d limiter.Decision
	if ok, err := n.Lend(now, r, l, &d); err != nil || !ok || d.Change == 0 || !d.Large {
		n.t.Fatalf("Lend(%s) = %v, %v with change %d, large %v, want a slice and a large change", id, ok, err, d.Change, d.Large)
	}
	return l
}

func (n *node) returnSlice(now limiter.Time, key, id string, spent ...int64) {
	n.t.Helper()
	var d limiter.Decision
	if err := n.Return(now, key, id, spent, nil, limiter.Used{}, &d); err != nil || d.Change == 0 || !d.Large {
		n.t.Fatalf("Return(%s) = %v with change %d, large %v, want no error and a large change", id, err, d.Change, d.Large)
	}
}

// sameLimits fails unless both nodes report the same limits.
func sameLimits(t testing.TB, what string, now limiter.Time, got, want *node, r, twin *limiter.Request) {
	t.Helper()
	if diff := cmp.Diff(want.peek(now, twin).Limits, got.peek(now, r).Limits); diff != "" {
		t.Errorf("%s: limits (-want +got):\n%s", what, diff)
	}
}

func TestLend(t *testing.T) {
	with := func(l limiter.Limit, change func(*limiter.Limit)) limiter.Limit {
		change(&l)
		return l
	}
	clients := func(l *limiter.Limit) { l.Slices = limiter.SlicesClients }
	off := func(l *limiter.Limit) { l.Slices = limiter.SlicesOff }
	for _, tt := range []struct {
		name   string
		limits []limiter.Limit
		loan   limiter.Loan
		before int64 // calls before
		calls  int64 // that are lent; 0: nothing is
		lease  time.Duration
		used   []int64 // of each limit, with one call by the owner
	}{
		// The margin is what refills in 3.02 s, 504.
		{"token bucket", []limiter.Limit{bucketLimit}, limiter.Loan{Share: 1000, Holders: 1}, 1, 4747, time.Second, []int64{1 + 4747 + 504}},
		{"sliding window", []limiter.Limit{slidingLimit}, limiter.Loan{Share: 1000, Holders: 1}, 1, 499, time.Second, []int64{500}},
		{"fixed window", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 500, Holders: 1}, 1, 249, time.Second, []int64{250}},
		{"what is needed", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 1000, Holders: 1, Rate: 100}, 1, 100, time.Second, []int64{101}},
		{"needed too little", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 1000, Holders: 1, Rate: 1}, 1, 0, 0, []int64{1}},
		{"several holders", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 1000, Holders: 4}, 1, 124, time.Second, []int64{125}},
		{"a bucket that refills fast", []limiter.Limit{requestsOf(limiter.TokenBucket, 1000, time.Second)}, limiter.Loan{Share: 1000, Holders: 1}, 1, 449, 75*time.Millisecond - 1470588*time.Nanosecond, []int64{1 + 449 + 100}},
		{"a bucket that refills too fast", []limiter.Limit{with(requestsOf(limiter.TokenBucket, 1000, time.Second), func(l *limiter.Limit) { l.Burst = 400 })}, limiter.Loan{Share: 1000, Holders: 1}, 1, 0, 0, []int64{1}},
		{"a small bucket", []limiter.Limit{requestsOf(limiter.TokenBucket, 9, time.Hour)}, limiter.Loan{Share: 1000, Holders: 1}, 1, 0, 0, []int64{1}},
		{"a short sliding window", []limiter.Limit{requestsOf(limiter.SlidingWindow, 1000, 510*time.Millisecond)}, limiter.Loan{Share: 1000, Holders: 1}, 1, 499, 375 * time.Millisecond, []int64{500}},
		{"a short fixed window", []limiter.Limit{requestsOf(limiter.FixedWindow, 1000, 40*time.Millisecond)}, limiter.Loan{Share: 1000, Holders: 1}, 1, 0, 0, []int64{1}},
		{"nearly used up", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 1000, Holders: 1}, 801, 0, 0, []int64{801}},
		{"a fifth is left", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 1000, Holders: 1}, 800, 100, time.Second, []int64{900}},
		{"fewer than four calls", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 7, Holders: 1}, 1, 0, 0, []int64{1}},
		{"a limit is not lent", []limiter.Limit{bucketLimit, with(slidingLimit, off)}, limiter.Loan{Share: 1000, Holders: 1}, 1, 0, 0, []int64{1, 1}},
		{"not to clients", []limiter.Limit{with(bucketLimit, clients), slidingLimit}, limiter.Loan{Client: true, Share: 1000, Holders: 1}, 1, 0, 0, []int64{1, 1}},
		{"to clients", []limiter.Limit{with(bucketLimit, clients)}, limiter.Loan{Client: true, Share: 1000, Holders: 1}, 1, 4811, 250 * time.Millisecond, []int64{1 + 4811 + 376}},
		{"the smallest decides", []limiter.Limit{bucketLimit, slidingLimit, fixedLimit}, limiter.Loan{Share: 1000, Holders: 1}, 1, 499, time.Second, []int64{1 + 499 + 504, 500, 500}},
		{"only in shadow mode", []limiter.Limit{with(bucketLimit, func(l *limiter.Limit) { l.Shadow = true })}, limiter.Loan{Share: 1000, Holders: 1}, 1, 0, 0, []int64{1}},
		{"no share", []limiter.Limit{fixedLimit}, limiter.Loan{Holders: 1}, 1, 0, 0, []int64{1}},
		{"no holders", []limiter.Limit{fixedLimit}, limiter.Loan{Share: 1000}, 1, 0, 0, []int64{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			r := &limiter.Request{Key: "acme", Plan: n.plan("acme", tt.limits...), Requests: tt.before}
			d := n.check(noon, r)
			wantOutcome(t, "the check before", d, limiter.Allowed)
			before := d
			r.Requests = 1
			tt.loan.ID = "slice"
			ok, err := n.Lend(noon, r, &tt.loan, &d)
			if err != nil || ok != (tt.calls > 0) {
				t.Fatalf("Lend() = %v, %v, want %v", ok, err, tt.calls > 0)
			}
			got := n.peek(noon, r)
			for i, want := range tt.used {
				wantUsed(t, "with the slice", got, i, want)
			}
			if !ok {
				if diff := cmp.Diff(before.Limits, d.Limits); diff != "" || d.Change != before.Change {
					t.Errorf("the decision changes although nothing is lent (-want +got):\n%s", diff)
				}
				return
			}
			if tt.loan.Calls != tt.calls || tt.loan.Lease != tt.lease || len(tt.loan.Amounts) != len(tt.limits) {
				t.Errorf("Lend() = %+v, want %d calls for %v", tt.loan, tt.calls, tt.lease)
			}
			for i, a := range tt.loan.Amounts {
				if a != tt.calls {
					t.Errorf("amount %d = %d, want %d", i, a, tt.calls)
				}
				wantUsed(t, "in the decision", d, i, tt.before)
				if d.Limits[i].Cost != 1 {
					t.Errorf("limit %d costs %d, want 1 of one call", i, d.Limits[i].Cost)
				}
			}
			if d.Outcome != limiter.Allowed || d.Change <= before.Change || !d.Large {
				t.Errorf("decision %+v, want that of the check with a large change", d)
			}
		})
	}
}

// hierarchy returns a node and a request with limits of all kinds on two levels, per model
// and in shadow mode.
func hierarchy(t testing.TB) (*node, *limiter.Request) {
	n := newNode(t, limiter.Options{})
	org := mustSet(t, n.catalog, slidingLimit,
		limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 2},
		limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 10_000_000, Calendar: limiter.Day})
	user := mustSet(t, n.catalog, limiter.Limit{Name: "images", Dimension: "images", Algorithm: limiter.TokenBucket, Amount: 10_000, Window: time.Hour},
		limiter.Limit{Name: "videos", Dimension: "videos", Algorithm: limiter.TokenBucket, Amount: 10, Window: time.Hour},
		limiter.Limit{Name: "trial", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 60, Window: time.Minute, Shadow: true})
	p := plan("acme/alice", org, user)
	p.Levels[1].Model = mustSet(t, n.catalog, limiter.Limit{Name: "model", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 1_000_000, Window: time.Hour})
	return n, &limiter.Request{Key: "acme/alice", Model: "m", Plan: p, Requests: 1, InputTokens: 10, OutputTokens: 5, Costs: []limiter.Cost{{Dimension: "images", Amount: 3}}}
}

// TestLendOfAPath lends a slice of limits of all kinds on two levels, per model and in
// shadow mode, and takes it back.
func TestLendOfAPath(t *testing.T) {
	n, r := hierarchy(t)
	n.check(noon, r)
	l := n.lend(noon, r, "slice")
	const calls = 499
	spend := n.peek(noon, r).Limits[2]
	if diff := cmp.Diff([]int64{calls, 0, calls * 20, calls * 3, 0, 0, calls * 15}, l.Amounts); diff != "" {
		t.Fatalf("amounts (-want +got):\n%s", diff)
	}
	if used(spend) != 20+calls*20 {
		t.Errorf("%d micros used, want those of %d calls", used(spend), calls+1)
	}
	d := n.peek(noon, r)
	wantUsed(t, "with the slice", d, 1, 0)
	wantUsed(t, "with the slice", d, 4, 0)
	wantUsed(t, "with the slice, in shadow mode", d, 5, 60) // what fits
	if s := n.Stats(); s.Slices != 1 || s.SlicesLent != 1 || s.Reservations != 0 || s.IDs != 1 {
		t.Errorf("Stats() = %+v, want one slice and no reservation", s)
	}
	now := noon.Add(700 * time.Millisecond)
	n.returnSlice(now, r.Key, "slice", 10, 0, 200, 30, 0, 10, 150)
	other, twin := hierarchy(t)
	other.check(noon, twin)
	for range 10 {
		other.check(now, twin)
	}
	sameLimits(t, "after 10 calls", now, n, other, r, twin)
	if s := n.Stats(); s.Slices != 0 || s.SlicesReturned != 1 || s.IDs != 0 {
		t.Errorf("Stats() = %+v, want no slice and no id", s)
	}
}

// TestReturn checks that a slice leaves what was spent, as of its return or of the end of its
// lease, and nothing else.
func TestReturn(t *testing.T) {
	limits := []limiter.Limit{bucketLimit, slidingLimit, fixedLimit}
	for _, after := range []time.Duration{0, 10 * time.Millisecond, 900 * time.Millisecond, 3020*time.Millisecond - 1, 3020 * time.Millisecond, 3 * time.Second, 4500 * time.Millisecond, time.Minute} {
		for _, spent := range []int64{0, 1, 200, 499} {
			n, other := newNode(t, limiter.Options{}), newNode(t, limiter.Options{})
			r := &limiter.Request{Key: "acme", Plan: n.plan("acme", limits...), Requests: 100}
			twin := *r
			twin.Plan = other.plan("acme", limits...)
			n.check(noon, r)
			other.check(noon, &twin)
			r.Requests = 1
			const calls = 450
			if l := n.lend(noon, r, "slice"); l.Calls != calls {
				t.Fatalf("Lend() = %+v, want %d calls", l, calls)
			}
			n.check(noon.Add(5*time.Millisecond), r)
			twin.Requests = 1
			other.check(noon.Add(5*time.Millisecond), &twin)
			now := noon.Add(after)
			spent := min(spent, calls)
			at := now
			var d limiter.Decision
			err := n.Return(now, "acme", "slice", []int64{spent, spent, spent}, nil, limiter.Used{}, &d)
			if over := after >= 3020*time.Millisecond; over != errors.Is(err, limiter.ErrUnknownReservation) || !over && err != nil {
				t.Fatalf("Return() after %v = %v", after, err)
			} else if over {
				at, spent = noon.Add(3020*time.Millisecond-1), calls
			}
			twin.Requests, twin.Force = spent, true
			other.check(at, &twin)
			what := fmt.Sprintf("%d spent after %v", spent, after)
			for _, later := range []time.Duration{0, time.Second, 4 * time.Second, 7 * time.Second} {
				sameLimits(t, what, now.Add(later), n, other, r, &twin)
			}
			before := n.peek(now, r)
			if err := n.Return(now, "acme", "slice", []int64{spent, spent, spent}, nil, limiter.Used{}, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
				t.Errorf("Return() again = %v, want %v", err, limiter.ErrUnknownReservation)
			} else if d.Change == 0 || !d.Large {
				t.Errorf("Return() again has change %d, large %v, want that of the return that ended the slice", d.Change, d.Large)
			}
			sameDecision(t, "after a repeat", n.peek(now, r), before)
		}
	}
}

// TestReturnErrors checks what Return refuses, and that it changes nothing then.
func TestReturnErrors(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", Plan: n.plan("acme/alice", bucketLimit, fixedLimit), Requests: 1}
	r.Plan.Levels[0].End = len(r.Key)
	n.check(noon, r)
	l := n.lend(noon, r, "slice")
	n.reserve(noon, &limiter.Request{Key: r.Key, Plan: r.Plan, ID: "reservation", Requests: 1})
	var d limiter.Decision
	before, seq := n.peek(noon, r), n.Seq(acme)
	for _, tt := range []struct {
		key, id string
		spent   []int64
		want    string
	}{
		{"acme/alice", "slice", []int64{1, l.Amounts[1] + 1}, "spent: must be from 0 to the 499 that were lent of limit fixed_window of acme/alice, got 500"},
		{"acme/alice", "slice", []int64{-1, 0}, "spent: must be from 0 to the 499 that were lent of limit token_bucket of acme/alice, got -1"},
		{"acme/alice", "slice", []int64{1}, "spent: must have as many amounts as the slice has limits, 2, got 1"},
		{"acme/bob", "slice", []int64{1, 1}, "the slice is of another key"},
		{"acme/alice", "reservation", []int64{1, 1}, "the id is not that of a slice"},
		{"acme/alice", "never", []int64{1, 1}, limiter.ErrUnknownReservation.Error()},
	} {
		if err := n.Return(noon, tt.key, tt.id, tt.spent, nil, limiter.Used{}, &d); err == nil || err.Error() != tt.want || d.Change != 0 && tt.id != "never" {
			t.Errorf("Return(%s, %s, %v) = %v with change %d, want %s", tt.key, tt.id, tt.spent, err, d.Change, tt.want)
		}
	}
	sameDecision(t, "after errors", n.peek(noon, r), before)
	if ok, err := n.Lend(noon, r, &limiter.Loan{Share: 1000, Holders: 1}, &d); ok || err == nil || !strings.Contains(err.Error(), "must not be empty") {
		t.Errorf("Lend() without an id = %v, %v, want an error", ok, err)
	}
	if ok, err := n.Lend(noon, r, &limiter.Loan{ID: "slice", Share: 1000, Holders: 1}, &d); ok || !errors.Is(err, limiter.ErrConflict) {
		t.Errorf("Lend() with a known id = %v, %v, want a conflict", ok, err)
	}
	for name, q := range map[string]limiter.Request{
		"forced":       {Key: r.Key, Plan: r.Plan, Requests: 1, Force: true},
		"denied":       {Key: r.Key, Plan: r.Plan, Requests: 1e6},
		"without key":  {Key: "acme/carol", Plan: r.Plan, Requests: 1},
		"without cost": {Key: r.Key, Plan: r.Plan},
	} {
		q.Plan.Levels[0].End = len(q.Key)
		if ok, err := n.Lend(noon, &q, &limiter.Loan{ID: "other", Share: 1000, Holders: 1}, &d); ok || err != nil {
			t.Errorf("Lend() for a call %s = %v, %v, want nothing", name, ok, err)
		}
	}
	if n.Seq(acme) != seq {
		t.Errorf("Seq() = %d, want %d as before", n.Seq(acme), seq)
	}
	n.Close(acme)
	if ok, err := n.Lend(noon, r, &limiter.Loan{ID: "other", Share: 1000, Holders: 1}, &d); ok || !errors.Is(err, limiter.ErrClosed) {
		t.Errorf("Lend() in a closed partition = %v, %v, want %v", ok, err, limiter.ErrClosed)
	}
	if err := n.Return(noon, r.Key, "slice", []int64{1, 1}, nil, limiter.Used{}, &d); !errors.Is(err, limiter.ErrClosed) {
		t.Errorf("Return() in a closed partition = %v, want %v", err, limiter.ErrClosed)
	}
	n.Open(acme, 0)
	n.returnSlice(noon, r.Key, "slice", 1, 1)
}

// TestSliceIsNoReservation checks that no other call than Return changes a slice.
func TestSliceIsNoReservation(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme", Plan: n.plan("acme", bucketLimit), Requests: 1}
	n.check(noon, r)
	n.lend(noon, r, "slice")
	before := n.peek(noon, r)
	q := *r
	q.ID, q.Attempt = "slice", 7
	var d limiter.Decision
	var c limiter.CountResult
	wantConflict(t, "Check", n.Check(noon, &q, &d))
	wantConflict(t, "Reserve", n.Reserve(noon, &q, &d))
	wantConflict(t, "Settle", n.Settle(noon, &limiter.Usage{Key: "acme", ID: "slice", Final: true}, &d))
	wantConflict(t, "Settle of another key", n.Settle(noon, &limiter.Usage{Key: "acme/x", ID: "slice", Final: true}, &d))
	wantConflict(t, "Cancel", n.Cancel(noon, "acme", "slice", &d))
	wantConflict(t, "Count", n.Count(noon, &limiter.CountRequest{Key: "acme", Window: limiter.Window{Unit: limiter.UnitDay}, Hits: 1, ID: "slice"}, &c))
	if err := n.WithdrawCheck(noon, &q, &d); err != nil {
		t.Fatal(err)
	}
	for _, attempt := range []uint64{0, 8} {
		if _, err := n.Withdraw(noon, "acme", "slice", attempt); err != nil {
			t.Fatal(err)
		}
	}
	sameDecision(t, "after all calls", n.peek(noon, r), before)
	n.returnSlice(noon, "acme", "slice", 5)
	wantUsed(t, "after the return", n.peek(noon, r), 0, 6)
}
