// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/bench"
)

// Workload plans the calls of a [Spec]. It is unlimited unless it is a replay. It is
// not safe for concurrent use.
type Workload struct {
	spec Spec // with defaults

	replay   *replayRows  // nil unless this is a replay
	keys     *keyPicker   // nil in a replay
	tokens   *tokenPicker // nil in a replay
	models   random
	tierSeed uint64 // seed of the hash from keys to tiers
	shaper   llmShaper
	retrier  retrier
	ids      idGenerator

	row      int           // index of the next row of the replay
	due      time.Duration // when the call planned last is due in the replay
	position int64         // in the sequence of all calls, including retries
}

var _ bench.Workload = (*Workload)(nil)

// New returns the workload of a spec. It allocates the names of all keys, about 13
// bytes each.
func New(s Spec) (*Workload, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	s = s.withDefaults()
	w := &Workload{
		spec:     s,
		models:   newRandom(s.Seed, seqModels),
		tierSeed: mix64(s.Seed ^ mix64(seqTiers)),
		shaper:   llmShaper{newRandom(s.Seed, seqLLM), s.LLM},
		retrier:  retrier{random: newRandom(s.Seed, seqRetries), retries: s.Retries},
		ids:      idGenerator{prefix: s.IDPrefix},
	}
	var err error
	if s.Replay.speed > 0 {
		w.replay, err = newReplayRows(s.Replay, s.KeyPrefix, s.Seed)
	} else if w.keys, err = newKeyPicker(s.Keys, s.KeyPrefix, s.Seed); err == nil {
		w.tokens, err = newTokenPicker(s.Tokens, s.Seed)
	}
	if err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	return w, nil
}

// Spec returns the spec of the workload, with defaults.
func (w *Workload) Spec() Spec { return w.spec }

// Next implements [bench.Workload]. At the end of a replay it returns the remaining
// retries, then false.
func (w *Workload) Next(c *bench.Call) bool {
	if !w.retrier.due(c, w.position) {
		if w.nextNew(c) {
			w.retrier.maybeAdd(c, w.position)
		} else if !w.retrier.pop(c) {
			return false
		}
	}
	w.position++
	return true
}

// nextNew fills c with a call that is not a retry.
func (w *Workload) nextNew(c *bench.Call) bool {
	*c = bench.Call{Requests: 1}
	if w.replay == nil {
		c.Key = w.keys.next()
		c.InputTokens, c.OutputTokens = w.tokens.next()
	} else {
		if w.row == len(w.replay.calls) {
			return false
		}
		call, user := &w.replay.calls[w.row], &w.replay.users[w.row]
		c.Key, c.Tier = user.Key, user.Tier
		c.InputTokens, c.OutputTokens = call.ContextTokens, call.GeneratedTokens
		w.due = w.replay.due(call.Offset)
		w.row++
	}
	if w.spec.Tiers.names != nil {
		c.Tier = w.tier(c.Key)
	}
	if w.spec.Models.names != nil {
		c.Model = w.spec.Models.pick(w.models.pcg.Uint64())
	}
	c.ID = w.ids.take()
	w.shaper.shape(c)
	return true
}

// tier returns the tier of a key, by a hash of the key and the seed. The prefix is not
// hashed, so that a key has the same tier in all runs with a seed.
func (w *Workload) tier(key string) string {
	h := xxhash.Sum64String(key[len(w.spec.KeyPrefix):])
	return w.spec.Tiers.pick(mix64(h ^ w.tierSeed))
}

// Times returns when the calls of a replay are due, one for each call of Next; a retry
// is due with the call before it. Pass them to [bench.Times] with a speedup of 1: they
// include the speed of the replay. It returns nil if the spec is not a replay. It does
// not affect Next.
func (w *Workload) Times() []time.Duration {
	if w.replay == nil {
		return nil
	}
	w2 := *w
	w2.shaper.random = newRandom(w.spec.Seed, seqLLM)
	w2.models = newRandom(w.spec.Seed, seqModels)
	w2.retrier = retrier{random: newRandom(w.spec.Seed, seqRetries), retries: w.spec.Retries}
	w2.ids = idGenerator{}
	w2.row, w2.due, w2.position = 0, 0, 0
	all := make([]time.Duration, 0, len(w.replay.calls)*9/8)
	var c bench.Call
	for w2.Next(&c) {
		all = append(all, w2.due)
	}
	return all
}
