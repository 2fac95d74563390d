// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"fmt"
	"time"

	"github.com/bucketring/bucketring/bench"
)

var nullKind = Kind{
	Name: "null", Syntax: "null:[DURATION]",
	Measures:    "The harness itself: every call is allowed, at once or after the duration. It shows the overhead and the maximum rate of the harness on this machine.",
	Limitations: "It limits nothing. With a duration, latencies depend on the precision of the system's timers.",
}

// nullTarget allows everything.
type nullTarget struct {
	base
	delay time.Duration
}

func openNull(k *kind, rest string, o Options) (builtin, error) {
	n := &nullTarget{base: newBase(k, k.Name+":"+rest, o)}
	if rest == "" {
		return n, nil
	}
	var err error
	if n.delay, err = time.ParseDuration(rest); err != nil || n.delay < 0 {
		return nil, fmt.Errorf("must be null: or null:DURATION such as null:5ms, got duration %q", rest)
	}
	return n, nil
}

func (n *nullTarget) describe() string            { return "" }
func (n *nullTarget) ready(context.Context) error { return nil }

// wait waits for the delay or the end of ctx.
func (n *nullTarget) wait(ctx context.Context, what string) error {
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
		return wrapError(what, err, false)
	}
	return nil
}

// Check implements [bench.Target].
func (n *nullTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	if err := n.wait(ctx, "check"); err != nil {
		return bench.Answer{}, err
	}
	return bench.Answer{Outcome: bench.Allowed, ID: c.ID}, nil
}

// Reserve implements [bench.Target].
func (n *nullTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	if err := n.wait(ctx, "reserve"); err != nil {
		return bench.Answer{}, err
	}
	return bench.Answer{Outcome: bench.Allowed, ID: c.ID, GrantedOutputTokens: c.MaxOutputTokens}, nil
}

// Settle implements [bench.Target].
func (n *nullTarget) Settle(ctx context.Context, _ bench.Usage) (bench.Answer, error) {
	return bench.Answer{}, n.wait(ctx, "settle")
}

// Close implements [bench.Target].
func (n *nullTarget) Close() error { return nil }
