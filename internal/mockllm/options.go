// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Options configure a [Server]. The zero value answers at once, with 64 tokens,
// and never fails.
type Options struct {
	// Seed is that of chance. With the same one, the same calls in the same order
	// get the same answers.
	Seed uint64

	// TTFT is the time to the first token, and Speed the tokens per second of each
	// choice from then on. 0: at once.
	TTFT  time.Duration
	Speed float64
	// ChunkTokens are sent in one piece of a stream. 0: 1.
	ChunkTokens int64
	// Output is how many tokens a choice has if nothing bounds it. Zero: 64.
	Output Length
	// BytesPerToken is how input is counted: the bytes of all strings that the
	// model reads, divided by it, rounded up. A token that is given as a number is
	// one. 0: 4.
	BytesPerToken int64
	// Cached and Reasoning are shares, from 0 to 1, of the input that a cache had,
	// and of the output that is not shown.
	Cached, Reasoning float64

	// Fail is the share of calls that are refused, by status.
	Fail map[int]float64
	// StallShare of the calls stand still for Stall, somewhere in their answer.
	StallShare float64
	Stall      time.Duration
	// Disconnect is the share of calls whose connection is broken somewhere in the
	// answer, NoUsage that of those without a usage block, and Lie of those whose
	// usage block is wrong.
	Disconnect, NoUsage, Lie float64

	// CallerHeader names the header that says who calls. Empty: Authorization,
	// without "Bearer ", or else X-Api-Key.
	CallerHeader string
	// Models are those that GET /v1/models lists; calls may name any. Empty:
	// mock-small and mock-large.
	Models []string
	// LedgerSize is how many calls that ended are kept one by one. 0: 100,000.
	LedgerSize int
}

// maxBody is the most that is read of a request.
const maxBody = 64 << 20

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
	if len(o.Models) == 0 {
		o.Models = []string{"mock-small", "mock-large"}
	}
	if o.LedgerSize == 0 {
		o.LedgerSize = 100_000
	}
	return o
}

// Validate returns every problem.
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
		bad("speed: must be tokens per second, or 0 for at once, got %v", o.Speed)
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
	share("cached", o.Cached)
	share("reasoning", o.Reasoning)
	sum := o.Disconnect
	for status, v := range o.Fail {
		if status < 400 || status > 599 {
			bad("fail: status must be 400 to 599, got %d", status)
		}
		share("fail", v)
		sum += v
	}
	share("stall", o.StallShare)
	if o.Stall < 0 {
		bad("stall: must not be negative, got %s", o.Stall)
	}
	share("disconnect", o.Disconnect)
	share("no_usage", o.NoUsage)
	share("lie", o.Lie)
	if sum > 1 || o.NoUsage+o.Lie > 1 {
		bad("fail and disconnect, or no_usage and lie, are more than all calls together")
	}
	if o.LedgerSize < 0 {
		bad("ledger_size: must not be negative, got %d", o.LedgerSize)
	}
	return errors.Join(problems...)
}

// Length is a number of tokens, or a range from which each choice draws one.
type Length struct {
	Min, Max int64 // equal: always that
	// Mean, if it is not 0, is that of an exponential draw, which is then cut to
	// Min and Max.
	Mean int64
}

// maxLength is more than any test waits for.
const maxLength = 100_000_000

// ParseLength reads 200, 50-400 or ~200, a mean of 200 with a long tail.
func ParseLength(text string) (Length, error) {
	fail := fmt.Errorf("must be a number of tokens, a range or a mean, as 200, 50-400 or ~200, got %q", text)
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

// String returns what ParseLength reads.
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
		return fmt.Errorf("must be a range that is not negative, got %d to %d with a mean of %d", l.Min, l.Max, l.Mean)
	}
	return nil
}

func (l Length) draw(r *rand.Rand) int64 {
	if l.Mean != 0 {
		return min(max(int64(r.ExpFloat64()*float64(l.Mean)), l.Min), l.Max)
	}
	return l.Min + r.Int64N(l.Max-l.Min+1)
}
