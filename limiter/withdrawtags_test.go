// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

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
