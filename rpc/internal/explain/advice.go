// SPDX-License-Identifier: Apache-2.0

package explain

import "time"

// The reasons of denials.
const (
	limitExceeded    = "limit_exceeded"
	exceedsCapacity  = "exceeds_capacity"
	noPrice          = "no_price"
	ownerUnreachable = "owner_unreachable"
	tableFull        = "table_full"
	idsFull          = "ids_full"
)

// MaxWait is the longest wait after which a program should retry on its own. Some SDKs
// ignore a longer Retry-After and retry at once.
const MaxWait = time.Minute

// Advice is what a denial tells programs about trying again. All interfaces give the same.
type Advice struct {
	// Retry means that the same call fits within MaxWait.
	Retry bool
	// After is when it fits; negative if waiting does not help.
	After time.Duration
	// Spread means that After is no time of the caller's own limit. Callers that wait for
	// the same thing should not all return at the same time.
	Spread bool
}

// AdviceOf returns the advice of a denial.
func AdviceOf(d *Decision) Advice {
	concurrent := d.Binding != nil && d.Binding.Dimension == Concurrent
	switch {
	case d.Reason == exceedsCapacity, d.Reason == noPrice:
		return Advice{After: -1}
	case concurrent, d.Reason == ownerUnreachable: // nothing tells when
		return Advice{Retry: true, After: time.Second, Spread: true}
	case d.Reason == tableFull, d.Reason == idsFull:
		a := Wait(max(d.RetryAfter, time.Second))
		a.Spread = true
		return a
	}
	return Wait(d.RetryAfter)
}

// Wait is the advice if the call fits after d. Without a positive d, waiting does not help.
func Wait(d time.Duration) Advice {
	if d <= 0 {
		return Advice{After: -1}
	}
	return Advice{Retry: d <= MaxWait, After: d}
}

// NotQuota reports whether a denial has nothing to do with the caller's limits.
func NotQuota(reason string) bool { return reason == ownerUnreachable || reason == tableFull }
