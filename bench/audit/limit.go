// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Algorithm is what a limit promises about time.
type Algorithm string

// The algorithms.
const (
	// None: the amount is all that there ever is.
	None Algorithm = "none"
	// TokenBucket: never more than burst + amount x t / window in any interval t.
	TokenBucket Algorithm = "token_bucket"
	// SlidingWindow: never more than the amount in any half-open interval of one
	// window.
	SlidingWindow Algorithm = "sliding_window"
	// FixedWindow: never more than the amount between two resets.
	FixedWindow Algorithm = "fixed_window"
	// Concurrency: never more than the amount of live reservations.
	Concurrency Algorithm = "concurrency"
)

// Dimensions whose cost the auditor knows. Any other needs [Options.Cost].
const (
	Requests     = "requests"
	Tokens       = "tokens"
	InputTokens  = "input_tokens"
	OutputTokens = "output_tokens"
	Spend        = "spend" // millionths of a dollar, by Options.Prices
	Concurrent   = "concurrent"
)

// Estimate is what a reservation holds for output that is not known yet.
type Estimate uint8

// The estimates: all of the output that was granted, at most EstimatedOutput of
// it, or none.
const (
	EstimateMax Estimate = iota
	EstimateFixed
	EstimateInput
)

// Limit is one limit, as the operator promised it.
type Limit struct {
	// Scope is the level of a key at which it applies. In [Options.Limits] it is a
	// pattern: "acme/*" means every key of two segments below acme and, of keys
	// with more segments, that level; "*" matches within one segment. Empty: the
	// full key, whatever it is. From [Options.Of] it is the level itself.
	Scope string
	// Tier and Model: calls of these only; empty: of all. Model is a pattern ("*"
	// matches any run of characters), and each model has a state of its own.
	// Options.Of may leave both empty if calls of all models share the state.
	Tier, Model string

	Dimension string
	// Name tells limits of one dimension apart. Default: the dimension.
	Name      string
	Algorithm Algorithm // default None
	Amount    int64     // in units of the dimension, 0 to 2^53
	Burst     int64     // capacity of a token bucket; 0: Amount
	// Window is the time in which a bucket refills Amount, or the length of a
	// window; of a calendar's window the longest.
	Window time.Duration
	// Resets are when a fixed window began anew during the run, ascending, on the
	// run's clock. Nil: unknown, so that only what any position of the windows
	// would forbid is called over-admission. Not nil and empty: never.
	Resets []time.Duration
	// Late is how long after its window a sliding window may still count a call.
	// 0: Window/64; negative: not at all.
	Late time.Duration

	Estimate        Estimate
	EstimatedOutput int64 // of EstimateFixed

	// Fallback is what members may admit on top while they decide without the
	// owner.
	Fallback Fallback
}

// Price of a model in millionths of a dollar per million tokens.
type Price struct{ Input, Output int64 }

// Units are what a call takes, before it is known of what.
type Units struct {
	Model                   string
	Requests, Input, Output int64
}

// Options describe what was promised. Limits or Of is needed.
type Options struct {
	// Limits apply to every call that they match, all of them.
	Limits []Limit
	// Of returns the limits of a call instead, each with the level of the key as
	// its Scope, for policies where one rule hides another. It is called once per
	// key, tier and model, by several goroutines. What it returns is not changed.
	Of func(key, tier, model string) []Limit

	// Prices by model, for Spend; "*" is for all others.
	Prices map[string]Price
	// Cost is what units take of a limit. Default: what the names of the built-in
	// dimensions say, other dimensions nothing.
	Cost func(l *Limit, u Units) int64

	// Clock is how far the clocks of the limiter and of the log may run apart
	// during the run. 0: one machine.
	Clock time.Duration
	// Members is how many members a limit was shared by in fallback, at the least. 0:
	// not known, so that shares are not judged.
	Members int
	// Lease is how long a reservation lives without progress. Default 30 s.
	Lease time.Duration
	// Worst is how many findings of a kind are listed. Default 20.
	Worst int
}

const (
	maxAmount = 1 << 53
	maxWorst  = 1000
)

func (o Options) withDefaults() Options {
	if o.Lease == 0 {
		o.Lease = 30 * time.Second
	}
	if o.Worst == 0 {
		o.Worst = 20
	}
	return o
}

// Validate names everything that is wrong with the options.
func (o Options) Validate() error {
	var problems []error
	if (o.Of == nil) == (len(o.Limits) == 0) {
		problems = append(problems, errors.New("limits: want either limits or of"))
	}
	for i := range o.Limits {
		if err := o.Limits[i].validate(); err != nil {
			problems = append(problems, fmt.Errorf("limits[%d] %s: %w", i, o.Limits[i].Dimension, err))
		}
	}
	if o.Clock < 0 {
		problems = append(problems, fmt.Errorf("clock: must not be negative, got %v", o.Clock))
	}
	if o.Lease < 0 {
		problems = append(problems, fmt.Errorf("lease: must not be negative, got %v", o.Lease))
	}
	if o.Members < 0 {
		problems = append(problems, fmt.Errorf("members: must not be negative, got %d", o.Members))
	}
	if o.Worst < 0 || o.Worst > maxWorst {
		problems = append(problems, fmt.Errorf("worst: want 0 to %d, got %d", maxWorst, o.Worst))
	}
	return errors.Join(problems...)
}

func (l *Limit) validate() error {
	var problems []error
	if l.Dimension == "" {
		problems = append(problems, errors.New("dimension: is needed"))
	}
	if l.Amount < 0 || l.Amount > maxAmount {
		problems = append(problems, fmt.Errorf("amount: want 0 to 2^53, got %d", l.Amount))
	}
	if l.Burst < 0 || l.Burst > maxAmount {
		problems = append(problems, fmt.Errorf("burst: want 0 to 2^53, got %d", l.Burst))
	}
	switch l.algorithm() {
	case TokenBucket, SlidingWindow, FixedWindow:
		if l.Window <= 0 {
			problems = append(problems, fmt.Errorf("window: a %s needs one, got %v", l.Algorithm, l.Window))
		}
	case None, Concurrency:
	default:
		problems = append(problems, fmt.Errorf("algorithm: unknown %q", l.Algorithm))
	}
	if l.Fallback.lax() < 0 {
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

// capacity is the most that one call can take.
func (l *Limit) capacity() int64 {
	if l.Algorithm == TokenBucket && l.Burst != 0 {
		return l.Burst
	}
	return l.Amount
}

// late is how long after its end a window still counts.
func (l *Limit) late() time.Duration {
	switch {
	case l.Algorithm != SlidingWindow || l.Late < 0:
		return 0
	case l.Late > 0:
		return l.Late
	default:
		return l.Window/64 + 64 // a window of 64 parts, each rounded up
	}
}

// forever says that nothing that was charged is given back by time.
func (l *Limit) forever() bool {
	switch l.algorithm() {
	case None:
		return true
	case FixedWindow:
		return l.Resets != nil && len(l.Resets) == 0
	default:
		return false
	}
}

// of lists the limits of a call with their scopes resolved.
func (o *Options) of(key, tier, model string) []Limit {
	if o.Of != nil {
		return o.Of(key, tier, model)
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

// level is the level of key that the pattern means.
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

// matches says whether text is of the pattern. A star stands for any run of
// characters, of slashes only if across.
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
