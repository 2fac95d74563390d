// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

func slidingOf(amount int64) limiter.Limit {
	return limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: amount, Window: time.Minute}
}

func fixedOf(amount int64) limiter.Limit {
	return limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: amount, Window: time.Hour}
}

func (n *node) reset(now limiter.Time, p *limiter.Plan, key, name, id string) limiter.Adjustment {
	n.t.Helper()
	var d limiter.Adjustment
	if err := n.Reset(now, &limiter.Request{Key: key, Plan: p, ID: id}, name, &d); err != nil {
		n.t.Fatalf("Reset(%s) = %v", key, err)
	}
	return d
}

func (n *node) grant(now limiter.Time, p *limiter.Plan, key string, units int64, lasts time.Duration, id string) limiter.Adjustment {
	n.t.Helper()
	var d limiter.Adjustment
	if err := n.Grant(now, &limiter.Request{Key: key, Plan: p, ID: id}, "tokens", units, lasts, &d); err != nil {
		n.t.Fatalf("Grant(%s) = %v", key, err)
	}
	return d
}

// TestResetIsNotGivenBack: what a limit was charged before a reset is given back neither by a
// settle nor by a withdrawn check, and a settle above the estimate charges it nothing.
func TestResetIsNotGivenBack(t *testing.T) {
	for _, l := range []limiter.Limit{bucketOf(1000, 1000), slidingOf(1000), fixedOf(1000)} {
		t.Run(l.Algorithm.String(), func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			p := n.plan("k", l)
			for _, id := range []string{"less", "more", "cancelled"} {
				wantOutcome(t, "a reserve", n.reserve(noon, &limiter.Request{Key: "k", Plan: p, ID: id, InputTokens: 200, OutputTokens: 100}), limiter.Allowed)
			}
			withdrawn := &limiter.Request{Key: "k", Plan: p, ID: "withdrawn", InputTokens: 50, Attempt: 7}
			n.check(noon, withdrawn)
			d := n.reset(noon, p, "k", "", "reset")
			if len(d.Limits) != 1 || d.Limits[0].Before != 950 || d.Limits[0].After != 0 || d.Change == 0 || !d.Large {
				t.Errorf("Reset() = %+v, want 950 before", d)
			}
			n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: 400})
			s := n.settle(noon, limiter.Usage{Key: "k", ID: "less", InputTokens: 10, OutputTokens: 1, Final: true})
			wantUsed(t, "after a settle below the estimate", s, 0, 400)
			if s.Limits[0].Cost != 0 || s.Limits[0].Exceeded {
				t.Errorf("the settle says %+v, want no cost", s.Limits[0])
			}
			wantUsed(t, "after a settle above the estimate", n.settle(noon, limiter.Usage{Key: "k", ID: "more", InputTokens: 900, OutputTokens: 900, Final: true}), 0, 400)
			wantUsed(t, "after a cancel", n.cancel(noon, "k", "cancelled"), 0, 400)
			var w limiter.Decision
			if err := n.WithdrawCheck(noon, withdrawn, &w); err != nil {
				t.Fatal(err)
			}
			wantUsed(t, "after a withdrawal", n.peek(noon, &limiter.Request{Key: "k", Plan: p}), 0, 400)
			later := &limiter.Request{Key: "k", Plan: p, ID: "later", InputTokens: 50, Attempt: 8}
			n.check(noon.Add(time.Nanosecond), later)
			if err := n.WithdrawCheck(noon.Add(time.Nanosecond), later, &w); err != nil {
				t.Fatal(err)
			}
			wantUsed(t, "after a withdrawal of a later check", n.peek(noon.Add(time.Nanosecond), &limiter.Request{Key: "k", Plan: p}), 0, 400)
		})
	}
}

