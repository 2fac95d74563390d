// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/nearest"
)

// Dimension is what a limit counts. Any name other than the built-in ones is a
// custom dimension, charged through [Cost].
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

// BuiltinDimensions lists the built-in dimensions in display order. It must not be
// changed.
var BuiltinDimensions = []Dimension{Requests, Tokens, InputTokens, OutputTokens, Spend, Concurrent}

// LikeBuiltin returns the built-in dimension that d is, or is one edit or the case of letters
// away from: such a name is a mistake, so no policy has a limit in it. It returns "" for
// other names.
func (d Dimension) LikeBuiltin() Dimension {
	like := Dimension("")
	for _, b := range BuiltinDimensions {
		if d == b {
			return b
		}
		if nearest.OneEdit(string(d), string(b)) {
			like = b
		}
	}
	return like
}

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

// Unreachable is what a limit does when its owner does not answer in time.
type Unreachable uint8

// The modes of a limit whose owner is unreachable.
const (
	Share  Unreachable = iota // each member admits limit / size of the roster
	Closed                    // deny every cost; the default for spend
	Open                      // admit everything
)

// String returns the name used in policy files.
func (u Unreachable) String() string { return [...]string{"share", "closed", "open"}[u%3] }

// Slices says who may hold slices of a limit, see [Engine.Lend].
type Slices uint8

// The holders of slices. Whoever may hold one answers calls of the key from memory.
const (
	SlicesNodes   Slices = iota // the members of the cluster
	SlicesClients               // members, and processes with the client library
	SlicesOff                   // nobody: each call is decided by the owner of the key
)

// String returns the name used in policy files.
func (s Slices) String() string { return [...]string{"nodes", "clients", "off"}[s%3] }

// Calendar is the unit of a calendar window. NoCalendar means that the window is a
// duration aligned to the Unix epoch.
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

// Limit defines one limit of a tier. Amount, Burst and FullCapacity are in units of
// the dimension.
type Limit struct {
	Name      string
	Dimension Dimension
	Algorithm Algorithm
	Amount    int64
	// Window is the refill or sliding period, or the length of a fixed window
	// when Calendar is NoCalendar. Zero for Concurrency and for calendar windows.
	Window   time.Duration
	Calendar Calendar
	// StartDay is the day of the month, from 1, on which windows of Calendar Month begin; in
	// a shorter month it is the last day. 0 means 1.
	StartDay int
	// StartMinute is when windows of Calendar Day begin, in minutes after midnight. If the
	// local clock skips that time, it is the moment of the change; if the clock shows it
	// twice, it is the first.
	StartMinute int
	// Zone is where calendar windows begin and end; nil means UTC.
	Zone *time.Location
	// Burst is a token bucket's capacity; zero means Amount.
	Burst int64

	Shadow      bool // counts and reports, but never denies
	Degrade     bool // shrink the output of a reserve instead of denying it
	Unreachable Unreachable
	// Async lets answers be sent before another node has the charge, however large it is,
	// see [Decision].Large.
	Async bool
	// Hidden asks front doors not to show the numbers of the limit to callers. It changes
	// no decision.
	Hidden bool
	// Slices says who may hold slices of the limit. Nobody may if the limit has Headroom, since
	// a slice does not tell classes apart.
	Slices Slices
	// Headroom is what the calls of a class must leave free.
	Headroom Headroom
	// Queue says whether calls may wait. It changes no decision.
	Queue Queue

	// The following fields are set for decisions in fallback, and never by a policy.

	// Closed denies every cost above 0 with [OwnerUnreachable] and is never degraded.
	// It excludes Shadow.
	Closed bool
	// FullCapacity is the capacity of the undivided limit if this one is a member's
	// share of it, else 0. A cost between the two capacities is denied with
	// [OwnerUnreachable] instead of [ExceedsCapacity], because the owner could admit
	// it.
	FullCapacity int64
}

// MaxAmount is the largest amount, burst or cost.
const MaxAmount = amount.Max

// Rates convert usage to quota tokens and money. Prices are in millionths of a US
// dollar per million tokens, fees in millionths of a US dollar. All are between 0 and
// [MaxAmount].
type Rates struct {
	// Name is the entry of the price list that has these rates: a model, or a pattern of
	// several. "" if none is, or the one for all models.
	Name                                      string
	Priced                                    bool // whether the model has a price
	InputPrice, CachedInputPrice, OutputPrice int64
	// Prices of input that is written to a cache: for five minutes or an unknown time,
	// and for an hour.
	CacheWritePrice, CacheWrite1hPrice int64
	// Fees of one request, image and search.
	RequestFee, ImageFee, SearchFee int64
	ServiceTiers                    ServiceTiers
	// Weights of cache writes are those of input.
	Weights Weights
}

// Weights say how many millionths of a quota token one token counts. The zero
// value makes tokens free; the usual ones are [DefaultWeights].
type Weights struct{ Input, CachedInput, Output int64 }

// DefaultWeights count every token as one quota token.
var DefaultWeights = Weights{Input: 1e6, CachedInput: 1e6, Output: 1e6}

// EstimateMode is how a reservation estimates output that is not known yet.
type EstimateMode uint8

// The estimate modes of a tier.
const (
	EstimateMax   EstimateMode = iota // input + choices x max output
	EstimateFixed                     // input + choices x min(max output, a fixed number)
	EstimateInput                     // input only
)

// Estimate is a tier's estimate mode.
type Estimate struct {
	Mode   EstimateMode
	Output int64 // tokens per choice for EstimateFixed
}
