// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Catalog assigns ids to limit definitions, so that records can refer to them
// without pointers. A policy must be compiled against the catalog of the engine that
// uses it. Equal definitions get the same id, so reloading an unchanged policy adds
// nothing. Definitions are never removed.
//
// A Catalog is safe for concurrent use. Reading it takes no lock.
type Catalog struct {
	limits  atomic.Pointer[[]*limit]
	schemas atomic.Pointer[[]*schema]
	counter *schema // of all counters

	mu struct {
		sync.Mutex
		limitIDs  map[string]uint32
		schemaIDs map[string]uint32
		bucketIDs map[bucketKey]uint32
	}
}

// NewCatalog returns an empty catalog.
func NewCatalog() *Catalog {
	c := &Catalog{}
	c.mu.limitIDs = map[string]uint32{}
	c.mu.schemaIDs = map[string]uint32{}
	c.mu.bucketIDs = map[bucketKey]uint32{}
	c.limits.Store(&[]*limit{})
	c.schemas.Store(&[]*schema{{}})                                   // schema 0 is for records without limits
	c.counter = c.schemaLocked([]*limit{c.limitLocked(counterLimit)}) // c is not shared yet
	return c
}

// A LimitSet is the compiled limits of one tier at one level, for engines with the
// same [Catalog]. It is immutable.
type LimitSet struct {
	schema *schema
	source []Limit
}

// Limits returns the limits of the set, in order. The caller must not change them.
func (s *LimitSet) Limits() []Limit { return s.source }

// size returns the number of limits. s may be nil.
func (s *LimitSet) size() int {
	if s == nil {
		return 0
	}
	return len(s.source)
}

