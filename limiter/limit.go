// SPDX-License-Identifier: Apache-2.0

package limiter

import "time"

// Dimension is what a limit counts. The constants below are built in; any
// other name is an operator's own, charged through [Cost].
type Dimension string

// Built-in dimensions.
const (
	Requests     Dimension = "requests"
	Tokens       Dimension = "tokens" // weighted input + output
	InputTokens  Dimension = "input_tokens"
	OutputTokens Dimension = "output_tokens"
	Spend        Dimension = "spend"      // millionths of a US dollar
	Concurrent   Dimension = "concurrent" // live reservations
)

// BuiltinDimensions lists the dimensions that need no declaration, in the
// order in which answers and documents show them.
var BuiltinDimensions = []Dimension{Requests, Tokens, InputTokens, OutputTokens, Spend, Concurrent}

// Algorithm is how a limit spreads its amount over time.
type Algorithm uint8

// The algorithms; the package comment says what each promises.
const (
	TokenBucket Algorithm = iota + 1
	SlidingWindow
	FixedWindow
	Concurrency
)

var algorithmNames = [...]string{"", "token_bucket", "sliding_window", "fixed_window", "concurrency"}

// String returns the name used in policy files and answers.
func (a Algorithm) String() string {
	if int(a) < len(algorithmNames) {
		return algorithmNames[a]
	}
	return "unknown"
}

// ParseAlgorithm is the inverse of [Algorithm.String].
func ParseAlgorithm(name string) (Algorithm, bool) {
	for i, n := range algorithmNames {
		if n == name && i > 0 {
			return Algorithm(i), true
		}
	}
	return 0, false
}

// Unreachable is what a limit does when its owner cannot be asked in time.
type Unreachable uint8

// The modes of a limit whose owner is unreachable.
const (
	Share  Unreachable = iota // limit / members of the roster
	Closed                    // deny; the default for spend
	Open                      // admit
)

// String returns the name used in policy files.
func (u Unreachable) String() string { return [...]string{"share", "closed", "open"}[u%3] }

// Calendar is the unit of a calendar window. The zero value means the window
// is a plain duration aligned to the Unix epoch.
type Calendar uint8

// Calendar units. A week starts on Monday.
const (
	NoCalendar Calendar = iota
	Hour
	Day
	Week
	Month
	Year
)

// Limit is one limit of a tier, as a policy states it. Amount and Burst are in
// units of the dimension.
type Limit struct {
	Name      string
	Dimension Dimension
	Algorithm Algorithm
	Amount    int64
	// Window is the refill or sliding period, or the length of a fixed window
	// when Calendar is NoCalendar. Zero for Concurrency and for calendar windows.
	Window   time.Duration
	Calendar Calendar
	// Zone is where calendar windows begin and end; nil means UTC.
	Zone *time.Location
	// Burst is a token bucket's capacity; zero means Amount.
	Burst int64

	Shadow      bool // counted and reported, never denies
	Degrade     bool // shrink the output of a reserve instead of denying it
	Unreachable Unreachable

	// What a member sets that decides without the owner; no policy says these.
	//
	// Closed: every cost above 0 is refused with [OwnerUnreachable], and no
	// output is shrunk for the limit's sake. Its state is reported as ever. A
	// closed limit is not in Shadow, which never denies.
	Closed bool
	// Whole is the capacity of the limit of which this one is a share; 0 if it is
	// none. A cost between the two is refused with [OwnerUnreachable] instead of
	// [ExceedsCapacity], because the owner could take it. A share that rounds to
	// 0 is a closed limit instead.
	FullCapacity int64
}

// MaxAmount bounds every amount, burst and cost: 2^53, the largest integer that
// JSON numbers carry exactly everywhere.
const MaxAmount = 1 << 53

// Rates turn usage into quota tokens and money. Prices are in millionths of a
// dollar per million tokens, weights in millionths of a quota token per token.
// The zero value of a weight field is a real zero; use [DefaultWeights].
type Rates struct {
	Priced                                    bool // false: no price is known for the model
	InputPrice, CachedInputPrice, OutputPrice int64
	Weights                                   Weights
}

// Weights say how many millionths of a quota token one token counts.
type Weights struct{ Input, CachedInput, Output int64 }

// DefaultWeights count every token once.
var DefaultWeights = Weights{Input: 1e6, CachedInput: 1e6, Output: 1e6}

// EstimateMode is what a reservation holds for output that is not known yet.
type EstimateMode uint8

// The estimate modes of a tier.
const (
	EstimateMax   EstimateMode = iota // input + n x max output
	EstimateFixed                     // input + n x min(max output, a fixed number)
	EstimateInput                     // input only
)

// Estimate is a tier's estimate mode; Output is used by EstimateFixed.
type Estimate struct {
	Mode   EstimateMode
	Output int64
}
