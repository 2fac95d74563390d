// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"strings"

	"github.com/bucketring/bucketring/bench"
)

// Retries says which calls are sent twice, with one id. The zero value has none.
type Retries struct {
	share share
	after int64 // calls between the two
}

const (
	retriesHint = "write a share such as 1%, or 1%+100 for 100 calls between a call and its retry"
	maxAfter    = 100_000
)

// ParseRetries reads 1%, or 1%+100 for retries after 100 further calls.
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
		return Retries{}, in("retries", text, retriesHint, err)
	}
	if r.share == 0 {
		return Retries{}, nil
	}
	return r, nil
}

// String returns the canonical text; no retries are "".
func (r Retries) String() string {
	switch {
	case r.share == 0:
		return ""
	case r.after == 0:
		return r.share.String()
	default:
		return r.share.String() + "+" + number(r.after)
	}
}

// MarshalText returns the canonical text.
func (r Retries) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is [ParseRetries].
func (r *Retries) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRetries(string(text))
	return err
}

// repeater keeps the calls that are sent again, in order. No two are due at one
// position, because all wait for as many calls and no retry is retried.
type repeater struct {
	random  random
	retries Retries
	// A ring of calls: len(waiting) is 0 or a power of two, and grows to at most
	// the next one above retries.after + 1.
	waiting     []again
	first, kept int
}

type again struct {
	call bench.Call
	due  int64 // the position that it has in the sequence of all calls
}

// planned may keep the call that was planned at that position.
func (r *repeater) planned(c *bench.Call, position int64) {
	if r.retries.share == 0 || !r.random.hit(r.retries.share) {
		return
	}
	if r.kept == len(r.waiting) {
		r.grow()
	}
	r.waiting[(r.first+r.kept)&(len(r.waiting)-1)] = again{*c, position + 1 + r.retries.after}
	r.kept++
}

func (r *repeater) grow() {
	larger := make([]again, max(2*len(r.waiting), 8))
	n := copy(larger, r.waiting[r.first:])
	copy(larger[n:], r.waiting[:r.first])
	r.waiting, r.first = larger, 0
}

// due fills c with the call that is sent again at that position, if there is one.
func (r *repeater) due(c *bench.Call, position int64) bool {
	return r.kept > 0 && r.waiting[r.first].due <= position && r.take(c)
}

// take fills c with the next call that is sent again, due or not.
func (r *repeater) take(c *bench.Call) bool {
	if r.kept == 0 {
		return false
	}
	*c = r.waiting[r.first].call
	r.waiting[r.first] = again{} // its strings
	r.first = (r.first + 1) & (len(r.waiting) - 1)
	r.kept--
	return true
}
