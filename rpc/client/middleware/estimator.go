// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/keypath"
)

// Ratios are in thousandths of a byte per token.
const (
	// defaultRatio is the ratio of a model that nobody has used. English has about
	// 4,000, Chinese about 2,500.
	defaultRatio = 3000
	// Learned ratios and overheads stay within these bounds, so that unusual texts cannot
	// distort the estimates much.
	minRatio, maxRatio = 1000, 6000
	maxOverhead        = 1024 // tokens

	// A root uses its own estimate of a model after that many bytes or calls.
	minLearnedBytes = 4 << 10
	minLearnedCalls = 8

	maxSampleBytes = 16 << 10 // a larger text is scaled down to it

	// The ratio of a model is the mean of defaultRatio and the ratios of the roots
	// that use it, and at least defaultRatio: no text of other roots makes the estimates
	// of a new root higher than they would be without them. No root has more than an
	// eighth of the weight.
	rootWeight    = 15_000 // bytes
	defaultWeight = 7 * rootWeight
)

// The size of the tables: 4,096 pairs of root and model, of which a root has at
// most 8, and 2,048 models. That is 550 KiB when they are full.
const (
	sampleSets, samplesPerSet = 128, 32
	maxModelsPerRoot          = 8
	modelSets, modelsPerSet   = 256, 8
)

// An estimator estimates how many tokens a prompt has from its length: an overhead, such
// as that of the server's template, and a ratio of bytes per token. It learns both for
// each root and model from calls with reported usage, and adds an eighth to err high. A
// root that has not used a model enough gets the model's ratio and no overhead. It is safe
// for concurrent use.
type estimator struct {
	sets   [sampleSets]sampleSet // by root
	models modelTable
}

// A sampleSet has the samples of the roots with the same remainder of their hash.
type sampleSet struct {
	mu      sync.Mutex
	samples []samples // at most samplesPerSet
	uses    uint64    // counts uses of all samples; orders them for eviction
}

// samples are what a root has learned about a model.
type samples struct {
	root, model uint64 // hashes
	bytes       uint64 // of all texts, up to rootWeight
	calls       uint64
	fit         fit
	lastUse     uint64    // value of sampleSet.uses
	sum         *modelSum // nil: the table of models was full
	share       uint64    // what sum includes of these samples
}

// hashSeed is random, so that nobody can choose names that share a set.
var hashSeed = maphash.MakeSeed()

func hashesOf(key, model string) (rootHash, modelHash uint64) {
	return maphash.String(hashSeed, keypath.Root(key)), max(maphash.String(hashSeed, model), 1)
}

// prompt estimates how many tokens a prompt of n bytes of a caller with a key has.
func (e *estimator) prompt(key, model string, n int64) int64 {
	if n <= 0 {
		return 0
	}
	ratio, overhead := e.estimate(key, model)
	return min(divide(n, ratio)+overhead, amount.Max)
}

// text estimates how many tokens a text of n bytes is, without the overhead of a prompt.
func (e *estimator) text(key, model string, n int64) int64 {
	if n <= 0 {
		return 0
	}
	ratio, _ := e.estimate(key, model)
	return divide(n, ratio)
}

// divide returns n bytes divided by a ratio, rounded up.
func divide(n, ratio int64) int64 {
	hi, lo := bits.Mul64(uint64(n), 1000)
	lo, carry := bits.Add64(lo, uint64(ratio)-1, 0)
	if hi += carry; hi >= uint64(ratio) {
		return amount.Max
	}
	q, _ := bits.Div64(hi, lo, uint64(ratio))
	return int64(min(q, amount.Max))
}

// estimate returns the thousandths of a byte per token and the overhead to estimate with.
func (e *estimator) estimate(key, model string) (ratio, overhead int64) {
	root, modelHash := hashesOf(key, model)
	if ratio, overhead = e.sets[root%sampleSets].estimate(root, modelHash); ratio > 0 {
		return ratio, overhead
	}
	return e.models.ratio(modelHash), 0
}

// estimate returns what a root has learned, or a ratio of 0 if it has too few samples.
func (s *sampleSet) estimate(root, model uint64) (ratio, overhead int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.findLocked(root, model)
	if m == nil || !m.known() {
		return 0, 0
	}
	return m.fit.ratio(), m.fit.overhead + m.fit.overhead/8
}

func (s *sampleSet) findLocked(root, model uint64) *samples {
	for i := range s.samples {
		if m := &s.samples[i]; m.root == root && m.model == model {
			s.uses++
			m.lastUse = s.uses
			return m
		}
	}
	return nil
}

