// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options configure a [Server]. With the zero value, it responds without delay, with
// 64 tokens, and never fails.
type Options struct {
	// Seed is the seed of all random choices. With the same seed, the same calls in the
	// same order get the same responses.
	Seed uint64

	// TTFT is the time to the first token, and Speed the tokens per second of each
	// choice after it. 0: no delay.
	TTFT  time.Duration
	Speed float64
	// ChunkTokens is the number of tokens in one chunk of a stream. 0: 1.
	ChunkTokens int64
	// Output is the number of tokens of a choice without a bound. Zero: 64.
	Output Length
	// BytesPerToken is the number of bytes of text that count as one input token. A
	// prompt of token ids counts one token for each id. 0: 4.
	BytesPerToken int64
	// CachedShare is the share of the input that is reported as cached, and
	// ReasoningShare the share of the output that is hidden reasoning, from 0 to 1.
	CachedShare, ReasoningShare float64

	// FailShares are the shares of calls that get an error status, by status.
	FailShares map[int]float64
	// StallShare is the share of calls that pause for Stall at a random token.
	StallShare float64
	Stall      time.Duration
	// DisconnectShare is the share of calls whose connection is closed at a random
	// token, NoUsageShare the share of responses without usage, and WrongUsageShare
	// the share of responses with usage that cannot be true.
	DisconnectShare, NoUsageShare, WrongUsageShare float64

	// Dialects are the ways to report usage. Each call has one of them at random. Empty:
	// Plain.
	Dialects []Dialect

	// CallerHeader names the header that identifies the caller. Empty: Authorization
	// without "Bearer ", or else X-Api-Key.
	CallerHeader string
	// Models are listed by GET /v1/models. Calls may name any model. Empty: mock-small
	// and mock-large.
	Models []string
	// LedgerSize is the number of ended calls in [Ledger.Entries]. 0: 100,000.
	LedgerSize int
}

// Dialect is how a response reports its usage.
type Dialect string

// The dialects.
const (
	// Plain is as OpenAI and Anthropic report it.
	Plain Dialect = "plain"
	// Beside has the reasoning beside the output, as xAI reports it: only the total has
	// both. Messages have none.
	Beside Dialect = "beside"
	// Relay has what relays send. Numbers are text and cached input has another name, or,
	// in a stream of messages, all input is new at the start, and the end says what was
	// cached.
	Relay Dialect = "relay"
)

var dialects = []Dialect{Plain, Beside, Relay}

// maxBodyBytes bounds the body of a request.
const maxBodyBytes = 64 << 20

func (o Options) withDefaults() Options {
	if o.ChunkTokens == 0 {
		o.ChunkTokens = 1
	}
	if o.Output == (Length{}) {
		o.Output = Length{Min: 64, Max: 64}
	}
	if o.BytesPerToken == 0 {
		o.BytesPerToken = 4
	}
	if len(o.Dialects) == 0 {
		o.Dialects = []Dialect{Plain}
	}
	if len(o.Models) == 0 {
		o.Models = []string{"mock-small", "mock-large"}
	}
	if o.LedgerSize == 0 {
		o.LedgerSize = 100_000
	}
	return o
}

// Validate returns all problems of o, joined.
func (o Options) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	share := func(name string, v float64) {
		if !(v >= 0 && v <= 1) {
			bad("%s: must be a share from 0 to 1, got %v", name, v)
		}
	}
	if o.TTFT < 0 {
		bad("ttft: must not be negative, got %s", o.TTFT)
	}
	if !(o.Speed >= 0) || math.IsInf(o.Speed, 0) {
		bad("speed: must be tokens per second, or 0 for no delay, got %v", o.Speed)
	}
	if o.ChunkTokens < 0 {
		bad("chunk_tokens: must not be negative, got %d", o.ChunkTokens)
	}
	if err := o.Output.validate(); err != nil {
		bad("output: %w", err)
	}
	if o.BytesPerToken < 0 {
		bad("bytes_per_token: must not be negative, got %d", o.BytesPerToken)
	}
	share("cached_share", o.CachedShare)
	share("reasoning_share", o.ReasoningShare)
	sum := o.DisconnectShare
	for status, v := range o.FailShares {
		if status < 400 || status > 599 {
			bad("fail_shares: status must be 400 to 599, got %d", status)
		}
		share("fail_shares", v)
		sum += v
	}
	share("stall_share", o.StallShare)
	if o.Stall < 0 {
		bad("stall: must not be negative, got %s", o.Stall)
	}
	share("disconnect_share", o.DisconnectShare)
	share("no_usage_share", o.NoUsageShare)
	share("wrong_usage_share", o.WrongUsageShare)
	if sum > 1 || o.NoUsageShare+o.WrongUsageShare > 1 {
		bad("fail_shares and disconnect_share, and no_usage_share and wrong_usage_share, must not exceed 1 together")
	}
	for _, d := range o.Dialects {
		if !slices.Contains(dialects, d) {
			bad("dialects: must be among %v, got %q", dialects, d)
		}
	}
	if o.LedgerSize < 0 {
		bad("ledger_size: must not be negative, got %d", o.LedgerSize)
	}
	return errors.Join(problems...)
}

// Length is a number of tokens, or a distribution from which each choice draws one.
type Length struct {
	Min, Max int64 // inclusive
	// Mean, if not 0, is the mean of an exponential distribution, clamped to Min and
	// Max. Otherwise the distribution is uniform.
	Mean int64
}

// maxLength bounds all numbers of tokens.
const maxLength = 100_000_000

// ParseLength parses a number (200), a range (50-400), or the mean of an exponential
// distribution (~200).
func ParseLength(text string) (Length, error) {
	fail := fmt.Errorf("must be a number of tokens, a range or a mean such as 200, 50-400 or ~200, got %q", text)
	number := func(s string) (int64, bool) {
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil && n >= 0 && n <= maxLength
	}
	if rest, ok := strings.CutPrefix(text, "~"); ok {
		n, ok := number(rest)
		if !ok || n < 1 {
			return Length{}, fail
		}
		return Length{Min: 1, Max: 20 * n, Mean: n}, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	low, ok1 := number(from)
	high, ok2 := number(to)
	if !ok1 || !ok2 || low > high || high == 0 {
		return Length{}, fail
	}
	return Length{Min: low, Max: high}, nil
}

// String returns the form that [ParseLength] parses.
func (l Length) String() string {
	switch {
	case l.Mean != 0:
		return "~" + strconv.FormatInt(l.Mean, 10)
	case l.Min == l.Max:
		return strconv.FormatInt(l.Min, 10)
	}
	return fmt.Sprintf("%d-%d", l.Min, l.Max)
}

func (l Length) validate() error {
	if l.Min < 0 || l.Max < l.Min || l.Mean < 0 {
		return fmt.Errorf("must not be negative or empty, got %d to %d with mean %d", l.Min, l.Max, l.Mean)
	}
	return nil
}

func (l Length) draw(r *rand.Rand) int64 {
	if l.Mean != 0 {
		return min(max(int64(r.ExpFloat64()*float64(l.Mean)), l.Min), l.Max)
	}
	return l.Min + r.Int64N(l.Max-l.Min+1)
}