// TestResetKeepsWhatIsLent: a slice that is lent stays charged, because it can still be spent.
func TestResetKeepsWhatIsLent(t *testing.T) {
	for _, l := range []limiter.Limit{bucketOf(100_000, 100_000), slidingOf(100_000), fixedOf(100_000)} {
		t.Run(l.Algorithm.String(), func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			p := n.plan("k", l)
			r := &limiter.Request{Key: "k", Plan: p, InputTokens: 10}
			for range 100 {
				n.check(noon, r)
			}
			var d limiter.Decision
			loan := limiter.Loan{ID: "slice:a:1", Share: 1000, Holders: 1}
			if ok, err := n.Lend(noon, r, &loan, &d); !ok || err != nil {
				t.Fatalf("Lend() = %t, %v", ok, err)
			}
			before := used(n.peek(noon, r).Limits[0])
			charged := before - 1000
			a := n.reset(noon, p, "k", "tokens", "reset")
			if charged < loan.Amounts[0] || a.Limits[0].Before != before || a.Limits[0].After != charged {
				t.Errorf("Reset() = %+v, want from %d to the %d that are lent", a, before, charged)
			}
			wantUsed(t, "after the reset", n.peek(noon, r), 0, charged)
			var k limiter.KeyState
			if err := n.Look(noon, r, 10, &k); err != nil || k.Slices != 1 || k.Lent[0] != charged || k.Running != 0 {
				t.Errorf("Look() = %+v, %v, want one slice of %d", k, err, charged)
			}
			if err := n.Return(noon, "k", loan.ID, []int64{30}, nil, limiter.Used{}, &d); err != nil {
				t.Fatal(err)
			}
			wantUsed(t, "after the slice has come back", n.peek(noon, r), 0, 30)
		})
	}
}

// TestCreditIsUsedOnce: a credit admits so much beyond the limit, and does not refill.
func TestCreditIsUsedOnce(t *testing.T) {
	for _, l := range []limiter.Limit{bucketOf(1000, 1000), slidingOf(1000), fixedOf(1000)} {
		t.Run(l.Algorithm.String(), func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			p := n.plan("k", l)
			count := func(now limiter.Time) (admitted int64) {
				for n.check(now, &limiter.Request{Key: "k", Plan: p, InputTokens: 10}).Outcome == limiter.Allowed {
					admitted += 10
				}
				return admitted
			}
			n.grant(noon, p, "k", 250, 48*time.Hour, "1")
			n.grant(noon, p, "k", 250, time.Hour, "2")
			if got := n.peek(noon, &limiter.Request{Key: "k", Plan: p}).Limits[0].Credit; got != 500 {
				t.Errorf("the credit is %d, want 500", got)
			}
			if got := count(noon); got != 1500 {
				t.Errorf("%d are admitted, want 1000 and the credit of 500", got)
			}
			later := noon.Add(2 * time.Hour)
			n.Sweep(later, 2*limiter.Partitions)
			if got := count(later); got != 1000 {
				t.Errorf("two hours later %d are admitted, want 1000", got)
			}
			// What is not needed of a credit goes back to it.
			later = later.Add(2 * time.Hour)
			n.check(later, &limiter.Request{Key: "k", Plan: p, InputTokens: 1000})
			n.grant(later, p, "k", 300, time.Hour, "3")
			wantOutcome(t, "a reserve from the credit", n.reserve(later, &limiter.Request{Key: "k", Plan: p, ID: "r", InputTokens: 100, OutputTokens: 200}), limiter.Allowed)
			s := n.settle(later, limiter.Usage{Key: "k", ID: "r", InputTokens: 100, OutputTokens: 20, Final: true})
			wantUsed(t, "after the settle", s, 0, 1000)
			if got := n.peek(later, &limiter.Request{Key: "k", Plan: p}).Limits[0].Credit; got != 180 {
				t.Errorf("after the settle the credit is %d, want 180", got)
			}
			// A credit ends.
			end := later.Add(time.Hour)
			if got := n.peek(end, &limiter.Request{Key: "k", Plan: p}).Limits[0].Credit; got != 0 {
				t.Errorf("at its end the credit is %d", got)
			}
		})
	}
}

