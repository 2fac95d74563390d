// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"math/bits"
	"strings"
	"sync"

	"github.com/bucketring/bucketring/internal/amount"
)

// Ratios are in thousandths of a byte per token.
const (
	// defaultRatio is the ratio of a model with too few samples. English has about
	// 4,000, Chinese about 2,500.
	defaultRatio = 3000
	// Learned ratios stay within these bounds, so that unusual texts cannot distort
	// the estimates much.
	minRatio, maxRatio = 1000, 6000

	minLearnedBytes = 4 << 10  // a model with fewer sampled bytes uses defaultRatio
	maxSampleBytes  = 16 << 10 // weight limit of one call
	maxLearnedBytes = 1 << 20  // above it, the weight of all samples is halved
	maxModels       = 256
)

// An estimator estimates how many tokens a text has from its length. It learns
// the ratio of each model from calls with reported usage, and adds an eighth to
// err high. It is safe for concurrent use.
type estimator struct {
	mu struct {
		sync.Mutex
		models map[string]*samples // at most maxModels
		uses   uint64              // counts uses of all models; orders them for eviction
	}
}

// samples are the bytes and tokens of the texts seen for one model.
type samples struct {
	bytes, tokens uint64
	lastUse       uint64 // value of estimator.mu.uses
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
		return amount.Max
	}
	q, _ := bits.Div64(hi, lo, uint64(r))
	return int64(min(q, amount.Max))
}

// ratio returns the thousandths of a byte per token to estimate with.
func (e *estimator) ratio(model string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.mu.models[model]
	if m == nil {
		return defaultRatio
	}
	e.mu.uses++
	m.lastUse = e.mu.uses
	if m.bytes < minLearnedBytes {
		return defaultRatio
	}
	learned := int64(m.bytes * 1000 / m.tokens)
	return min(max(learned-learned/9, minRatio), maxRatio)
}

// learn adds a sample: a text of n bytes that had the given number of tokens.
func (e *estimator) learn(model string, n, tokens int64) {
	if n <= 0 || n > amount.Max || tokens <= 0 || tokens > amount.Max {
		return
	}
	if n > maxSampleBytes { // scale both down
		hi, lo := bits.Mul64(uint64(tokens), maxSampleBytes)
		q, _ := bits.Div64(hi, lo, uint64(n))
		n, tokens = maxSampleBytes, int64(q)
	}
	// A wrong report has no more weight than one at the bounds.
	tokens = min(max(tokens, n*1000/maxRatio, 1), max(n*1000/minRatio, 64))
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.mu.models[model]
	if m == nil {
		m = e.addLocked(model)
	}
	e.mu.uses++
	m.lastUse = e.mu.uses
	m.bytes, m.tokens = m.bytes+uint64(n), m.tokens+uint64(tokens)
	if m.bytes > maxLearnedBytes {
		m.bytes, m.tokens = m.bytes/2, max(m.tokens/2, 1)
	}
}

// addLocked adds a model. If there are too many, it evicts the least recently
// used one.
func (e *estimator) addLocked(model string) *samples {
	if e.mu.models == nil {
		e.mu.models = map[string]*samples{}
	}
	if len(e.mu.models) >= maxModels {
		oldest, lastUse := "", ^uint64(0)
		for name, m := range e.mu.models {
			if m.lastUse < lastUse {
				oldest, lastUse = name, m.lastUse
			}
		}
		delete(e.mu.models, oldest)
	}
	m := &samples{}
	e.mu.models[strings.Clone(model)] = m // model may share memory with a request body
	return m
}
