// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// mixed returns a node and a request whose limits are of each algorithm that can be lent.
func mixed(t testing.TB, o limiter.Options) (*node, *limiter.Request) {
	n := newNode(t, o)
	return n, &limiter.Request{Key: "acme", Plan: n.plan("acme", bucketLimit, slidingLimit, fixedLimit), Requests: 1}
}

// TestSliceSurvivesSnapshots returns one slice to an engine that was restored from a
// snapshot, and lets another expire there.
func TestSliceSurvivesSnapshots(t *testing.T) {
	n, r := mixed(t, limiter.Options{})
	n.check(noon, r)
	n.lend(noon, r, "a")
	b := n.lend(noon.Add(10*time.Millisecond), r, "b")
	now := noon.Add(20 * time.Millisecond)
	data := n.Snapshot(now, acme, nil)
	again, q := mixed(t, limiter.Options{})
	if err := again.Restore(now, acme, data, time.LoadLocation); err != nil {
		t.Fatalf("Restore() = %v", err)
	}
	if s := again.Stats(); s.Slices != 2 || s.Reservations != 0 || s.IDs != 2 {
		t.Errorf("Stats() = %+v, want two slices and no reservation", s)
	}
	var d limiter.Decision
	wantConflict(t, "Cancel at the restored engine", again.Cancel(now, "acme", "a", &d))
	now = now.Add(100 * time.Millisecond)
	again.returnSlice(now, "acme", "a", 7, 7, 7)
	other, twin := mixed(t, limiter.Options{})
	other.check(noon, twin)
	twin.Requests, twin.Force = 7, true
	other.check(now, twin)
	twin.Requests = b.Calls
	other.check(noon.Add(3030*time.Millisecond-1), twin)
	now = noon.Add(4 * time.Second)
	if err := again.Return(now, "acme", "b", []int64{1, 1, 1}, nil, limiter.Used{}, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
		t.Errorf("Return() after the lease = %v, want %v", err, limiter.ErrUnknownReservation)
	}
	sameLimits(t, "at the restored engine", now, again, other, q, twin)
	if s := again.Stats(); s.Slices != 0 || s.SlicesReturned != 1 || s.SlicesExpired != 1 || s.Expired != 0 {
		t.Errorf("Stats() = %+v, want one slice that was returned and one that expired", s)
	}
}

// TestHeirHasSlices sends a slice, its return and its expiry to the heir, which takes over.
func TestHeirHasSlices(t *testing.T) {
	for _, what := range []string{"lent", "returned", "expired"} {
		owner, heir := tracked(t)
		limits := []limiter.Limit{bucketLimit, slidingLimit, fixedLimit}
		r := &limiter.Request{Key: "acme", Plan: owner.plan("acme", limits...), Requests: 1}
		q := &limiter.Request{Key: "acme", Plan: heir.plan("acme", limits...), Requests: 1}
		owner.check(noon, r)
		owner.lend(noon, r, "slice")
		heir.mustApply(noon, owner.changes(noon, 0))
		if s := heir.Stats(); s.CopiedIDs != 1 || s.Slices != 0 {
			t.Errorf("Stats() of the heir = %+v, want a copied id", s)
		}
		sameLimits(t, "at the heir", noon, heir, owner, q, r)
		now := noon.Add(100 * time.Millisecond)
		switch after := owner.Seq(acme); what {
		case "returned":
			owner.returnSlice(now, "acme", "slice", 3, 3, 3)
			heir.mustApply(now, owner.changes(now, after))
		case "expired":
			now = noon.Add(4 * time.Second)
			owner.check(now, r)
			heir.mustApply(now, owner.changes(now, after))
		}
		heir.Open(acme, 1000)
		var d limiter.Decision
		for _, n := range []*node{owner, heir} {
			err := n.Return(now.Add(time.Millisecond), "acme", "slice", []int64{5, 5, 5}, nil, limiter.Used{}, &d)
			if ended := what != "lent"; ended != errors.Is(err, limiter.ErrUnknownReservation) || !ended && err != nil {
				t.Errorf("Return() of a slice that is %s = %v", what, err)
			}
			if s := n.Stats(); s.Slices != 0 || s.IDs != 0 {
				t.Errorf("Stats() = %+v, want no slice", s)
			}
		}
		sameLimits(t, what, now.Add(time.Second), heir, owner, q, r)
	}
}