// TestCreditEndsWithTheWindow: by default, that of a fixed window.
func TestCreditEndsWithTheWindow(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", fixedOf(100))
	if d := n.grant(noon, p, "k", 50, 0, "1"); d.Limits[0].Until != noon.Add(time.Hour).Wall {
		t.Errorf("the credit ends at %d, want the end of the hour", d.Limits[0].Until)
	}
	n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: 100})
	next := noon.Add(time.Hour)
	n.check(next, &limiter.Request{Key: "k", Plan: p, InputTokens: 100})
	wantOutcome(t, "a check in the next window", n.check(next, &limiter.Request{Key: "k", Plan: p, InputTokens: 10}), limiter.Denied)
	p = n.plan("b", bucketOf(100, 100))
	if d := n.grant(noon, p, "b", 50, 0, "1"); d.Limits[0].Until != noon.Add(limiter.CreditLasts).Wall {
		t.Errorf("the credit of a bucket ends at %d", d.Limits[0].Until)
	}
}

// TestAdjustmentsWithoutRoom: a change that could not be remembered is not made.
func TestAdjustmentsWithoutRoom(t *testing.T) {
	n := newNode(t, limiter.Options{MaxIDs: 64})
	p := n.plan("k", bucketOf(1_000_000, 0))
	for i := 0; ; i++ {
		r := &limiter.Request{Key: "k", Plan: p, ID: string(rune('a' + i)), InputTokens: 1, TTL: time.Hour}
		if d := n.reserve(noon, r); d.Outcome == limiter.Denied {
			break
		}
	}
	before := used(n.peek(noon, &limiter.Request{Key: "k", Plan: p}).Limits[0])
	var d limiter.Adjustment
	r := &limiter.Request{Key: "k", Plan: p, ID: "x"}
	for what, err := range map[string]error{
		"Reset": n.Reset(noon, r, "", &d), "Grant": n.Grant(noon, r, "tokens", 5, 0, &d), "End": n.End(noon, r, "a", limiter.ChargeProgress, &d),
	} {
		if !errors.Is(err, limiter.ErrNoRoom) {
			t.Errorf("%s without room = %v, want ErrNoRoom", what, err)
		}
	}
	wantUsed(t, "after all", n.peek(noon, r), 0, before)
}

// TestLookFindsReservations of a key and of keys below it, those renewed longest ago first.
func TestLookFindsReservations(t *testing.T) {
	n := newNode(t, limiter.Options{})
	set := mustSet(t, n.catalog, bucketOf(1_000_000, 0))
	const total = 3000 // more than are visited at once
	for i := range total {
		key := "a/b"
		if i%2 == 1 {
			key = "a/c"
		}
		n.reserve(noon.Add(time.Duration(i)*time.Millisecond), &limiter.Request{Key: key, Plan: plan(key, set, set), ID: "id" + string(rune(i+1000)), InputTokens: 3, TTL: time.Hour})
	}
	now := noon.Add(total * time.Millisecond)
	for key, want := range map[string]int{"a": total, "a/b": total / 2, "a/c": total / 2, "a/d": 0} {
		p := plan(key, set, set)
		if key == "a" {
			p = plan(key, set)
		}
		var k limiter.KeyState
		if err := n.Look(now, &limiter.Request{Key: key, Plan: p}, 5, &k); err != nil {
			t.Fatal(err)
		}
		if k.Running != want || len(k.Reservations) != min(5, want) || k.IDs != total {
			t.Errorf("Look(%s) finds %d, and lists %d, of %d ids, want %d", key, k.Running, len(k.Reservations), k.IDs, want)
		}
		for i, r := range k.Reservations {
			if i > 0 && k.Reservations[i-1].Since < r.Since || r.Since < time.Duration(total-12)*time.Millisecond || r.Since+r.Left != time.Hour || len(r.Charges) != 2 || r.Charges[1].Charged != 3 {
				t.Errorf("Look(%s): reservation %d is %+v", key, i, r)
			}
		}
	}
}
