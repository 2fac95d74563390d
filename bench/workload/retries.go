// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"strings"

	"github.com/bucketring/bucketring/bench"
)

// Retries is the share of calls that are sent twice with the same id. The zero value
// means none.
type Retries struct {
	share share
	after int64 // calls between the two
}

const (
	retriesHint = "write a share such as 1%, or 1%+100 for 100 calls between a call and its retry"
	maxAfter    = 100_000
)

// ParseRetries parses 1%, or 1%+100 for retries after 100 further calls.
func ParseRetries(text string) (r Retries, err error) {
	if text == "" {
		return Retries{}, nil
	}
	first, after, late := strings.Cut(text, "+")
	if r.share, err = parseShare(strings.TrimSpace(first)); err == nil && late {
		if r.after, err = parseNumber(strings.TrimSpace(after), 0, maxAfter); err != nil {
			err = fmt.Errorf("the calls between: %w", err)
		}
	}
	if err != nil {
		return Retries{}, inPart("retries", text, retriesHint, err)
	}
	if r.share == 0 {
		return Retries{}, nil
	}
	return r, nil
}

// String returns the canonical text, which is "" for no retries.
func (r Retries) String() string {
	switch {
	case r.share == 0:
		return ""
	case r.after == 0:
		return r.share.String()
	default:
		return r.share.String() + "+" + formatNumber(r.after)
	}
}

// MarshalText returns the canonical text.
func (r Retries) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText parses text like [ParseRetries].
func (r *Retries) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRetries(string(text))
	return err
}

// retrier keeps the calls that will be retried, in order. No two are due at the same
// position, since all wait for equally many calls and retries are not retried.
type retrier struct {
	random  random
	retries Retries
	// ring is a ring buffer. Its length is 0 or a power of two, at most the next one
	// above retries.after + 1.
	ring        []retry
	head, count int
}

type retry struct {
	call bench.Call
	due  int64 // position in the sequence of all calls
}

// maybeAdd decides whether the call planned at position is retried, and keeps it.
func (r *retrier) maybeAdd(c *bench.Call, position int64) {
	if r.retries.share == 0 || !r.random.chance(r.retries.share) {
		return
	}
	if r.count == len(r.ring) {
		r.grow()
	}
	r.ring[(r.head+r.count)&(len(r.ring)-1)] = retry{*c, position + 1 + r.retries.after}
	r.count++
}

func (r *retrier) grow() {
	larger := make([]retry, max(2*len(r.ring), 8))
	n := copy(larger, r.ring[r.head:])
	copy(larger[n:], r.ring[:r.head])
	r.ring, r.head = larger, 0
}

// due fills c with the retry that is due at position, if there is one.
func (r *retrier) due(c *bench.Call, position int64) bool {
	return r.count > 0 && r.ring[r.head].due <= position && r.pop(c)
}

// pop fills c with the next retry, due or not.
func (r *retrier) pop(c *bench.Call) bool {
	if r.count == 0 {
		return false
	}
	*c = r.ring[r.head].call
	r.ring[r.head] = retry{} // releases its strings
	r.head = (r.head + 1) & (len(r.ring) - 1)
	r.count--
	return true
}
