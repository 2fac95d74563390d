// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// Algorithm is the rule by which a limit admits cost over time.
type Algorithm string

// The algorithms.
const (
	// None: the amount is never given back.
	None Algorithm = "none"
	// TokenBucket admits at most burst + amount x t / window in any interval of length t.
	TokenBucket Algorithm = "token_bucket"
	// SlidingWindow admits at most the amount in any half-open interval of one window.
	SlidingWindow Algorithm = "sliding_window"
	// FixedWindow admits at most the amount between two resets.
	FixedWindow Algorithm = "fixed_window"
	// Concurrency allows at most the amount of live reservations.
	Concurrency Algorithm = "concurrency"
)

// Dimensions with a built-in cost. Other dimensions need [Options.Cost].
const (
	Requests     = "requests"
	Tokens       = "tokens"
	InputTokens  = "input_tokens"
	OutputTokens = "output_tokens"
	Spend        = "spend" // in millionths of a dollar, from Options.Prices
	Concurrent   = "concurrent"
)

// Estimate is the output that a reserve charges, before the real output is known.
type Estimate uint8

// The estimates: the whole granted output, at most Limit.EstimatedOutput of it, or none.
const (
	EstimateMax Estimate = iota
	EstimateFixed
	EstimateInput
)

// Limit is one limit as the operator configured it.
type Limit struct {
	// Scope is the level of a key at which the limit applies. In [Options.Limits] it is
	// a pattern: "acme/*" applies to every key of two segments below acme, and to that
	// level of longer keys; "*" matches within one segment. Empty means the full key.
	// Limits from [Options.LimitsOf] have the level itself.
	Scope string
	// Tier and Model restrict the limit to calls with them. Model is a pattern in which
	// "*" matches any characters; each matching model has its own state. Limits from
	// Options.LimitsOf have an empty Model if all models share the state.
	Tier, Model string

	Dimension string
	// Name distinguishes limits of one dimension. Empty means the dimension.
	Name      string
	Algorithm Algorithm // empty means None
	Amount    int64     // in units of the dimension, 0 to 2^53
	Burst     int64     // capacity of a token bucket; 0 means Amount
	// Window is the time in which a bucket refills Amount, or the length of a window
	// (for calendar windows, the longest).
	Window time.Duration
	// Resets are the times, since the start of the run and ascending, at which new
	// fixed windows began. Nil means unknown: only what no position of the windows can
	// explain is an over-admission. Empty but not nil means that there were none.
	Resets []time.Duration
	// ReleaseDelay is how long after its window a sliding window may still count a
	// call. 0 means Window/64; a negative value means no delay.
	ReleaseDelay time.Duration

	Estimate        Estimate
	EstimatedOutput int64 // of EstimateFixed

	// Fallback is the declared mode for calls that are decided without the owner.
	Fallback FallbackMode
}

// Price is the price of a model in millionths of a dollar per million tokens.
type Price struct{ Input, Output int64 }

// Units are the requests and tokens of a call.
type Units struct {
	Model                   string
	Requests, Input, Output int64
}

// Options describe the limits. Exactly one of Limits and LimitsOf is required.
type Options struct {
	// Limits are the limits of all calls. A call is under every limit that matches it.
	Limits []Limit
	// LimitsOf returns the limits of a call, with the level of the key as their Scope. It
	// is for policies in which one rule hides another. It is called once per key, tier
	// and model, concurrently. Its result is not modified.
	LimitsOf func(key, tier, model string) []Limit

	// Prices are by model, for Spend. "*" is the price of all other models.
	Prices map[string]Price
	// Cost returns the cost of units under a limit. Nil means the cost of the built-in
	// dimensions, and 0 for other dimensions.
	Cost func(l *Limit, u Units) int64

	// ClockSkew is how far the clocks of the limiter and of the log may drift apart
	// during the run. 0 is right on one machine.
	ClockSkew time.Duration
	// RefillDelay is for how long limits may have been without refill while their state
	// moved between nodes. It allows that much more usage and denials, and never more
	// admissions.
	RefillDelay time.Duration
	// Members is the least number of members among which a limit was shared in fallback.
	// 0 means unknown: shares are not judged.
	Members int
	// Lease is how long a reservation lives without progress. 0 means 30 s.
	Lease time.Duration
	// MaxFindings is the maximum number of listed findings of each kind. 0 means 20.
	MaxFindings int
}

const (
	maxFindings = 1000
)

func (o Options) withDefaults() Options {
	if o.Lease == 0 {
		o.Lease = 30 * time.Second
	}
	if o.MaxFindings == 0 {
		o.MaxFindings = 20
	}
	return o
}

