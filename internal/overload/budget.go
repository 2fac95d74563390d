// SPDX-License-Identifier: Apache-2.0

package overload

import "sync/atomic"

// RetryBudget bounds retries to a tenth of the calls, so that retries cannot multiply the
// load on a receiver that fails because there is too much of it. Every call deposits a
// tenth of a retry. What is not used is kept, up to 2,048 retries: about what can be in
// flight when a connection breaks. At first there are 100, so that a caller with few calls
// can retry its first failures. It is the retry budget of Finagle, and the retry
// throttling of gRPC (proposal A6), with counts in place of times.
//
// The zero value is ready for use. A RetryBudget is safe for concurrent use. A deposit
// writes nothing while the budget is full, as it usually is.
type RetryBudget struct {
	tenths atomic.Int64 // of a retry, less firstRetries
}

const (
	retryCost    = 10 // deposits
	firstRetries = 100 * retryCost
	mostRetries  = 2048 * retryCost
)

// Deposit records a call that is not a retry.
func (b *RetryBudget) Deposit() {
	if b.tenths.Load() < mostRetries-firstRetries {
		b.tenths.Add(1)
	}
}

// Withdraw reports whether a call may be retried, and takes that retry from the budget.
func (b *RetryBudget) Withdraw() bool {
	for {
		n := b.tenths.Load()
		if n+firstRetries < retryCost {
			return false
		}
		if b.tenths.CompareAndSwap(n, n-retryCost) {
			return true
		}
	}
}
