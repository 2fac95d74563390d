// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// perHour is hits on a counter of 1000 an hour.
func perHour(hits int64) *limiter.CountRequest {
	return &limiter.CountRequest{Key: "acme", Window: limiter.Window{Unit: limiter.UnitHour}, Limit: 1000, Hits: hits}
}

// countHits counts hits, and checks what is used then, with what is lent.
func (n *node) countHits(now limiter.Time, q *limiter.CountRequest, used int64) limiter.CountResult {
	n.t.Helper()
	var d limiter.CountResult
	if err := n.Count(now, q, &d); err != nil || d.Used != used {
		n.t.Fatalf("Count(%+v) = %+v, %v, want %d used", q, d, err, used)
	}
	return d
}

// lendHits counts one hit and lends a slice of the counter.
func (n *node) lendHits(now limiter.Time, id string, used int64) *limiter.Loan {
	n.t.Helper()
	q := perHour(1)
	d := n.countHits(now, q, used)
	before := d.Change
	l := &limiter.Loan{ID: id, Share: 1000, Holders: 1}
	if ok, err := n.LendCount(now, q, l, &d); err != nil || !ok || d.Change != before+1 || !d.Large || d.Used != used {
		n.t.Fatalf("LendCount() = %v, %v with %+v, want a slice, a large change and the usage without it", ok, err, d)
	}
	if len(l.Amounts) != 1 || l.Amounts[0] != l.Calls || l.Tariff != nil {
		n.t.Fatalf("LendCount() lends %+v, want hits", l)
	}
	return l
}

func TestLendCount(t *testing.T) {
	n := newNode(t, limiter.Options{})
	l := n.lendHits(noon, "slice", 1)
	if l.Calls != 499 || l.Lease != time.Second {
		t.Errorf("%d hits are lent for %v, want 499 for 1s", l.Calls, l.Lease)
	}
	n.countHits(noon, perHour(0), 500)
	// Hits wait for the slice if they might be within the limit with what it gives back, and
	// what is given back waits, too.
	for _, q := range []*limiter.CountRequest{perHour(501), {Key: "acme", Window: perHour(0).Window, Limit: 1000, Hits: 1, GiveBack: true}} {
		q.Try = true
		if d := n.countHits(noon, q, 500); !d.Waits || d.Change != 0 && d.Change != n.Seq(acme) {
			t.Errorf("Count(%+v) = %+v, want that it waits", q, d)
		}
	}
	fits := perHour(500)
	fits.Try = true
	if d := n.countHits(noon, fits, 1000); d.Waits || d.Over {
		t.Errorf("Count(%+v) = %+v, want it counted", fits, d)
	}
	// The owner cannot give back what may be spent from the slice.
	n.countHits(noon, &limiter.CountRequest{Key: "acme", Window: fits.Window, Limit: 1000, Hits: 800, GiveBack: true}, 499)
	var d limiter.Decision
	for _, spent := range [][]int64{{500}, {-1}, {}, {1, 1}} {
		if err := n.Return(noon, "acme", "slice", spent, nil, limiter.Used{}, &d); err == nil {
			t.Errorf("Return() of %d = nil, want an error", spent)
		}
	}
	kept := []limiter.Kept{{Request: &limiter.Request{Key: "acme", ID: "r"}, Costs: []int64{1}, Left: time.Second}}
	if err := n.Return(noon, "acme", "slice", []int64{0}, kept, limiter.Used{}, &d); err == nil {
		t.Error("Return() with a reservation = nil, want an error: it is of a counter")
	}
	n.returnSlice(noon, "acme", "slice", 40)
	n.countHits(noon, perHour(0), 40)
	if err := n.Return(noon, "acme", "slice", []int64{0}, nil, limiter.Used{}, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
		t.Errorf("Return() again = %v", err)
	}
	if over := perHour(1000); over.Limit > 0 {
		over.Try = true
		if d := n.countHits(noon, over, 1040); d.Waits || !d.Over {
			t.Errorf("Count() without slices = %+v, want it counted, and over", d)
		}
	}
}

