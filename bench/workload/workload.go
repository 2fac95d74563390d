// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/bench"
)

// Workload plans the calls of a [Spec]. It has no end unless it is a replay. It is
// for one goroutine.
type Workload struct {
	spec Spec // with defaults

	rows    *rows    // of a replay; nil: keys and sizes
	keys    *chooser // nil in a replay
	sizes   *sizer   // nil in a replay
	models  random
	tierOf  uint64 // what keys are hashed with
	runner  runner
	repeats repeater
	ids     ids

	row      int           // of the replay: the next one
	due      time.Duration // of the replay: of the call that was planned last
	position int64         // in the sequence of all calls, retries too
}

var _ bench.Workload = (*Workload)(nil)

// New returns the workload that a spec describes. It makes the names of all keys
// (some 13 bytes each) at once.
func New(s Spec) (*Workload, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	s = s.withDefaults()
	w := &Workload{
		spec:    s,
		models:  newRandom(s.Seed, ofModels),
		tierOf:  mix(s.Seed ^ mix(ofTiers)),
		runner:  runner{newRandom(s.Seed, ofLLM), s.LLM},
		repeats: repeater{random: newRandom(s.Seed, ofRetries), retries: s.Retries},
		ids:     ids{begin: s.IDs},
	}
	var err error
	if s.Replay.speed > 0 {
		w.rows, err = newRows(s.Replay, s.Prefix, s.Seed)
	} else if w.keys, err = newChooser(s.Keys, s.Prefix, s.Seed); err == nil {
		w.sizes, err = newSizer(s.Tokens, s.Seed)
	}
	if err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	return w, nil
}

// Spec returns what the workload was made of, with what was not said.
func (w *Workload) Spec() Spec { return w.spec }

// Next fills c with the next call. It allocates only the texts of ids, one for
// hundreds. After the last row of a replay come the retries that are not yet
// planned; then it returns false.
func (w *Workload) Next(c *bench.Call) bool {
	if !w.repeats.due(c, w.position) {
		if w.fresh(c) {
			w.repeats.planned(c, w.position)
		} else if !w.repeats.take(c) {
			return false
		}
	}
	w.position++
	return true
}

// fresh fills c with a call that is no retry.
func (w *Workload) fresh(c *bench.Call) bool {
	*c = bench.Call{Requests: 1}
	if w.rows == nil {
		c.Key = w.keys.next()
		c.InputTokens, c.OutputTokens = w.sizes.next()
	} else {
		if w.row == len(w.rows.calls) {
			return false
		}
		call, user := &w.rows.calls[w.row], &w.rows.users[w.row]
		c.Key, c.Tier = user.Key, user.Tier
		c.InputTokens, c.OutputTokens = call.ContextTokens, call.GeneratedTokens
		w.due = w.rows.due(call.Offset)
		w.row++
	}
	if w.spec.Tiers.names != nil {
		c.Tier = w.tier(c.Key)
	}
	if w.spec.Models.names != nil {
		c.Model = w.spec.Models.pick(w.models.pcg.Uint64())
	}
	c.ID = w.ids.take()
	w.runner.shape(c)
	return true
}

// tier returns the tier of a key: by a hash of its name and the seed. The prefix
// does not count, so that a key has one tier in all runs of a seed.
func (w *Workload) tier(key string) string {
	h := xxhash.Sum64String(key[len(w.spec.Prefix):])
	return w.spec.Tiers.pick(mix(h ^ w.tierOf))
}

// Times returns when the calls of a replay are due, one per call that Next plans;
// a retry is due with the call before it. They are the schedule of a run by
// [bench.Times], with a speed-up of 1: the replay's own is in them. It returns nil
// if the spec is no replay. It may be called at any time.
func (w *Workload) Times() []time.Duration {
	if w.rows == nil {
		return nil
	}
	again := *w
	again.runner.random = newRandom(w.spec.Seed, ofLLM)
	again.models = newRandom(w.spec.Seed, ofModels)
	again.repeats = repeater{random: newRandom(w.spec.Seed, ofRetries), retries: w.spec.Retries}
	again.ids = ids{}
	again.row, again.due, again.position = 0, 0, 0
	all := make([]time.Duration, 0, len(w.rows.calls)*9/8)
	var c bench.Call
	for again.Next(&c) {
		all = append(all, again.due)
	}
	return all
}
