// SPDX-License-Identifier: Apache-2.0

// Package explain says over HTTP what was decided: in rate-limit headers, in the
// JSON facts of a denial, and in a message for people. The HTTP API and the
// dialects of SDKs both use it, so that they agree.
package explain

import (
	"math/bits"
	"slices"
	"time"
)

// Decision is what a front door knows of a decision.
type Decision struct {
	Reason   string // of a denial: limit_exceeded, exceeds_capacity, no_price, owner_unreachable, table_full or ids_full
	Fallback bool   // decided without the owner: limits are shares of one node
	Model    string // "": the call names none
	// RetryAfter is when the same call would fit. Negative: it was not denied, or
	// waiting does not help.
	RetryAfter time.Duration
	Priority   string // the class of the call; "": nothing is said of classes
	// Waited is how long the call waited in line; 0: it did not.
	Waited time.Duration
	// WaitRefused is why a call that might have waited was denied at once: limit_full,
	// key_full, line_full or too_late; "": it was not.
	WaitRefused string
	// MaxWait is how long the call may wait. 0: not known, or it may not.
	MaxWait time.Duration
	Binding *Limit // the limit that denied or, when allowed, the tightest one; nil: none
	Limits  []Limit
}

// Limit is a limit as the decision left it. Its fields are those of client.LimitState, so
// that one converts to the other.
type Limit struct {
	Name      string
	Dimension string
	Scope     string // key path of the level
	Algorithm string
	Limit     int64         // amount per window
	Capacity  int64         // the most that one call can take
	Remaining int64         // 0 in debt
	Debt      int64         // what was used beyond the capacity
	Window    time.Duration // 0 for concurrent
	ResetAt   time.Time     // when nothing is in use any more; zero for concurrent
	Cost      int64         // what the call takes of it
	Credit    int64         // left of a one-off credit; of a peek only
	Shadow    bool          // counted, never denies
	Exceeded  bool          // denies the call, or would do so without Shadow
	Hidden    bool          // its numbers are not for callers
	PerModel  bool          // counts each model on its own
	Headroom  int64         // what the class of the call must leave free; not in Remaining
	MaxWait   time.Duration // how long calls may wait at the limit; 0: they may not
}

// MaxWaitOf returns how long the limits that deny a call let it wait: the shortest time of
// them. 0: not at all.
func MaxWaitOf(limits []Limit) time.Duration {
	var shortest time.Duration
	for i := range limits {
		l := &limits[i]
		if l.Shadow || !l.Exceeded {
			continue
		}
		if shortest == 0 || l.MaxWait < shortest {
			shortest = l.MaxWait
		}
	}
	return max(shortest, 0)
}

// The built-in dimensions.
const (
	Requests     = "requests"
	Tokens       = "tokens"
	InputTokens  = "input_tokens"
	OutputTokens = "output_tokens"
	Spend        = "spend"
	Concurrent   = "concurrent"
)

// Tightest returns the limit of the given dimensions that has the smallest share
// of its capacity left, or nil if there is none. Limits in shadow and hidden ones do not
// count.
func Tightest(limits []Limit, dimensions ...string) *Limit {
	var best *Limit
	for i := range limits {
		l := &limits[i]
		if !l.Shadow && !l.Hidden && slices.Contains(dimensions, l.Dimension) && (best == nil || Tighter(l, best)) {
			best = l
		}
	}
	return best
}

// Tighter reports whether less of a is left than of b, as a share of its
// capacity. If the shares are equal, the larger debt is tighter, then the smaller
// remaining amount.
func Tighter(a, b *Limit) bool {
	ah, al := bits.Mul64(uint64(a.Remaining), uint64(b.Capacity))
	bh, bl := bits.Mul64(uint64(b.Remaining), uint64(a.Capacity))
	switch {
	case ah != bh:
		return ah < bh
	case al != bl:
		return al < bl
	case a.Debt != b.Debt:
		return a.Debt > b.Debt
	}
	return a.Remaining < b.Remaining
}

// Shown returns the limit that X-RateLimit-Limit is about, or nil if there is none: the
// binding one, unless it is hidden or counts running calls. In place of those, which say
// nothing about how much may be sent, it is the tightest limit on requests or tokens.
func (d *Decision) Shown() *Limit {
	l := d.Binding
	if l != nil && !l.Hidden && l.Dimension != Concurrent {
		return l
	}
	if rate := Tightest(d.Limits, Requests, Tokens, InputTokens, OutputTokens); rate != nil {
		return rate
	}
	if l == nil || l.Hidden {
		return nil
	}
	return l
}
