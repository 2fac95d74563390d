// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"fmt"
	"time"

	"github.com/bucketring/bucketring/bench"
)

var nullKind = Kind{
	Name: "null", Form: "null:[DURATION]",
	Measures: "The bench itself: every call is allowed, at once or after the duration, and what is measured is the overhead and the highest rate of the harness on this machine.",
	Leaves:   "It limits nothing, and with a duration the timers of the system decide how much later an answer is.",
}

// nothing allows everything.
type nothing struct {
	base
	delay time.Duration
}

func openNull(k *kind, rest string, o Options) (opened, error) {
	n := &nothing{base: base{k, k.Name + ":" + rest, o.Timeout}}
	if rest == "" {
		return n, nil
	}
	var err error
	if n.delay, err = time.ParseDuration(rest); err != nil || n.delay < 0 {
		return nil, fmt.Errorf("must be null: or null:DURATION such as null:5ms, got duration %q", rest)
	}
	return n, nil
}

func (n *nothing) describe() string            { return "" }
func (n *nothing) ready(context.Context) error { return nil }

// wait lets the delay pass, or ends with ctx.
func (n *nothing) wait(ctx context.Context, what string) error {
	if n.delay > 0 {
		timer := time.NewTimer(n.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return failed(what, err, false)
	}
	return nil
}

// Check implements [bench.Target].
func (n *nothing) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	if err := n.wait(ctx, "check"); err != nil {
		return bench.Answer{}, err
	}
	return bench.Answer{Outcome: bench.Allowed, ID: c.ID}, nil
}

// Reserve implements [bench.Target].
func (n *nothing) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	if err := n.wait(ctx, "reserve"); err != nil {
		return bench.Answer{}, err
	}
	return bench.Answer{Outcome: bench.Allowed, ID: c.ID, GrantedOutputTokens: c.MaxOutputTokens}, nil
}

// Settle implements [bench.Target].
func (n *nothing) Settle(ctx context.Context, _ bench.Usage) (bench.Answer, error) {
	return bench.Answer{}, n.wait(ctx, "settle")
}

// Close implements [bench.Target].
func (n *nothing) Close() error { return nil }