// Validate returns all problems, joined.
func (o Options) Validate() error {
	var problems []error
	if (o.LimitsOf == nil) == (len(o.Limits) == 0) {
		problems = append(problems, errors.New("limits: must have exactly one of limits and limits_of"))
	}
	for i := range o.Limits {
		if err := o.Limits[i].validate(); err != nil {
			problems = append(problems, fmt.Errorf("limits[%d] %s: %w", i, o.Limits[i].Dimension, err))
		}
	}
	if o.RefillDelay < 0 {
		problems = append(problems, fmt.Errorf("refill_delay: must not be negative, got %v", o.RefillDelay))
	}
	if o.ClockSkew < 0 {
		problems = append(problems, fmt.Errorf("clock_skew: must not be negative, got %v", o.ClockSkew))
	}
	if o.Lease < 0 {
		problems = append(problems, fmt.Errorf("lease: must not be negative, got %v", o.Lease))
	}
	if o.Members < 0 {
		problems = append(problems, fmt.Errorf("members: must not be negative, got %d", o.Members))
	}
	if o.MaxFindings < 0 || o.MaxFindings > maxFindings {
		problems = append(problems, fmt.Errorf("max_findings: must be 0 to %d, got %d", maxFindings, o.MaxFindings))
	}
	return errors.Join(problems...)
}

func (l *Limit) validate() error {
	var problems []error
	if l.Dimension == "" {
		problems = append(problems, errors.New("dimension: must not be empty"))
	}
	if l.Amount < 0 || l.Amount > amount.Max {
		problems = append(problems, fmt.Errorf("amount: must be 0 to %s, got %d", amount.MaxText, l.Amount))
	}
	if l.Burst < 0 || l.Burst > amount.Max {
		problems = append(problems, fmt.Errorf("burst: must be 0 to %s, got %d", amount.MaxText, l.Burst))
	}
	switch l.algorithm() {
	case TokenBucket, SlidingWindow, FixedWindow:
		if l.Window <= 0 {
			problems = append(problems, fmt.Errorf("window: must be above 0 for a %s, got %v", l.Algorithm, l.Window))
		}
	case None, Concurrency:
	default:
		problems = append(problems, fmt.Errorf("algorithm: unknown %q", l.Algorithm))
	}
	if l.Fallback.permissiveness() < 0 {
		problems = append(problems, fmt.Errorf("fallback: must be closed, share, open or empty, got %q", l.Fallback))
	}
	for i := 1; i < len(l.Resets); i++ {
		if l.Resets[i] < l.Resets[i-1] {
			problems = append(problems, fmt.Errorf("resets: must ascend, got %v after %v", l.Resets[i], l.Resets[i-1]))
		}
	}
	return errors.Join(problems...)
}

func (l *Limit) algorithm() Algorithm {
	if l.Algorithm == "" {
		return None
	}
	return l.Algorithm
}

func (l *Limit) name() string {
	if l.Name == "" {
		return l.Dimension
	}
	return l.Name
}

// lateness is how far refill may be behind that of a clock, in nanoseconds.
func (o *Options) lateness() int64 { return int64(o.ClockSkew + o.RefillDelay) }

// capacity returns the largest cost of one call.
func (l *Limit) capacity() int64 {
	if l.Algorithm == TokenBucket && l.Burst != 0 {
		return l.Burst
	}
	return l.Amount
}

// releaseDelay returns how long after its end a window still counts.
func (l *Limit) releaseDelay() time.Duration {
	switch {
	case l.Algorithm != SlidingWindow || l.ReleaseDelay < 0:
		return 0
	case l.ReleaseDelay > 0:
		return l.ReleaseDelay
	default:
		return l.Window/64 + 64 // a window of 64 parts, each rounded up
	}
}

// neverRefills reports whether charges are never given back over time.
func (l *Limit) neverRefills() bool {
	switch l.algorithm() {
	case None:
		return true
	case FixedWindow:
		return l.Resets != nil && len(l.Resets) == 0
	default:
		return false
	}
}

// limitsOf returns the limits of a call, with resolved scopes.
func (o *Options) limitsOf(key, tier, model string) []Limit {
	if o.LimitsOf != nil {
		return o.LimitsOf(key, tier, model)
	}
	var list []Limit
	for _, l := range o.Limits {
		if l.Tier != "" && l.Tier != tier {
			continue
		}
		if l.Model != "" && !matches(l.Model, model, true) {
			continue
		}
		scope, ok := level(l.Scope, key)
		if !ok {
			continue
		}
		l.Scope = scope
		list = append(list, l)
	}
	return list
}

// level returns the level of a key that a pattern matches.
func level(pattern, key string) (string, bool) {
	if pattern == "" {
		return key, true
	}
	end := 0
	for n := strings.Count(pattern, "/"); ; n-- {
		i := strings.IndexByte(key[end:], '/')
		if i < 0 {
			if n > 0 {
				return "", false
			}
			end = len(key)
			break
		}
		end += i
		if n == 0 {
			break
		}
		end++
	}
	return key[:end], matches(pattern, key[:end], false)
}

// matches reports whether text matches a pattern. A star matches any characters, but
// slashes only if across.
func matches(pattern, text string, across bool) bool {
	for {
		star := strings.IndexByte(pattern, '*')
		if star < 0 {
			return pattern == text
		}
		if !strings.HasPrefix(text, pattern[:star]) {
			return false
		}
		pattern, text = pattern[star+1:], text[star:]
		for i := 0; ; i++ {
			if matches(pattern, text[i:], across) {
				return true
			}
			if i == len(text) || text[i] == '/' && !across {
				return false
			}
		}
	}
}