// TestPolicyChangeUnderASlice changes the algorithm and the amount of limits while a slice is
// lent, whose charges go along.
func TestPolicyChangeUnderASlice(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme", Plan: n.plan("acme", bucketLimit, slidingLimit), Requests: 1}
	n.check(noon, r)
	n.lend(noon, r, "slice")
	swapped := [2]limiter.Limit{bucketLimit, slidingLimit}
	swapped[0].Algorithm, swapped[1].Algorithm = limiter.SlidingWindow, limiter.TokenBucket
	swapped[1].Window = time.Hour
	r.Plan = n.plan("acme", swapped[:]...)
	n.check(noon, r)
	n.returnSlice(noon, "acme", "slice", 40, 41)
	d := n.peek(noon, r)
	wantUsed(t, "after the return", d, 0, 42)
	wantUsed(t, "after the return", d, 1, 43)
}

// TestSliceKeepsItsRecord checks that what a slice charged is not evicted, nor swept.
func TestSliceKeepsItsRecord(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeys: 20, MaxKeysPerRoot: 20})
	r := &limiter.Request{Key: "acme/alice", Plan: n.plan("acme/alice", fixedLimit), Requests: 1}
	r.Plan.Levels[0].End = len(r.Key)
	n.check(noon, r)
	l := n.lend(noon, r, "slice")
	for i := range 200 {
		q := &limiter.Request{Key: "acme/" + strconv.Itoa(i), Plan: n.plan("acme", bucketLimit), Requests: 9000}
		q.Plan.Levels[0].End = len(q.Key)
		n.check(noon, q)
		n.Sweep(noon, 1000)
	}
	if n.Stats().Evicted == [3]int64{} {
		t.Fatal("nothing was evicted")
	}
	wantUsed(t, "after evictions", n.peek(noon, r), 0, 1+l.Calls)
	n.returnSlice(noon, r.Key, "slice", 2)
	wantUsed(t, "after the return", n.peek(noon, r), 0, 3)
}

// TestManySlicesExpireAtOnce: more leases end than one call handles, and a return of one that
// is over is late, nevertheless.
func TestManySlicesExpireAtOnce(t *testing.T) {
	n := newNode(t, limiter.Options{})
	limit := fixedLimit
	limit.Amount, limit.Window = 1e9, time.Hour
	r := &limiter.Request{Key: "acme", Plan: n.plan("acme", limit), Requests: 1}
	n.check(noon, r)
	const slices = 200
	total := int64(1)
	for i := range slices {
		l := &limiter.Loan{ID: strconv.Itoa(i), Share: 10, Holders: 1}
		var d limiter.Decision
		if ok, err := n.Lend(noon, r, l, &d); !ok || err != nil {
			t.Fatalf("Lend() = %v, %v", ok, err)
		}
		total += l.Calls
	}
	now := noon.Add(4 * time.Second)
	var d limiter.Decision
	for i := slices - 1; i >= 0; i-- {
		if err := n.Return(now, "acme", strconv.Itoa(i), []int64{1}, nil, limiter.Used{}, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
			t.Fatalf("Return(%d) = %v, want %v", i, err, limiter.ErrUnknownReservation)
		}
	}
	wantUsed(t, "after all leases", n.peek(now, r), 0, total)
	if s := n.Stats(); s.Slices != 0 || s.SlicesExpired != slices || s.IDs != 0 {
		t.Errorf("Stats() = %+v, want %d slices that expired", s, slices)
	}
}