// TestLendNoCount checks when nothing is lent.
func TestLendNoCount(t *testing.T) {
	n := newNode(t, limiter.Options{})
	q := perHour(801)
	d := n.countHits(noon, q, 801)
	lend := func(what string, now limiter.Time, q *limiter.CountRequest, l limiter.Loan) {
		t.Helper()
		l.ID, l.Holders = what, 1
		if ok, err := n.LendCount(now, q, &l, &d); ok || err != nil {
			t.Errorf("%s: LendCount() = %v, %v, want nothing", what, ok, err)
		}
	}
	lend("less than a fifth is left", noon, perHour(1), limiter.Loan{Share: 1000})
	d = n.countHits(noon, &limiter.CountRequest{Key: "acme", Window: q.Window, Limit: 1000, Hits: 701, GiveBack: true}, 100)
	lend("a client", noon, perHour(1), limiter.Loan{Share: 1000, Client: true})
	lend("no hits", noon, perHour(0), limiter.Loan{Share: 1000})
	lend("hits of which three would fit", noon, perHour(150), limiter.Loan{Share: 1000})
	lend("no share", noon, perHour(1), limiter.Loan{})
	back, forced := perHour(1), perHour(1)
	back.GiveBack, forced.Force = true, true
	lend("given back", noon, back, limiter.Loan{Share: 1000})
	lend("forced", noon, forced, limiter.Loan{Share: 1000})
	lend("just before the end of the window", noon.Add(time.Hour-50*time.Millisecond), perHour(1), limiter.Loan{Share: 1000})
	lend("the window is over", noon.Add(time.Hour), perHour(1), limiter.Loan{Share: 1000})
	now := noon.Add(time.Hour)
	next := n.countHits(now, perHour(1), 1)
	lend("the answer is of another window", now, perHour(1), limiter.Loan{Share: 1000})
	d = next
	l := limiter.Loan{ID: "slice", Share: 1000, Holders: 1}
	if ok, err := n.LendCount(now, perHour(1), &l, &d); !ok || err != nil {
		t.Fatalf("LendCount() = %v, %v, want a slice", ok, err)
	}
	if _, err := n.LendCount(now, perHour(1), &l, &d); !errors.Is(err, limiter.ErrConflict) {
		t.Errorf("LendCount() with the same id = %v, want a conflict", err)
	}
}

// TestCountSliceExpires checks that a slice which is not returned stays counted, and only in its
// window, and that its lease ends before that.
func TestCountSliceExpires(t *testing.T) {
	n := newNode(t, limiter.Options{})
	late := noon.Add(time.Hour - 500*time.Millisecond)
	l := n.lendHits(late, "slice", 1)
	if l.Lease >= 500*time.Millisecond {
		t.Errorf("the lease is %v, want less than what is left of the window", l.Lease)
	}
	n.countHits(late.Add(499*time.Millisecond), perHour(0), 1+l.Calls)
	next := noon.Add(time.Hour)
	n.countHits(next, perHour(5), 5)
	if s := n.Stats(); s.Slices != 0 || s.IDs != 0 {
		t.Errorf("Stats() = %+v after the window, want no slice", s)
	}
	// If the clock steps into the next window, a return changes nothing there.
	n.lendHits(next, "another", 6)
	stepped := limiter.Time{Mono: next.Mono, Wall: next.Wall + int64(time.Hour)}
	n.countHits(stepped, perHour(7), 7)
	n.returnSlice(stepped, "acme", "another", 3)
	n.countHits(stepped, perHour(0), 7)
	// Nor does a lease that ends there.
	n.lendHits(stepped, "left", 8)
	stepped = limiter.Time{Mono: stepped.Mono, Wall: stepped.Wall + int64(time.Hour)}
	n.countHits(stepped, perHour(7), 7)
	stepped = stepped.Add(10 * time.Second)
	n.countHits(stepped, perHour(0), 7)
	// In a window that is not over, an expired one stays counted in full.
	l = n.lendHits(stepped, "third", 8)
	n.countHits(stepped.Add(10*time.Second), perHour(1), 8+l.Calls+1)
	if s := n.Stats(); s.Slices != 0 {
		t.Errorf("Stats() = %+v, want no slice", s)
	}
}