// known reports whether the samples are enough to estimate with.
func (m *samples) known() bool { return m.bytes >= minLearnedBytes || m.calls >= minLearnedCalls }

// learn adds a sample: a prompt of n bytes that had the given number of tokens.
func (e *estimator) learn(key, model string, n, tokens int64) {
	if n <= 0 || n > amount.Max || tokens <= 0 || tokens > amount.Max {
		return
	}
	if n > maxSampleBytes { // scale both down
		hi, lo := bits.Mul64(uint64(tokens), maxSampleBytes)
		q, _ := bits.Div64(hi, lo, uint64(n))
		n, tokens = maxSampleBytes, int64(q)
	}
	root, modelHash := hashesOf(key, model)
	s := &e.sets[root%sampleSets]
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.findLocked(root, modelHash)
	if m == nil {
		m = e.addLocked(s, root, modelHash)
	}
	m.bytes, m.calls = min(m.bytes+uint64(n), rootWeight), m.calls+1
	m.fit.add(n, tokens)
	m.updateShare()
}

// addLocked adds a root's samples of a model to s. If the root has too many, its
// least recently used ones make room; if s is full, those of any root.
func (e *estimator) addLocked(s *sampleSet, root, model uint64) *samples {
	if s.samples == nil {
		s.samples = make([]samples, 0, samplesPerSet)
	}
	oldest, oldestOwn, own := 0, 0, 0
	for i := range s.samples {
		m := &s.samples[i]
		if m.lastUse < s.samples[oldest].lastUse {
			oldest = i
		}
		if m.root == root {
			if own == 0 || m.lastUse < s.samples[oldestOwn].lastUse {
				oldestOwn = i
			}
			own++
		}
	}
	at := len(s.samples)
	switch {
	case own >= maxModelsPerRoot:
		at = oldestOwn
	case at == samplesPerSet:
		at = oldest
	default:
		s.samples = s.samples[:at+1]
	}
	m := &s.samples[at]
	if m.sum != nil {
		e.models.release(m.sum, m.share)
	}
	s.uses++
	*m = samples{root: root, model: model, fit: newFit(), lastUse: s.uses, sum: e.models.acquire(model)}
	return m
}

// updateShare makes the sum of the model include these samples as they are now, once
// the root has a ratio of its own.
func (m *samples) updateShare() {
	if m.sum == nil || !m.known() {
		return
	}
	share := shareOf(m.bytes, m.bytes*1000/uint64(m.fit.ratio()))
	m.sum.shares.Add(share - m.share)
	m.share = share
}

// A modelTable has the sums of the models in use. Reading needs no lock.
type modelTable struct {
	mu   sync.Mutex // held to acquire and release
	sets [modelSets][modelsPerSet]modelSum
}

// A modelSum sums up the samples of all roots that use a model.
type modelSum struct {
	model  atomic.Uint64 // its hash; 0: unused
	shares atomic.Uint64 // sum of shareOf
	users  int           // the number of shares; guarded by modelTable.mu
}

// shareOf packs bytes and tokens. The sum of all shares cannot overflow: there are
// 4,096 at most, each below 2^15 in both parts.
func shareOf(bytes, tokens uint64) uint64 { return bytes<<32 + tokens }

// ratio returns the ratio of a model.
func (t *modelTable) ratio(model uint64) int64 {
	const defaultTokens = defaultWeight * 1000 / defaultRatio
	set := &t.sets[model%modelSets]
	for i := range set {
		if set[i].model.Load() == model {
			shares := set[i].shares.Load()
			return max(int64((defaultWeight+shares>>32)*1000/(defaultTokens+shares&(1<<32-1))), defaultRatio)
		}
	}
	return defaultRatio
}

// acquire returns the sum of a model for one more share, or nil if the table is full.
func (t *modelTable) acquire(model uint64) *modelSum {
	t.mu.Lock()
	defer t.mu.Unlock()
	set := &t.sets[model%modelSets]
	var unused *modelSum
	for i := range set {
		switch set[i].model.Load() {
		case model:
			set[i].users++
			return &set[i]
		case 0:
			unused = &set[i]
		}
	}
	if unused != nil {
		unused.users = 1
		unused.model.Store(model)
	}
	return unused
}

// release takes a share out of a sum, which becomes unused with the last one.
func (t *modelTable) release(m *modelSum, share uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m.shares.Add(-share)
	if m.users--; m.users == 0 {
		m.model.Store(0)
	}
}
