// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"math/bits"
	"strings"
	"sync"
)

const (
	// defaultRatio is what a model is taken for that nothing is known of yet, in
	// thousandths of a byte per token. English has about 4,000; Chinese 2,500.
	defaultRatio = 3000
	// What is learned stays between these, so that no run of odd texts leads
	// far astray.
	minRatio, maxRatio = 1000, 6000

	enoughBytes = 4 << 10  // learned before what was learned is used
	maxSample   = 16 << 10 // that one call may count for, in bytes
	memory      = 1 << 20  // bytes that are remembered; older ones fade
	maxModels   = 256
)

// An estimator says how many tokens a text has, from its length. It learns
// the ratio of each model from calls whose usage is known, and errs high: it
// adds an eighth to what it has learned. It is safe for concurrent use.
type estimator struct {
	mu struct {
		sync.Mutex
		models map[string]*ratio // at most maxModels
		turn   uint64            // of the last use
	}
}

// ratio is what is known of one model: the text of so many bytes had so many
// tokens. Both are halved when they become large.
type ratio struct {
	bytes, tokens uint64
	used          uint64 // turn
}

// tokens estimates how many tokens n bytes are, rounded up.
func (e *estimator) tokens(model string, n int64) int64 {
	if n <= 0 {
		return 0
	}
	r := e.ratio(model)
	hi, lo := bits.Mul64(uint64(n), 1000)
	lo, carry := bits.Add64(lo, uint64(r)-1, 0)
	if hi += carry; hi >= uint64(r) {
		return maxAmount
	}
	q, _ := bits.Div64(hi, lo, uint64(r))
	return int64(min(q, maxAmount))
}

// ratio returns the thousandths of a byte per token to reckon with.
func (e *estimator) ratio(model string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.mu.models[model]
	if m == nil {
		return defaultRatio
	}
	e.mu.turn++
	m.used = e.mu.turn
	if m.bytes < enoughBytes {
		return defaultRatio
	}
	learned := int64(m.bytes * 1000 / m.tokens)
	return min(max(learned-learned/9, minRatio), maxRatio)
}

// learn adds a text of n bytes that had so many tokens.
func (e *estimator) learn(model string, n, tokens int64) {
	if n <= 0 || n > maxAmount || tokens <= 0 || tokens > maxAmount {
		return
	}
	if n > maxSample { // in proportion
		hi, lo := bits.Mul64(uint64(tokens), maxSample)
		q, _ := bits.Div64(hi, lo, uint64(n))
		n, tokens = maxSample, int64(q)
	}
	// A wrong report weighs as much as one at the bounds would.
	tokens = min(max(tokens, n*1000/maxRatio, 1), max(n*1000/minRatio, 64))
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.mu.models[model]
	if m == nil {
		m = e.addLocked(model)
	}
	e.mu.turn++
	m.used = e.mu.turn
	m.bytes, m.tokens = m.bytes+uint64(n), m.tokens+uint64(tokens)
	if m.bytes > memory {
		m.bytes, m.tokens = m.bytes/2, max(m.tokens/2, 1)
	}
}

// addLocked makes room for a model in place of the one that was longest not used.
func (e *estimator) addLocked(model string) *ratio {
	if e.mu.models == nil {
		e.mu.models = map[string]*ratio{}
	}
	if len(e.mu.models) >= maxModels {
		oldest, at := "", ^uint64(0)
		for name, m := range e.mu.models {
			if m.used < at {
				oldest, at = name, m.used
			}
		}
		delete(e.mu.models, oldest)
	}
	m := &ratio{}
	e.mu.models[strings.Clone(model)] = m // a body must not live as long
	return m
}
