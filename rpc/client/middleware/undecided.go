// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// OutcomeUndecided is the outcome in a [Result] of a call that ran although no node
// answered. See [AllowUndecided].
const OutcomeUndecided client.Outcome = "undecided"

// headerUndecided marks the response to such a call, with the value "none".
const headerUndecided = "X-Bucketring-Decision"

// UndecidedMode says what happens to a call when no node answers.
type UndecidedMode uint8

const (
	// DenyUndecided rejects the call with 503.
	DenyUndecided UndecidedMode = iota
	// AllowUndecided runs the call without limits and without a bound on its output. Its
	// response has the header X-Bucketring-Decision: none, and it is charged when nodes
	// answer again: see [Middleware.Flush].
	AllowUndecided
)

// String returns "deny" or "allow".
func (m UndecidedMode) String() string {
	switch m {
	case DenyUndecided:
		return "deny"
	case AllowUndecided:
		return "allow"
	}
	return fmt.Sprintf("UndecidedMode(%d)", uint8(m))
}

// noNodeAnswered reports whether err means that no node made a decision because none
// could be reached. An overloaded node has refused the call.
func noNodeAnswered(err error) bool {
	return !errors.Is(err, client.ErrOverloaded) && (errors.Is(err, client.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded))
}

// outageLogInterval is the least time between two lines about calls without a decision.
const outageLogInterval = time.Minute

// outageLog logs that no node answers. It is safe for concurrent use.
type outageLog struct {
	calls   atomic.Int64 // since the last line
	logNext atomic.Int64 // not before, in nanoseconds of the process
	began   time.Time
}

// add records a call of a key without a decision, and logs at most once in a minute.
func (o *outageLog) add(log accessLog, mode UndecidedMode, key string, err error) {
	o.calls.Add(1)
	now, next := int64(time.Since(o.began)), o.logNext.Load()
	if now < next || !o.logNext.CompareAndSwap(next, now+int64(outageLogInterval)) {
		return
	}
	calls, cause := o.calls.Swap(0), log.keys.ErrorText(err, key)
	if mode == AllowUndecided {
		log.logger.Warn("no node answers: calls run without limits and are charged later", "calls", calls, "error", cause)
		return
	}
	log.logger.Warn("no node answers: calls are rejected", "calls", calls, "error", cause)
}
