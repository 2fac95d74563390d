// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Catalog gives limits the small numbers under which records remember them,
// so that a record needs no pointer. A policy is compiled against the catalog
// of the engine it will drive. Equal limits get equal numbers, so reloading an
// unchanged policy adds nothing; entries live as long as the catalog.
// It is safe for concurrent use, and reading takes no lock.
type Catalog struct {
	limits   atomic.Pointer[[]*limit]
	schemas  atomic.Pointer[[]*schema]
	mappings atomic.Pointer[map[mappingKey]*mapping]
	tiers    atomic.Pointer[tierNames]
	counter  *schema // of every counter

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
	c.schemas.Store(&[]*schema{{}}) // schema 0: a record that has no limits yet
	c.tiers.Store(&tierNames{ids: map[string]uint32{}})
	c.mappings.Store(&map[mappingKey]*mapping{})
	c.counter = c.schemaLocked([]*limit{c.limitLocked(counterLimit)}) // nobody else has c yet
	return c
}

// A LimitSet is the limits of one tier at one level, ready for an engine with
// the same [Catalog]. It is immutable.
type LimitSet struct {
	schema *schema
	source []Limit
}

// Limits returns the limits of the set, in order. The caller must not change them.
func (s *LimitSet) Limits() []Limit { return s.source }

// size is the number of limits; a nil set has none.
func (s *LimitSet) size() int {
	if s == nil {
		return 0
	}
	return len(s.source)
}

// LimitSet checks limits and numbers them. The error joins every problem, each
// a [*LimitError]. No two limits of a set may have the same dimension and name.
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

// maxLimits bounds the limits of one level, base or per model.
const maxLimits = 16

// LimitError is a property of a limit that cannot be used.
type LimitError struct {
	Name    string // of the limit
	Field   string // as in a policy file: limit, window, burst, ...
	Problem string
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("limit %s: %s: %s", e.Name, e.Field, e.Problem)
}

func (l *Limit) problem(field, text string) error {
	return &LimitError{Name: l.Name, Field: field, Problem: text}
}

// maxWindow keeps units x nanoseconds within 128 bits with room to spare.
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
		bad("algorithm", "dimension concurrent and algorithm concurrency go together, got %s for %s", l.Algorithm, l.Dimension)
	}
	if l.Burst < 0 || l.Burst > MaxAmount {
		bad("burst", "must be between 0 and 2^53, got %d", l.Burst)
	}
	if l.Burst != 0 && l.Algorithm != TokenBucket {
		bad("burst", "only a token_bucket has one")
	}
	if l.Burst != 0 && l.Amount == 0 {
		bad("burst", "can never be granted: the limit is 0")
	}
	if l.Calendar != NoCalendar && l.Algorithm != FixedWindow {
		bad("window", "calendar windows need algorithm fixed_window")
	}
	if l.Closed && l.Shadow {
		bad("closed", "is for limits that deny: one in shadow never does")
	}
	if l.FullCapacity != 0 && l.Amount == 0 {
		bad("whole", "is for a share that takes something: one of 0 is a closed limit")
	}
	if l.FullCapacity < 0 || l.FullCapacity > MaxAmount || l.FullCapacity != 0 && l.FullCapacity < cmp.Or(l.Burst, l.Amount) {
		bad("whole", "must be between the capacity and 2^53, got %d", l.FullCapacity)
	}
	switch {
	case l.Algorithm == Concurrency:
		if l.Window != 0 {
			bad("window", "a concurrency limit has none")
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

// identity is equal for limits that decide alike and are reported alike.
func (l *Limit) identity() string {
	zone := "UTC"
	if l.Zone != nil {
		zone = l.Zone.String()
	}
	var b strings.Builder
	for _, s := range []string{l.Name, string(l.Dimension), zone} {
		b.WriteString(s)
		b.WriteByte(0)
	}
	for _, n := range []int64{int64(l.Algorithm), l.Amount, int64(l.Window), int64(l.Calendar), l.Burst, boolInt(l.Shadow), boolInt(l.Degrade), int64(l.Unreachable), boolInt(l.Closed), l.FullCapacity} {
		b.WriteString(strconv.FormatInt(n, 10))
		b.WriteByte(0)
	}
	return b.String()
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
