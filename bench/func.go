// SPDX-License-Identifier: Apache-2.0

package bench

import "context"

// WorkloadFunc adapts a function to the [Workload] interface.
type WorkloadFunc func(c *Call) bool

// Next calls f.
func (f WorkloadFunc) Next(c *Call) bool { return f(c) }

// CheckFunc adapts a function to the [Target] interface, for checks only.
type CheckFunc func(ctx context.Context, c *Call) (Answer, error)

// Name returns "function".
func (CheckFunc) Name() string { return "function" }

// Check calls f.
func (f CheckFunc) Check(ctx context.Context, c *Call) (Answer, error) { return f(ctx, c) }

// Reserve returns [ErrNoReservations].
func (CheckFunc) Reserve(context.Context, *Call) (Answer, error) {
	return Answer{}, ErrNoReservations
}

// Settle returns [ErrNoReservations].
func (CheckFunc) Settle(context.Context, Usage) (Answer, error) {
	return Answer{}, ErrNoReservations
}

// Close does nothing.
func (CheckFunc) Close() error { return nil }
