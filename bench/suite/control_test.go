// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/bucketring/bucketring/bench"
)

// counted counts the checks and reserves that it gets.
type counted struct {
	bench.Target
	calls int
}

func (c *counted) Check(context.Context, *bench.Call) (bench.Answer, error) {
	c.calls++
	return bench.Answer{Outcome: bench.Allowed}, nil
}

func (c *counted) Reserve(ctx context.Context, call *bench.Call) (bench.Answer, error) {
	return c.Check(ctx, call)
}

// A control sends its share, and a repeated call with the first one. The rest is refused.
func TestAControlSendsAShare(t *testing.T) {
	for _, share := range []float64{0, 0.1, 0.5, 0.99} {
		to := &counted{}
		s := newShareTarget(to, share)
		const calls = 20_000
		for i := range calls {
			call := &bench.Call{ID: "r7-" + strconv.Itoa(i)}
			_, first := s.Check(t.Context(), call)
			if _, again := s.Reserve(t.Context(), call); (first == nil) != (again == nil) {
				t.Fatalf("call %d: %v, and %v when it is repeated", i, first, again)
			}
			if refused, ok := errors.AsType[*bench.OverloadedError](first); first != nil && (!ok || !refused.HeldBack) {
				t.Fatalf("call %d: %v, want a refusal", i, first)
			}
		}
		if got := float64(to.calls) / (2 * calls); got < share-0.02 || got > share+0.02 {
			t.Errorf("%v of the calls were sent, want %v", got, share)
		}
	}
}