// TestCountBooks checks with random calls that hits and what is lent are the usage of a counter,
// also for an owner that has them from a snapshot.
func TestCountBooks(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 7))
		n := newNode(t, limiter.Options{})
		now, hits, lent := noon, int64(0), map[string]int64{}
		sum := func() (total int64) {
			for _, amount := range lent {
				total += amount
			}
			return total + hits
		}
		for i := range 200 {
			now = now.Add(time.Duration(r.IntN(20)) * time.Millisecond)
			switch r.IntN(6) {
			case 0:
				hits += 2
				n.countHits(now, perHour(2), sum())
			case 1:
				back := perHour(3)
				back.GiveBack = true
				if hits >= 3 {
					hits -= 3
					n.countHits(now, back, sum())
				}
			case 2:
				id := fmt.Sprint("slice", i)
				q := perHour(1)
				hits++
				d := n.countHits(now, q, sum())
				l := limiter.Loan{ID: id, Share: r.Int64N(300), Holders: 1 + r.IntN(3)}
				if ok, err := n.LendCount(now, q, &l, &d); err != nil {
					t.Fatal(err)
				} else if ok {
					lent[id] = l.Amounts[0]
				}
			case 3:
				for id, amount := range lent {
					spent := r.Int64N(amount + 1)
					var d limiter.Decision
					err := n.Return(now, "acme", id, []int64{spent}, nil, limiter.Used{}, &d)
					switch {
					case errors.Is(err, limiter.ErrUnknownReservation):
						spent = amount // its lease is over
					case err != nil:
						t.Fatal(err)
					}
					hits += spent
					delete(lent, id)
					break
				}
			case 4:
				other := newNode(t, limiter.Options{})
				if err := other.Restore(now, acme, n.Snapshot(now, acme, nil), time.LoadLocation); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				n = other
			default:
				n.countHits(now, perHour(0), sum())
			}
		}
	}
}

// TestHeirHasCountSlices sends a slice of a counter and its end to the heir, which takes over.
func TestHeirHasCountSlices(t *testing.T) {
	owner, heir := tracked(t)
	l := owner.lendHits(noon, "slice", 1)
	owner.lendHits(noon, "open", 1+l.Calls+1)
	heir.mustApply(noon, owner.changes(noon, 0))
	after := owner.Seq(acme)
	owner.returnSlice(noon, "acme", "slice", 10)
	heir.mustApply(noon, owner.changes(noon, after))
	heir.Open(acme, 1000)
	used := owner.countHits(noon, perHour(0), heir.countHits(noon, perHour(0), 12+(1000-1-l.Calls-1)/2).Used).Used
	heir.returnSlice(noon, "acme", "open", 0)
	heir.countHits(noon, perHour(0), 12)
	if used <= 12 {
		t.Error("no second slice was lent: the test shows nothing")
	}
}

// TestCountSliceKeepsItsRecord checks that a counter is not evicted while a slice of it is lent.
func TestCountSliceKeepsItsRecord(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeys: 20, MaxKeysPerRoot: 20})
	l := n.lendHits(noon, "slice", 1)
	for i := range 200 {
		q := perHour(1)
		q.Key = fmt.Sprint("acme/", i)
		var d limiter.CountResult
		if err := n.Count(noon, q, &d); err != nil {
			t.Fatal(err)
		}
	}
	n.countHits(noon, perHour(0), 1+l.Calls)
	n.returnSlice(noon, "acme", "slice", 0)
	n.countHits(noon, perHour(0), 1)
}

// TestHotCounters checks that the rate of a counter is known, apart from that of the key of the
// policy with its name, and that it is not in the list of hot keys.
func TestHotCounters(t *testing.T) {
	n := newNode(t, limiter.Options{HotKeys: true})
	r := &limiter.Request{Key: "acme", Plan: n.plan("acme", fixedLimit), Requests: 1}
	q := perHour(1)
	q.Asker, q.TakesSlice = 7, true
	var d limiter.CountResult
	now := noon
	for i := range 4000 {
		now = noon.Add(time.Duration(i) * 500 * time.Microsecond)
		if err := n.Count(now, q, &d); err != nil {
			t.Fatal(err)
		}
	}
	if d.Rate < limiter.HotRate || d.AskerShare != 1000 {
		t.Errorf("Count() = rate %d and share %d of its asker, want a hot counter, and all", d.Rate, d.AskerShare)
	}
	if got := n.check(now, r); got.Rate != 0 {
		t.Errorf("Check() = rate %d, want none: the key is not that of the counter", got.Rate)
	}
	for _, k := range n.HotKeys(now, 10).Keys {
		if k.Key != "acme" || k.Rate > 1 {
			t.Errorf("HotKeys() has %+v, want only the check", k)
		}
	}
	forced := *q
	forced.Force = true
	if err := n.Count(now, &forced, &d); err != nil || d.Rate != 0 {
		t.Errorf("Count() of a replay = rate %d, %v, want none", d.Rate, err)
	}
}