// TestRateOfAHotKey checks that decisions have the rate of a key, and the share of who asks,
// once the key is hot: one by one, in batches, and while not every call is counted.
func TestRateOfAHotKey(t *testing.T) {
	for _, perSecond := range []int{900, 4000, 200_000} {
		n := newNode(t, limiter.Options{HotKeys: true})
		limit := fixedLimit
		limit.Amount = 1e9
		p := n.plan("acme", limit)
		var d limiter.Decision
		now, sampled := noon, 0
		for i := range 3 * perSecond { // three quarters of them by one asker
			r := &limiter.Request{Key: "acme", Plan: p, Requests: 1, Asker: uint32(1 + boolToInt(i%4 == 0)), TakesSlice: i%8 == 1}
			if i%2 == 0 {
				n.CheckBatch(now, []*limiter.Request{r}, []*limiter.Decision{&d}, make([]error, 1))
			} else {
				d = n.check(now, r)
			}
			if d.Rate != 0 && d.Rate < limiter.HotRate || (d.Rate == 0) != (d.AskerShare == 0) {
				t.Fatalf("rate %d and share %d, want both or none", d.Rate, d.AskerShare)
			}
			if second := i / perSecond; second == 2 { // after two seconds, a rate is three quarters of what it will be, or more
				hot := perSecond >= limiter.HotRate
				sampled += boolToInt(d.Rate > 0)
				if r.TakesSlice && hot != (d.Rate > 0) || !hot && d.Rate > 0 {
					t.Fatalf("call %d of %d per second: rate %d, want one: %v", i, perSecond, d.Rate, hot)
				}
				wantShare := int64(750)
				if r.Asker == 2 {
					wantShare = 250
				}
				if d.Rate > 0 && (d.Rate < int64(perSecond)*7/10 || d.Rate > int64(perSecond)*12/10 || d.AskerShare < wantShare-60 || d.AskerShare > wantShare+60) {
					t.Fatalf("call %d of %d per second by asker %d: rate %d, share %d, want %d", i, perSecond, r.Asker, d.Rate, d.AskerShare, wantShare)
				}
			}
			now = now.Add(time.Second / time.Duration(perSecond))
			if i%1000 == 0 {
				n.Sweep(now, 1)
			}
		}
		if all := perSecond == 4000; all != (sampled == perSecond) {
			t.Errorf("%d of %d calls have a rate, want all: %v", sampled, perSecond, all)
		}
		n.settleNothing(now, &d)
		if d.Rate != 0 || d.AskerShare != 0 {
			t.Errorf("a return has rate %d, want none", d.Rate)
		}
	}
}

// settleNothing makes a call that is neither a check nor a reserve.
func (n *node) settleNothing(now limiter.Time, d *limiter.Decision) {
	_ = n.Return(now, "acme", "none", nil, nil, limiter.Used{}, d)
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestLendDoesNotAllocate checks Lend, Return and an expiry, also while changes are listed.
func TestLendDoesNotAllocate(t *testing.T) {
	for _, isTracked := range []bool{false, true} {
		n, r := mixed(t, limiter.Options{HotKeys: true})
		n.Track(acme, isTracked)
		var d limiter.Decision
		l := &limiter.Loan{ID: "slice", Share: 1000, Holders: 1}
		now, back := noon, true
		spent := []int64{1, 1, 1}
		call := func() {
			now = now.Add(10 * time.Second)
			if err := n.Check(now, r, &d); err != nil || d.Outcome != limiter.Allowed {
				t.Fatalf("Check() = %s, %v", d.Outcome, err)
			}
			if ok, err := n.Lend(now, r, l, &d); err != nil || !ok {
				t.Fatalf("Lend() = %v, %v", ok, err)
			}
			if back = !back; back {
				if err := n.Return(now, "acme", "slice", spent, nil, limiter.Used{}, &d); err != nil {
					t.Fatalf("Return() = %v", err)
				}
			}
		}
		for range 300 {
			call()
		}
		n.ForgetChanges(acme, n.cut(now))
		for range 300 {
			call()
		}
		n.ForgetChanges(acme, n.cut(now))
		if allocs := testing.AllocsPerRun(200, call); allocs != 0 {
			t.Errorf("tracked %v: %v allocations, want 0", isTracked, allocs)
		}
	}
}

// BenchmarkLend is a slice of three limits that is lent and returned.
func BenchmarkLend(b *testing.B) {
	n, r := mixed(b, limiter.Options{HotKeys: true})
	var d limiter.Decision
	n.check(noon, r)
	l := &limiter.Loan{ID: "slice", Share: 1000, Holders: 1}
	spent := []int64{0, 0, 0}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := n.Lend(noon, r, l, &d); err != nil || !ok {
			b.Fatalf("Lend() = %v, %v", ok, err)
		}
		if err := n.Return(noon, "acme", "slice", spent, nil, limiter.Used{}, &d); err != nil {
			b.Fatal(err)
		}
	}
}