// LimitSet validates and compiles limits. No two of them may have the same dimension
// and name. The error joins all problems, most of them a [*LimitError].
func (c *Catalog) LimitSet(limits []Limit) (*LimitSet, error) {
	var problems []error
	seen := map[bucketKey]bool{}
	for i := range limits {
		l := &limits[i]
		problems = append(problems, l.validate()...)
		if k := (bucketKey{l.Dimension, l.Name}); seen[k] {
			problems = append(problems, l.problem("name", "is used twice for dimension "+string(l.Dimension)))
		} else {
			seen[k] = true
		}
	}
	if len(limits) > maxLimits {
		problems = append(problems, fmt.Errorf("a level has at most %d limits, got %d", maxLimits, len(limits)))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	compiled := make([]*limit, len(limits))
	for i := range limits {
		compiled[i] = c.limitLocked(limits[i])
	}
	return &LimitSet{schema: c.schemaLocked(compiled), source: append([]Limit(nil), limits...)}, nil
}

// maxLimits is the most limits of one level, counted separately for limits of all
// models and limits per model.
const maxLimits = 16

// LimitError reports an invalid field of a limit.
type LimitError struct {
	Name    string // of the limit
	Field   string // its name in policy files: limit, window, burst, ...
	Problem string
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("limit %s: %s: %s", e.Name, e.Field, e.Problem)
}

func (l *Limit) problem(field, text string) error {
	return &LimitError{Name: l.Name, Field: field, Problem: text}
}

// maxWindow is the longest window. It keeps units x nanoseconds far within 128 bits.
const maxWindow = 400 * 24 * time.Hour

func (l *Limit) validate() (problems []error) {
	bad := func(field, format string, args ...any) {
		problems = append(problems, l.problem(field, fmt.Sprintf(format, args...)))
	}
	if l.Name == "" {
		bad("name", "must not be empty")
	}
	if l.Dimension == "" {
		bad("dimension", "must not be empty")
	}
	if l.Amount < 0 || l.Amount > MaxAmount {
		bad("limit", "must be between 0 and 2^53, got %d", l.Amount)
	}
	if (l.Dimension == Concurrent) != (l.Algorithm == Concurrency) {
		bad("algorithm", "dimension concurrent and algorithm concurrency need each other, got %s for %s", l.Algorithm, l.Dimension)
	}
	if l.Burst < 0 || l.Burst > MaxAmount {
		bad("burst", "must be between 0 and 2^53, got %d", l.Burst)
	}
	if l.Burst != 0 && l.Algorithm != TokenBucket {
		bad("burst", "needs algorithm token_bucket")
	}
	if l.Burst != 0 && l.Amount == 0 {
		bad("burst", "can never be granted, because the limit is 0")
	}
	if l.Calendar != NoCalendar && l.Algorithm != FixedWindow {
		bad("window", "calendar windows need algorithm fixed_window")
	}
	if l.StartDay < 0 || l.StartDay > 31 || l.StartDay != 0 && l.Calendar != Month {
		bad("starts", "must be a day of the month from 1 to 31, for windows of a month, got %d", l.StartDay)
	}
	if l.StartMinute < 0 || l.StartMinute >= 24*60 || l.StartMinute != 0 && l.Calendar != Day {
		bad("starts", "must be a time before 24:00, for windows of a day, got minute %d", l.StartMinute)
	}
	if l.Closed && l.Shadow {
		bad("closed", "must not be combined with shadow mode")
	}
	if l.FullCapacity != 0 && l.Amount == 0 {
		bad("full_capacity", "needs a limit above 0")
	}
	if l.FullCapacity < 0 || l.FullCapacity > MaxAmount || l.FullCapacity != 0 && l.FullCapacity < cmp.Or(l.Burst, l.Amount) {
		bad("full_capacity", "must be between the capacity and 2^53, got %d", l.FullCapacity)
	}
	if l.Slices > SlicesOff {
		bad("slices", "is unknown")
	}
	if h := l.Headroom; h.Standard < 0 || h.Batch < h.Standard || h.Batch > wholeCapacity {
		bad("headroom", "must be between 0 and 100 %%, and for batch at least that for standard, got %d and %d millionths", h.Standard, h.Batch)
	}
	if q := l.Queue; q != (Queue{}) {
		if q.MaxWait < MinMaxWait || q.MaxWait > MaxMaxWait {
			bad("queue", "max_wait must be from 1ms to 10m, got %s", q.MaxWait)
		}
		if q.MaxDepth < 1 || q.MaxDepth > MaxMaxDepth {
			bad("queue", "max_depth must be from 1 to %d, got %d", MaxMaxDepth, q.MaxDepth)
		}
	}
	switch {
	case l.Algorithm == Concurrency:
		if l.Window != 0 {
			bad("window", "must not be set for a concurrency limit")
		}
	case l.Algorithm < TokenBucket || l.Algorithm > FixedWindow:
		bad("algorithm", "is unknown")
	case l.Calendar != NoCalendar:
		if l.Calendar > Year {
			bad("window", "is unknown")
		}
	case l.Window < time.Millisecond || l.Window > maxWindow:
		bad("window", "must be between 1ms and 400 days, got %s", l.Window)
	}
	return problems
}

// identity returns a string that is equal for equal limits only.
func (l *Limit) identity() string {
	zone := "UTC"
	if l.Zone != nil {
		zone = l.Zone.String()
	}
	b := make([]byte, 0, 128)
	for _, s := range [...]string{l.Name, string(l.Dimension), zone} {
		b = append(append(b, s...), 0)
	}
	for _, n := range [...]int64{int64(l.Algorithm), l.Amount, int64(l.Window), int64(l.Calendar), int64(l.StartDay), int64(l.StartMinute), l.Burst, boolInt(l.Shadow), boolInt(l.Degrade), int64(l.Unreachable), boolInt(l.Closed), l.FullCapacity, boolInt(l.Async), boolInt(l.Hidden), int64(l.Slices), l.Headroom.Standard, l.Headroom.Batch, int64(l.Queue.MaxWait), l.Queue.MaxDepth} {
		b = append(strconv.AppendInt(b, n, 10), 0)
	}
	return string(b)
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
