// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

// checkedBy returns a check whose answer so many attempts got, from first on, in steps.
func checkedBy(n *node, first, step uint64, attempts int) *limiter.Request {
	n.t.Helper()
	r := &limiter.Request{Key: fmt.Sprint("acme", first), ID: "a", Requests: 1}
	r.Plan = n.plan(r.Key, fixedLimit)
	for i := range attempts {
		r.Attempt = first + uint64(i)*step
		var d limiter.Decision
		if err := n.Check(noon, r, &d); err != nil {
			n.t.Fatal(err)
		}
	}
	return r
}

func withdrawAttempt(n *node, r *limiter.Request, attempt uint64) {
	n.t.Helper()
	w := *r
	w.Attempt = attempt
	if err := n.WithdrawCheck(noon, &w, new(limiter.Decision)); err != nil {
		n.t.Fatal(err)
	}
}

// A withdrawal of an attempt of a check that did not arrive leaves the charge of the only one that did,
// also if their ids are the same modulo 63, as those that members choose without knowing of each
// other may be.
func TestWithdrawalLeavesTheOnlyAttempt(t *testing.T) {
	n := newNode(t, limiter.Options{})
	for i := range uint64(2_000) {
		r := checkedBy(n, 1<<40+i, 0, 1)
		withdrawAttempt(n, r, r.Attempt+63*(1+2*i))
		if !n.Knows(r) {
			t.Fatalf("the withdrawal of attempt %d withdrew attempt %d", r.Attempt+63*(1+2*i), r.Attempt)
		}
		withdrawAttempt(n, r, r.Attempt)
		if n.Knows(r) {
			t.Fatalf("attempt %d was withdrawn, and is known", r.Attempt)
		}
	}
}

// A check is known until each of up to three attempts that got its answer is withdrawn, also if all are
// the same modulo 63, but not modulo 504, and after a restart. With more attempts, which differ modulo 63,
// it stays.
func TestAttemptsOfACheckAreCounted(t *testing.T) {
	n := newNode(t, limiter.Options{})
	for i := range uint64(300) {
		for attempts, step := range []uint64{1: 63, 63, 63, 64} {
			r := checkedBy(n, 1<<40+1_000_000*i+uint64(attempts), step, attempts)
			p := limiter.PartitionOf(r.Key)
			if err := n.Restore(noon, p, n.Snapshot(noon, p, nil), nil); err != nil {
				t.Fatal(err)
			}
			for left := attempts; left > 0; left-- {
				if !n.Knows(r) {
					t.Fatalf("the check is forgotten with %d of %d attempts left", left, attempts)
				}
				withdrawAttempt(n, r, r.Attempt-uint64(left-1)*step)
			}
			if forgotten := !n.Knows(r); attempts > 0 && forgotten != (attempts <= 3) {
				t.Fatalf("of %d attempts all were withdrawn: forgotten %t, want only up to 3", attempts, forgotten)
			}
		}
	}
}

// A withdrawal of an attempt of a check that did not arrive leaves the charge of another one, if their
// ids are not the same modulo 63.
func TestWithdrawalLeavesOtherAttempts(t *testing.T) {
	n := newNode(t, limiter.Options{})
	for i := range uint64(8 * 62) {
		first, other := 1<<40+i/62, 1+i%62
		r := &limiter.Request{Key: fmt.Sprint("acme", i), ID: "a", Plan: n.plan("acme", fixedLimit), Requests: 1, Attempt: first}
		var d limiter.Decision
		if err := n.Check(noon, r, &d); err != nil {
			t.Fatal(err)
		}
		w := *r
		w.Attempt += other
		if err := n.WithdrawCheck(noon, &w, &d); err != nil {
			t.Fatal(err)
		}
		if !n.Knows(r) {
			t.Fatalf("the withdrawal of attempt %d withdrew attempt %d", w.Attempt, r.Attempt)
		}
	}
}
